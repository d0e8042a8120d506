"""A process that goes on when the one that started it ends, and the note by which any other finds it again."""

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

SAVING = "600"  # seconds that torchrun gives its ranks to save when it is stopped; by itself it gives them 30
_CHILDREN: dict[int, subprocess.Popen] = {}  # started from here, so it is here that they have to be buried


class Process(NamedTuple):
    """A process on some machine."""

    pid: int
    created: float
    """When it began, which tells it from a later one of the same number."""
    host: str
    command: list[str]
    processes: int
    """How many ranks it is, or leads."""

    @classmethod
    def start(cls, command: list[str], processes: int, log: IO[bytes], note: Path) -> "Process":
        """Start a command in a session of its own, so that no signal meant for this process or terminal reaches it.

        Args:
            command: with its arguments.  processes: how many ranks that makes.
            log: takes what it says.  note: the file to write this down in, for ``read``.
        """
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": SAVING},
        )
        _CHILDREN[child.pid] = child
        try:
            made = cls(child.pid, psutil.Process(child.pid).create_time(), socket.gethostname(), command, processes)
            ckpt.replace_file(note, json.dumps(made._asdict(), indent=2).encode())
        except BaseException:
            child.terminate()  # nobody could find it again
            raise
        return made

    @classmethod
    def read(cls, note: Path) -> "Process | None":
        """What ``start`` wrote down; None if there is no such file."""
        try:
            return cls(**json.loads(note.read_text())) if note.exists() else None
        except (ValueError, TypeError) as error:
            raise RunError(f"{note} was not written by this version of labkit ({error}); remove it.") from error

    @property
    def here(self) -> bool:
        """Whether it is of this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it lives, or ranks of it that have lost their leader; if it is of this machine."""
        return self._leads or len(self._orphans()) > 0

    def end(self) -> None:
        """Ask it by SIGTERM to save and leave; torchrun passes that on to its ranks.

        Raises:
            RunError: it is another user's.
        """
        for pid in [self.pid] if self._leads else self._orphans():
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass  # it has just left by itself
            except PermissionError as error:
                raise RunError(f"Process {pid} is another user's; only they can stop it.") from error

    @property
    def _leads(self) -> bool:
        """Whether the process itself lives."""
        if self._child is not None:
            return self._child.poll() is None
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) < 2 or found.cmdline() == self.command  # the clock was set
            return same and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def _orphans(self) -> list[int]:
        """Ranks that go on although torchrun was killed: they were given the same words."""
        words = self.command[-3:]
        found = psutil.process_iter(["cmdline", "status"]) if self.processes > 1 else []
        return [
            process.pid
            for process in found
            if (process.info["cmdline"] or [])[-3:] == words and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    @property
    def killed_by(self) -> str:
        """The signal that ended it, where that is known; else empty."""
        ended = None if self._child is None else self._child.poll()
        return signal.Signals(-ended).name if ended is not None and ended < 0 else ""

    @property
    def _child(self) -> subprocess.Popen | None:
        """Its handle, if it was started from here; another process may have had its number before."""
        child = _CHILDREN.get(self.pid)
        return child if child is not None and child.args == self.command else None
