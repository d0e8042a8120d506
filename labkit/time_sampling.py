"""Times on the path from noise (t = 0) to data (t = 1) at which samples are shown to the network."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Noise = Literal["independent", "restricted"]
"""Noise and time of a second view: both drawn independently, or fresh noise at a time near that of the first view."""


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
    """Times of the second view of samples: drawn by ``time`` (``independent``), or near t (``restricted``).

    Args:
        t: times of the first view.  u: uniform numbers.  max_gap: the ``gap`` of ``near``.
        time: function from uniform numbers to times.
    """
    return near(t, u, max_gap) if noise == "restricted" else time(u)


def near(t: Float[Tensor, " b"], u: Float[Tensor, " b"], gap: float) -> Float[Tensor, " b"]:
    """Times at most ``gap`` away from t, mirrored at 0 and 1, so that they are uniform if t is.

    Args:
        t: times in [0, 1].  u: uniform numbers in [0, 1).  gap: in [0, 1].
    """
    moved = (t + gap * (2 * u - 1)).abs()
    return 1 - (1 - moved).abs()
