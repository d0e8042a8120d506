"""Losses as pure functions of tensors: no parameters, no state, no communication."""

from labkit.losses.dispersive import dispersive_floor, dispersive_loss
from labkit.losses.flow import velocity_loss

__all__ = ["dispersive_floor", "dispersive_loss", "velocity_loss"]
