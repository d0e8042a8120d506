"""Training runs: a generator of reports, checkpoints that survive a kill, folders that reopen."""

from labkit.training.checkpoint import CheckpointError
from labkit.training.runs import Run, RunError, Samples, sample
from labkit.training.trainer import NonFiniteLoss, Report, Trainer

__all__ = ["CheckpointError", "NonFiniteLoss", "Report", "Run", "RunError", "Samples", "Trainer", "sample"]
