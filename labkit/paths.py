"""Paths between noise and data: x_t = α(t)·x₁ + σ(t)·x₀, with noise x₀ at t = 0 and data x₁ at t = 1.

That is SiT's direction of time. The velocity of a point is v = dx_t/dt = α′(t)·x₁ + σ′(t)·x₀ (SiT, eq. 2 to 4).

    linear   α = t,          σ = 1 − t             straight, at constant speed
    gvp      α = sin(πt/2),  σ = cos(πt/2)         a quarter of a circle: the variance of x_t stays that of the data
    vp       α = e^−ℓ(t),    σ = √(1 − e^−2ℓ(t))   diffusion's: ℓ = (β₁ − β₀)(1 − t)²/4 + β₀(1 − t)/2, β from 0.1 to 20

On VP the start is not pure noise, α(0) = 0.0066, and at t = 1 its speed is infinite.

At a point x_t, velocity v, noise x₀, data x₁ and score ∇log p = −x₀/σ say the same: any one gives the others, wherever
nothing is divided by α = 0 or σ = 0 (``Path.interval``).
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
"""How far a time stays from an end at which something is divided by 0, as in SiT's samplers."""


class Coefficients(NamedTuple):
    """α, σ and their derivatives by t, each shaped to broadcast against x."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


@dataclass(frozen=True)
class Path:
    """A way from noise to data; ``path(x1, x0, t)`` is the point on it, with its velocity."""

    name: PathName
    coefficients: Callable[[Tensor], Coefficients]
    """Times of any shape → coefficients of that shape."""

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
        known: Quantity,
        wanted: Quantity,
        x_t: Float[Tensor, "batch ..."],
        t: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch ..."]:
        """Say in terms of one quantity what another one says at (x_t, t), as networks that predict either do.

        Args:
            value: the ``known`` quantity, (B, …).  wanted: what comes back, of the same shape.
            x_t: the point.  t: its time, within ``interval`` of both quantities.
        """
        choose(known, Quantity, "known")
        choose(wanted, Quantity, "wanted")
        if known == wanted:
            return value
        c = self.coefficients(expand_like(t, x_t))
        if known == "data":
            x1, x0 = value, (x_t - c.alpha * value) / c.sigma
        elif known == "velocity":
            speed = c.alpha * c.d_sigma - c.sigma * c.d_alpha  # the two equations' determinant; below 0 on every path
            x1, x0 = (c.d_sigma * x_t - c.sigma * value) / speed, (c.alpha * value - c.d_alpha * x_t) / speed
        else:
            x0 = value if known == "noise" else -c.sigma * value
            x1 = (x_t - c.sigma * x0) / c.alpha if wanted in ("data", "velocity") else x0
        if wanted == "velocity":
            return c.d_alpha * x1 + c.d_sigma * x0
        return {"data": x1, "noise": x0, "score": -x0 / c.sigma}[wanted]

    def interval(self, predicted: Quantity) -> tuple[float, float]:
        """The times at which a network may predict this and be asked for any other: ``EDGE`` off singular ends.

        A velocity can be used from 0 to 1, but for VP's infinite speed at 1. Noise and score say nothing of the data
        where α = 0, data nothing of the noise where σ = 0, and the score itself is infinite there.
        """
        choose(predicted, Quantity, "predicted")
        start = EDGE if predicted in ("noise", "score") and self.name != "vp" else 0.0
        end = 1 - EDGE if predicted in ("score", "data") or self.name == "vp" else 1.0
        return start, end


def _linear(t: Tensor) -> Coefficients:
    return Coefficients(t, 1 - t, torch.ones_like(t), -torch.ones_like(t))


def _gvp(t: Tensor) -> Coefficients:
    half = math.pi / 2
    # σ from the sine of the rest, which is exactly 0 at t = 1, where cos(π/2) would be a rounding error.
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
    """Weight of the squared error of noise or score, by which it is the velocity's or bounds the likelihood."""

    def __post_init__(self) -> None:
        choose(self.path, PathName, "flow.path")
        choose(self.prediction, Predicted, "flow.prediction")
        choose(self.weighting, Weighting, "flow.weighting")
        require(
            self.weighting == "none" or self.prediction != "velocity",
            "flow.weighting",
            self.weighting,
            "the error of a velocity needs none; it is for prediction = noise or score",
        )
