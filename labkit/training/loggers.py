"""Loggers beside metrics.csv: TensorBoard and Weights & Biases, by Fabric. Each needs its package, the lab does not.

    tensorboard    event files in RUN/tensorboard             tensorboard --logdir RUN
    wandb          a run of the project labkit                WANDB_MODE=offline keeps it in RUN/wandb, for wandb sync

The names of metrics and the steps are those of metrics.csv. A run that goes on continues its curves.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from labkit.checks import ConfigError, choose
from labkit.config import Config

if TYPE_CHECKING:
    from lightning_fabric.loggers import Logger

Name = Literal["tensorboard", "wandb"]
EXTRA = '`pip install "labkit[loggers]"` (in a checkout `pip install -e ".[loggers]"`)'


def check_loggers(names: Sequence[Name]) -> None:
    """Refuse an unknown logger, and one whose package cannot be imported."""
    for name in names:
        choose(name, Name, "logger")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"logger = {name!r} needs the package {name}, which cannot be imported ({error}); install it with "
                f"{EXTRA}, or leave it out: metrics.csv holds every number."
            ) from None


def make_loggers(names: Sequence[Name], folder: Path, config: Config, step: int) -> "list[Logger]":
    """Loggers of a run, which write nothing before they are used.

    Args:
        folder: of the run.  step: that it goes on from; later steps that a killed process logged are dropped.
    """
    from lightning_fabric.loggers import TensorBoardLogger

    own = {"name": "tensorboard", "version": "", "purge_step": step + 1}
    return [TensorBoardLogger(folder, **own) if name == "tensorboard" else _wandb(folder, config) for name in names]


def _wandb(folder: Path, config: Config) -> "Logger":
    import wandb
    from lightning_fabric.loggers import Logger

    class WandbLogger(Logger):
        """A run of wandb's, whose id lies in the run's folder, so that a resumed run is the same one there."""

        name, version = folder.name, None
        run: Any = None

        @property
        def experiment(self) -> Any:
            if self.run is None:
                file = folder / "wandb-id.txt"
                run_id = file.read_text().strip() if file.exists() else None
                settings = {"id": run_id, "resume": "allow", "dir": folder, "config": json.loads(config.to_json())}
                try:
                    self.run = wandb.init(project="labkit", name=folder.name, **settings)
                except (wandb.Error, OSError) as error:
                    offline = "log in with `wandb login`, or set WANDB_MODE=offline; metrics.csv holds every number"
                    raise ConfigError(f"logger = 'wandb' cannot start ({error}); {offline}.") from error
                # wandb's own count of steps cannot go back to a checkpoint; this one can.
                self.run.define_metric("*", step_metric="step")
                file.write_text(self.run.id)
            return self.run

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.experiment.log({"step": step, **metrics})

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            self.experiment.config.update(params, allow_val_change=True)

        def finalize(self, status: str) -> None:
            if self.run is not None:
                self.run.finish(exit_code=int(status == "failed"))
                self.run = None

    return WandbLogger()
