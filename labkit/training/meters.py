"""What is measured at the steps that are logged, beside the loss: geometry, loss by time, conflict of gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from labkit.config import Config, Engine
from labkit.distributed import mean
from labkit.losses.dispersive import repulsion
from labkit.metrics import by_time, geometry, gradient_conflict
from labkit.types import Losses

Pulls = dict[str, tuple[Tensor | None, ...]]
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-2}  # what subtracting gradients leaves of nothing, as a share of them


def measure(losses: Losses, config: Config) -> dict[str, float]:
    """Geometry and Dispersive Loss of each tapped block, regularized or not, and the base loss in parts of [0, 1]."""
    meters, base = {}, next(iter(losses.terms))
    for block, z in losses.features.items():
        values = geometry(z) | {"dispersive": repulsion(z.detach(), **config.repelling.arguments).item()}
        meters |= {f"block{block}.{name}": value for name, value in values.items()}
    return meters | _known({f"{base}.t{part}": e for part, e in enumerate(by_time(losses.errors, losses.times))})


def regularizer_gradients(losses: Losses, parameters: Sequence[Tensor]) -> Pulls:
    """Regularizer → its own gradient, to be taken before the total's backward, which frees the graph.

    It reaches no further than the block that is read: this is the cheap part of a backward.
    """
    return {
        name: torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for name, loss in losses.weighted.items()
    }


def add_pulls(to: Pulls, more: Pulls, weight: float) -> Pulls:
    """``to + weight · more``; what a regularizer does not reach stays None."""
    if weight == 1:
        return more
    scaled = {name: tuple(None if g is None else weight * g for g in pull) for name, pull in more.items()}
    if not to:
        return scaled
    pairs = {name: zip(to[name], pull, strict=True) for name, pull in scaled.items()}
    return {name: tuple(None if b is None else a + b for a, b in pair) for name, pair in pairs.items()}


def mean_pulls(pulls: Pulls) -> Pulls:
    """The mean over the ranks, which reach the same parameters."""
    averaged = {}
    for name, pull in pulls.items():
        found = iter(mean(*(g for g in pull if g is not None)))
        averaged[name] = tuple(None if g is None else next(found) for g in pull)
    return averaged


def conflicts(pulls: Pulls, parameters: Sequence[Tensor], engine: Engine = Engine()) -> dict[str, float]:  # noqa: B008
    """Each regularizer against the base loss, whose gradient is what the regularizers leave of the total's.

    Where that is nothing but rounding, as behind closed gates, there is no angle to tell.
    """
    meters, rounding = {}, ROUNDING[engine.precision]
    if engine.compile:  # a compiled backward gives zeros for what is not reached
        pulls = {name: tuple(g if g is not None and g.any() else None for g in p) for name, p in pulls.items()}
    base = [p.grad - sum(pull[i] for pull in pulls.values() if pull[i] is not None) for i, p in enumerate(parameters)]
    for name, pull in pulls.items():
        reached = [i for i, part in enumerate(pull) if part is not None]
        left, whole = (get_total_norm([g[i] for i in reached]) for g in (base, [p.grad for p in parameters]))
        if left <= rounding * whole:
            continue
        found = gradient_conflict(base, pull)
        meters |= _known({f"{name}.gradient_{what}": value for what, value in found._asdict().items()})
    return meters


def _known(values: dict[str, float]) -> dict[str, float]:
    """Without NaN: a part without samples, a gradient that is zero."""
    return {name: value for name, value in values.items() if value == value}
