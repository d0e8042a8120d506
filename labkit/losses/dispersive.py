"""Dispersive Loss (Wang & He 2025): contrastive learning's repulsion without its positive pair.

Symbols: z_i ∈ R^P is the flattened feature of sample i, D_ij = ‖z_i − z_j‖² / P, τ the temperature, B the batch.

    InfoNCE-L2:   L = log( 1/B² · Σ_i Σ_j exp(−D_ij / τ) )

The log stands outside the double mean and the B self-pairs (D_ii = 0) belong to it, so −log B ≤ L ≤ 0: identical
features give 0, and a batch whose pairs are all far apart reaches the floor −log B, where only self-pairs are left.
The gradient, with w_ij the share of a pair in the sum, pushes every pair apart:

    ∂L/∂z_i = −(4/(τP)) Σ_j w_ij (z_i − z_j)
"""

import math

from jaxtyping import Float
from torch import Tensor

from labkit.config import Variant, check_tau, check_variant
from labkit.ops import full_precision, log_mean_exp, pairwise_sq_distances, rows


def dispersive_loss(
    z: Float[Tensor, "batch ..."], variant: Variant = "infonce_l2", tau: float = 0.5
) -> Float[Tensor, ""]:
    """The Dispersive Loss of a batch of features: one scalar, lower when the samples lie further apart.

    Args:
        z: features of shape (B, …) with B ≥ 2, raw and unpooled; each sample is flattened to P numbers.
        variant: ``infonce_l2`` (the paper's default).
        tau: temperature τ > 0 that D is divided by; larger values reach further.

    Returns:
        A scalar in [−log B, 0], computed outside autocast in float32 (float64 stays float64). Pairs whose weight is
        below about 1e-30 of the largest (D/τ > 69) get a gradient of exactly 0; see ``ops.log_mean_exp``.

    Raises:
        ConfigError: unknown variant, or τ not a finite number above 0.
        ValueError: fewer than two samples, which have no pair.
        TypeError: features that are no floating-point numbers.
    """
    check_variant(variant)
    check_tau(tau)
    flat = rows(z)
    batch, features = flat.shape
    if batch < 2:
        raise ValueError(
            f"z has a batch of {batch}; give at least 2 samples: one alone has no pair, loss 0, no gradient."
        )
    with full_precision(z.device):
        return log_mean_exp(-pairwise_sq_distances(flat) / (features * tau))


def dispersive_floor(batch: int) -> float:
    """−log B: the value that InfoNCE-L2 falls to, and stays at, once all pairs are far apart."""
    return -math.log(batch)
