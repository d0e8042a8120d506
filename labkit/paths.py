"""Paths between noise and data: x_t = α(t)·x₁ + σ(t)·x₀, with noise x₀ at t = 0 and data x₁ at t = 1.

That is SiT's direction of time. The velocity of a point is dx_t/dt = α′(t)·x₁ + σ′(t)·x₀.
"""

from jaxtyping import Float
from torch import Tensor

from labkit.ops import expand_like
from labkit.types import PathSample


def linear(x1: Float[Tensor, "batch ..."], x0: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"]) -> PathSample:
    """The linear path α(t) = t, σ(t) = 1 − t, whose velocity x₁ − x₀ does not depend on t (SiT, eq. 2 and 6).

    Args:
        x1: data, (B, …).  x0: noise, of the same shape.  t: times in [0, 1], (B,).
    """
    if x1.shape != x0.shape or t.shape != x1.shape[:1]:
        shapes = tuple(x1.shape), tuple(x0.shape), tuple(t.shape)
        raise ValueError(f"x1, x0, t have shapes {shapes}; data and noise must agree, with one time a sample.")
    t = expand_like(t, x1)
    return PathSample(x_t=t * x1 + (1 - t) * x0, velocity=x1 - x0)
