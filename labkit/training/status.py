"""Status of a run: the file ``status.json`` that its trainer writes for other processes."""

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
SILENT = 600.0  # age in seconds at which the status of a trainer on another machine counts as that of a dead one


class Status(NamedTuple):
    """Status of a run as its trainer last wrote it, at logged steps, saves and the end."""

    state: State
    step: int
    steps: int
    """Step at which the run ends."""
    pid: int
    host: str
    started: float
    """Unix time at which this trainer took the folder."""
    updated: float
    """Unix time at which this status was written."""
    error: str = ""
    """Cause of a failure, in one line."""

    @classmethod
    def read(cls, path: Path) -> "Status | None":
        """Status in a file; None if this version of labkit can read none there."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Replace the file atomically, without waiting for the disk; a failure does not end the training."""
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
        """Whether it trains: on this machine if its process runs, elsewhere if the status is recent."""
        if self.state != "running" or not self.here:
            return self.state == "running" and time.time() - self.updated < SILENT
        process = running(self.pid)
        return process is not None and process[0] < self.updated + 1  # a later one has only inherited the number


def running(pid: int) -> tuple[float, list[str]] | None:
    """Start (Unix time) and command of a process of this machine; None if there is none, or only a zombie."""
    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return None if zombie else (process.create_time(), process.cmdline())
    except psutil.Error:
        return None


def one_line(error: BaseException) -> str:
    """Message of an error in one line, after its type unless it is one of labkit's own."""
    kind = "" if isinstance(error, LabError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def now(state: State, step: int, steps: int, started: float, error: str = "") -> Status:
    """Status of a run that this process trains."""
    return Status(state, step, steps, os.getpid(), socket.gethostname(), started, time.time(), error)
