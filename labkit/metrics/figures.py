"""Figures of a set of images on given features, beside the Fréchet distance of ``images``.

Symbols: n features of a set of images, d numbers each; k(x, y) = (x·y/d + 1)³, the kernel of KID (Bińkowski et al.
2018).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import require
from labkit.distances import cross_sq_distances
from labkit.runtime import Purpose, generator, one_thread

SPLITS, NEIGHBOURS, SUBSETS, SUBSET = 10, 3, 100, 1000
"""Of the Inception Score; of precision and recall; of KID, how many and how large. All as published."""
BLOCK = 2**25  # distances at a time


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
    """The Fréchet distance where only moments are known; tr (Σ_a Σ_b)^½ as the trace of (Σ_a^½ Σ_b Σ_a^½)^½."""
    values = (mean, cov, other_mean, other_cov)
    require(all(bool(v.isfinite().all()) for v in values), "statistics", "NaN or infinite", "give finite ones")
    mean, cov, other_mean, other_cov = (v.double() for v in values)
    with one_thread():
        scale, axes = torch.linalg.eigh(cov)
        root = axes * scale.clamp_min(0).sqrt() @ axes.T
        overlap = torch.linalg.eigvalsh(root @ other_cov @ root).clamp_min(0).sqrt().sum()
    gap = (mean - other_mean).square().sum()
    return max((gap + cov.trace() + other_cov.trace() - 2 * overlap).item(), 0.0)


def inception_score(logits: Float[Tensor, "n classes"], splits: int = SPLITS) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) ‖ p(y)): mean and deviation over equal parts of the images, in their order.

    Between 1 and the number of classes; n below ``splits`` makes parts of one image (Salimans et al. 2016).
    """
    require(len(logits) >= 1 and bool(logits.isfinite().all()), "logits", tuple(logits.shape), "give finite numbers")
    scores = []
    for part in logits.double().softmax(dim=1).tensor_split(min(splits, len(logits))):
        information = torch.special.entr(part.mean(dim=0)).sum() - torch.special.entr(part).sum(dim=1).mean()
        scores.append(information.exp())
    return _mean_and_deviation(scores)


def kernel_distance(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], subsets: int = SUBSETS, size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """KID, the unbiased estimate of MMD² under k: mean and deviation over seeded subsets of both sets.

    It has no bias from the count, and may come out slightly below 0.

    Args:
        size: of a subset; by default ``subset_of`` both.
    """
    size = subset_of(len(a), len(b)) if size is None else size
    most = min(len(a), len(b))
    require(2 <= size <= most, "features", (len(a), len(b)), f"subsets of {size} want as many rows of each, at least 2")
    draw = generator(seed, Purpose.SUBSETS)
    found = []
    for _ in range(subsets):
        x, y = (z[torch.randperm(len(z), generator=draw)[:size].to(z.device)].double() for z in (a, b))
        within = sum(k.sum() - k.diagonal().sum() for k in (_kernel(x, x), _kernel(y, y)))
        found.append(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())
    return _mean_and_deviation(found)


def subset_of(*counts: int) -> int:
    """1000, or half of the smallest set where that is less: of the whole, all subsets would be the same."""
    return min(SUBSET, min(counts) // 2)


def _kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_and_deviation(values: list[Tensor]) -> tuple[float, float]:
    found = torch.stack(values)
    return found.mean().item(), found.std(correction=0).item()


def precision_recall(
    real: Float[Tensor, "n d"], made: Float[Tensor, "m d"], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Precision, the share of made images among the real ones, and recall, of real among the made.

    An image lies among a set if it is no further from one of its members than that member's k-th neighbour in the set
    (Kynkäänniemi et al. 2019). In blocks of rows, O(nm) time and O(n + m) memory beside a block.
    """
    least = min(len(real), len(made))
    require(least > neighbours, "features", least, f"give more than {neighbours} rows of each: so many neighbours")
    reach_real, reach_made = _reach(real, neighbours), _reach(made, neighbours)
    among_real = torch.zeros(len(made), dtype=torch.bool, device=made.device)
    among_made = []
    for rows in _blocks(len(real), len(made)):
        distance = cross_sq_distances(real[rows], made)
        among_real |= (distance <= reach_real[rows, None]).any(dim=0)
        among_made.append((distance <= reach_made).any(dim=1))
    return among_real.double().mean().item(), torch.cat(among_made).double().mean().item()


def _reach(z: Float[Tensor, "n d"], neighbours: int) -> Float[Tensor, " n"]:
    """The squared distance to each row's k-th neighbour, itself left out."""
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
