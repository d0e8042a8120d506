"""The contrastive parents of the Dispersive Loss: the same repulsion, and an alignment term for two views of a sample.

Symbols as in ``labkit.losses.dispersive``; z_i⁺ is the feature of the second view of sample i, C⁺ = ẐᵀẐ⁺/B the
correlations between the features of the two views.

    form="additive"    L_α = α·A(z, z⁺) + dispersive_loss(z), so α = 0 *is* the Dispersive Loss

        A   infonce_l2  mean_i D(z_i, z_i⁺)/τ      infonce_cosine  −mean_i cos(z_i, z_i⁺)/τ
            hinge       mean_i D(z_i, z_i⁺)²       covariance      Σ_m (1 − C⁺_mm)² / P

    form="original"    what the field calls by these names; negatives come from the other view

        InfoNCE        −mean_i log( exp(−D(z_i, z_i⁺)/τ) / Σ_j exp(−D(z_i, z_j⁺)/τ) )   (van den Oord et al. 2018)
        covariance     Σ_m (1 − C⁺_mm)² / P + Σ_{m≠n} C⁺_mn² / (P(P − 1))   (Barlow Twins, Zbontar et al. 2021)

The additive family is this lab's, built from the paper's table; divisors and the weight α are our choice. Both terms of
both forms are of order 1 at any P. No P×P matrix is made: ‖Z₁ᵀZ₂‖² = ⟨Z₁Z₁ᵀ, Z₂Z₂ᵀ⟩.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import check_number, choose, require
from labkit.distances import cross_cosines, cross_sq_distances, gram, paired_cosines, paired_sq_distances, standardized
from labkit.losses.dispersive import Dispersive, Variant, check_size, loss_arguments, repulsion
from labkit.ops import full_precision, log_sum_exp, rows
from labkit.time_sampling import Noise

Form = Literal["additive", "original"]


class Parts(NamedTuple):
    """The two terms of a contrastive loss: it is α·alignment + repulsion."""

    alignment: Float[Tensor, ""]
    repulsion: Float[Tensor, ""]


def contrastive_loss(
    z: Float[Tensor, "batch ..."],
    z_positive: Float[Tensor, "batch ..."],
    variant: Variant = "infonce_l2",
    tau: float | None = None,
    margin: float | None = None,
    include_self: bool | None = None,
    alignment_weight: float = 1.0,
    form: Form = "additive",
) -> Float[Tensor, ""]:
    """The contrastive loss of a batch and its second view: one scalar.

    Args:
        z, z_positive: features of the two views, both (B, …) with the same number P of features a sample; gradients
            flow into both.
        variant, tau, margin, include_self: as for ``dispersive_loss``.
        alignment_weight: α ≥ 0: 1 is contrastive, 0 gives ``dispersive_loss(z, …)`` exactly.
        form: ``additive``, or ``original`` (not for the hinge, whose parent is the additive one) with α = 1 only.

    Raises:
        ConfigError: as ``dispersive_loss``, or a form that makes no sense.
        ValueError: views of different shapes, too few samples or features.
    """
    _check_form(variant, alignment_weight, form, include_self)
    alignment, repelled = _parts(z, z_positive, form, variant, **loss_arguments(variant, tau, margin, include_self))
    return alignment_weight * alignment + repelled


def _parts(z: Tensor, z_positive: Tensor, form: Form, variant: Variant, tau: float = math.nan, **others: Any) -> Parts:
    """Both terms, with the arguments that ``loss_arguments`` returns."""
    a, b = rows(z), rows(z_positive, "z_positive")
    if a.shape != b.shape:
        shapes = f"z has {tuple(z.shape)} and z_positive {tuple(z_positive.shape)}"
        raise ValueError(f"{shapes}: give two views of the same samples, with as many features each.")
    if form == "additive":
        repelled = repulsion(a, variant, tau, **others)  # a, not z: half features are raised once
        with full_precision(z.device):
            return Parts(_alignment(a, b, variant, tau), repelled)
    batch, features = a.shape
    check_size(batch, features, variant)
    with full_precision(z.device):
        return _cross_correlations(a, b) if variant == "covariance" else _two_view_infonce(a, b, variant, tau)


def _alignment(a: Tensor, b: Tensor, variant: Variant, tau: float) -> Float[Tensor, ""]:
    """A(z, z⁺) of the additive family."""
    features = a.shape[1]
    if variant == "infonce_l2":
        return paired_sq_distances(a, b, per=features * tau).mean()
    if variant == "infonce_cosine":
        return -paired_cosines(a, b).mean() / tau
    if variant == "hinge":
        return paired_sq_distances(a, b, per=features).square().mean()
    diagonal = torch.linalg.vecdot(standardized(a), standardized(b), dim=0) / len(a)
    return (1 - diagonal).square().mean()


def _two_view_infonce(a: Tensor, b: Tensor, variant: Variant, tau: float) -> Parts:
    if variant == "infonce_l2":
        logits = -cross_sq_distances(a, b, per=a.shape[1] * tau)
    else:
        logits = cross_cosines(a, b) / tau
    return Parts(-logits.diagonal().mean(), log_sum_exp(logits, dim=1).mean())


def _cross_correlations(a: Tensor, b: Tensor) -> Parts:
    batch, features = a.shape
    a, b = standardized(a), standardized(b)
    diagonal = torch.linalg.vecdot(a, b, dim=0) / batch
    squares = (gram(a) * gram(b)).sum() / batch**2
    others = (squares - diagonal.square().sum()) / (features * (features - 1))
    return Parts((1 - diagonal).square().mean(), others)


@dataclass(frozen=True)
class Contrastive(Dispersive):
    """Settings of the contrastive loss, which draws the features of two noised views of an image together.

    L = α·A(z, z⁺) + dispersive_loss(z): α = 1 is contrastive, α = 0 the Dispersive Loss. The denoising loss sees the
    first view only.
    """

    alignment_weight: float = 1.0
    """Weight α ≥ 0 of the alignment of the two views."""
    form: Form = "additive"
    """Additive: α times the alignment plus the repulsion. Original: two-view InfoNCE or Barlow Twins, α = 1 only."""
    noise: Noise = "independent"
    """Second view: noise and time of its own (independent), or own noise at a time near the first (restricted)."""
    max_gap: float = 0.1
    """Largest distance in [0, 1] between the times of restricted views (the paper's bound is not known)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.noise, Noise, "contrastive.noise")
        _check_form(self.variant, self.alignment_weight, self.form, self.include_self, "contrastive.")
        check_number("contrastive.max_gap", self.max_gap, least=0, most=1)

    def loss(self, z: Float[Tensor, "batch ..."], z_positive: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
        """``contrastive_loss`` with these settings."""
        alignment, repelled = self.parts(z, z_positive)
        return self.alignment_weight * alignment + repelled

    def parts(self, z: Float[Tensor, "batch ..."], z_positive: Float[Tensor, "batch ..."]) -> Parts:
        """The two terms of ``contrastive_loss`` with these settings, before the weight α."""
        return _parts(z, z_positive, self.form, **self.arguments)


def _check_form(variant: str, weight: float, form: str, include_self: bool | None, prefix: str = "") -> None:
    """Refuse a form, or settings that do not go with it."""
    choose(form, Form, f"{prefix}form")
    name = f"{prefix}alignment_weight"
    check_number(name, weight, least=0)
    if form == "original":
        require(variant != "hinge", f"{prefix}form", form, "the hinge has the additive form only")
        require(weight == 1, name, weight, "the original forms have no weight: they are defined with α = 1 only")
        allowed = "in the original forms the pair (i, i) is the positive; leave it out"
        require(include_self is None, f"{prefix}include_self", include_self, allowed)
