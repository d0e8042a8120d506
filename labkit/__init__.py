"""labkit: a lab for one idea about diffusion models, Dispersive Loss.

labkit.dispersive_loss(z, tau=0.5)         the loss, on features of any shape (B, …)
labkit.contrastive_loss(z, z_positive)     its parent, with a second view
labkit.tap(module, "name")                 features of any part of any foreign model
labkit.build_model("SiT-B/2")              the backbone, S to XL; DiT-… is the noise model
labkit.load_official("SiT-XL-2-256.pt")    the same with released weights
labkit.Trainer(labkit.recipes.digits())    a generator of training reports
labkit.Job.launch(config, "runs/x")        the same as a process that outlives the notebook
labkit.Run.open("runs/x"), labkit.sample   what a run leaves behind
"""

from labkit import openmp  # noqa: F401  first, before anything loads torch

# isort: split
from labkit import recipes
from labkit.checks import ConfigError
from labkit.config import Config
from labkit.losses import Contrastive, Dispersive, Repa, contrastive_loss, dispersive_loss
from labkit.models import build_model, load_official, tap
from labkit.training import Job, Run, Trainer, sample

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
