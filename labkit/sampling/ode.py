"""Solvers for dx/dt = v(x, t) from noise at t = 0 to data at t = 1, on a uniform grid of ``steps`` intervals.

Euler:  x ← x + h·v(x, t)                                                     one evaluation a step, error O(h)
Heun:   x ← x + h/2·(v(x, t) + v(x̂, t + h)),  x̂ = x + h·v(x, t)      two evaluations a step, error O(h²)
"""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import require, whole

Method = Literal["euler", "heun"]
Velocity = Callable[[Tensor, Tensor], Tensor]

EVALUATIONS: dict[str, int] = {"euler": 1, "heun": 2}
"""Evaluations of the velocity in one step."""


def states(
    velocity: Velocity, x0: Float[Tensor, "batch ..."], steps: int, method: Method = "heun"
) -> Iterator[tuple[float, Float[Tensor, "batch ..."]]]:
    """Yield (t, x) at each of the steps + 1 grid points, the noise first and the sample last.

    Args:
        velocity: v(x, t) with t of shape (B,).
        x0: noise.
        steps: number of intervals, at least 1.
        method: ``euler`` or ``heun``.
    """
    require(whole(steps, 1), "steps", steps, "take a whole number of at least 1")
    require(method in get_args(Method), "method", method, f"choose one of {', '.join(get_args(Method))}")
    return _states(velocity, x0, steps, method)


def _states(velocity: Velocity, x: Tensor, steps: int, method: Method) -> Iterator[tuple[float, Tensor]]:
    def at(k: int) -> Tensor:
        return torch.full((x.shape[0],), k / steps, device=x.device, dtype=x.dtype)  # k·h would miss t = 1

    h = 1 / steps
    yield 0.0, x
    for k in range(steps):
        slope = velocity(x, at(k))
        if method == "heun":
            slope = (slope + velocity(x + h * slope, at(k + 1))) / 2
        x = x + h * slope
        yield (k + 1) / steps, x


def integrate(velocity: Velocity, x0: Tensor, steps: int, method: Method = "heun") -> Tensor:
    """The last state of ``states``: the sample."""
    *_, (_, x) = states(velocity, x0, steps, method)
    return x
