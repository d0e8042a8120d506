"""``python -m labkit``: the command line."""

import os
import sys

from labkit.cli import main

status = main()
if "TORCHELASTIC_RUN_ID" in os.environ:  # under torchrun
    from labkit.distributed import leave

    # A rank that has saved everything ends here: taking the interpreter apart beneath the threads of torch's
    # connections has aborted one now and then, and torchrun then calls the whole job failed.
    leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(status)
