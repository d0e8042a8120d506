"""Times: where on the path from noise (t = 0) to data (t = 1) a sample is looked at."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Noise = Literal["independent", "restricted"]
"""Noise and time of a second view: of its own, or its own noise at a time near the first's."""


def logit_normal(u: Float[Tensor, " b"], mean: float, deviation: float) -> Float[Tensor, " b"]:
    """Times in [0, 1] whose logit is normal, from uniform numbers in [0, 1)."""
    return torch.sigmoid(mean + deviation * torch.special.ndtri(u))


def second(
    t: Float[Tensor, " b"],
    u: Float[Tensor, " b"],
    noise: Noise,
    max_gap: float,
    time: Callable[[Tensor], Tensor] = lambda u: u,
) -> Float[Tensor, " b"]:
    """The time of a second view of samples whose first is at t: its own (``independent``), or near t (``restricted``).

    Args:
        t, u: as in ``near``.  max_gap: the gap of ``restricted``.
        time: how a uniform number becomes a time of its own.
    """
    return near(t, u, max_gap) if noise == "restricted" else time(u)


def near(t: Float[Tensor, " b"], u: Float[Tensor, " b"], gap: float) -> Float[Tensor, " b"]:
    """A second time at most ``gap`` away from t, mirrored at 0 and 1: with t uniform, so is it.

    Args:
        t: times in [0, 1].  u: uniform numbers in [0, 1).  gap: in [0, 1].
    """
    moved = (t + gap * (2 * u - 1)).abs()
    return 1 - (1 - moved).abs()
