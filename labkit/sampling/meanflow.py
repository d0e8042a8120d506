"""Sampling by average velocities: each step is one jump over its whole span (Geng et al. 2025, section 4.3)."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from labkit.checks import require, whole
from labkit.sampling.ode import WHOLE, at, grid


def jump_states(
    average: Callable[[Tensor, Tensor, Tensor], Tensor], x0: Float[Tensor, "batch ..."], steps: int = 1
) -> Iterator[tuple[float, Float[Tensor, "batch ..."]]]:
    """Yield (t, x), the noise first and the sample last: x ← x + (s − t)·u(x, t, s), over ``steps`` equal spans.

    Args:
        average: (x, t, s − t) → average velocity, times of shape (B,).  x0: noise.  steps: at least 1.
    """
    require(whole(steps, 1), "steps", steps, "take a whole number of at least 1")
    return _states(average, x0, steps)


def _states(
    average: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, steps: int
) -> Iterator[tuple[float, Tensor]]:
    times = grid(steps, WHOLE)
    yield times[0], x
    for now, then in pairwise(times):
        x = x + (then - now) * average(x, at(now, x), at(then - now, x))
        yield then, x
