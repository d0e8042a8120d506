"""Geometry of features. Each metric takes (B, …), flattens to z_i ∈ R^P, and returns one number, without gradient.

Norm and distance are divided by √P, so that they read as "per coordinate" and compare across widths: independent
coordinates of deviation s give a norm of s and a distance of s·√2. The Dispersive Loss, too, divides D = ‖·‖² by P.

Features with NaN or infinite entries give nan, so that a run that diverges is logged to its end. Shapes that cannot be
measured are an error.
"""

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.distances import gram, paired_sq_distances, pairwise_cosines, pairwise_sq_distances
from labkit.ops import full_precision, log_mean_exp, off_diagonal, rows
from labkit.runtime import one_thread

if TYPE_CHECKING:
    import pandas as pd

Features = Float[Tensor, "batch ..."]
DISTANCE_BINS = 256  # over eight decades
NO_DIRECTION = 1e-15  # rows no longer than this count as zero; nothing is differentiated, so shorter than in distances
NO_SPREAD = 1e-12  # share of the features' size: below it, deviations from the mean are rounding


def _at_least_two(z: Features, name: str = "z") -> Float[Tensor, "batch features"]:
    flat = rows(z, name)
    if len(flat) < 2:
        raise ValueError(f"{name} has a batch of {len(flat)}; spread is measured between samples: give at least 2.")
    return flat


