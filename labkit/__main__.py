"""``labkit`` and ``python -m labkit``: the command line as a program."""

import os
import sys
from pathlib import Path

from labkit.signals import end_at_once


def main() -> int:
    """Run the command line; a signal before the command has begun ends the program at once."""
    end_at_once()
    from labkit.cli import main as run

    status = run()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # under torchrun
        from labkit.distributed import leave

        # A rank that has saved everything ends here: shutting the interpreter down while threads of torch's
        # connections run has aborted a rank now and then, and torchrun then reports the whole job as failed.
        leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    # With -m, Python looks for packages in the working folder first: one there named datasets, say, would be taken for
    # the library. In a checkout that is not installed, the folder is labkit's own and stays.
    if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).resolve().parents[1]:
        sys.path.append(sys.path.pop(0))
    sys.exit(main())
