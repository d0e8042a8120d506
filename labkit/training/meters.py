"""Meters of the logged steps, beside the loss: geometry of features, loss by time, conflict of gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from labkit.config import Config, Engine
from labkit.distributed import mean
from labkit.metrics import by_time, geometry, gradient_conflict
from labkit.types import Losses

Gradients = dict[str, dict[int, Tensor]]
"""Regularizer → its gradient, by the number of each parameter that it reaches."""
ROUNDING = {"float32": 1e-5, "bfloat16": 1e-2}  # relative error of a difference of gradients


def measure(losses: Losses, config: Config) -> dict[str, float]:
    """Geometry and Dispersive Loss of each tapped block, regularized or not, and the base loss in parts of [0, 1]."""
    meters: dict[str, float] = {}
    base = next(iter(losses.terms))
    for block, z in losses.features.items():
        values = geometry(z) | {"dispersive": config.repelling.repulsion(z.detach()).item()}
        meters |= {f"block{block}.{name}": value for name, value in values.items()}
    return meters | _defined({f"{base}.t{part}": e for part, e in enumerate(by_time(losses.errors, losses.times))})


def regularizer_gradients(losses: Losses, parameters: Sequence[Tensor], count: int = 1) -> Gradients:
    """Each regularizer's own gradient, a ``count``-th of it; to be taken before the total's backward frees the graph.

    It reaches no further than the block that is read: this is the cheap part of a backward pass.
    """
    gradients = {}
    for name, loss in losses.weighted.items():
        if not loss.requires_grad:  # one of a reader's own may lack a gradient
            continue
        parts = torch.autograd.grad(loss / count, parameters, retain_graph=True, allow_unused=True)
        gradients[name] = {i: part for i, part in enumerate(parts) if part is not None}
    return gradients


def add_gradients(one: Gradients, other: Gradients) -> Gradients:
    """Sum of the gradients of two micro-batches, which reach the same parameters; ``one`` may be empty."""
    if not one:
        return other
    return {name: {i: one[name][i] + part for i, part in gradient.items()} for name, gradient in other.items()}


def mean_gradients(gradients: Gradients) -> Gradients:
    """Mean over the ranks, whose regularizers reach the same parameters."""
    return {name: dict(zip(gradient, mean(*gradient.values()), strict=True)) for name, gradient in gradients.items()}


def conflicts(gradients: Gradients, parameters: Sequence[Tensor], engine: Engine) -> dict[str, float]:
    """Angle and ratio between each regularizer's gradient and the base loss's, which is the total's minus all of these.

    Where the base loss's gradient is nothing but rounding, as behind closed gates, there is no angle.
    """
    meters, rounding = {}, ROUNDING[engine.precision]
    if engine.compile:  # a compiled backward returns zeros for parameters that are not reached
        gradients = {name: {i: part for i, part in parts.items() if part.any()} for name, parts in gradients.items()}
    total = [p.grad for p in parameters if p.grad is not None]  # of all: the base loss reaches every parameter
    base = [g - sum(gradient[i] for gradient in gradients.values() if i in gradient) for i, g in enumerate(total)]
    for name, gradient in gradients.items():
        left, whole = (get_total_norm([g[i] for i in gradient]) for g in (base, total))
        if left <= rounding * whole:
            continue
        conflict = gradient_conflict([base[i] for i in gradient], [*gradient.values()])._asdict()
        meters |= _defined({f"{name}.gradient_{metric}": value for metric, value in conflict.items()})
    return meters


def _defined(values: dict[str, float]) -> dict[str, float]:
    """The values without NaN: a part of [0, 1] without samples, a gradient of zero."""
    return {name: value for name, value in values.items() if value == value}
