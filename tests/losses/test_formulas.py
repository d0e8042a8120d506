"""Losses against their formulas, the repelling ones written out over all pairs, in value and derivatives."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from every_loss import ARGUMENTS, dispersive, two_views, value_and_gradients

from labkit.losses import contrastive_loss, repa_loss, velocity_loss


def standard(z):
    return (z - z.mean(dim=0)) / (z - z.mean(dim=0)).square().mean(dim=0).sqrt()


def correlations(a, b):
    """C⁺, the P×P matrix, from all products."""
    return (standard(a)[:, :, None] * standard(b)[:, None]).mean(dim=0)


def off_diagonal_square(c):
    return c[~torch.eye(len(c), dtype=torch.bool)].square().mean()


def similarities(a, b, variant, tau):
    """B×B: −D/τ, the cosines over τ, or for the hinge −D, from all B×B×P differences or products."""
    if variant == "infonce_cosine":
        a, b = (z / z.square().sum(dim=1, keepdim=True).sqrt() for z in (a, b))
        return (a[:, None] * b[None]).sum(dim=2) / tau
    return -(a[:, None] - b[None]).square().mean(dim=2) / (1 if variant == "hinge" else tau)


def repulsion(a, variant, tau=0.5, margin=1.0, include_self=True):
    if variant == "covariance":
        return off_diagonal_square(correlations(a, a))
    pairs = torch.ones(len(a), len(a)) if include_self else 1 - torch.eye(len(a))
    logits = similarities(a, a, variant, tau)[pairs.bool()]
    return (margin + logits).clamp_min(0).square().mean() if variant == "hinge" else logits.exp().mean().log()


def alignment(a, b, variant, tau=0.5, **_):
    if variant == "covariance":
        return (1 - correlations(a, b).diagonal()).square().mean()
    pairs = similarities(a, b, variant, tau).diagonal()
    return pairs.square().mean() if variant == "hinge" else -pairs.mean()


def original(a, b, variant, tau=0.5):
    if variant == "covariance":
        return alignment(a, b, variant) + off_diagonal_square(correlations(a, b))
    return -similarities(a, b, variant, tau).log_softmax(dim=1).diagonal().mean()


def tokens(z):
    return z.reshape(len(z), -1, 2)


def cosine(a, b):
    return -F.cosine_similarity(tokens(a), tokens(b.detach()), dim=2, eps=0).mean()  # none reaches the teacher


FORMULAS = {
    "dispersive": (dispersive, lambda a, b, **knobs: repulsion(a, **knobs)),
    "contrastive": (contrastive_loss, lambda a, b, **knobs: alignment(a, b, **knobs) + repulsion(a, **knobs)),
    "original": (partial(contrastive_loss, form="original"), original),
    "repa": (lambda a, b: repa_loss(tokens(a), tokens(b)), cosine),
    "velocity": (velocity_loss, lambda a, b: (a - b).square().mean()),
}
CASES = [
    *(("dispersive", arguments) for arguments in ARGUMENTS),
    *(("contrastive", arguments) for arguments in ARGUMENTS),
    *(("original", {"variant": v, "tau": 0.3}) for v in ("infonce_l2", "infonce_cosine")),
    ("original", {"variant": "covariance"}),
    ("velocity", {}),
    ("repa", {}),
]
every_case = pytest.mark.parametrize(("family", "arguments"), CASES, ids=str)


def pair(family, arguments):
    """The loss, and its formula in float64, as functions of two views."""
    loss, formula = (partial(function, **arguments) for function in FORMULAS[family])
    return loss, lambda a, b: formula(*(z.double().flatten(1) for z in (a, b)))


@every_case
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(3, 2), (6, 4, 5), (5, 2, 3, 3)])
def test_the_value_is_that_of_the_formula(family, arguments, shape, dtype, rel):
    (loss, formula), views = pair(family, arguments), two_views(*shape, dtype=dtype)
    value = loss(*views)
    assert value.shape == () and value.dtype == dtype
    assert value.item() == pytest.approx(formula(*views).item(), rel=rel, abs=rel)


@every_case
@pytest.mark.parametrize("shape", [(5, 2), (7, 4, 3), (4, 30)])
def test_the_gradient_in_both_views_is_that_of_the_formula(family, arguments, shape):
    views = two_views(*shape)
    (_, *actual), (_, *expected) = (value_and_gradients(function, *views) for function in pair(family, arguments))
    assert expected[0].abs().max() > 1e-4
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("family", "arguments"), CASES[:-1], ids=str)  # REPA's target is detached
def test_the_second_derivative_passes_gradgradcheck(family, arguments):
    loss, _ = pair(family, arguments)
    views = tuple(z.requires_grad_() for z in two_views(4, 4))
    assert torch.autograd.gradgradcheck(lambda a, b: loss(a, b) + 0 * b.sum(), views)


@every_case
@pytest.mark.parametrize("exponent", [-12, -9, -6, -3, 3, 6, 9])
def test_at_any_norm_value_and_gradients_are_those_of_the_formula_and_never_nan(family, arguments, exponent):
    signs = torch.randn(2, 6, 8, dtype=torch.float64).sign()  # and no entry near 0: the shortest rows have no direction
    views = (signs * (0.5 + torch.rand(2, 6, 8)) * 10.0**exponent).float()
    loss, formula = pair(family, arguments)
    value, *actual = value_and_gradients(loss, *views)
    assert value.isfinite() and all(gradient.isfinite().all() for gradient in actual)
    expected_value, *expected = value_and_gradients(formula, *views.double())
    if not expected_value.isfinite():
        return  # without self-pairs the plain formula takes the log of 0 when all are far
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-4, abs=1e-6)
    for ours, exact in zip(actual, expected, strict=True):
        atol = max(1e-5 * exact.abs().max().item(), 1e-43)
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("offset", [10.0, 1000.0])
@pytest.mark.parametrize("variant", ["infonce_l2", "hinge", "covariance"])
def test_a_large_common_offset_costs_little_accuracy(variant, offset):
    views = [z + offset for z in two_views(6, 12, dtype=torch.float32)]
    loss, formula = pair("dispersive", {"variant": variant})
    value, actual, _ = value_and_gradients(loss, *views)
    expected_value, expected, _ = value_and_gradients(formula, *(z.double() for z in views))
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-3)
    assert (actual - expected).norm() < 1e-3 * expected.norm()
