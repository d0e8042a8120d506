"""Distances, cosines and correlations of samples: in O(B²P) time, without B×B×P tensors, at any norm.

Symbols: B samples with P features, z_i. Everything is made of Gram matrices, with gradients of our own where torch's
would take twice the time or memory. Squares neither overflow nor, where a gradient hangs on it, underflow: rows are
divided by a power of two before they are squared. The elementwise parts expect autocast to be off
(``ops.full_precision``).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.ops import full_precision

ALL = slice(None)
CACHED = 2**18  # numbers of a part: few enough to stay in a processor's cache
NO_DIRECTION = 1e-20  # rows and features with no larger entry count as zero, so that 1/norm stays finite


class _Gram(torch.autograd.Function):
    """z zᵀ with one product backwards: half the time and a third of the memory of ``z @ z.T``."""

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


class _MovedGram(torch.autograd.Function):
    """x xᵀ of x = factor·z − shift, both held constant: the factor goes back through B×B numbers instead of B×P."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
        with full_precision(z.device):
            return sum((x @ x.mT for x in (_moved(z, factor, shift, part) for part in _parts(z))), z.new_zeros(()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z, factor, shift = ctx.saved_tensors
        pull = (grad + grad.mT) * factor
        with full_precision(z.device):
            if torch.is_grad_enabled():  # differentiated twice
                return pull @ _moved(z, factor, shift), None, None
            found = torch.empty_like(z)
            for part in _parts(z):
                found[:, part] = pull @ _moved(z, factor, shift, part)
            return found, None, None


def _parts(z: Tensor) -> list[slice]:
    """Ranges of features: on a CPU small enough to stay in its cache, elsewhere all at once."""
    features = z.shape[1]
    size = max(1, CACHED // len(z)) if z.device.type == "cpu" else features
    return [slice(start, start + size) for start in range(0, features, size)]


def _moved(z: Tensor, factor: Tensor, shift: Tensor, part: slice = ALL) -> Tensor:
    return torch.addcmul(-shift[part], z[:, part], factor)


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


def gram(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """z zᵀ: O(B²P) time and O(B²) memory beside z, backward included."""
    return _Gram.apply(z)


def product(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Float[Tensor, "n m"]:
    """a bᵀ."""
    return _Product.apply(a, b)


def _largest(z: Tensor, *dim: int) -> Tensor:
    """The largest |entry|, without a tensor of them: torch's own infinity norm takes longer than a Gram matrix."""
    z = z.detach()
    return torch.maximum(z.amax(dim), -z.amin(dim))


def _range(*views: Float[Tensor, "_ features"]) -> tuple[Float[Tensor, ""], Float[Tensor, " features"]]:
    """1/scale, and the mean of the first view divided by the scale.

    The scale is the power of two just below the largest entry, at least 1: dividing by it rounds nothing, and squares
    do not overflow. The mean goes because differences of large squares lose their digits. Distances see neither.
    """
    size = torch.stack([_largest(z) for z in views]).amax()
    factor = torch.ldexp(torch.ones_like(size), (1 - torch.frexp(size).exponent).clamp_max(0))
    first = views[0].detach()
    with full_precision(first.device):
        return factor, (factor / len(first)).expand(len(first)) @ first  # a sum of small terms, which cannot overflow


def _in_units(factor: Float[Tensor, ""], features: int, per: float) -> Float[Tensor, ""]:
    """scale² / per, capped so that distances times it, and sums of a few, stay finite."""
    return (1 / factor / per / factor).clamp_max(torch.finfo(factor.dtype).max / (256 * features))


def _lifted(distances: Tensor) -> Tensor:
    """Lift what rounding left below 0 in value only, so that no gradient is lost."""
    return distances + (-distances).clamp_min(0).detach()


def pairwise_sq_distances(z: Float[Tensor, "batch features"], per: float = 1.0) -> Float[Tensor, "batch batch"]:
    """D_ij = ‖z_i − z_j‖² / per by a Gram matrix: O(B²P) time, O(B² + BP) memory, exact zeros on the diagonal.

    Finite for any finite z: where the square would overflow, D_ij saturates near the largest number.
    """
    factor, mean = _range(z)
    inner = _MovedGram.apply(z, factor, mean)
    square = inner.diagonal()
    return _lifted(square[:, None] + square[None, :] - 2 * inner) * _in_units(factor, z.shape[1], per)


def cross_sq_distances(
    a: Float[Tensor, "n features"], b: Float[Tensor, "m features"], per: float = 1.0
) -> Float[Tensor, "n m"]:
    """D_ij = ‖a_i − b_j‖² / per, by the same means."""
    factor, mean = _range(a, b)
    a, b = a * factor - mean, b * factor - mean
    squares = torch.linalg.vecdot(a, a)[:, None] + torch.linalg.vecdot(b, b)[None, :]
    return _lifted(squares - 2 * product(a, b)) * _in_units(factor, a.shape[1], per)


def paired_sq_distances(
    a: Float[Tensor, "batch features"], b: Float[Tensor, "batch features"], per: float = 1.0, power: int = 1
) -> Float[Tensor, " batch"]:
    """(‖a_i − b_i‖² / per)^power, row by row."""
    gap = a - b
    factor, _ = _range(gap)
    gap = gap * factor
    most = torch.finfo(gap.dtype).max ** (1 / power) / (256 * gap.shape[1])
    return (torch.linalg.vecdot(gap, gap) * _in_units(factor, gap.shape[1], per).clamp_max(most)) ** power


def _inverse_sizes(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 1"]:
    """1 / the largest |entry| of each row, held constant: a factor that makes squares safe and leaves cosines alone.

    Rows whose largest entry is below 1e-20 come out shorter the smaller they are: a row of zeros has no direction.
    """
    return 1 / _largest(z, 1).clamp_min(NO_DIRECTION)[:, None]


def pairwise_cosines(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """cos(z_i, z_j) by a Gram matrix, exactly 1 on the diagonal; 0 between a row of zeros and any other."""
    inner = _MovedGram.apply(z, _inverse_sizes(z), z.new_zeros(()).expand(z.shape[1]))
    inverse = inner.diagonal().clamp_min(1).rsqrt()
    cosines = inner * inverse[:, None] * inverse[None, :]
    return torch.where(torch.eye(len(z), dtype=torch.bool, device=z.device), 1.0, cosines)


def _inverse_norms(z: Tensor) -> Tensor:
    """1/‖z_i‖ of rows divided by their largest entry, which are at least 1 long unless they have no direction."""
    return torch.linalg.vecdot(z, z).clamp_min(1).rsqrt()


def cross_cosines(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> Float[Tensor, "n m"]:
    """cos(a_i, b_j)."""
    a, b = a * _inverse_sizes(a), b * _inverse_sizes(b)
    return product(a, b) * _inverse_norms(a)[:, None] * _inverse_norms(b)[None, :]


class _PairedCosine(torch.autograd.Function):
    """cos(a_i, b_i), saving nothing but what it was given: its gradient is (b̂ − cos·â) / ‖a‖, and the mirror of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inverse = []
        for z in (a, b):
            factor = _inverse_sizes(z)
            inverse.append(_inverse_norms(z * factor) * factor[:, 0])
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
        size = _largest(z, 0).clamp_min(NO_DIRECTION)
        z = z / size
        z.sub_(z.mean(dim=0))
        deviation = torch.linalg.vector_norm(z, dim=0) / z.shape[0] ** 0.5
        # A feature that is the same for all samples, up to the rounding of its mean, correlates with nothing.
        live = deviation > 8 * torch.finfo(z.dtype).eps
        inverse = torch.where(live, 1 / deviation, 0.0)
        return z.mul_(inverse), inverse / size

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
