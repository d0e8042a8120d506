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

from labkit.checks import check_flag, check_whole, require
from labkit.distances import NO_DIRECTION, paired_cosines
from labkit.losses.weight import Schedule, check_weight
from labkit.ops import full_precision, rows


def repa_loss(
    projected: Float[Tensor, "batch tokens width"], target: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, ""]:
    """Minus the mean cosine between projected tokens and the teacher's tokens: one scalar in [−1, 1].

    Args:
        projected: the generator's tokens after the projector, (B, T, D).
        target: the teacher's tokens in the same order, (B, T, D); no gradient flows into them.

    Returns:
        The loss, computed outside autocast in at least float32. A token without direction (largest entry below 2e-13)
        counts as zeros: its cosine is 0 and so is its gradient.

    Raises:
        ValueError: shapes that differ or are not (B, T, D), or no token at all.
        TypeError: tokens that are not floating-point numbers.
    """
    _check_shapes(projected, target)
    with full_precision(projected.device):
        h, y = rows(projected.flatten(0, 1), "projected"), rows(target.detach().flatten(0, 1), "target")
        dtype = torch.promote_types(h.dtype, y.dtype)
        cosines = paired_cosines(h.to(dtype), y.to(dtype))
        # The gradient grows as 1/norm; for a token without direction it would be huge and mean nothing. NaN stays.
        directionless = torch.linalg.vector_norm(h.detach(), ord=math.inf, dim=1) < NO_DIRECTION
        return -torch.where(directionless, 0, cosines).mean()


def _check_shapes(projected: Tensor, target: Tensor) -> None:
    shapes = f"projected has shape {tuple(projected.shape)} and target {tuple(target.shape)}"
    if projected.ndim != 3 or target.ndim != 3 or 0 in projected.shape:
        raise ValueError(f"{shapes}; give tokens of shape (B, T, D) for both, with at least one entry.")
    (batch, tokens, width), (target_batch, target_tokens, target_width) = projected.shape, target.shape
    if batch != target_batch:
        raise ValueError(f"{shapes}: the batches differ; give the teacher the same images as the model.")
    if tokens != target_tokens:
        raise ValueError(
            f"{shapes}: the model has {tokens} tokens an image and the teacher {target_tokens}, since the model's "
            "patch and the teacher's grid differ; choose a patch or a size of the teacher's images that makes them "
            "agree."
        )
    if width != target_width:
        raise ValueError(f"{shapes}: the widths differ; give the projector the teacher's width, {target_width}.")


@dataclass(frozen=True)
class Repa:
    """Settings of representation alignment (Yu et al. 2024): a block's projected tokens with a teacher's."""

    lam: float | None = None
    """Weight λ ≥ 0; the paper's is 0.5. None is off."""
    block: int | None = None
    """Block whose tokens are aligned, numbered from 0. None is depth // 4: 7 for XL and 3 for B, as in the paper, and
    6 for L, where its authors take 7."""
    teacher: str = "digits"
    """Teacher: digits (the lab's own), or a hub id or folder of a DINOv2, such as facebook/dinov2-base."""
    antialias: bool = True
    """Resample DINOv2's position embedding with antialiasing, as its authors do. Without effect on other teachers."""
    hidden: int = 2048
    """Width of the hidden layers of the projector, which is trained with the model."""
    schedule: Schedule = ()
    """Factor of λ over training, as pairs of a step and a factor, on a line between them. Empty: λ stays."""

    def __post_init__(self) -> None:
        check_weight(self, "repa")
        check_whole("repa.block", self.block, 0, optional=True)
        named = isinstance(self.teacher, str) and self.teacher != ""
        require(named, "repa.teacher", self.teacher, "give digits, or a hub id or folder")
        check_flag("repa.antialias", self.antialias)
        check_whole("repa.hidden", self.hidden)
