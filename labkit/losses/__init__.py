"""Losses as pure functions of tensors, each beside its settings: no parameters, no state, no communication."""

from labkit.losses.alignment import Repa, repa_loss
from labkit.losses.bank import Bank
from labkit.losses.contrastive import Contrastive, contrastive_loss
from labkit.losses.diffusion import diffusion_errors
from labkit.losses.dispersive import Dispersive, Variant, dispersive_floor, dispersive_loss
from labkit.losses.flow import squared_errors, velocity_loss
from labkit.losses.meanflow import MeanFlow, adaptive_loss, average_velocity_target
from labkit.losses.weight import burst, late, warm_up

__all__ = [
    "Bank",
    "Contrastive",
    "Dispersive",
    "MeanFlow",
    "Repa",
    "Variant",
    "adaptive_loss",
    "average_velocity_target",
    "burst",
    "contrastive_loss",
    "diffusion_errors",
    "dispersive_floor",
    "dispersive_loss",
    "late",
    "repa_loss",
    "squared_errors",
    "velocity_loss",
    "warm_up",
]
