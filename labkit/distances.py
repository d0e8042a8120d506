"""Distances, cosines and correlations of samples by Gram matrices: in O(B²P) time, without a B×B×P tensor.

Symbols: B samples with P features, z_i.

    ‖z_i − z_j‖² = ‖z_i‖² + ‖z_j‖² − 2⟨z_i, z_j⟩

Rows are centred first, which changes no distance: differences of large squares would have no digits left. A sample's
distance from itself is the constant 0, without gradient: in float32 the rounding of self-pairs would swamp the gradient
where all others are far apart (half of it at D/τ = 18). The elementwise parts expect autocast to be off
(``ops.full_precision``); products are in true float32 in the forward, and in the precision set outside in the backward.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from labkit.ops import full_precision

NO_DIRECTION = 2e-13  # rows no longer than this count as zero, so that 1/norm³, of which gradients are made, is finite
CONSTANT = 1e-15  # features that deviate less than this are constant


def product(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Float[Tensor, "n m"]:
    """a bᵀ in full precision."""
    with full_precision(a.device):
        return a @ b.mT


def gram(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """z zᵀ in full precision."""
    return product(z, z)


def pairwise_sq_distances(z: Float[Tensor, "batch features"], per: float = 1.0) -> Float[Tensor, "batch batch"]:
    """D_ij = ‖z_i − z_j‖² / per; the diagonal is exactly 0 and has no gradient."""
    z = z - z.detach().mean(dim=0)
    inner = gram(z)
    square = inner.diagonal()
    distances = _lifted(square[:, None] + square[None, :] - 2 * inner) / per
    return distances.masked_fill(_diagonal(z), 0.0)


def cross_sq_distances(
    a: Float[Tensor, "n features"], b: Float[Tensor, "m features"], per: float = 1.0
) -> Float[Tensor, "n m"]:
    """D_ij = ‖a_i − b_j‖² / per."""
    centre = a.detach().mean(dim=0)
    a, b = a - centre, b - centre
    squares = torch.linalg.vecdot(a, a)[:, None] + torch.linalg.vecdot(b, b)[None, :]
    return _lifted(squares - 2 * product(a, b)) / per


def paired_sq_distances(
    a: Float[Tensor, "batch features"], b: Float[Tensor, "batch features"], per: float = 1.0
) -> Float[Tensor, " batch"]:
    """‖a_i − b_i‖² / per, row by row."""
    gap = a - b
    return torch.linalg.vecdot(gap, gap) / per


def _lifted(distances: Tensor) -> Tensor:
    """Set distances that rounding left below 0 to 0, without changing their gradient."""
    return distances + (-distances).clamp_min(0).detach()


def _diagonal(z: Tensor) -> Tensor:
    """Mask of the pairs (i, i)."""
    return torch.eye(len(z), dtype=torch.bool, device=z.device)


def pairwise_cosines(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """cos(z_i, z_j), exactly 1 on the diagonal; 0 between a row of zeros and any other."""
    inner = gram(z)
    inverse = _inverse_root(inner.diagonal())
    return (inner * inverse[:, None] * inverse[None, :]).masked_fill(_diagonal(z), 1.0)


def cross_cosines(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Float[Tensor, "n m"]:
    """cos(a_i, b_j); 0 for a row of zeros."""
    inverse_a, inverse_b = (_inverse_root(torch.linalg.vecdot(z, z)) for z in (a, b))
    return product(a, b) * inverse_a[:, None] * inverse_b[None, :]


def paired_cosines(a: Float[Tensor, "batch features"], b: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
    """cos(a_i, b_i), row by row; 0 for a row of zeros."""
    inverse_a, inverse_b = (_inverse_root(torch.linalg.vecdot(z, z)) for z in (a, b))
    return torch.linalg.vecdot(a, b) * inverse_a * inverse_b


def _inverse_root(square: Tensor) -> Tensor:
    """1/‖z‖ from ‖z‖²."""
    return square.clamp_min(NO_DIRECTION**2).rsqrt()


def standardized(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
    """Each feature minus its mean over the batch, divided by its deviation (of the batch, not corrected by B − 1).

    A feature that is constant in the batch, up to rounding, becomes 0 and gets no gradient. By batch normalisation,
    whose fused gradient takes half the time and memory of the formula written out.
    """
    with torch.no_grad():
        deviation = z.std(dim=0, correction=0)
        largest = torch.maximum(z.amax(dim=0), -z.amin(dim=0))
        varies = deviation > (8 * torch.finfo(z.dtype).eps * largest).clamp_min(CONSTANT)
    return F.batch_norm(z, None, None, weight=varies.to(z.dtype), training=True, eps=torch.finfo(z.dtype).tiny)
