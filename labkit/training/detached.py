"""A process that continues when the one that started it ends, and the note by which any other process finds it."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from labkit.training import checkpoint as ckpt
from labkit.training.folder import RunError
from labkit.training.status import running

SAVING = "600"  # seconds that torchrun gives its ranks to save when it is stopped; its default is 30
_CHILDREN: dict[tuple[int, float], subprocess.Popen] = {}
"""Processes started from here, which remain zombies until polled here, by number and time of start."""


class Process(NamedTuple):
    """A process on some machine."""

    pid: int
    created: float
    """Unix time of its start, which distinguishes it from a later process of the same number."""
    host: str
    command: list[str]
    processes: int
    """Number of ranks; above 1, the process is torchrun, which leads them."""

    @classmethod
    def start(cls, command: list[str], processes: int, log: IO[bytes], note: Path) -> "Process":
        """Start a command in a session of its own, so that no signal meant for this process or terminal reaches it.

        Args:
            command: with its arguments.  processes: the number of ranks.
            log: receives its output.  note: the file for ``read``.
        """
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": SAVING},
        )
        try:
            process = cls(child.pid, psutil.Process(child.pid).create_time(), socket.gethostname(), command, processes)
            _CHILDREN[process[:2]] = child
            ckpt.replace_file(note, json.dumps(process._asdict(), indent=2).encode())
        except BaseException:
            child.terminate()  # without its note, nobody could find it again
            raise
        return process

    @classmethod
    def read(cls, note: Path) -> "Process | None":
        """The process of a note that ``start`` wrote; None if there is no such file."""
        try:
            return cls(**json.loads(note.read_text())) if note.exists() else None
        except (ValueError, TypeError) as error:
            why = f"was not written by this version of labkit ({error})"
            raise RunError(f"{note} {why}; move it away, the run does not need it.") from error

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it runs, or ranks of it that have lost their leader; for a process of this machine."""
        return self._running or len(self._orphans()) > 0

    def end(self) -> None:
        """Send SIGTERM, at which it saves and ends; torchrun passes the signal on to its ranks.

        Raises:
            RunError: it is another user's process.
        """
        for pid in [self.pid] if self._running else self._orphans():
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass  # it has just ended
            except PermissionError as error:
                raise RunError(f"Process {pid} is another user's; only they can stop it.") from error

    @property
    def _running(self) -> bool:
        """Whether the process itself runs."""
        if child := _CHILDREN.get(self[:2]):
            return child.poll() is None
        process = running(self.pid)
        if process is None:
            return False
        began, command = process  # the command as well, since times differ if the clock was set meanwhile
        return abs(began - self.created) < 2 or command == self.command

    def _orphans(self) -> list[int]:
        """Ranks that continue although torchrun was killed: the last words of their command are the same."""
        words = self.command[-3:]
        processes = psutil.process_iter(["cmdline", "status"]) if self.processes > 1 else []
        return [
            process.pid
            for process in processes
            if (process.info["cmdline"] or [])[-3:] == words and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    @property
    def killed_by(self) -> str:
        """Name of the signal that ended it; empty if there was none, or if it was not started from this process."""
        child = _CHILDREN.get(self[:2])
        ended = None if child is None else child.poll()
        return signal.Signals(-ended).name if ended is not None and ended < 0 else ""
