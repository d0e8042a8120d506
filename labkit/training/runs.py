"""A run is a folder that reopens: its config, metrics and weights, ready to sample from or to go on training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from labkit import datasets
from labkit.checks import require
from labkit.config import Config
from labkit.models import Transformer
from labkit.runtime import device
from labkit.training import checkpoint as ckpt
from labkit.training.folder import RunError, RunFolder
from labkit.training.generate import Samples, sample_network
from labkit.training.trainer import Trainer, build_network

if TYPE_CHECKING:
    import pandas as pd

Weights = Literal["ema", "model"]


class Run:
    """An existing run. Open it with ``Run.open(path)``."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.path = folder.path
        self.config: Config = folder.config()

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run's folder; a missing or foreign folder is refused with a RunError."""
        return cls(RunFolder.open(Path(path)))

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step → checkpoint file."""
        return self.folder.checkpoints()

    def metrics(self) -> "pd.DataFrame":
        """The tidy table of everything logged: step, samples, seconds, name, value."""
        return self.folder.metrics()

    def trainer(self, **changes: Any) -> Trainer:
        """Go on training from the newest checkpoint; ``steps=…`` extends the run."""
        return Trainer(self.config.replace(**changes), self.path)

    def model(self, weights: Weights = "ema", step: int | None = None) -> Transformer:
        """The network at a checkpoint (the newest by default), averaged weights or live ones, ready to evaluate.

        Raises:
            ConfigError: unknown weights, or a step without a checkpoint.
            RunError, CheckpointError: nothing was saved yet, or it cannot be read.
        """
        return self._network(self._state(step), weights)

    def sample(self, n: int = 64, **settings: Any) -> Samples:
        """Generate images with the averaged weights of the newest checkpoint; see ``labkit.sample``."""
        state = self._state(None)
        samples = sample_network(self._network(state, "ema"), self.config, n, **settings)
        return samples._replace(settings={**samples.settings, "weights": "ema", "step": state.step})

    def _state(self, step: int | None) -> ckpt.Checkpoint:
        if step is None:
            state = self.folder.newest(self.config)
            if state is None:
                raise RunError(f"{self.path} has no checkpoint yet; train it with `labkit train --resume {self.path}`.")
            return state
        known = self.checkpoints
        told = ", ".join(map(str, known)) or "no step"
        require(step in known, "step", step, f"this run has checkpoints at {told}")
        return ckpt.read(known[step])

    def _network(self, state: ckpt.Checkpoint, weights: Weights) -> Transformer:
        require(weights in ("ema", "model"), "weights", weights, "choose 'ema' (the moving average) or 'model'")
        network = build_network(self.config, getattr(datasets, self.config.dataset)("train"))
        network.load_state_dict(state.part(f"{weights}."))
        return network.to(device()).eval().requires_grad_(False)


def sample(run: Run | str | Path, n: int = 64, **settings: Any) -> Samples:
    """Generate ``n`` images from a run.

    Args:
        run: a Run or the path of its folder.
        n: how many.
        settings: as in ``sample_network``: y, steps, method, guidance, seed, batch_size, progress.
    """
    return (run if isinstance(run, Run) else Run.open(run)).sample(n, **settings)
