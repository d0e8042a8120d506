"""Solvers for dx/dt = v(x, t) from noise at t = 0 to data at t = 1, on a uniform grid of ``steps`` intervals.

Euler:  x ← x + h·v(x, t)                                                     one evaluation a step, error O(h)
Heun:   x ← x + h/2·(v(x, t) + v(x̂, t + h)),  x̂ = x + h·v(x, t)      two evaluations a step, error O(h²)

Where the velocity is singular at an end, the grid covers a shorter ``interval``. Beside them stands torchdiffeq's
dopri5, which chooses its own steps (``adaptive``).
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import finite, require, whole

OdeMethod = Literal["euler", "heun"]
Velocity = Callable[[Tensor, Tensor], Tensor]

EVALUATIONS: dict[str, int] = {"euler": 1, "heun": 2}
"""Evaluations of the velocity in one step."""
WHOLE = (0.0, 1.0)


def states(
    velocity: Velocity,
    x0: Float[Tensor, "batch ..."],
    steps: int,
    method: OdeMethod = "heun",
    interval: tuple[float, float] = WHOLE,
) -> Iterator[tuple[float, Float[Tensor, "batch ..."]]]:
    """Yield (t, x) at each of the steps + 1 grid points, the noise first and the sample last.

    Args:
        velocity: v(x, t) with t of shape (B,).
        x0: noise.
        steps: number of intervals, at least 1.
        method: ``euler`` or ``heun``.
        interval: first and last time, 0 ≤ first < last ≤ 1.
    """
    require(whole(steps, 1), "steps", steps, "take a whole number of at least 1")
    require(method in get_args(OdeMethod), "method", method, f"choose one of {', '.join(get_args(OdeMethod))}")
    check_interval(interval)
    return _states(velocity, x0, steps, method, interval)


def check_interval(interval: tuple[float, float]) -> None:
    require(
        len(interval) == 2 and all(map(finite, interval)) and 0 <= interval[0] < interval[1] <= 1,
        "interval",
        interval,
        "give the first and the last time, within 0 to 1",
    )


def grid(steps: int, interval: tuple[float, float]) -> list[float]:
    """steps + 1 times from the first to the last, both exactly."""
    first, last = interval
    return [first + (last - first) * k / steps for k in range(steps)] + [last]


def at(t: float, x: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """One time for every sample."""
    return torch.full((x.shape[0],), t, device=x.device, dtype=x.dtype)


def _states(
    velocity: Velocity, x: Tensor, steps: int, method: OdeMethod, interval: tuple[float, float]
) -> Iterator[tuple[float, Tensor]]:
    h, times = (interval[1] - interval[0]) / steps, grid(steps, interval)
    yield times[0], x
    for now, then in pairwise(times):
        slope = velocity(x, at(now, x))
        if method == "heun":
            slope = (slope + velocity(x + h * slope, at(then, x))) / 2
        x = x + h * slope
        yield then, x


def integrate(
    velocity: Velocity, x0: Tensor, steps: int, method: OdeMethod = "heun", interval: tuple[float, float] = WHOLE
) -> Tensor:
    """The last state of ``states``: the sample."""
    *_, (_, x) = states(velocity, x0, steps, method, interval)
    return x


def adaptive(
    velocity: Velocity,
    x0: Float[Tensor, "batch ..."],
    rtol: float = 1e-3,
    atol: float = 1e-6,
    interval: tuple[float, float] = WHOLE,
) -> tuple[Float[Tensor, "batch ..."], int]:
    """The sample by dopri5, and how many evaluations it took.

    The steps are chosen for the whole batch at once, so that a sample depends a little, within the tolerances, on those
    that are drawn with it.

    Args:
        velocity: v(x, t) with t of shape (B,).  x0: noise.
        rtol, atol: what a step may err by, relative and absolute; the defaults are those of SiT's release.
        interval: first and last time.
    """
    from torchdiffeq import odeint

    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        require(finite(tolerance) and tolerance > 0, name, tolerance, "take a small number above 0")
    check_interval(interval)
    evaluations = 0

    def field(t: Tensor, x: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return velocity(x, t.to(x.dtype).expand(len(x)))

    ends = torch.tensor(interval, device=x0.device, dtype=torch.float32 if x0.device.type == "mps" else torch.float64)
    inside = {"step_t": ends[1:]}  # else it looks beyond the end and comes back, where VP's velocity is no number
    return odeint(field, x0, ends, rtol=rtol, atol=atol, method="dopri5", options=inside)[-1], evaluations
