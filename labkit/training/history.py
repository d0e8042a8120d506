"""The log of a run, read while it grows: each refresh reads only the bytes that are new."""

import contextlib
import os
import threading
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labkit.training.folder import read_rows

if TYPE_CHECKING:
    import pandas as pd

RECENT = 300.0  # seconds of training over which a rate is taken


class Curve(NamedTuple):
    """Logged values of one name."""

    steps: np.ndarray
    values: np.ndarray

    def thinned(self, most: int) -> "Curve":
        """At most ``most`` of the points, evenly spaced, the first and the last among them."""
        if len(self.steps) <= most:
            return self
        chosen = np.linspace(0, len(self.steps) - 1, most).round().astype(int)
        return Curve(self.steps[chosen], self.values[chosen])


class History:
    """The table of a run that another process may be writing. Threads may share it.

    Args:
        table: ``metrics.csv`` of a run's folder, which need not exist yet.
    """

    def __init__(self, table: Path) -> None:
        self.table = table
        self.version = 0
        """Grows whenever there is news."""
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._read, self._file = 0, None
        self._curves: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        self._clock: list[tuple[int, float]] = []

    def refresh(self) -> None:
        """Read the rows that were added; a table that a resumed run has rewritten is read from its start.

        Raises:
            RunError: another program has saved the table in another form.
        """
        with self._lock, contextlib.suppress(FileNotFoundError), self.table.open("rb") as file:
            stat = os.fstat(file.fileno())
            if self._file not in (None, stat.st_ino) or stat.st_size < self._read:
                self._forget()
                self.version += 1
            self._file = stat.st_ino
            file.seek(self._read)
            text, end, _ = file.read().rpartition(b"\n")  # the rest is an incomplete line
            rows = text if self._read else text.partition(b"\n")[2]  # without the header
            if rows:
                self._take(read_rows(self.table, rows))
            self._read += len(text + end)

    def _take(self, rows: "pd.DataFrame") -> None:
        for name, part in rows.groupby("name", sort=False):
            steps, values = self._curves[name]
            steps += part.step.tolist()
            values += part.value.tolist()
        clock = rows.drop_duplicates("step")
        self._clock += zip(clock.step.tolist(), clock.seconds.tolist(), strict=True)
        self.version += 1

    def curve(self, name: str) -> Curve:
        """All points of a term or meter; empty if nothing of that name was logged."""
        with self._lock:
            steps, values = self._curves.get(name, ([], []))
            return Curve(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))

    @property
    def step(self) -> int:
        """The last step that was logged, 0 before the first."""
        with self._lock:
            return self._clock[-1][0] if self._clock else 0

    @property
    def rate(self) -> float | None:
        """Steps a second over the last five minutes of the log; None before there are two points."""
        with self._lock:
            if len(self._clock) < 2:
                return None
            last, now = self._clock[-1]
            recent = bisect_left(self._clock, now - RECENT, key=lambda point: point[1])
            first, since = self._clock[min(recent, len(self._clock) - 2)]
            return (last - first) / (now - since) if now > since else None


def duration(seconds: float) -> str:
    """A time in two units at most: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 days 4 h``."""
    seconds = max(seconds, 0.0)
    minutes = round(seconds / 60)
    hours = minutes // 60
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
