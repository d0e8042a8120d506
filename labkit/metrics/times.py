"""Losses by noise level, since the mean over all t hides that the ends of the path are different tasks."""

import torch
from jaxtyping import Float
from torch import Tensor

BINS = 5


@torch.no_grad()
def by_time(errors: Float[Tensor, " batch"], times: Float[Tensor, " batch"], bins: int = BINS) -> list[float]:
    """Mean error of the samples in each of ``bins`` equal parts of [0, 1]; NaN for a part without samples."""
    part = (times * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(part, minlength=bins)
    sums = torch.zeros(bins, dtype=torch.float64, device=errors.device).index_add_(0, part, errors.double())
    return (sums / counts).tolist()
