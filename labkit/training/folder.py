"""The folder of a run: its files, the rules by which they are written, and its only writer.

config.json                        the experiment
machine.json                       where it started: processor, versions, commit
status.json                        its status, and the process that trains it (``labkit.training.status``)
metrics.csv                        tidy: step, samples, seconds, name, value
checkpoints/step-00001000.safetensors
samples/step-00001000.png          grids of samples, drawn from the averaged weights
.lock                              held by the one process that trains here; reading does not need it
"""

import contextlib
import io
import json
import time
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from labkit.checks import ConfigError, LabError, require
from labkit.config import Config
from labkit.disk import located, read_text, reading, unwritten, user_path
from labkit.runtime import machine
from labkit.training import checkpoint as ckpt
from labkit.training.status import State, Status, now

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"step": "int64", "samples": "int64", "seconds": "float64", "name": "str", "value": "float64"}
LEFT_BY_FAILURES = {"status.json", "failure.txt"}  # files of a training that failed before its config.json
MOMENT = 1.0  # seconds to wait for a lock that may be held for a few writes only
OFTEN, SELDOM = 1.0, 60.0  # seconds between two statuses with news, and without


class RunError(LabError, RuntimeError):
    """A folder that is not the expected run; the message says what it is and what to do."""


class BusyError(RunError):
    """A folder in which another trainer writes."""