def _directions(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
    """u_i = z_i/‖z_i‖ at any norm; a row of zeros stays zero."""
    z = z / z.abs().amax(dim=1, keepdim=True).clamp_min(NO_DIRECTION)  # squares now neither overflow nor vanish
    return z / z.norm(dim=1, keepdim=True).clamp_min(1)


@torch.no_grad()
def feature_norm(z: Features) -> float:
    """mean_i ‖z_i‖ / √P, the size of the features; at least 0."""
    z = rows(z)
    norm = torch.linalg.vector_norm(z, dim=1, dtype=torch.float64).mean() / z.shape[1] ** 0.5
    return norm.item() if norm.isfinite() else float("nan")


@torch.no_grad()
def mean_pairwise_distance(z: Features) -> float:
    """mean over pairs i ≠ j of ‖z_i − z_j‖ / √P, the spread of a batch; at least 0."""
    z = _at_least_two(z)
    return (off_diagonal(pairwise_sq_distances(z)).sqrt().mean() / z.shape[1] ** 0.5).item()


@torch.no_grad()
def distance_density(z: Features) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"]]:
    """Distribution of ‖z_i − z_j‖ / √P over pairs i ≠ j, which a mean or a picture of two axes cannot show.

    Returns:
        Middles of bins that lie evenly on a log scale, from 10⁻⁴ to 10⁴, and the density per decade in each; distances
        beyond either end count to the last bin.
    """
    z = _at_least_two(z)
    decades = off_diagonal(pairwise_sq_distances(z, per=z.shape[1])).clamp(1e-8, 1e8).log10() / 2
    per_decade = DISTANCE_BINS // 8
    counts = torch.histc(decades, DISTANCE_BINS, -4, 4)
    middles = 10 ** ((torch.arange(DISTANCE_BINS) + 0.5) / per_decade - 4)
    return middles, counts / counts.sum() * per_decade


@torch.no_grad()
def effective_rank(z: Features) -> float:
    """exp of the entropy of σ_k / Σσ, the singular values of the centred B×P matrix (Roy & Vetterli 2007).

    Between 1, when all samples lie on a line, and min(B − 1, P), when they spread evenly over all directions; 0 for
    identical samples. Unchanged by shifts, rotations and scale.
    """
    z = _at_least_two(z).double()
    if not z.isfinite().all():
        return float("nan")
    size = z.norm()
    z = z - z.mean(dim=0)
    inner = gram(z if z.shape[0] <= z.shape[1] else z.T)
    with one_thread():  # on two busy cores, 1000×1000 took 0.08 s with one thread and up to 10 s with two
        sigma = torch.linalg.eigvalsh(inner).clamp_min(0).sqrt()
    sigma = sigma[sigma > NO_SPREAD * size]
    shares = sigma / sigma.sum()
    return torch.special.entr(shares).sum().exp().item() if len(shares) else 0.0


@torch.no_grad()
def uniformity(z: Features) -> float:
    """log of the mean over pairs i ≠ j of exp(−2‖u_i − u_j‖²), u = z/‖z‖ (Wang & Isola 2020).

    0 when all directions agree, towards about −4 when they cover a high-dimensional sphere evenly; blind to norms.
    """
    return log_mean_exp(-2 * off_diagonal(pairwise_sq_distances(_directions(_at_least_two(z))))).item()


@torch.no_grad()
def anisotropy(z: Features) -> float:
    """mean over pairs i ≠ j of cos(z_i, z_j) (Ethayarajh 2019): 1 when all directions agree, at least −1/(B − 1).

    Features are not centred: directions that are spread evenly give 0, a common offset moves it towards 1. A row of
    zeros has cosine 0 with every other. Blind to norms.
    """
    return off_diagonal(pairwise_cosines(_at_least_two(z))).mean().item()


@torch.no_grad()
def alignment(a: Features, b: Features) -> float:
    """mean_i ‖u_i − u_i⁺‖², u = z/‖z‖, of two views of the same samples (Wang & Isola 2020): 0 (same direction) to 4.

    Collapsed features reach 0 as well, so read it beside ``uniformity``. A row of zeros is at 1 from any direction.

    Raises:
        ValueError: views whose shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; give two views of the same samples.")
    with full_precision(a.device):
        return paired_sq_distances(_directions(rows(a, "a")), _directions(rows(b, "b"))).mean().item()


def _unit_gram(z: Features, name: str) -> Float[Tensor, "batch batch"]:
    """K/‖K‖ in float64, K = z zᵀ of the centred rows; nan if all samples are the same."""
    z = _at_least_two(z, name).double()
    size = z.norm()
    z = z - z.mean(dim=0)
    spread = z.norm()
    inner = gram(z / torch.where(spread > NO_SPREAD * size, spread, float("nan")))
    return inner / inner.norm()


@torch.no_grad()
def linear_cka(a: Features, b: Features) -> float:
    """Similarity of two representations of the same samples: ‖AᵀB‖² / (‖AᵀA‖ ‖BᵀB‖), centred (Kornblith et al. 2019).

    Between 0 and 1, whatever the two widths; 1 for what differs by a rotation, a scale and a shift only. Taken from
    B×B Gram matrices, ‖AᵀB‖² = ⟨AAᵀ, BBᵀ⟩, in O(B²P) time and in float64.

    It is biased upwards: unrelated Gaussian features of widths P and Q give about √(P/(P + B) · Q/(Q + B)), close to 1
    unless B ≫ P, Q. Compare only at equal counts and widths, beside that floor. nan where all samples of a or of b are
    the same.

    Raises:
        ValueError: different numbers of samples, or fewer than 2.
    """
    return _cka({"a": a, "b": b})[0, 1].item()


def cka_table(features: Mapping[Hashable, Features]) -> "pd.DataFrame":
    """``linear_cka`` of all pairs of n representations, in O(nB²(P + n)) time and O(nB²) memory.

    Args:
        features: label → (B, …), such as block → features of the same B samples.

    Returns:
        A symmetric table with the labels on both sides; labels such as (run, block) become a level each.

    Raises:
        ValueError: no representation, different numbers of samples, or fewer than 2.
    """
    import pandas as pd

    labels = pd.Index(list(features))  # makes levels of tuples, which a DataFrame would not, and then not find
    return pd.DataFrame(_cka(features).numpy(force=True), index=labels, columns=labels)


@torch.no_grad()
def _cka(features: Mapping[Hashable, Features]) -> Float[Tensor, "n n"]:
    counts = {name: len(z) for name, z in features.items()}
    if len(set(counts.values())) != 1:
        samples = ", ".join(f"{name} has {count}" for name, count in counts.items()) or "there is none"
        raise ValueError(f"Representations of the same samples are compared, but {samples}; give each the same number.")
    similarities = gram(torch.stack([_unit_gram(z, str(name)).flatten() for name, z in features.items()]))
    # Rounding leaves some 1e-16 beyond 0 and 1, and between (a, b) and (b, a).
    return ((similarities + similarities.T) / 2).clamp(0, 1)


def geometry(z: Features) -> dict[str, float]:
    """The metrics of one batch by name."""
    metrics = (feature_norm, mean_pairwise_distance, effective_rank, uniformity, anisotropy)
    return {metric.__name__: metric(z) for metric in metrics}
