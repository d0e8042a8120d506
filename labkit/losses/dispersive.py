"""Dispersive Loss (Wang & He 2025): contrastive learning's repulsion without its positive pair, in four variants.

Symbols: z_i ∈ R^P is the flattened feature of sample i, D_ij = ‖z_i − z_j‖² / P, τ the temperature, ε the margin, B the
batch, E_ij the mean over all B² ordered pairs, the B self-pairs included.

    infonce_l2       log E_ij exp(−D_ij / τ)          as released by the authors
    infonce_cosine   log E_ij exp(cos(z_i, z_j) / τ)  as others quote the paper
    hinge            E_ij max(0, ε − D_ij)²           as others quote the paper; the value of ε is our choice
    covariance       Σ_{m≠n} C_mn² / (P(P − 1))       as others quote the paper, C the correlations of the P features
                                                      over the batch; the divisor P(P − 1) is our choice

The log stands outside the double mean. For L2, identical features give 0, and a batch whose pairs are all far apart
reaches the floor −log B, where only self-pairs are left. Its gradient, with w_ij the share of a pair in the sum,

    ∂L/∂z_i = −(4/(τP)) Σ_j w_ij (z_i − z_j)

pushes every pair apart. L2 and hinge fall when features grow; cosine and covariance do not see their scale. All of it
comes from B×B Gram matrices: for standardised Z, Σ_mn C_mn² = ‖ZᵀZ‖²/B² = ‖ZZᵀ‖²/B², so no P×P matrix is made.
"""

import math

from jaxtyping import Float
from torch import Tensor

from labkit.ops import full_precision, log_mean_exp, off_diagonal, rows
from labkit.pairs import gram, pairwise_cosines, pairwise_sq_distances, standardized
from labkit.regularizers import Variant, loss_arguments


def dispersive_loss(
    z: Float[Tensor, "batch ..."],
    variant: Variant = "infonce_l2",
    tau: float | None = None,
    margin: float | None = None,
    include_self: bool | None = None,
) -> Float[Tensor, ""]:
    """The Dispersive Loss of a batch of features: one scalar, lower when the samples lie further apart.

    Args:
        z: features of shape (B, …), raw and unpooled; each sample is flattened to P numbers. B ≥ 2, and B ≥ 3, P ≥ 2
            for the covariance.
        variant: ``infonce_l2`` (the paper's default), ``infonce_cosine``, ``hinge`` or ``covariance``.
        tau: temperature τ > 0 of the InfoNCE variants, by default the paper's 0.5; larger values reach further.
        margin: ε > 0 of the hinge: pairs with D ≥ ε are left alone. The paper's value is not known; by default 1.
        include_self: whether the B self-pairs count, by default yes, as in the released code. The covariance has none.

    Returns:
        A scalar, computed outside autocast in float32 (float64 stays float64), at least ``dispersive_floor`` and at
        most 0 (L2), 1/τ (cosine), ε² (hinge), 1 (covariance). Pairs whose weight is below about 1e-30 of the largest
        (D/τ > 69) get a gradient of exactly 0; see ``ops.log_mean_exp``. Rows of zeros have a cosine of 0 with
        others. A feature that is constant in the batch has a correlation of 0, with which the covariance can fall
        below its floor.

    Raises:
        ConfigError: an unknown variant, a value out of its range, or a setting that the variant does not have.
        ValueError: too few samples or features.
        TypeError: features that are no floating-point numbers.
    """
    known = loss_arguments(variant, tau, margin, include_self)
    flat = rows(z)
    batch, features = flat.shape
    check_size(batch, features, variant)
    with full_precision(z.device):
        if variant == "covariance":
            return _off_diagonal_correlations(flat)
        pairs = (lambda x: x) if known["include_self"] else off_diagonal
        if variant == "infonce_l2":
            return log_mean_exp(-pairs(pairwise_sq_distances(flat, per=features * known["tau"])))
        if variant == "infonce_cosine":
            return log_mean_exp(pairs(pairwise_cosines(flat)) / known["tau"])
        return (known["margin"] - pairs(pairwise_sq_distances(flat, per=features))).relu().square().mean()


def _off_diagonal_correlations(flat: Float[Tensor, "batch features"]) -> Float[Tensor, ""]:
    batch, features = flat.shape
    z = standardized(flat)
    squares = gram(z).square().sum() / batch**2
    # The diagonal, C_mm = 1 (0 for a constant feature), is what standardising makes it: it has no gradient.
    diagonal = z.detach().square().mean(dim=0).square().sum()
    return (squares - diagonal) / (features * (features - 1))


def dispersive_floor(
    batch: int,
    variant: Variant = "infonce_l2",
    tau: float | None = None,
    margin: float | None = None,
    include_self: bool | None = None,
    features: int | None = None,
) -> float:
    """The least value that the loss of a batch can have; where a curve stays on it, its regularizer has finished.

    −log B for L2, once all pairs are far apart; for the cosine when the B directions spread like a simplex; ε²/B for
    the hinge when all pairs have D ≥ ε; for the covariance with P ``features`` (needed there) what is left when P
    exceeds B − 1 and they cannot all be uncorrelated. Without self-pairs L2 has no floor: −inf.
    """
    known = loss_arguments(variant, tau, margin, include_self)
    check_size(batch, 2 if features is None else features, variant)
    if variant == "covariance":
        if features is None:
            raise ValueError("features = None: the floor of the covariance depends on the number of features P.")
        return max(features**2 / (batch - 1) - features, 0.0) / (features * (features - 1))
    own = known["include_self"]
    if variant == "hinge":
        return known["margin"] ** 2 / batch if own else 0.0
    if variant == "infonce_l2":
        return -math.log(batch) if own else -math.inf
    tau = known["tau"]
    apart = -1 / ((batch - 1) * tau)
    # 1/τ is taken out of both exponentials, which overflow at small τ.
    return 1 / tau + math.log(1 / batch + (1 - 1 / batch) * math.exp(apart - 1 / tau)) if own else apart


def check_size(batch: int, features: int, variant: Variant) -> None:
    """Refuse a batch in which the variant has nothing to tell."""
    if batch < 2:
        raise ValueError(
            f"z has a batch of {batch}; give at least 2 samples: one alone has no pair, loss 0, no gradient."
        )
    if variant == "covariance" and (batch < 3 or features < 2):
        raise ValueError(
            f"z has {batch} samples of {features} features; the covariance of 2 samples is constant and that of one "
            "feature empty: give at least 3 samples of 2 features."
        )
