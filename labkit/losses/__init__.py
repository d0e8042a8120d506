"""Losses as pure functions of tensors: no parameters, no state, no communication."""

from labkit.losses.alignment import repa_loss
from labkit.losses.contrastive import contrastive_loss, contrastive_parts
from labkit.losses.dispersive import dispersive_floor, dispersive_loss
from labkit.losses.flow import velocity_errors, velocity_loss

__all__ = [
    "contrastive_loss",
    "contrastive_parts",
    "dispersive_floor",
    "dispersive_loss",
    "repa_loss",
    "velocity_errors",
    "velocity_loss",
]
