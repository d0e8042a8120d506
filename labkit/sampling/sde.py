"""Samples by a stochastic equation with the same densities as the flow: noise goes in, the score takes it out again.

    dx = (v(x, t) + w(t)·s(x, t))·dt + √(2·w(t))·dW,      s = ∇log p_t the score, from noise at t = 0 to data

Any w ≥ 0 gives the same densities at every t, and w = 0 the flow itself (SiT, section 2.2). The ``Diffusion`` forms are
those of SiT's release, each times a ``strength`` (by which the release scales the cosine of ``decreasing`` alone):

    sigma        σ(t)                                constant   1
    sbdm         σ²·α′/α − σ·σ′, diffusion's own      linear     1 − t
    decreasing   (cos πt + 1)²/4                     bump       sin² πt

Steps: Euler–Maruyama, x ← x + h·drift + √(2wh)·ε, or Heun, which adds the noise first and then takes the mean of two
drifts. The last stretch, ``last`` before t = 1, is one step along the drift without noise, so that none is left.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import choose, finite, require, whole
from labkit.ops import expand_like
from labkit.paths import EDGE, Path
from labkit.sampling.ode import Velocity, at, grid

Diffusion = Literal["sigma", "sbdm", "constant", "linear", "decreasing", "bump"]
SdeMethod = Literal["euler_maruyama", "sde_heun"]
SDE_EVALUATIONS: dict[str, int] = {"euler_maruyama": 1, "sde_heun": 2}
"""Evaluations of the velocity in one step; the last step takes one more."""


def diffusion(form: Diffusion, path: Path, t: Tensor) -> Tensor:
    """w(t) of a form, at times of any shape."""
    choose(form, Diffusion, "diffusion")
    if form in ("sigma", "sbdm"):
        c = path.coefficients(t)
        return c.sigma if form == "sigma" else c.sigma**2 * c.d_alpha / c.alpha - c.sigma * c.d_sigma
    return {
        "constant": torch.ones_like(t),
        "linear": 1 - t,
        "decreasing": (torch.cos(math.pi * t) + 1) ** 2 / 4,
        "bump": torch.sin(math.pi * t) ** 2,
    }[form]


def sde_states(
    velocity: Velocity,
    x0: Float[Tensor, "batch ..."],
    noise: Callable[[], Float[Tensor, "batch ..."]],
    path: Path,
    steps: int,
    method: SdeMethod = "euler_maruyama",
    form: Diffusion = "sigma",
    strength: float = 1.0,
    last: float = 0.04,
    first: float = 0.0,
) -> Iterator[tuple[float, Float[Tensor, "batch ..."]]]:
    """Yield (t, x) at each grid point, the noise first and the sample last: ``steps`` + 1 steps in all.

    Args:
        velocity: v(x, t) with t of shape (B,).  x0: noise at t = 0.
        noise: gives fresh N(0, 1) of the shape of x0 whenever it is called, once a step.
        path: from which v and score follow from each other.
        steps: intervals before the last step.  method: of these.
        form: of w.  strength: its factor, at least 0.
        last: length of the last step, above 0: at t = 1 the score is infinite.
        first: where to begin, 0 unless the velocity is singular there.
    """
    require(whole(steps, 1), "steps", steps, "take a whole number of at least 1")
    require(method in get_args(SdeMethod), "method", method, f"choose one of {', '.join(get_args(SdeMethod))}")
    choose(form, Diffusion, "diffusion")
    require(finite(strength) and strength >= 0, "strength", strength, "take a number of at least 0")
    require(finite(last) and EDGE <= last < 1, "last", last, f"take a length from {EDGE} to 1")
    require(finite(first) and 0 <= first < 1 - last, "first", first, "take a time from 0 to below 1 − last")
    if form == "sbdm" and path.name != "vp":
        first = max(first, EDGE)  # where α = 0, sbdm is infinite

    def w(t: Tensor, x: Tensor) -> Tensor:
        return strength * diffusion(form, path, expand_like(t, x))

    def drift(x: Tensor, t: Tensor) -> Tensor:
        v = velocity(x, t)
        return v + w(t, x) * path.convert(v, "velocity", "score", x, t)

    return _states(drift, w, x0, noise, steps, method, (first, 1 - last))


def _states(
    drift: Velocity,
    w: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    noise: Callable[[], Tensor],
    steps: int,
    method: SdeMethod,
    interval: tuple[float, float],
) -> Iterator[tuple[float, Tensor]]:
    times = grid(steps, interval)
    h = (interval[1] - interval[0]) / steps
    yield times[0], x
    for now, then in pairwise(times):
        kick = (2 * h * w(at(now, x), x)).sqrt() * noise()
        if method == "euler_maruyama":
            x = x + h * drift(x, at(now, x)) + kick
        else:
            x = x + kick
            slope = drift(x, at(now, x))
            x = x + h * (slope + drift(x + h * slope, at(then, x))) / 2
        yield then, x
    yield 1.0, x + (1 - times[-1]) * drift(x, at(times[-1], x))
