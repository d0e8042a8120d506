"""What a job said while nobody looked: the log of its launches, one after another, and how the last of them ended."""

import re
from datetime import datetime
from pathlib import Path
from typing import IO, Literal, NamedTuple

MARK = "── "  # begins the line that begins a launch
ASKED = "Asked to save and leave"
ENOUGH = 2**18  # bytes from the end, in which an ending is looked for
RANK = re.compile(r"^\[rank\d+\]: ?")
ROOT = re.compile(r"Signal \d+ \((SIG\w+)\) received")  # of the rank that took the others along
OF_TORCHRUN = ("ChildFailedError", "SignalException")  # what it raises about its ranks, after they said why themselves


Kind = Literal["finished", "stopped", "failed", "lost"]


class Ending(NamedTuple):
    """How a job left."""

    kind: Kind
    """``lost``: without a word."""
    words: str = ""
    """Why it failed or was lost."""


def killed(by: str) -> Ending:
    """The end of a process that a signal of this name took."""
    memory = ", as the system does when memory runs out" if by == "SIGKILL" else ""
    return Ending("lost", f"killed by {by}{memory}")


class JobLog:
    """The file into which a job speaks; it need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, words: str) -> IO[bytes]:
        """The file, opened for one more launch, which is noted in it."""
        file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (the caller closes it)
        _write_line(file, f"{MARK}{_now()}, {words}")
        return file

    def ask(self) -> None:
        """Note that the last launch was asked to stop."""
        with open(self.path, "a+b", buffering=0) as file:
            _write_line(file, f"{ASKED} at {_now()}.")

    @property
    def asked(self) -> bool:
        """Whether the last launch was asked to stop, from whichever notebook."""
        return any(line.startswith(ASKED) for line in self._said())

    def tail(self, lines: int) -> str:
        """The last lines, those of earlier launches included."""
        return "\n".join(self._lines()[-lines:])

    def ending(self) -> Ending | None:
        """How the last launch says it ended; None if it has not said so."""
        said, faults, stopped = self._said(), [], False
        for number, line in enumerate(said):
            if line.startswith("Finished ") or " is finished: " in line:
                return Ending("finished")
            if line.startswith("Stopped"):
                return Ending("stopped")
            if line.startswith("Root Cause") and (root := ROOT.search("\n".join(said[number:]))):
                return killed(root[1])
            if line.startswith("labkit: "):
                faults.append(line.removeprefix("labkit: "))
            if line.startswith("Traceback (most recent call last)"):
                # Its own lines are indented; the first that is not says what was raised.
                raised = next((later for later in said[number + 1 :] if later and not later[0].isspace()), "")
                kind = raised.partition(":")[0].rpartition(".")[2]
                stopped |= kind == "SignalException"
                faults += [raised] if raised and kind not in OF_TORCHRUN else []
        if faults:
            return Ending("failed", faults[-1])
        return Ending("stopped") if stopped else None

    def last(self) -> str:
        """The last line of the last launch, empty if it said nothing."""
        return next((line for line in reversed(self._said()) if line.strip()), "")

    def _said(self) -> list[str]:
        """The lines of the last launch, without the numbers of ranks."""
        lines = self._lines()
        begun = max((number + 1 for number, line in enumerate(lines) if line.startswith(MARK)), default=0)
        return [RANK.sub("", line) for line in lines[begun:]]

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(max(file.seek(0, 2) - ENOUGH, 0))
            return file.read().decode(errors="replace").splitlines()


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"


def _write_line(file: IO[bytes], words: str) -> None:
    """Append a line; what was killed may have left half of one."""
    half = file.seek(0, 2) > 0 and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"
    file.write(("\n" * half + words + "\n").encode())
