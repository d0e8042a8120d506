"""Log of a job's launches, one after another. It tells how a job ended whose trainer could not write its status."""

import re
from datetime import datetime
from pathlib import Path
from typing import IO

MARK = "── "  # begins the line that begins a launch
STOP_REQUEST = "Asked to save and leave"
TAIL = 2**18  # bytes from the end, which are searched for the last launch
RANK = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)
# labkit's own message, or the end of a traceback, whose other lines are indented.
ERROR = re.compile(r"^(?:labkit: |Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*)(\S.*)", re.MULTILINE)
ROOT = re.compile(r"^Root Cause(?:.*\n)+?.*Signal \d+ \((SIG\w+)\) received", re.MULTILINE)  # by torchrun
OF_TORCHRUN = ("ChildFailedError", "SignalException")  # torchrun's errors about its ranks, whose own errors say more


class JobLog:
    """The file with a job's output; it need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, command: str) -> IO[bytes]:
        """Open the file for another launch, and write a line about it."""
        file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (the caller closes it)
        _write_line(file, f"{MARK}{_now()}, {command}")
        return file

    def request_stop(self) -> None:
        """Write that the last launch was asked to stop."""
        with open(self.path, "a+b", buffering=0) as file:
            _write_line(file, f"{STOP_REQUEST} at {_now()}.")

    @property
    def stop_requested(self) -> bool:
        """Whether the last launch was asked to stop, from any notebook."""
        return f"\n{STOP_REQUEST}" in self._last_launch()

    def tail(self, lines: int) -> str:
        """The last lines, also of earlier launches."""
        return "\n".join(self._text().splitlines()[1:][-lines:])

    def error(self) -> str:
        """Last error of the last launch, in one line; empty if there is none."""
        errors = ERROR.findall(self._last_launch())
        return next((line for line in reversed(errors) if line.split(":")[0].split(".")[-1] not in OF_TORCHRUN), "")

    def killed_rank(self) -> str:
        """Signal that killed a rank, and so the whole job, as torchrun reports it; empty if there was none."""
        root = ROOT.search(self._last_launch())
        return root[1] if root else ""

    def last(self) -> str:
        """The last line of the last launch, empty if it printed nothing."""
        return next((line for line in reversed(self._last_launch().splitlines()[1:]) if line.strip()), "")

    def _last_launch(self) -> str:
        """Output of the last launch, without the numbers of ranks."""
        return RANK.sub("", self._text().rpartition(f"\n{MARK}")[2])

    def _text(self) -> str:
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(max(file.seek(0, 2) - TAIL, 0))
            return "\n" + file.read().decode(errors="replace")


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"


def _write_line(file: IO[bytes], text: str) -> None:
    """Append a line; a killed process may have left an incomplete one."""
    half = file.seek(0, 2) > 0 and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"
    file.write(("\n" * half + text + "\n").encode())
