"""labkit: a lab for one idea about diffusion models, Dispersive Loss.

labkit.dispersive_loss(z, tau=0.5)         the loss, on features of any shape (B, …)
labkit.contrastive_loss(z, z_positive)     its parent, with a second view
labkit.tap(module, "name")                 features of any part of any foreign model
labkit.build_model("SiT-B/2")              the backbone, S to XL; DiT-… is the noise model
labkit.load_official("SiT-XL-2-256.pt")    the same with released weights
labkit.Trainer(labkit.recipes.digits())    a generator of training reports
labkit.Job.launch(config, "runs/x")        the same as a process that outlives the notebook
labkit.Run.open("runs/x"), labkit.sample   a finished run: its networks, features and samples
"""

import importlib
from typing import TYPE_CHECKING, Any

from labkit import openmp  # noqa: F401  first, before anything loads torch

if TYPE_CHECKING:
    from labkit import recipes
    from labkit.checks import ConfigError
    from labkit.config import Config
    from labkit.losses import Contrastive, Dispersive, Repa, contrastive_loss, dispersive_loss
    from labkit.models import build_model, load_official, tap
    from labkit.training import Job, Run, Trainer, sample

__version__ = "0.1.0"
_NAMES = {
    "checks": ("ConfigError",),
    "config": ("Config",),
    "losses": ("Contrastive", "Dispersive", "Repa", "contrastive_loss", "dispersive_loss"),
    "models": ("build_model", "load_official", "tap"),
    "training": ("Job", "Run", "Trainer", "sample"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name or a module when it is first used: ``labkit --help`` then needs no torch, which takes seconds."""
    try:
        home = importlib.import_module(f"labkit.{_HOMES.get(name, name)}")
    except ModuleNotFoundError as missing:
        if missing.name != f"labkit.{name}":
            raise
        raise AttributeError(f"module 'labkit' has no attribute {name!r}") from None
    return getattr(home, name) if name in _HOMES else home


__all__ = [
    "Config",
    "ConfigError",
    "Contrastive",
    "Dispersive",
    "Job",
    "Repa",
    "Run",
    "Trainer",
    "build_model",
    "contrastive_loss",
    "dispersive_loss",
    "load_official",
    "recipes",
    "sample",
    "tap",
]
