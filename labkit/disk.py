"""Files that appear whole or not at all."""

import contextlib
import errno
import os
import shutil
from pathlib import Path

from labkit.checks import LabError


class DiskError(LabError, OSError):
    """A file that could not be written; the message names it and says why."""


def replace_file(path: Path, *data: bytes | memoryview, mark: str = "") -> None:
    """Write bytes to a neighbour of ``path``, flush it to the disk, then rename it over ``path``.

    Args:
        data: pieces of the file in their order.
        mark: part of the neighbour's name, for files that several processes may write at the same time.
    """
    part = path.with_name(f".{path.name}{mark}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            for piece in data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DiskError(unwritten(path, sum(memoryview(piece).nbytes for piece in data), error)) from error


def reason(path: Path, error: OSError) -> str:
    """Why a file could not be read or written, and what to do."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; allow more by `ulimit -n 4096`, and the same command goes on"
    return error.strerror or str(error)


def unwritten(path: Path, size: int, error: OSError) -> str:
    """One sentence that says why ``size`` bytes could not be written to ``path``."""
    free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    why = f"the disk is full ({free / 2**20:.0f} MiB free, {size / 2**20:.0f} MiB needed)" if full else error
    return f"Could not save {path}: {why}."
