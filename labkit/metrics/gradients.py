"""Do two losses pull the same way? The angle between their gradients, and how strong the second is beside the first."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Gradient = Sequence[Tensor | None]
"""One entry a parameter; None where the loss does not reach it."""


class Conflict(NamedTuple):
    """How a regularizer's gradient lies to the base loss's, on the parameters that both reach."""

    cosine: float
    """In [−1, 1]: 1 they agree, 0 they ignore each other, −1 one undoes the other. NaN if either is zero."""
    ratio: float
    """‖regularizer's‖ / ‖base's‖, at least 0. NaN if the base's is zero, as behind closed gates."""


def gradient_conflict(base: Gradient, regularizer: Gradient) -> Conflict:
    """Compare two gradients with respect to the same parameters.

    A regularizer at a block reaches the blocks up to it and the embedders: only there do the two meet.

    Args:
        base, regularizer: as ``torch.autograd.grad(loss, parameters, allow_unused=True)`` gives them; what weights
            the regularizer has in the total belongs into its gradient.
    """
    shared = [(a, b) for a, b in zip(base, regularizer, strict=True) if a is not None and b is not None]
    if not shared:
        return Conflict(float("nan"), float("nan"))
    a, b = (_joined([pair[side] for pair in shared]) for side in (0, 1))
    size = a.norm()
    ratio = (b.norm() / size).item() if size > 0 else float("nan")
    return Conflict(torch.dot(a, b).div(size * b.norm()).item(), ratio)


def _joined(parts: list[Tensor]) -> Float[Tensor, " entries"]:
    return torch.cat([part.detach().flatten().double() for part in parts])
