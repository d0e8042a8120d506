"""How a run stands: what its trainer leaves in ``status.json`` for whoever looks at the run from outside."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from labkit.checks import LabError

State = Literal["running", "finished", "stopped", "failed"]
SILENT = 600.0  # seconds after which a trainer on another machine counts as dead if nothing was heard of it


class Status(NamedTuple):
    """State of a run as its trainer last wrote it, at logged steps, saves and the end."""

    state: State
    step: int
    steps: int
    """Step at which the run ends."""
    pid: int
    host: str
    started: float
    """Unix time at which this trainer took the folder."""
    updated: float
    """Unix time of this very status."""
    error: str = ""
    """Why it failed, in one line."""

    @classmethod
    def read(cls, path: Path) -> "Status | None":
        """Status in a file; None if there is none, or none that this version of labkit can read."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Replace the file atomically, without waiting for the disk; one that cannot be written ends no training."""
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_text(json.dumps(self._asdict(), indent=1, ensure_ascii=False), encoding="utf-8")
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    @property
    def here(self) -> bool:
        """Whether the trainer is, or was, on this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it trains: on this machine if its process lives, elsewhere if it was heard of recently."""
        if self.state != "running" or not self.here:
            return self.state == "running" and time.time() - self.updated < SILENT
        try:  # a process that began after this was written has only inherited the number
            process = psutil.Process(self.pid)
            return process.create_time() < self.updated + 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its kind as well, unless it is one of labkit's, which speak for themselves."""
    kind = "" if isinstance(error, LabError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def now(state: State, step: int, steps: int, started: float, error: str = "") -> Status:
    """Status of a run that this process trains."""
    return Status(state, step, steps, os.getpid(), socket.gethostname(), started, time.time(), error)
