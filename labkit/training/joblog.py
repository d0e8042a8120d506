"""Log of a job's launches, one after another; of an end that no trainer lived to write down it has the last words."""

import re
from datetime import datetime
from pathlib import Path
from typing import IO

MARK = "── "  # begins the line that begins a launch
ASKED = "Asked to save and leave"
ENOUGH = 2**18  # bytes from the end, in which the last launch is looked for
RANK = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)
# labkit's own words, or what a traceback ends with: its other lines are indented.
ERROR = re.compile(r"^(?:labkit: |Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*)(\S.*)", re.MULTILINE)
ROOT = re.compile(r"^Root Cause(?:.*\n)+?.*Signal \d+ \((SIG\w+)\) received", re.MULTILINE)  # by torchrun
OF_TORCHRUN = ("ChildFailedError", "SignalException")  # what it raises about its ranks, after they said why themselves


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
    def stop_requested(self) -> bool:
        """Whether the last launch was asked to stop, from whichever notebook."""
        return f"\n{ASKED}" in self._last_launch()

    def tail(self, lines: int) -> str:
        """The last lines, those of earlier launches included."""
        return "\n".join(self._text().splitlines()[1:][-lines:])

    def error(self) -> str:
        """Last error of the last launch, in one line; empty if it has none."""
        errors = [line for line in ERROR.findall(self._last_launch()) if not _of_torchrun(line)]
        return errors[-1] if errors else ""

    def killed_rank(self) -> str:
        """Signal that killed a rank, and so its whole job, as torchrun says; empty if it does not."""
        root = ROOT.search(self._last_launch())
        return root[1] if root else ""

    def last(self) -> str:
        """The last line of the last launch, empty if it said nothing."""
        return next((line for line in reversed(self._last_launch().splitlines()[1:]) if line.strip()), "")

    def _last_launch(self) -> str:
        """All that the last launch said, without the numbers of ranks."""
        return RANK.sub("", self._text().rpartition(f"\n{MARK}")[2])

    def _text(self) -> str:
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(max(file.seek(0, 2) - ENOUGH, 0))
            return "\n" + file.read().decode(errors="replace")


def _of_torchrun(line: str) -> bool:
    return line.partition(":")[0].rpartition(".")[2] in OF_TORCHRUN


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"


def _write_line(file: IO[bytes], words: str) -> None:
    """Append a line; what was killed may have left half of one."""
    half = file.seek(0, 2) > 0 and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"
    file.write(("\n" * half + words + "\n").encode())
