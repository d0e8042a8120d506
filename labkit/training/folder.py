"""The folder of a run: its files, the rules by which they are written, and its only writer.

config.json                        the experiment
data.json                          identity of its data: digest, classes, shape, path (runs of early versions lack it)
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
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from labkit.checks import ConfigError, LabError, require
from labkit.config import Config
from labkit.datasets import DataIdentity, present
from labkit.disk import located, read_text, reading, remove_unfinished, unwritten, user_path
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
        self.sheets, self._metrics = self.path / "samples", self.path / "metrics.csv"
        self._lock: FileLock | None = None
        self._started = self._noted = 0.0

    def sheet(self, step: int) -> Path:
        """File of the sheet of samples that is drawn beside the checkpoint of a step."""
        return self.sheets / f"step-{step:08d}.png"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None}  # a copy in another process owns nothing

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> Self:
        """Open a run's folder, with options of the class; a missing or foreign folder is refused with a RunError."""
        folder = cls(path, **options)
        if not folder.path.is_dir():
            there = located(folder.path)
            raise RunError(f"There is no run at {there}; start one with `labkit train digits --out {path}`.")
        if not (folder.path / "config.json").exists():
            raise RunError(f"{path} is not the folder of a run (it has no config.json); name a run's own folder.")
        _ = folder.config  # refuses a damaged config
        return folder

    def begin(self, config: Config, data: DataIdentity | None = None) -> Self:
        """Start a run here, or continue one of the same experiment.

        Args:
            data: identity of the config's data. They may have moved since the run was made.

        Raises:
            RunError: the folder holds a run of another config or other data, or something else, or another process
                trains there.
            ConfigError: the run has been trained for more steps already.
        """
        if (self.path / "config.json").exists():
            there = type(self).open(self.path)
            done = max(there.checkpoints, default=0)
            more = f"take at least {done}, or another folder"
            require(
                config.steps >= done, "steps", config.steps, f"{self.path} has been trained for {done} already; {more}"
            )
            changed = there.breaks(config, data)
            if there.config == config and done >= config.steps:  # nothing is left to do, so nothing is written
                return self
            if there.data is not None and data is not None and there.data.path == data.path:
                data = there.data  # named as it was typed when the run was made
            if changed:
                raise RunError(
                    f"{self.path} holds a run of another config ({changed}); choose another folder, or that run's "
                    "settings."
                )
        elif self.path.exists() and (not self.path.is_dir() or any(map(_foreign, self.path.iterdir()))):
            raise RunError(f"{self.path} exists and is not the folder of a run; choose an empty or a new folder.")
        with self.writing():
            remove_unfinished(self.path)
            named = config if data is None else replace(config, dataset=data.name)
            ckpt.replace_file(self.path / "config.json", named.to_json().encode())
            if data is not None:
                ckpt.replace_file(self.path / "data.json", data.to_json().encode())
            self.config, self.data = config, data
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
        """The experiment; its data set is named as it can be opened from here."""
        try:
            config = Config.from_json(read_text(self.path / "config.json"))
        except ConfigError as error:
            copy = "each checkpoint holds it, too: labkit.training.checkpoint.read(FILE).config"
            raise ConfigError(f"{self.path / 'config.json'}: {error} If it is lost, {copy}.") from error
        return config if self.data is None else replace(config, dataset=self.data.located())

    @cached_property
    def data(self) -> DataIdentity | None:
        """Identity of the data; None for a run of an early version, which did not write it."""
        file = self.path / "data.json"
        try:
            return DataIdentity.from_json(file.read_text(encoding="utf-8")) if file.exists() else None
        except (ValueError, TypeError, KeyError) as error:
            remedy = "move it elsewhere, and the run opens without a comparison of its data"
            raise RunError(f"{file} was cut or edited ({error}); {remedy}.") from error

    def breaks(self, config: Config, data: DataIdentity | None) -> str:
        """Differences that make a config another experiment than this run's, in words; its data may lie elsewhere.

        Raises:
            RunError: its data are not those of this run.
        """
        before = self.config
        if data is not None:
            self.refuse_other(data)
            before = before if self.data is None else replace(before, dataset=config.dataset)
        return "; ".join(before.breaks(config))

    def refuse_other(self, data: DataIdentity) -> None:
        """Refuse data that are not those of this run, as far as these are known, with a RunError."""
        mine = self.data or self._data_of_weights(data)
        if mine.digest == data.digest:
            return
        remedy = "choose another folder for a run on these"
        if data.path is not None and mine.path == data.path:
            remedy = "move these to a folder of their own, for another run, and put the former back"
        holds = f"{data.path or data.name} holds {data.describe()}"
        raise RunError(f"{self.path} was trained on {mine.describe()}, and {holds}; {remedy}.")

    def _data_of_weights(self, data: DataIdentity) -> DataIdentity:
        """All that the weights of a run of an early version show of its data; the rest as in ``data``."""
        for file in reversed(self.checkpoints.values()):
            with contextlib.suppress(ckpt.CheckpointError):
                side, channels, classes = ckpt.dimensions(file)
                fits = (side, channels, classes) == data.dimensions
                digest = data.digest if fits else "not known"
                return replace(data, digest=digest, num_classes=classes, shape=(channels, side, side))
        return data

    def check_data(self) -> None:
        """Refuse a run whose data have been replaced; without any data it still gives samples."""
        moved = self.data is not None and self.data.path is not None  # embedded data stay as they are
        if moved and (here := present(self.config.dataset)) is not None:
            self.refuse_other(here)

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step → checkpoint file, in the order of steps."""
        folder = self.path / "checkpoints"
        with reading(folder):
            present = list(folder.iterdir()) if folder.is_dir() else []
        files = {f.stem.removeprefix("step-"): f for f in present if f.match("step-*.safetensors")}
        return {int(step): files[step] for step in sorted(filter(str.isdecimal, files), key=int)}

    def checkpoint(self, step: int, config: Config) -> ckpt.Checkpoint:
        """The checkpoint of a step of this config.

        Raises:
            CheckpointError: the file cannot be read.
            RunError: it was written at another step, or by a run of another config or other data.
        """
        file = self.checkpoints[step]
        state = ckpt.read(file)
        if state.step != step:
            name = f"step-{state.step:08d}.safetensors"
            raise RunError(f"{file} was written at step {state.step} and renamed; give it its name back, {name}.")
        saved, data = Config.from_json(state.config), state.data and DataIdentity.from_json(state.data)
        if self.data is not None and data and data.digest != self.data.digest:
            fault = f"is from a run on {data.describe()}, and this one was trained on {self.data.describe()}"
            raise RunError(f"{file} {fault}; move it to the folder of its run.")
        if data or (self.data is not None and saved.dataset == self.data.name):
            saved = replace(saved, dataset=config.dataset)  # where the data lie is no part of the experiment
        if changed := "; ".join(saved.breaks(config)):
            raise RunError(f"{file} is from a run of another config ({changed}); move it to the folder of its run.")
        return state

    def newest(self, config: Config) -> ckpt.Checkpoint | None:
        """The newest checkpoint that can be read, None if there are no checkpoints.

        Raises:
            CheckpointError: there are checkpoints, but none can be read.
            RunError: the checkpoint is not of this run, or was renamed.
        """
        faults = []
        for step in reversed(self.checkpoints):
            try:
                state = self.checkpoint(step, config)
            except ckpt.CheckpointError as error:
                faults.append(error)
                continue
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

    def log(self, step: int, samples: int, seconds: float, values: dict[str, float]) -> None:
        """Append a row for each value to the table that ``rewind`` began."""
        text = "".join(f"{step},{samples},{seconds:.3f},{name},{value!r}\n" for name, value in values.items())
        try:
            with open(self._metrics, "a") as file:
                file.write(text)
        except OSError as error:
            raise ckpt.unsaved(unwritten(self._metrics, len(text), error)) from error

    def metrics(self) -> "pd.DataFrame":
        """Tidy table of everything logged so far: step, samples, seconds, name, value.

        Raises:
            RunError: another program has saved the table in another form.
        """
        whole = self._rows()[:-1]  # a run that is being written, or was killed while writing, can end in half a line
        return read_rows(self._metrics, "\n".join(whole).encode())

    def rewind(self, step: int) -> None:
        """Begin the table, or drop its rows after ``step``.

        A killed run has logged further than it saved; without this, those steps would be logged twice.

        Raises:
            RunError: another program has saved the table in another form; it stays as it is.
        """
        kept = [row for row in self._rows() if _is_row(row) and int(row.partition(",")[0]) <= step]
        ckpt.replace_file(self._metrics, "".join(f"{line}\n" for line in (",".join(COLUMNS), *kept)).encode())

    def _rows(self) -> list[str]:
        """Lines of the table after its first; the last may be cut, or is empty after a whole one."""
        try:
            text = self._metrics.read_bytes().decode("utf-8-sig") if self._metrics.exists() else ""
        except UnicodeDecodeError as error:
            raise altered(self._metrics, "it is not UTF-8") from error
        header, *rows = text.replace("\r\n", "\n").split("\n")
        names = ",".join(COLUMNS)
        wrong = [(1, header)] if header != (names if rows else names[: len(header)]) else []
        wrong += [(number, row) for number, row in enumerate(rows[:-1], 2) if not _is_row(row)]
        for number, line in wrong[:1]:
            raise altered(self._metrics, f"line {number} is {line[:40]!r}")
        return rows


def read_rows(table: Path, rows: bytes) -> "pd.DataFrame":
    """Whole rows of a table of metrics, without its header.

    Raises:
        RunError: another program has saved the table in another form.
    """
    import pandas as pd

    try:
        return pd.read_csv(io.BytesIO(",".join(COLUMNS).encode() + b"\n" + rows), dtype=COLUMNS)
    except ValueError as error:
        raise altered(table, " ".join(str(error).split())) from error


def altered(table: Path, fault: str) -> RunError:
    """The error of a table that another program has saved in its own form."""
    form = f"Save it there again as UTF-8 text with the columns {','.join(COLUMNS)}"
    return RunError(f"{table} is not as labkit wrote it: {fault}. {form}, or move it: training then begins another.")


def _is_row(line: str) -> bool:
    fields = line.split(",")
    return len(fields) == len(COLUMNS) and fields[0].isdecimal()


def _foreign(file: Path) -> bool:
    """Whether a file shows that a folder is not a run's."""
    return file.name[0] != "." and file.name not in LEFT_BY_FAILURES
