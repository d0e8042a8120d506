"""Representation alignment (REPA, Yu et al. 2024): a generator's tokens learn to point where a teacher's tokens point.

Symbols: h_bt ∈ R^D is token t of sample b after the projector, y_bt the frozen teacher's token of the same place in the
clean image.

    L = −1/(BT) Σ_b Σ_t cos(y_bt, h_bt),   −1 ≤ L ≤ 1, lower when the tokens agree
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import finite, require, whole
from labkit.distances import NO_DIRECTION, paired_cosines
from labkit.losses.weight import Schedule, checked_schedule
from labkit.ops import full_precision, rows


def repa_loss(
    projected: Float[Tensor, "batch tokens width"], target: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, ""]:
    """Minus the mean cosine between projected tokens and the teacher's tokens: one scalar in [−1, 1].

    Args:
        projected: the generator's tokens after the projector, (B, T, D).
        target: the teacher's tokens in the same order, (B, T, D); no gradient flows into them.

    Returns:
        The loss, computed outside autocast in at least float32. A token without direction (largest entry below 1e-20)
        counts as zeros: its cosine is 0 and so is its gradient.

    Raises:
        ValueError: shapes that differ or are not (B, T, D), or no token at all.
        TypeError: tokens that are no floating-point numbers.
    """
    _check(projected, target)
    with full_precision(projected.device):
        ours, theirs = rows(projected.flatten(0, 1), "projected"), rows(target.detach().flatten(0, 1), "target")
        kind = torch.promote_types(ours.dtype, theirs.dtype)
        cosines = paired_cosines(ours.to(kind), theirs.to(kind))
        # The gradient grows as 1/norm; where there is no direction to turn, it would only be a huge number.
        directionless = torch.linalg.vector_norm(ours.detach(), ord=math.inf, dim=1) < NO_DIRECTION  # NaN is not
        return -torch.where(directionless, 0, cosines).mean()


def _check(projected: Tensor, target: Tensor) -> None:
    told = f"projected has shape {tuple(projected.shape)} and target {tuple(target.shape)}"
    if projected.ndim != 3 or target.ndim != 3 or 0 in projected.shape:
        raise ValueError(f"{told}; give tokens of shape (B, T, D) for both, with at least one entry.")
    (batch, tokens, width), (theirs_batch, theirs_tokens, theirs_width) = projected.shape, target.shape
    if batch != theirs_batch:
        raise ValueError(f"{told}: the batches differ; give the teacher the same images as the model.")
    if tokens != theirs_tokens:
        raise ValueError(
            f"{told}: the model has {tokens} tokens an image and the teacher {theirs_tokens}, since the model's patch "
            "and the teacher's grid differ; choose a patch, or the size of the teacher's images, so that they agree."
        )
    if width != theirs_width:
        raise ValueError(f"{told}: the widths differ; give the projector the teacher's width, {theirs_width}.")


@dataclass(frozen=True)
class Repa:
    """Settings of representation alignment (Yu et al. 2024), of a block's projected tokens with a teacher's."""

    lam: float | None = None
    """Weight λ ≥ 0; the paper's is 0.5. None is off."""
    block: int | None = None
    """Block whose tokens are aligned, numbered from 0. None is depth // 4: 7 for XL and 3 for B, as in its paper."""
    teacher: str = "digits"
    """Teacher: digits is the lab's own; else hub id or folder of a DINOv2, such as facebook/dinov2-base."""
    hidden: int = 2048
    """Width of the projector: three layers that are trained along."""
    schedule: Schedule = ()
    """Factor of λ over training, as pairs of a step and a factor, on a line between them. Empty: λ stays."""

    def __post_init__(self) -> None:
        lam = self.lam
        require(lam is None or (finite(lam) and lam >= 0), "repa.lam", lam, "take a finite number ≥ 0, or None for off")
        require(self.block is None or whole(self.block, 0), "repa.block", self.block, "take a whole number from 0")
        require(
            isinstance(self.teacher, str) and self.teacher != "",
            "repa.teacher",
            self.teacher,
            "say digits, or a hub id or folder",
        )
        object.__setattr__(self, "schedule", checked_schedule(self.schedule, "repa.schedule"))
        require(whole(self.hidden, 1), "repa.hidden", self.hidden, "take a whole number of at least 1")
