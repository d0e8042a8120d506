"""How features lie in space. Each meter takes (B, …), flattens to z_i ∈ R^P, and returns one number, without gradient.

Norm and distance are divided by √P, so that they read as "per coordinate" and compare across widths: independent
coordinates of deviation s give a norm of s and a distance of s·√2. The Dispersive Loss, too, divides D = ‖·‖² by P.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.ops import log_mean_exp, off_diagonal, rows
from labkit.pairs import pairwise_sq_distances

Features = Float[Tensor, "batch ..."]


def _at_least_two(z: Features) -> Float[Tensor, "batch features"]:
    flat = rows(z)
    if len(flat) < 2:
        raise ValueError(f"z has a batch of {len(flat)}; spread is measured between samples: give at least 2.")
    return flat


@torch.no_grad()
def feature_norm(z: Features) -> float:
    """mean_i ‖z_i‖ / √P, the size of a feature; at least 0."""
    z = rows(z)
    return (z.norm(dim=1).mean() / z.shape[1] ** 0.5).item()


@torch.no_grad()
def mean_pairwise_distance(z: Features) -> float:
    """mean over pairs i ≠ j of ‖z_i − z_j‖ / √P, the spread of a batch; at least 0."""
    z = _at_least_two(z)
    return (off_diagonal(pairwise_sq_distances(z)).sqrt().mean() / z.shape[1] ** 0.5).item()


@torch.no_grad()
def effective_rank(z: Features) -> float:
    """exp of the entropy of σ_k / Σσ, the singular values of the centred B×P matrix (Roy & Vetterli 2007).

    Between 1, when all samples lie on a line, and min(B − 1, P), when they spread evenly over all directions. Identical
    samples have no direction at all and give 0. Unchanged by shifts, rotations and scale.
    """
    z = _at_least_two(z).double()
    if not z.isfinite().all():
        return float("nan")
    size = z.norm()
    z = z - z.mean(dim=0)
    gram = z @ z.T if z.shape[0] <= z.shape[1] else z.T @ z
    sigma = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    sigma = sigma[sigma > 1e-12 * size]  # identical samples leave rounding behind, not directions
    share = sigma / sigma.sum()
    return torch.special.entr(share).sum().exp().item() if len(share) else 0.0


@torch.no_grad()
def uniformity(z: Features) -> float:
    """log of the mean over pairs i ≠ j of exp(−2‖u_i − u_j‖²), u = z/‖z‖ (Wang & Isola 2020).

    0 when all directions agree, towards about −4 when they cover a high-dimensional sphere evenly; blind to norms.
    """
    unit = torch.nn.functional.normalize(_at_least_two(z), dim=1)
    return log_mean_exp(-2 * off_diagonal(pairwise_sq_distances(unit))).item()


def geometry(z: Features) -> dict[str, float]:
    """All four meters by name."""
    return {
        "feature_norm": feature_norm(z),
        "mean_pairwise_distance": mean_pairwise_distance(z),
        "effective_rank": effective_rank(z),
        "uniformity": uniformity(z),
    }
