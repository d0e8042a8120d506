"""Losses as pure functions of tensors: no parameters, no state, no communication."""

from labkit.losses.alignment import repa_loss
from labkit.losses.contrastive import contrastive_loss, contrastive_parts
from labkit.losses.diffusion import diffusion_errors
from labkit.losses.dispersive import dispersive_floor, dispersive_loss
from labkit.losses.flow import squared_errors, velocity_loss
from labkit.losses.meanflow import adaptive_loss, average_velocity_target

__all__ = [
    "adaptive_loss",
    "average_velocity_target",
    "contrastive_loss",
    "contrastive_parts",
    "diffusion_errors",
    "dispersive_floor",
    "dispersive_loss",
    "repa_loss",
    "squared_errors",
    "velocity_loss",
]
