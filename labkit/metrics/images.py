"""Metrics of sets of images on given features: Fréchet and kernel distance, precision and recall, Inception Score.

Symbols: n features of a set of images, d numbers each; k(x, y) = (x·y/d + 1)³, the kernel of KID (Bińkowski et al.
2018).

A Fréchet distance means nothing without its features and its sample count, so beside every one the lab shows two
controls: real images against real images at the same count, and the same distance on pixel-PCA features, which share
nothing with any network.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.checks import require
from labkit.distances import cross_sq_distances
from labkit.ops import principal_axes
from labkit.runtime import Purpose, generator, one_thread

PART, NEIGHBOURS, SUBSETS, SUBSET = 5000, 3, 100, 1000
"""Images in a part of the Inception Score, as in ADM's evaluator (50,000 make the ten parts of its authors); neighbours
of precision and recall; number and size of KID's subsets."""
BLOCK = 2**25  # distances at a time


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of two sets of features, in float64 (Heusel et al. 2017).

    It is biased upwards when n or m is not much larger than d: compare only at equal counts.

    Raises:
        ConfigError: different widths, fewer than 2 rows, or features that are not finite.
    """
    shapes = tuple(a.shape), tuple(b.shape)
    matrices = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1]
    require(matrices, "features", shapes, "give two matrices (n, d) and (m, d) with the same number of columns")
    return frechet_of_moments(*moments(a), *moments(b))


def moments(z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance (divided by n − 1) in float64."""
    require(len(z) >= 2, "features", tuple(z.shape), "give at least 2 rows")
    return z.double().mean(dim=0), z.double().T.cov().reshape(z.shape[1], z.shape[1])


def frechet_of_moments(
    mean: Float[Tensor, " d"],
    cov: Float[Tensor, "d d"],
    other_mean: Float[Tensor, " d"],
    other_cov: Float[Tensor, "d d"],
) -> float:
    """The Fréchet distance of known moments; tr (Σ_a Σ_b)^½ is the trace of (Σ_a^½ Σ_b Σ_a^½)^½."""
    values = (mean, cov, other_mean, other_cov)
    # One NaN in a covariance would take the eigenvalue routine, and with it the whole process, down.
    finite = all(bool(value.isfinite().all()) for value in values)
    require(finite, "features", "NaN or infinite", "give finite features or moments")
    mean, cov, other_mean, other_cov = (value.double() for value in values)
    with one_thread():
        scale, axes = torch.linalg.eigh(cov)
        root = axes * scale.clamp_min(0).sqrt() @ axes.T
        overlap = torch.linalg.eigvalsh(root @ other_cov @ root).clamp_min(0).sqrt().sum()
    gap = (mean - other_mean).square().sum()
    return max((gap + cov.trace() + other_cov.trace() - 2 * overlap).item(), 0.0)


def inception_score(logits: Float[Tensor, "n classes"], part: int = PART) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) ‖ p(y)): mean and standard deviation over parts of the images, in their order.

    Between 1 and the number of classes (Salimans et al. 2016). The last part has what is left.
    """
    require(len(logits) >= 1 and bool(logits.isfinite().all()), "logits", tuple(logits.shape), "give finite numbers")
    scores = []
    for p in logits.double().softmax(dim=1).split(part):
        information = torch.special.entr(p.mean(dim=0)).sum() - torch.special.entr(p).sum(dim=1).mean()
        scores.append(information.exp())
    return _mean_and_std(scores)


def kernel_distance(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], subsets: int = SUBSETS, size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """KID, the unbiased estimate of MMD² under k: mean and standard deviation over seeded subsets of both sets.

    It has no bias from the count, and may come out slightly below 0.

    Args:
        size: of a subset; by default ``subset_size`` of both.
    """
    size = subset_size(len(a), len(b)) if size is None else size
    most = min(len(a), len(b))
    require(2 <= size <= most, "features", (len(a), len(b)), f"give at least {max(size, 2)} rows of each for a subset")
    draw = generator(seed, Purpose.SUBSETS)
    estimates = []
    for _ in range(subsets):
        x, y = (z[torch.randperm(len(z), generator=draw)[:size].to(z.device)].double() for z in (a, b))
        within = sum(k.sum() - k.diagonal().sum() for k in (_kernel(x, x), _kernel(y, y)))
        estimates.append(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())
    return _mean_and_std(estimates)


def subset_size(*counts: int) -> int:
    """1000, or half of the smallest set where that is less: subsets of a whole set would all be the same."""
    return min(SUBSET, min(counts) // 2)


def _kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_and_std(values: list[Tensor]) -> tuple[float, float]:
    stacked = torch.stack(values)
    return stacked.mean().item(), stacked.std(correction=0).item()


def precision_recall(
    real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Precision, the share of generated images among the real ones, and recall, of real among the generated.

    An image lies among a set if it is no further from one of its members than that member's k-th neighbour in the set
    (Kynkäänniemi et al. 2019). In blocks of rows, O(nm) time and O(n + m) memory beside a block.
    """
    least = min(len(real), len(generated))
    require(least > neighbours, "features", least, f"give more than {neighbours} rows of each: so many neighbours")
    reach_real, reach_generated = _reach(real, neighbours), _reach(generated, neighbours)
    among_real = torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
    among_generated = []
    for rows in _blocks(len(real), len(generated)):
        distance = cross_sq_distances(real[rows], generated)
        among_real |= (distance <= reach_real[rows, None]).any(dim=0)
        among_generated.append((distance <= reach_generated).any(dim=1))
    return among_real.double().mean().item(), torch.cat(among_generated).double().mean().item()


def _reach(z: Float[Tensor, "n d"], neighbours: int) -> Float[Tensor, " n"]:
    """Squared distance of each row to its k-th neighbour, itself left out."""
    reach = []
    for rows in _blocks(len(z), len(z)):
        distance = cross_sq_distances(z[rows], z)
        own = torch.arange(len(distance), device=z.device)
        distance[own, own + rows.start] = torch.inf
        reach.append(distance.kthvalue(neighbours, dim=1).values)
    return torch.cat(reach)


def _blocks(n: int, m: int) -> list[slice]:
    size = max(1, BLOCK // m)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def class_agreement(predicted: Int[Tensor, " n"], requested: Int[Tensor, " n"]) -> float:
    """Share in [0, 1] of samples that a classifier assigns to the class they were drawn for."""
    shapes = tuple(predicted.shape), tuple(requested.shape)
    require(shapes[0] == shapes[1], "predicted", shapes[0], f"it must match requested, {shapes[1]}")
    return (predicted == requested).double().mean().item()


class PixelPca:
    """Projection on the first ``components`` principal axes of the pixels of given images."""

    def __init__(self, x: Float[Tensor, "n c h w"], components: int = 32) -> None:
        self.mean, self.axes = principal_axes(x.flatten(1), components)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n components"]:
        return (x.flatten(1).double() - self.mean) @ self.axes.T
