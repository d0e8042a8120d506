"""Dispersive Loss (Wang & He 2025): the repulsion of contrastive learning without positive pairs, in four variants.

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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import as_tuple, check_flag, check_number, check_whole, choose, require, whole
from labkit.distances import (
    cross_cosines,
    cross_sq_distances,
    gram,
    pairwise_cosines,
    pairwise_sq_distances,
    standardized,
)
from labkit.losses.bank import Bank
from labkit.losses.weight import Schedule, check_weight
from labkit.ops import full_precision, log_mean_exp, log_sum_exp, off_diagonal, rows

Variant = Literal["infonce_l2", "infonce_cosine", "hinge", "covariance"]
Reduce = Literal["mean", "sum"]
Negatives = Literal["local", "global", "bank"]
KNOBS: dict[str, dict[str, float | bool]] = {
    "infonce_l2": {"tau": 0.5, "include_self": True},
    "infonce_cosine": {"tau": 0.5, "include_self": True},
    "hinge": {"margin": 1.0, "include_self": True},
    "covariance": {},
}
"""Variant → its settings, and their defaults."""


def loss_arguments(
    variant: str, tau: float | None, margin: float | None, include_self: bool | None, prefix: str = ""
) -> dict[str, Any]:
    """Settings of a variant, with its defaults for None.

    Returns:
        Those of tau, margin and include_self that the variant has, by name.

    Raises:
        ConfigError: an unknown variant, a setting that it does not have, or a value out of range.
    """
    choose(variant, Variant, f"{prefix}variant")
    knobs, arguments = KNOBS[variant], {}
    for name, value in {"tau": tau, "margin": margin, "include_self": include_self}.items():
        if name not in knobs:
            others = f"{variant} has no such setting, it takes {' and '.join(knobs) or 'none'}"
            require(value is None, f"{prefix}{name}", value, others)
            continue
        default = knobs[name]
        arguments[name] = value = default if value is None else value
        if isinstance(default, bool):
            check_flag(f"{prefix}{name}", value)
        else:
            check_number(f"{prefix}{name}", value, above=0, why=f"by default {default}")
    return arguments


def own_knobs(variant: Variant, holder: Any) -> dict[str, Any]:
    """τ or ε, if the variant has it, by name, with the value of the holder's attribute of that name."""
    return {name: getattr(holder, name) for name in KNOBS[variant] if name != "include_self"}


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
        (D/τ > 69) get a gradient of exactly 0; see ``ops.log_sum_exp``. Rows of zeros have a cosine of 0 with
        others. A feature that is constant in the batch has a correlation of 0, with which the covariance can fall
        below its floor.

    Raises:
        ConfigError: an unknown variant, a value out of its range, or a setting that the variant does not have.
        ValueError: too few samples or features.
        TypeError: features that are not floating-point numbers.
    """
    return repulsion(z, variant, **loss_arguments(variant, tau, margin, include_self))


def repulsion(
    z: Float[Tensor, "batch ..."],
    variant: Variant,
    tau: float = math.nan,
    margin: float = math.nan,
    include_self: bool = True,
    bank: Bank | None = None,
) -> Float[Tensor, ""]:
    """Dispersive Loss with the arguments that ``loss_arguments`` returns: those that the variant has, and no others.

    With a ``bank``, its samples repel the batch as well.
    """
    flat = rows(z)
    batch, features = flat.shape
    check_size(batch, features, variant)
    with full_precision(z.device):
        if variant == "covariance":
            return _off_diagonal_correlations(flat)
        pairs = (lambda x: x) if include_self else off_diagonal
        if bank is not None:
            return _with_bank(flat, bank, variant, pairs, tau, margin)
        if variant == "infonce_l2":
            return log_mean_exp(-pairs(pairwise_sq_distances(flat, per=features * tau)))
        if variant == "infonce_cosine":
            return log_mean_exp(pairs(pairwise_cosines(flat)) / tau)
        return (margin - pairs(pairwise_sq_distances(flat, per=features))).relu().square().mean()


def _with_bank(
    flat: Float[Tensor, "batch features"],
    bank: Bank,
    variant: Variant,
    pairs: Callable[[Tensor], Tensor],
    tau: float,
    margin: float,
) -> Float[Tensor, ""]:
    """The mean over the pairs of the batch and those of a sample and a remembered one."""
    remembered, there = bank.recall()
    remembered, per = remembered.to(flat.dtype), flat.shape[1]
    if variant == "infonce_cosine":
        own, others = pairs(pairwise_cosines(flat)) / tau, cross_cosines(flat, remembered) / tau
    else:
        scale = per * tau if variant == "infonce_l2" else per
        own, others = -pairs(pairwise_sq_distances(flat, per=scale)), -cross_sq_distances(flat, remembered, per=scale)
    count = own.numel() + len(flat) * there.sum()
    if variant == "hinge":
        far = (margin + others).relu().square() * there
        return ((margin + own).relu().square().sum() + far.sum()) / count
    logits = torch.cat([own.flatten(), others.masked_fill(~there, -math.inf).flatten()])
    return log_sum_exp(logits) - count.to(logits.dtype).log()


def _off_diagonal_correlations(flat: Float[Tensor, "batch features"]) -> Float[Tensor, ""]:
    batch, features = flat.shape
    z = standardized(flat)
    squares = gram(z).square().sum() / batch**2
    # The diagonal is fixed by the standardising, C_mm = 1 (0 for a constant feature), and has no gradient.
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
    """Least value that the loss of a batch can have; a curve that stays on it has nothing left to gain.

    −log B for L2, once all pairs are far apart; for the cosine when the B directions spread like a simplex; ε²/B for
    the hinge when all pairs have D ≥ ε; for the covariance with P ``features`` (needed there) what is left when P
    exceeds B − 1 and they cannot all be uncorrelated. Without self-pairs L2 has no floor: −inf.
    """
    arguments = loss_arguments(variant, tau, margin, include_self)
    check_size(batch, 2 if features is None else features, variant)
    if variant == "covariance":
        if features is None:
            raise ValueError("features = None: the floor of the covariance depends on the number of features P.")
        return max(features**2 / (batch - 1) - features, 0.0) / (features * (features - 1))
    with_self = arguments.get("include_self")
    if variant == "hinge":
        return arguments["margin"] ** 2 / batch if with_self else 0.0
    if variant == "infonce_l2":
        return -math.log(batch) if with_self else -math.inf
    if variant != "infonce_cosine":
        return -math.inf  # of a variant whose floor nobody has derived
    temperature = arguments["tau"]
    apart = -1 / ((batch - 1) * temperature)
    if not with_self:
        return apart
    # 1/τ is taken out of both exponentials, which overflow at small τ.
    return 1 / temperature + math.log(1 / batch + (1 - 1 / batch) * math.exp(apart - 1 / temperature))


def check_size(batch: int, features: int, variant: Variant) -> None:
    """Refuse a batch that is too small for the variant."""
    if batch < 2:
        raise ValueError(
            f"z has a batch of {batch}; give at least 2 samples: one alone has no pair, loss 0, no gradient."
        )
    if variant == "covariance" and (batch < 3 or features < 2):
        raise ValueError(
            f"z has {batch} samples of {features} features; the covariance of 2 samples is constant and that of one "
            "feature empty: give at least 3 samples of 2 features."
        )


@dataclass(frozen=True)
class Dispersive:
    """Settings of the Dispersive Loss: its arguments, the blocks that it acts on, and its weight λ."""

    lam: float | None = None
    """Weight λ ≥ 0. None is off; 0 is computed, logged and multiplied by 0, so it trains the same bits as off."""
    tau: float | None = None
    """Temperature τ > 0 of the InfoNCE variants. None is the paper's 0.5."""
    variant: Variant = "infonce_l2"
    """Form of the loss."""
    blocks: tuple[int, ...] | Literal["all", "last"] | None = None
    """Blocks, numbered from 0, whose output is regularized (only measured, where λ is off). None is depth // 4, the
    paper's Block 3 of 12; by its authors' README it may be one lower (see ``recipes.imagenet256``)."""
    margin: float | None = None
    """Margin ε > 0 of the hinge. None is 1 (the paper's value is not known)."""
    include_self: bool | None = None
    """Whether the pairs (i, i) count. None is yes, as in the released code; the covariance has no such pairs."""
    reduce: Reduce = "mean"
    """Mean or sum of the losses of several blocks (the authors' choice is not known)."""
    negatives: Negatives = "local"
    """Samples that repel each other: those of one device, as in the authors' runs, those of all, or those of one device
    and a bank of earlier ones."""
    bank: int = 1024
    """Number of earlier samples in the bank (negatives = bank)."""
    chunk: int | None = None
    """Samples that repel only among themselves, as on many devices with a small batch each. It divides the batch."""
    schedule: Schedule = ()
    """Factor of λ over training, as pairs of a step and a factor, on a line between them. Empty: λ stays."""

    def __post_init__(self) -> None:
        group = type(self).__name__.lower()
        check_weight(self, group)
        _ = self.arguments  # refuses what the variant cannot use
        if self.blocks not in (None, "all", "last"):
            blocks, name = as_tuple(self.blocks), f"{group}.blocks"
            allowed = "give one or several blocks as whole numbers from 0, or 'all' or 'last'"
            require(len(blocks) > 0 and all(whole(block, 0) for block in blocks), name, blocks, allowed)
            require(len(set(blocks)) == len(blocks), name, blocks, "give each block once")
            object.__setattr__(self, "blocks", blocks)
        choose(self.reduce, Reduce, f"{group}.reduce")
        choose(self.negatives, Negatives, f"{group}.negatives")
        check_whole(f"{group}.chunk", self.chunk, 3 if self.variant == "covariance" else 2, optional=True)
        if self.chunk is not None:
            allowed = "chunks divide the batch of one device; take negatives = local"
            require(self.negatives == "local", f"{group}.chunk", self.chunk, allowed)
        check_whole(f"{group}.bank", self.bank)
        if self.negatives == "bank":
            require(group == "dispersive", f"{group}.negatives", "bank", "only the Dispersive Loss has a bank")
            allowed = "the covariance has no pairs of samples; choose another variant"
            require(self.variant != "covariance", f"{group}.negatives", "bank", allowed)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The variant and the arguments of ``dispersive_loss`` that it has, checked and filled in."""
        variant, prefix = self.variant, f"{type(self).__name__.lower()}."
        return {"variant": variant, **loss_arguments(variant, self.tau, self.margin, self.include_self, prefix)}

    def repulsion(self, z: Float[Tensor, "batch ..."], bank: Bank | None = None) -> Float[Tensor, ""]:
        """``dispersive_loss`` with these settings; a bank takes part, and remembers the batch afterwards."""
        loss = repulsion(z, **self.arguments, bank=bank)
        if bank is not None:
            bank.push(z)
        return loss
