"""The folder of a run: what lies where, and the rules by which it is written.

config.json                        the experiment
machine.json                       where it started: processor, versions, commit
metrics.csv                        tidy: step, samples, seconds, name, value
checkpoints/step-00001000.safetensors
samples/step-00001000.png          grids drawn from the averaged weights
"""

import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.checks import ConfigError, require
from labkit.config import Config
from labkit.disk import unwritten
from labkit.runtime import machine
from labkit.training import checkpoint as ckpt
from labkit.types import LabError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"step": "int64", "samples": "int64", "seconds": "float64", "name": "str", "value": "float64"}


class RunError(LabError, RuntimeError):
    """A folder that is not the run one asked for; the message says what it is and what to do."""


def _changes(old: Config, new: Config) -> str:
    """What differs and makes another experiment of it."""
    return "; ".join(old.breaks(new))


class RunFolder:
    """Paths and writing rules of one run's folder: ``create`` starts or continues one, ``open`` wants one to exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        if not path.is_dir():
            raise RunError(f"There is no run at {path}; start one with `labkit train digits --out {path}`.")
        if not (path / "config.json").exists():
            raise RunError(f"{path} is not the folder of a run (it has no config.json); name a run's own folder.")
        return cls(path)

    @classmethod
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Start a run here, or continue one whose config differs in nothing that makes it another experiment."""
        if (path / "config.json").exists():
            done = max(cls(path).checkpoints(), default=0)
            require(config.steps >= done, "steps", config.steps, f"{path} has been trained for {done} already")
            changed = _changes(cls(path).config(), config)
            if changed:
                raise RunError(
                    f"{path} holds a run of another config ({changed}); choose another folder, or that run's settings."
                )
        elif path.exists() and (not path.is_dir() or any(f.name[0] != "." for f in path.iterdir())):
            raise RunError(f"{path} exists and is not the folder of a run; choose an empty or a new folder.")
        folder = cls(path)
        for unfinished in path.rglob(".*.part"):  # of a save that was killed
            unfinished.unlink()
        ckpt.replace_file(path / "config.json", config.to_json().encode())
        if not folder.checkpoints():  # it begins here, whatever was begun and lost before
            ckpt.replace_file(path / "machine.json", json.dumps(machine(), indent=2).encode())
        return folder

    def config(self) -> Config:
        try:
            return Config.from_json((self.path / "config.json").read_text())
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path / 'config.json'}: {error}") from error

    def checkpoints(self) -> dict[int, Path]:
        """Step → file, in the order of steps."""
        files = {f.stem.removeprefix("step-"): f for f in (self.path / "checkpoints").glob("step-*.safetensors")}
        return {int(step): files[step] for step in sorted(filter(str.isdecimal, files), key=int)}

    def newest(self, config: Config) -> ckpt.Checkpoint | None:
        """The newest checkpoint that can be read, None if there is none at all.

        Raises:
            CheckpointError: there are checkpoints, and not one of them can be read.
            RunError: the checkpoint was written by a run of another config.
        """
        faults = []
        for file in reversed(self.checkpoints().values()):
            try:
                state = ckpt.read(file)
            except ckpt.CheckpointError as error:
                faults.append(error)
                continue
            changed = _changes(Config.from_json(state.config), config)
            if changed:
                raise RunError(
                    f"{file} was written by a run of another config ({changed}); remove it from this folder."
                )
            if faults:
                warnings.warn(f"{faults[0]} Continuing from step {state.step} instead.", stacklevel=3)
            return state
        if faults:
            raise ckpt.CheckpointError(
                f"{faults[0]} No other checkpoint of this run can be read: train it anew elsewhere."
            )
        return None

    def save(self, state: ckpt.Checkpoint) -> None:
        """Write a checkpoint; when it is safe on the disk, drop what ``keep_last`` and ``keep_every`` do not keep."""
        ckpt.write(self.path / "checkpoints" / f"step-{state.step:08d}.safetensors", state)
        # A later one is unreadable, or training would have gone on from there: it does not count, and is written anew.
        config = self.config()
        readable = {step: file for step, file in self.checkpoints().items() if step <= state.step}
        for step in list(readable)[: -config.keep_last]:
            if config.keep_every is None or step % config.keep_every:
                readable[step].unlink()

    @property
    def samples(self) -> Path:
        """The folder of sample sheets."""
        return self.path / "samples"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.csv"

    def log(self, step: int, samples: int, seconds: float, values: dict[str, float]) -> None:
        """Append one row a value to the table that ``rewind`` began."""
        text = "".join(f"{step},{samples},{seconds:.3f},{name},{value!r}\n" for name, value in values.items())
        try:
            with open(self._metrics, "a") as file:
                file.write(text)
        except OSError as error:
            raise ckpt.unsaved(unwritten(self._metrics, len(text), error)) from error

    def metrics(self) -> "pd.DataFrame":
        """All rows logged so far; empty before the first."""
        import pandas as pd

        text = self._metrics.read_text() if self._metrics.exists() else ""
        # A run that is being written, or was killed while writing, can end in half a line.
        whole = text.rpartition("\n")[0] or ",".join(COLUMNS)
        return pd.read_csv(io.StringIO(whole), dtype=COLUMNS)

    def rewind(self, step: int) -> None:
        """Begin the table, or drop its rows after ``step``.

        A killed run logs further than it saved: going on would log those steps twice.
        """
        lines = self._metrics.read_text().splitlines()[1:] if self._metrics.exists() else []
        kept = [line for line in lines if line.count(",") == 4 and line.split(",")[0].isdecimal()]
        kept = [line for line in kept if int(line.split(",")[0]) <= step]
        ckpt.replace_file(self._metrics, "".join(f"{line}\n" for line in (",".join(COLUMNS), *kept)).encode())