class RunFolder:
    """Paths and writing rules of one run's folder; ``labkit.Run`` adds networks, features and samples.

    ``open`` expects a run to exist, ``begin`` starts or continues one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path, "folder of the run")
        self._lock: FileLock | None = None
        self._started = self._noted = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None}  # a copy in another process owns nothing

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run's folder; a missing or foreign folder is refused with a RunError."""
        folder = cls(path)
        if not folder.path.is_dir():
            there = located(folder.path)
            raise RunError(f"There is no run at {there}; start one with `labkit train digits --out {path}`.")
        if not (folder.path / "config.json").exists():
            raise RunError(f"{path} is not the folder of a run (it has no config.json); name a run's own folder.")
        _ = folder.config  # refuses a damaged config
        return folder

    def begin(self, config: Config) -> Self:
        """Start a run here, or continue one of the same experiment.

        Raises:
            RunError: the folder holds a run of another config, or something else, or another process trains there.
            ConfigError: the run has been trained for more steps already.
        """
        if (self.path / "config.json").exists():
            there = type(self).open(self.path)
            done = max(there.checkpoints, default=0)
            require(config.steps >= done, "steps", config.steps, f"{self.path} has been trained for {done} already")
            if there.config == config and done >= config.steps:  # nothing is left to do, so nothing is written
                return self
            if changed := "; ".join(there.config.breaks(config)):
                raise RunError(
                    f"{self.path} holds a run of another config ({changed}); choose another folder, or that run's "
                    "settings."
                )
        elif self.path.exists() and (not self.path.is_dir() or any(map(_foreign, self.path.iterdir()))):
            raise RunError(f"{self.path} exists and is not the folder of a run; choose an empty or a new folder.")
        with self.writing():
            for unfinished in self.path.rglob(".*.part"):  # of a save that was killed
                unfinished.unlink()
            ckpt.replace_file(self.path / "config.json", config.to_json().encode())
            self.config = config
            if not self.checkpoints:  # the run begins here, whatever was lost before
                ckpt.replace_file(self.path / "machine.json", json.dumps(machine(), indent=2).encode())
        return self

    @contextlib.contextmanager
    def writing(self, patience: float = MOMENT) -> Iterator[None]:
        """Own the folder: no other trainer may write here meanwhile. The same object may enter again.

        A killed owner's lock ends with its process. On network file systems without locks, a trainer on another machine
        owns the folder while its status is less than 10 minutes old.

        Args:
            patience: seconds to wait for another owner to leave.

        Raises:
            BusyError: another trainer owns the folder.
            CheckpointError: nothing can be written there.
        """
        lock = self._lock = self._lock or FileLock(self.path / ".lock", thread_local=False)
        again = lock.is_locked
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=patience)
        except Timeout:
            raise self._busy() from None
        except OSError as error:
            raise ckpt.unsaved(unwritten(self.path / ".lock", 0, error)) from error
        try:
            if not again:
                status = self.status
                if status is not None and not status.here and status.alive:
                    raise self._busy()
                self._started = time.time()
            yield
        finally:
            lock.release()

    @property
    def busy(self) -> bool:
        """Whether another trainer owns the folder at this moment."""
        try:
            with self.writing(patience=0):
                return False
        except LabError as error:  # a folder that cannot be written has no owner
            return isinstance(error, BusyError)

    def _busy(self) -> BusyError:
        owner = self.status
        who = "another process" if owner is None else f"process {owner.pid} on {owner.host}"
        return BusyError(
            f"{self.path} is being trained by {who}; watch it with labkit.widgets.watch_panel, stop it there (in a "
            "notebook: leave or close the loop over its trainer), or choose another folder."
        )

    @property
    def status(self) -> Status | None:
        """Status that the trainer wrote last; None for a run of an early version, which wrote none."""
        return Status.read(self.path / "status.json")

    def note(self, state: State, step: int, error: str = "") -> None:
        """Write the status; for the owner of the folder only."""
        self._noted = time.monotonic()
        now(state, step, self.config.steps, self._started, error).write(self.path / "status.json")

    def beat(self, step: int, new: bool) -> None:
        """Write that the run goes on, at most once a second if ``new`` rows or files appeared, else once a minute."""
        if time.monotonic() - self._noted > (OFTEN if new else SELDOM):
            self.note("running", step)

    @cached_property
    def config(self) -> Config:
        """The experiment."""
        try:
            return Config.from_json(read_text(self.path / "config.json"))
        except ConfigError as error:
            raise ConfigError(f"{self.path / 'config.json'}: {error}") from error

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step → checkpoint file, in the order of steps."""
        folder = self.path / "checkpoints"
        with reading(folder):
            present = list(folder.iterdir()) if folder.is_dir() else []
        files = {f.stem.removeprefix("step-"): f for f in present if f.match("step-*.safetensors")}
        return {int(step): files[step] for step in sorted(filter(str.isdecimal, files), key=int)}

    def newest(self, config: Config) -> ckpt.Checkpoint | None:
        """The newest checkpoint that can be read, None if there are no checkpoints.

        Raises:
            CheckpointError: there are checkpoints, but none can be read.
            RunError: the checkpoint was written by a run of another config.
        """
        faults = []
        for file in reversed(self.checkpoints.values()):
            try:
                state = ckpt.read(file)
            except ckpt.CheckpointError as error:
                faults.append(error)
                continue
            if changed := "; ".join(Config.from_json(state.config).breaks(config)):
                raise RunError(f"{file} is from a run of another config ({changed}); move it out of this folder.")
            if faults:
                warnings.warn(f"{faults[0]} Continuing from step {state.step} instead.", stacklevel=3)
            return state
        if faults:
            remedy = "copy them here again from where they are whole, or train in another folder"
            raise ckpt.CheckpointError(f"{faults[0]} No other checkpoint can be read either: {remedy}.")
        return None

    def save(self, state: ckpt.Checkpoint) -> None:
        """Write a checkpoint; once it is safe on the disk, remove those that are no longer to be kept."""
        ckpt.write(self.path / "checkpoints" / f"step-{state.step:08d}.safetensors", state)
        # Later ones are unreadable, else training would have continued there: they do not count, and are overwritten.
        keep_every = self.config.keep_every
        readable = [(step, file) for step, file in self.checkpoints.items() if step <= state.step]
        for step, file in readable[: -self.config.keep_last]:
            if keep_every is None or step % keep_every:
                file.unlink()

    @property
    def sheets(self) -> Path:
        """Folder of the sheets of samples."""
        return self.path / "samples"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.csv"

    def log(self, step: int, samples: int, seconds: float, values: dict[str, float]) -> None:
        """Append a row for each value to the table that ``rewind`` began."""
        text = "".join(f"{step},{samples},{seconds:.3f},{name},{value!r}\n" for name, value in values.items())
        try:
            with open(self._metrics, "a") as file:
                file.write(text)
        except OSError as error:
            raise ckpt.unsaved(unwritten(self._metrics, len(text), error)) from error

    def metrics(self) -> "pd.DataFrame":
        """Tidy table of everything logged so far: step, samples, seconds, name, value."""
        import pandas as pd

        text = self._metrics.read_text() if self._metrics.exists() else ""
        # A run that is being written, or was killed while writing, can end in half a line.
        whole = text.rpartition("\n")[0] or ",".join(COLUMNS)
        return pd.read_csv(io.StringIO(whole), dtype=COLUMNS)

    def rewind(self, step: int) -> None:
        """Begin the table, or drop its rows after ``step``.

        A killed run has logged further than it saved; without this, those steps would be logged twice.
        """
        lines = self._metrics.read_text().splitlines() if self._metrics.exists() else []
        rows = [line.split(",") for line in lines]
        kept = [",".join(row) for row in rows if len(row) == 5 and row[0].isdecimal() and int(row[0]) <= step]
        ckpt.replace_file(self._metrics, "".join(f"{line}\n" for line in (",".join(COLUMNS), *kept)).encode())


def _foreign(file: Path) -> bool:
    """Whether a file shows that a folder is not a run's."""
    return file.name[0] != "." and file.name not in LEFT_BY_FAILURES
