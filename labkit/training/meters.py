"""Meters of the logged steps, beside the loss: geometry of features, loss by time, conflict of gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from labkit.config import Config, Engine
from labkit.distributed import mean
from labkit.metrics import by_time, geometry, gradient_conflict
from labkit.types import Losses

Pulls = dict[str, tuple[Tensor | None, ...]]
"""Regularizer → its gradient by parameter; None where it does not reach."""
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-2}  # relative error of a difference of gradients


def measure(losses: Losses, config: Config) -> dict[str, float]:
    """Geometry and Dispersive Loss of each tapped block, regularized or not, and the base loss in parts of [0, 1]."""
    meters: dict[str, float] = {}
    base = next(iter(losses.terms))
    for block, z in losses.features.items():
        values = geometry(z) | {"dispersive": config.repelling.repulsion(z.detach()).item()}
        meters |= {f"block{block}.{name}": value for name, value in values.items()}
    return meters | _defined({f"{base}.t{part}": e for part, e in enumerate(by_time(losses.errors, losses.times))})


def regularizer_gradients(losses: Losses, parameters: Sequence[Tensor], count: int = 1) -> Pulls:
    """Each regularizer's own gradient, a ``count``-th of it; to be taken before the total's backward frees the graph.

    It reaches no further than the block that is read: this is the cheap part of a backward pass.
    """
    return {
        name: torch.autograd.grad(loss / count, parameters, retain_graph=True, allow_unused=True)
        for name, loss in losses.weighted.items()
        if loss.requires_grad  # one of a reader's own may lack a gradient
    }


def add_pulls(one: Pulls, other: Pulls) -> Pulls:
    """Sum of the pulls of two micro-batches, which reach the same parameters; ``one`` may be empty."""
    if not one:
        return other
    pairs = {name: zip(one[name], pull, strict=True) for name, pull in other.items()}
    return {n: tuple(None if a is None or b is None else a + b for a, b in pair) for n, pair in pairs.items()}


def mean_pulls(pulls: Pulls) -> Pulls:
    """Mean over the ranks, whose regularizers reach the same parameters."""
    averaged = {}
    for name, pull in pulls.items():
        means = iter(mean(*(g for g in pull if g is not None)))
        averaged[name] = tuple(None if g is None else next(means) for g in pull)
    return averaged


def conflicts(pulls: Pulls, parameters: Sequence[Tensor], engine: Engine = Engine()) -> dict[str, float]:  # noqa: B008
    """Angle and ratio between each regularizer's gradient and the base loss's, which is the total's minus all pulls.

    Where the base loss's gradient is nothing but rounding, as behind closed gates, there is no angle.
    """
    meters, rounding = {}, ROUNDING[engine.precision]
    if engine.compile:  # a compiled backward returns zeros for parameters that are not reached
        pulls = {name: tuple(g if g is not None and g.any() else None for g in p) for name, p in pulls.items()}
    total = [p.grad for p in parameters if p.grad is not None]  # of all: the base loss reaches every parameter
    base = [g - sum(part for pull in pulls.values() if (part := pull[i]) is not None) for i, g in enumerate(total)]
    for name, pull in pulls.items():
        reached = [i for i, part in enumerate(pull) if part is not None]
        left, whole = (get_total_norm([g[i] for i in reached]) for g in (base, total))
        if left <= rounding * whole:
            continue
        conflict = gradient_conflict(base, pull)._asdict()
        meters |= _defined({f"{name}.gradient_{metric}": value for metric, value in conflict.items()})
    return meters


def _defined(values: dict[str, float]) -> dict[str, float]:
    """The values without NaN: a part of [0, 1] without samples, a gradient of zero."""
    return {name: value for name, value in values.items() if value == value}
