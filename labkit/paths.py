"""Paths between noise and data: x_t = α(t)·x₁ + σ(t)·x₀, with noise x₀ at t = 0 and data x₁ at t = 1.

Time runs as in SiT. The velocity of a point is v = dx_t/dt = α′(t)·x₁ + σ′(t)·x₀ (SiT, eq. 2 to 4).

    linear   α = t,          σ = 1 − t             straight, at constant speed
    gvp      α = sin(πt/2),  σ = cos(πt/2)         a quarter of a circle: the variance of x_t stays that of the data
    vp       α = e^−ℓ(t),    σ = √(1 − e^−2ℓ(t))   the path of diffusion: ℓ = (β₁ − β₀)(1 − t)²/4 + β₀(1 − t)/2,
                                                   with β from 0.1 to 20

VP does not start from pure noise, since α(0) = 0.0066, and at t = 1 its velocity is infinite.

At a point x_t, each of velocity v, noise x₀, data x₁ and score ∇log p = −x₀/σ determines the others, wherever nothing
is divided by α = 0 or σ = 0 (``Path.interval``).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import choose, require
from labkit.ops import expand_like
from labkit.types import PathSample

PathName = Literal["linear", "gvp", "vp"]
Predicted = Literal["velocity", "noise", "score"]
Weighting = Literal["none", "velocity", "likelihood"]
Quantity = Literal["velocity", "noise", "score", "data"]
BETA_0, BETA_1 = 0.1, 20.0
EDGE = 1e-3
"""Distance that times keep from an end at which something is divided by 0, as in SiT's samplers."""


class Coefficients(NamedTuple):
    """α, σ and their derivatives with respect to t, each shaped to broadcast against x."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


@dataclass(frozen=True)
class Path:
    """A path from noise to data; ``path(x1, x0, t)`` is a point on it, with its velocity."""

    name: PathName
    coefficients: Callable[[Tensor], Coefficients]
    """Function from times of any shape to coefficients of that shape."""

    def __call__(
        self, x1: Float[Tensor, "batch ..."], x0: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"]
    ) -> PathSample:
        """The point at time t between data and noise.

        Args:
            x1: data, (B, …).  x0: noise, of the same shape.  t: times in [0, 1], (B,).

        Raises:
            ValueError: shapes that do not belong together.
        """
        if x1.shape != x0.shape or t.shape != x1.shape[:1]:
            shapes = tuple(x1.shape), tuple(x0.shape), tuple(t.shape)
            raise ValueError(f"x1, x0, t have shapes {shapes}; data and noise must agree, with one time a sample.")
        c = self.coefficients(expand_like(t, x1))
        return PathSample(x_t=c.alpha * x1 + c.sigma * x0, velocity=c.d_alpha * x1 + c.d_sigma * x0)

    def convert(
        self,
        value: Float[Tensor, "batch ..."],
        source: Quantity,
        target: Quantity,
        x_t: Float[Tensor, "batch ..."],
        t: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch ..."]:
        """Convert a prediction of one quantity at (x_t, t) into a prediction of another.

        Args:
            value: the ``source`` quantity, (B, …).  target: the quantity to return, of the same shape.
            x_t: the point.  t: its time, within ``interval`` of both quantities.
        """
        choose(source, Quantity, "source")
        choose(target, Quantity, "target")
        if source == target:
            return value
        c = self.coefficients(expand_like(t, x_t))
        if source == "data":
            x1, x0 = value, (x_t - c.alpha * value) / c.sigma
        elif source == "velocity":
            determinant = c.alpha * c.d_sigma - c.sigma * c.d_alpha  # of both equations; below 0 on every path
            x1 = (c.d_sigma * x_t - c.sigma * value) / determinant
            x0 = (c.alpha * value - c.d_alpha * x_t) / determinant
        else:
            x0 = value if source == "noise" else -c.sigma * value
            x1 = (x_t - c.sigma * x0) / c.alpha if target in ("data", "velocity") else x0
        if target == "velocity":
            return c.d_alpha * x1 + c.d_sigma * x0
        return {"data": x1, "noise": x0, "score": -x0 / c.sigma}[target]

    def interval(self, predicted: Quantity) -> tuple[float, float]:
        """First and last time at which a prediction of this quantity determines the others: ``EDGE`` off singular ends.

        A velocity serves from 0 to 1, except on VP, where it is infinite at 1. Noise and score do not determine the
        data where α = 0, nor data the noise where σ = 0, where the score itself is infinite.
        """
        choose(predicted, Quantity, "predicted")
        start = EDGE if predicted in ("noise", "score") and self.name != "vp" else 0.0
        end = 1 - EDGE if predicted in ("score", "data") or self.name == "vp" else 1.0
        return start, end


def _linear(t: Tensor) -> Coefficients:
    return Coefficients(t, 1 - t, torch.ones_like(t), -torch.ones_like(t))


def _gvp(t: Tensor) -> Coefficients:
    half = math.pi / 2
    # The sine of 1 − t is exactly 0 at t = 1, where cos(π/2) would be a rounding error.
    alpha, sigma = torch.sin(half * t), torch.sin(half * (1 - t))
    return Coefficients(alpha, sigma, half * sigma, -half * alpha)


def _vp(t: Tensor) -> Coefficients:
    rest = 1 - t
    decay = (BETA_1 - BETA_0) * rest**2 / 4 + BETA_0 * rest / 2  # ℓ
    slope = (BETA_1 - BETA_0) * rest / 2 + BETA_0 / 2  # −ℓ′
    alpha, sigma = torch.exp(-decay), torch.sqrt(-torch.expm1(-2 * decay))
    return Coefficients(alpha, sigma, slope * alpha, -slope * alpha**2 / sigma)


linear, gvp, vp = Path("linear", _linear), Path("gvp", _gvp), Path("vp", _vp)
PATHS: dict[str, Path] = {path.name: path for path in (linear, gvp, vp)}


@dataclass(frozen=True)
class Flow:
    """Settings of flow matching (SiT models); the paper of the Dispersive Loss takes the defaults."""

    path: PathName = "linear"
    """Path from noise to data."""
    prediction: Predicted = "velocity"
    """Quantity that the network predicts."""
    weighting: Weighting = "none"
    """Weight of the squared error of noise or score: the one of the velocity's error, or of a likelihood bound."""

    def __post_init__(self) -> None:
        choose(self.path, PathName, "flow.path")
        choose(self.prediction, Predicted, "flow.prediction")
        choose(self.weighting, Weighting, "flow.weighting")
        fits = self.weighting == "none" or self.prediction != "velocity"
        require(fits, "flow.weighting", self.weighting, "take none for a velocity; weights are for noise or score")
