"""Small tensor operations that the losses and the meters share.

Symbols: B samples, P features a sample; D_ij = ‖z_i − z_j‖² (squared, not yet divided by P).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

SUBNORMAL_MARGIN = 18.0  # e^18: room for the factors, such as λ/(τP), that a gradient is multiplied by on its way back


def expand_like(t: Float[Tensor, " batch"], x: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, …, 1) so that it broadcasts against ``x`` of shape (B, …)."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


def full_precision(device: torch.device) -> torch.autocast:
    """A context in which autocast is off. ``x.float()`` alone does not protect a matrix product from autocast."""
    return torch.autocast(device.type, enabled=False)


def rows(z: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
    """Flatten (B, …) to (B, P) in at least float32: half and bfloat16 are raised, float64 stays."""
    if not z.is_floating_point():
        raise TypeError(f"z has dtype {z.dtype}; give floating-point features.")
    if z.ndim < 1 or z.numel() == 0:
        raise ValueError(f"z has shape {tuple(z.shape)}; give features of shape (B, …) with at least one entry.")
    return z.reshape(z.shape[0], -1).to(torch.promote_types(z.dtype, torch.float32))


def pairwise_sq_distances(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """D_ij = ‖z_i − z_j‖² by a Gram matrix: O(B²P) time, O(B² + BP) memory, exact zeros on the diagonal.

    The rows are centred first, since distances do not care and the differences of large squares would. Rounding can
    still leave tiny negative entries off the diagonal; they are lifted to 0 in value only, so that no gradient is lost.
    """
    with full_precision(z.device):
        z = z - z.mean(dim=0)
        gram = z @ z.T
        square = gram.diagonal()
        distances = square[:, None] + square[None, :] - 2 * gram
        return distances + (-distances).clamp_min(0).detach()


def log_mean_exp(x: Tensor) -> Float[Tensor, ""]:
    """log of the mean of exp(x) over all entries, without overflow.

    Terms that are less than about 1e-30 of the largest (1e-300 in float64) count as 0. They could not change the sum,
    but their gradients would be subnormal numbers, with which a processor computes up to forty times slower.
    """
    x = x.flatten()
    least = x.detach().max() + math.log(torch.finfo(x.dtype).tiny) + SUBNORMAL_MARGIN
    return torch.logsumexp(x.masked_fill(x < least, -math.inf), dim=0) - math.log(x.numel())


def off_diagonal(x: Float[Tensor, "n n"]) -> Float[Tensor, " m"]:
    """The n(n−1) entries off the diagonal of a square matrix, as a vector."""
    n = x.shape[0]
    return x.flatten()[:-1].reshape(n - 1, n + 1)[:, 1:].flatten()
