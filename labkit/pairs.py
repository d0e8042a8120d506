"""Distances, cosines and correlations of samples: in O(B²P) time, without B×B×P tensors, at any norm.

Symbols: B samples with P features, z_i. Everything is made of Gram matrices, with gradients of our own where torch's
would take twice the time or memory. Squares neither overflow nor, where a gradient hangs on it, underflow: rows are
divided by a power of two before they are squared. The elementwise parts expect autocast to be off
(``ops.full_precision``).
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.ops import full_precision

NO_DIRECTION = 1e-20  # rows and features with no larger entry count as zero, so that 1/norm stays finite


class _Gram(torch.autograd.Function):
    """z zᵀ with the gradient (G + Gᵀ) z in one product: half the time and a third of the memory of ``z @ z.T``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        with full_precision(z.device):
            return z @ z.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        with full_precision(z.device):
            return (grad + grad.mT) @ z


def gram(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """z zᵀ: O(B²P) time and O(B²) memory beside z, backward included."""
    return _Gram.apply(z)


class _Product(torch.autograd.Function):
    """a bᵀ whose gradients, too, are in full precision: torch takes them later, outside ``full_precision``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        with full_precision(a.device):
            return a @ b.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        with full_precision(a.device):
            return grad @ b, grad.mT @ a


def product(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Float[Tensor, "n m"]:
    """a bᵀ."""
    return _Product.apply(a, b)


def centred(*views: Float[Tensor, "batch features"]) -> tuple[list[Float[Tensor, "batch features"]], Tensor]:
    """Views moved to the first one's mean and brought into the range where squares neither overflow nor lose digits.

    Returns:
        (views − mean) / scale, and the scale: a power of two of at least 1, so that dividing by it rounds nothing.

    The differences of large squares would lose their digits, hence the mean. What is made of distances has no gradient
    along a common shift, so none is asked for.
    """
    scale = _scale(*views)
    scaled = [z / scale for z in views]
    origin = scaled[0].detach().mean(dim=0)
    return [z - origin for z in scaled], scale


def _scale(*views: Tensor) -> Float[Tensor, ""]:
    """The power of two just below the largest entry, at least 1."""
    size = torch.stack([torch.linalg.vector_norm(z.detach(), ord=math.inf) for z in views]).amax()
    return torch.ldexp(torch.ones_like(size), (torch.frexp(size).exponent - 1).clamp_min(0))


def in_units(scale: Float[Tensor, ""], features: int, per: float) -> Float[Tensor, ""]:
    """scale² / per, capped so that the distances of ``centred`` rows times it, and sums of a few, stay finite."""
    return (scale / per * scale).clamp_max(torch.finfo(scale.dtype).max / (256 * features))


def _lifted(distances: Tensor) -> Tensor:
    """Lift what rounding left below 0 in value only, so that no gradient is lost."""
    return distances + (-distances).clamp_min(0).detach()


def pairwise_sq_distances(z: Float[Tensor, "batch features"], per: float = 1.0) -> Float[Tensor, "batch batch"]:
    """D_ij = ‖z_i − z_j‖² / per by a Gram matrix: O(B²P) time, O(B² + BP) memory, exact zeros on the diagonal.

    Finite for any finite z: where the square would overflow, D_ij saturates near the largest number.
    """
    (z,), scale = centred(z)
    inner = gram(z)
    square = inner.diagonal()
    return _lifted(square[:, None] + square[None, :] - 2 * inner) * in_units(scale, z.shape[1], per)


def cross_sq_distances(
    a: Float[Tensor, "n features"], b: Float[Tensor, "m features"], per: float = 1.0
) -> Float[Tensor, "n m"]:
    """D_ij = ‖a_i − b_j‖² / per, by the same means."""
    (a, b), scale = centred(a, b)
    inner = product(a, b)
    squares = torch.linalg.vecdot(a, a)[:, None] + torch.linalg.vecdot(b, b)[None, :]
    return _lifted(squares - 2 * inner) * in_units(scale, a.shape[1], per)


def paired_sq_distances(
    a: Float[Tensor, "batch features"], b: Float[Tensor, "batch features"], per: float = 1.0, power: int = 1
) -> Float[Tensor, " batch"]:
    """(‖a_i − b_i‖² / per)^power, row by row."""
    gap = a - b
    scale = _scale(gap)
    gap = gap / scale
    most = torch.finfo(gap.dtype).max ** (1 / power) / (256 * gap.shape[1])
    return (torch.linalg.vecdot(gap, gap) * in_units(scale, gap.shape[1], per).clamp_max(most)) ** power


def directions(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
    """z_i divided by its largest entry, held constant: safe to square at any norm, and cosines stay what they are.

    Rows whose largest entry is below 1e-20 come out shorter the smaller they are: a row of zeros has no direction.
    """
    size = torch.linalg.vector_norm(z.detach(), ord=math.inf, dim=1, keepdim=True)
    return z / size.clamp_min(NO_DIRECTION)


def pairwise_cosines(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """cos(z_i, z_j) by a Gram matrix, exactly 1 on the diagonal; 0 between a row of zeros and any other."""
    inner = gram(directions(z))
    inverse = inner.diagonal().clamp_min(1).rsqrt()
    cosines = inner * inverse[:, None] * inverse[None, :]
    return torch.where(torch.eye(len(z), dtype=torch.bool, device=z.device), 1.0, cosines)


def _inverse_norms(z: Tensor) -> Tensor:
    """1/‖z_i‖ of ``directions``, which are at least 1 long unless they are none."""
    return torch.linalg.vecdot(z, z).clamp_min(1).rsqrt()


def cross_cosines(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Float[Tensor, "n m"]:
    """cos(a_i, b_j)."""
    a, b = directions(a), directions(b)
    inner = product(a, b)
    return inner * _inverse_norms(a)[:, None] * _inverse_norms(b)[None, :]


class _PairedCosine(torch.autograd.Function):
    """cos(a_i, b_i), saving nothing but what it was given: its gradient is (b̂ − cos·â) / ‖a‖, and the mirror of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inverse = []
        for z in (a, b):
            size = torch.linalg.vector_norm(z, ord=math.inf, dim=1).clamp_min(NO_DIRECTION)
            inverse.append(_inverse_norms(z / size[:, None]) / size)
        return torch.linalg.vecdot(a * inverse[0][:, None], b * inverse[1][:, None]), *inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b, cosine, p, q = (x if x.ndim > 1 else x[:, None] for x in ctx.saved_tensors)
        grad, of_p, of_q = (g[:, None] for g in grads)  # the last two are 0, unless it is differentiated twice
        along = cosine * grad
        return (b * (q * grad) - a * (p * (along + p * of_p))) * p, (a * (p * grad) - b * (q * (along + q * of_q))) * q


def paired_cosines(a: Float[Tensor, "batch features"], b: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
    """cos(a_i, b_i), row by row."""
    return _PairedCosine.apply(a, b)[0]


class _Standardized(torch.autograd.Function):
    """Rows of mean 0 and variance 1 a feature, with the gradient of batch normalisation in three B×P tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.linalg.vector_norm(z, ord=math.inf, dim=0).clamp_min(NO_DIRECTION)
        z = z / size
        z = z - z.mean(dim=0)
        deviation = torch.linalg.vector_norm(z, dim=0) / z.shape[0] ** 0.5
        # A feature that is the same for all samples, up to the rounding of its mean, correlates with nothing.
        live = deviation > 8 * torch.finfo(z.dtype).eps
        inverse = torch.where(live, 1 / deviation, 0.0)
        return z * inverse, inverse / size

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, of_inverse: Tensor) -> Tensor:
        z, inverse = ctx.saved_tensors
        along = (grad * z).mean(dim=0) + inverse * of_inverse / len(z)  # 0, unless it is differentiated twice
        return torch.addcmul(grad, z, along, value=-1).sub_(grad.mean(dim=0)).mul_(inverse)


def standardized(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
    """Each feature minus its mean over the batch, divided by its deviation (of the batch, not corrected by B − 1).

    A feature that is constant in the batch, up to rounding, becomes 0 and gets no gradient.
    """
    return _Standardized.apply(z)[0]
