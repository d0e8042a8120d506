"""``python -m labkit``: the command line."""

import os
import sys

from labkit.cli import main
from labkit.distributed import launched, leave

status = main()
if launched() != (1, 1):
    # A rank that has said and saved everything ends here: taking the interpreter apart beneath the threads of torch's
    # connections has aborted one now and then, and torchrun then calls the whole job failed.
    leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(status)
