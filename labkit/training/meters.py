"""What is measured at the steps that are logged, beside the loss: geometry, loss by time, conflict of gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from labkit.config import Config
from labkit.losses import dispersive_loss
from labkit.metrics import by_time, geometry, gradient_conflict
from labkit.types import Losses

Pulls = dict[str, tuple[Tensor | None, ...]]
ROUNDING = 1e-5  # what subtracting float32 gradients leaves of nothing, as a share of them


def measure(losses: Losses, config: Config) -> dict[str, float]:
    """Geometry and Dispersive Loss of each tapped block, regularized or not, and the base loss in parts of [0, 1]."""
    known, meters, base = config.repelling.arguments(), {}, next(iter(losses.terms))
    for block, z in losses.features.items():
        values = geometry(z) | {"dispersive": dispersive_loss(z.detach(), **known).item()}
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


def conflicts(pulls: Pulls, parameters: Sequence[Tensor]) -> dict[str, float]:
    """Each regularizer against the base loss, whose gradient is what the regularizers leave of the total's.

    Where that is nothing but rounding, as behind closed gates, there is no angle to tell. Gradients are taken as exact
    to float32: of a backward in bfloat16 a small base gradient could not be told by subtraction.
    """
    meters = {}
    base = [p.grad - sum(pull[i] for pull in pulls.values() if pull[i] is not None) for i, p in enumerate(parameters)]
    for name, pull in pulls.items():
        reached = [i for i, part in enumerate(pull) if part is not None]
        left, whole = (get_total_norm([g[i] for i in reached]) for g in (base, [p.grad for p in parameters]))
        if left <= ROUNDING * whole:
            continue
        found = gradient_conflict(base, pull)
        meters |= _known({f"{name}.gradient_{what}": value for what, value in found._asdict().items()})
    return meters


def _known(values: dict[str, float]) -> dict[str, float]:
    """Without NaN: a part without samples, a gradient that is zero."""
    return {name: value for name, value in values.items() if value == value}
