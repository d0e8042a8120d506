"""Training runs: a generator of reports, checkpoints that survive a kill, folders that reopen."""

from labkit.sampling import Frame, Samples, few_steps, film_network, sample_network, starting_noise
from labkit.training.checkpoint import CheckpointError
from labkit.training.features import FeatureSet, Look, extract_features
from labkit.training.folder import RunError
from labkit.training.job import Job
from labkit.training.runs import Run, sample
from labkit.training.sheet import write_sheet
from labkit.training.trainer import NonFiniteLoss, Report, Trainer

__all__ = [
    "Frame",
    "CheckpointError",
    "Job",
    "Look",
    "NonFiniteLoss",
    "Report",
    "Run",
    "RunError",
    "Samples",
    "FeatureSet",
    "Trainer",
    "sample",
    "few_steps",
    "film_network",
    "sample_network",
    "extract_features",
    "starting_noise",
    "write_sheet",
]
