"""Paths that a person gives, files that appear whole or not at all, and why a file could not be read or written."""

import codecs
import contextlib
import errno
import glob
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labkit.checks import ConfigError, LabError, refuse, require

REASONS = {
    "EACCES EPERM": "permission is denied: it is another user's or protected; ask its owner, or name another place",
    "EROFS": "the disk is read-only; name a place elsewhere",
    "ENOSPC": "the disk is full ({free} free, {size} needed); make room, and the same command goes on",
    "EDQUOT": "the disk is full: your quota is used up ({size} needed); make room, and the same command goes on",
    "EFBIG": (
        "the disk is full ({free} free, {size} needed), or its format or `ulimit -f` allows no such file; make room, "
        "and the same command goes on"
    ),
    "EMFILE ENFILE": "too many files are open; allow more by `ulimit -n 4096`, and the same command goes on",
    "ENAMETOOLONG": "the name is too long; take a shorter one",
    "EIO ENODEV ENOLINK ENOTCONN ENXIO EREMOTEIO ESTALE ETIMEDOUT": (
        "the disk or the network does not answer; when it is back, the same command goes on"
    ),
}
"""Names of the system's errors → reason and remedy."""

JUPYTER = {
    "JUPYTER_CONFIG_DIR": "~/.jupyter",
    "JUPYTER_DATA_DIR": "~/.local/share/jupyter",
    "JUPYTER_RUNTIME_DIR": "~/.local/share/jupyter/runtime",
    "IPYTHONDIR": "~/.ipython",
}
"""Variables of Jupyter's own folders, and where these usually are."""
DAY = 86_400.0  # age in seconds at which a half-written file of another machine counts as left by a dead process


class DiskError(LabError, OSError):
    """A file that could not be read or written; the message names it and says why."""


def user_path(path: str | Path, name: str) -> Path:
    """A path that a person gave, with ``~`` expanded.

    Args:
        name: of the setting or argument, for messages.

    Raises:
        ConfigError: it is empty, names no user after ``~``, or is longer than a name can be.
        DiskError: a folder on its way cannot be entered.
    """
    require(str(path).strip() != "", name, str(path), "it is empty; name a file or a folder, or . for this folder")
    try:
        path = Path(path).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            refuse(name, str(path), "the name is too long; take a shorter one")
        raise DiskError(unread(Path(path), error)) from error
    except (RuntimeError, ValueError) as error:  # no such user; a character that no name has
        refuse(name, str(path), f"{str(error).rstrip('.').lower()}; write the path out")
    return path


def located(path: Path) -> str:
    """A path in words; a relative one with the folder that it starts from."""
    try:
        return str(path) if path.is_absolute() else f"{path} in {Path.cwd()}"
    except FileNotFoundError:
        return f"{path} in the working folder, which has been removed"


def new_file(path: str | Path, name: str, suffix: str) -> Path:
    """The path of a file that will be written after some work: what would fail then is refused now.

    Raises:
        ConfigError: it ends otherwise, is a folder, or lies where this user cannot write.
    """
    path = user_path(path, name)
    require(not path.is_dir(), name, str(path), f"it is a folder; name a file in it, such as {path / f'x{suffix}'}")
    require(path.suffix.lower() == suffix, name, str(path), f"a {suffix} file is written; let its name end so")
    check_writable(path, name, "name a file in a folder of yours")
    return path


def check_writable(path: Path, name: str, remedy: str) -> None:
    """Refuse a file that this user could not create when the work is done."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    allowed = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    require(allowed, name, str(path), f"{folder} cannot be written to; {remedy}")


def unwritable(folders: Mapping[str, str]) -> dict[str, str]:
    """Of folders by the environment variables that move them, those that this user cannot write to."""
    places = {name: Path(os.environ.get(name) or usual).expanduser().absolute() for name, usual in folders.items()}
    nearest = {name: next(p for p in (path, *path.parents) if p.exists()) for name, path in places.items()}
    return {name: str(places[name]) for name, path in nearest.items() if not os.access(path, os.W_OK | os.X_OK)}


def replace_file(path: Path, *data: bytes | memoryview) -> None:
    """Write a file, given in pieces, flush it to the disk, then put it in the place of ``path``."""
    with replacing(path, sum(memoryview(piece).nbytes for piece in data)) as part, open(part, "wb") as file:
        for piece in data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path, size: int) -> Iterator[Path]:
    """Yield the neighbour to write ``size`` bytes to, which is then renamed to ``path``, or removed after an error."""
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, f".{glob.escape(path.name)}.*.part")
        yield part
        os.replace(part, path)
    except OSError as error:
        raise DiskError(unwritten(path, size, error)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def part_of(path: Path) -> Path:
    """The hidden neighbour to which this process writes a file; another process writes to another."""
    return path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.part")


def remove_unfinished(folder: Path, pattern: str = "**/.*.part") -> None:
    """Remove the files that killed processes left half written, and none that may still be written to.

    A process of this machine is looked up by its number; elsewhere, or under another name, a file must be a day old.
    """
    import psutil  # here: the command line's help does without it

    for part in folder.glob(pattern):
        with contextlib.suppress(OSError):
            owner = re.search(r"\.(\d+)@([^@]+)\.part$", part.name)
            if owner is not None and owner[2] == socket.gethostname():
                dead = not psutil.pid_exists(int(owner[1]))
            else:
                dead = time.time() - part.stat().st_mtime > DAY
            if dead:
                part.unlink()


def sha256(*parts: Any) -> str:
    """Digest of texts, bytes and contiguous arrays, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") if isinstance(part, str) else part)
    return digest.hexdigest()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise a DiskError for what is there and cannot be read; what is missing, or no file, raises its own error."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError):
        raise
    except OSError as error:
        raise DiskError(unread(path, error)) from error


def read_text(path: Path) -> str:
    """Text of a file that any editor may have written: UTF-8 with or without a mark at its start, or UTF-16 with one.

    Raises:
        ConfigError: it is of another encoding.
        DiskError: it cannot be read.
    """
    with reading(path):
        data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8; save the file as UTF-8 in your editor.") from None
    if "\0" in text:
        raise ConfigError(f"{path} is not UTF-8; save the file as UTF-8 in your editor.")
    return text


def unread(path: Path, error: OSError) -> str:
    """One sentence that says why ``path`` could not be read, and what to do."""
    return f"Could not read {path}: {reason(path, error)}."


def unwritten(path: Path, size: int, error: OSError) -> str:
    """One sentence that says why ``size`` bytes could not be written to ``path``, and what to do."""
    return f"Could not save {path}: {reason(path, error, size)}."


def reason(path: Path, error: OSError, size: int = 0) -> str:
    """Why a file of ``size`` bytes could not be read or written, and what to do."""
    name = errno.errorcode.get(error.errno or 0, "?")
    text = next((text for names, text in REASONS.items() if name in names.split()), None)
    if text is None:
        return str(error.strerror or error)
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        free = 0
    return text.format(free=_bytes(free), size=_bytes(size))


def _bytes(count: int) -> str:
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if count >= u), (1, "bytes"))
    return f"{count / unit:.3g} {name}"
