"""Conflict of two losses: the angle between their gradients, and the size of the second relative to the first."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.runtime import one_thread

Gradient = Sequence[Tensor | None]
"""One entry a parameter; None for a parameter that the loss does not depend on."""


class Conflict(NamedTuple):
    """A regularizer's gradient compared with the base loss's, on the parameters that both depend on."""

    cosine: float
    """In [−1, 1]: 1 if they agree, 0 if orthogonal, −1 if opposite. NaN if either is zero."""
    ratio: float
    """‖regularizer's‖ / ‖base's‖, at least 0. NaN if the base's is zero, as behind closed gates."""


def gradient_conflict(base: Gradient, regularizer: Gradient) -> Conflict:
    """Compare two gradients with respect to the same parameters.

    A regularizer at a block depends on the blocks up to it and the embedders: only these are compared.

    Args:
        base, regularizer: as ``torch.autograd.grad(loss, parameters, allow_unused=True)`` gives them; the regularizer's
            of its weighted term, as it stands in the total.
    """
    shared = [(a, b) for a, b in zip(base, regularizer, strict=True) if a is not None and b is not None]
    if not shared:
        return Conflict(math.nan, math.nan)
    a, b = (torch.cat([part.detach().flatten().double() for part in parts]) for parts in zip(*shared, strict=True))
    with one_thread():  # sums by several threads round otherwise, and the log of a run would depend on their number
        size = a.norm()
        ratio = (b.norm() / size).item() if size > 0 else math.nan
        return Conflict(torch.dot(a, b).div(size * b.norm()).item(), ratio)
