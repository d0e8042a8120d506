"""``python -m labkit``: the command line."""

import os
import sys

from labkit.cli import main

status = main()
if "TORCHELASTIC_RUN_ID" in os.environ:  # under torchrun
    from labkit.distributed import leave

    # A rank that has saved everything ends here: shutting the interpreter down while threads of torch's connections
    # run has aborted a rank now and then, and torchrun then reports the whole job as failed.
    leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(status)
