"""The contrastive parents: alignment against its formula, repulsion against the Dispersive Loss, and known losses."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.checks import ConfigError
from labkit.losses import contrastive_loss, contrastive_parts, dispersive_loss

ADDITIVE = {
    "L2": {"variant": "infonce_l2", "tau": 0.4},
    "L2 without self-pairs": {"variant": "infonce_l2", "include_self": False},
    "cosine": {"variant": "infonce_cosine", "tau": 0.4},
    "hinge": {"variant": "hinge", "margin": 2.0},
    "covariance": {"variant": "covariance"},
}
ORIGINAL = {
    "original L2": {"variant": "infonce_l2", "tau": 0.4, "form": "original"},
    "original cosine": {"variant": "infonce_cosine", "tau": 0.4, "form": "original"},
    "original covariance": {"variant": "covariance", "form": "original"},
}
CASES = {**ADDITIVE, **ORIGINAL}
every_case = pytest.mark.parametrize("case", CASES)
every_additive = pytest.mark.parametrize("case", ADDITIVE)
every_original = pytest.mark.parametrize("case", ORIGINAL)


def two_views(*shape, dtype=torch.float64, apart=0.5):
    """Features of two views: the second is the first, moved by ``apart``."""
    first = 0.7 * torch.randn(shape, dtype=dtype)
    return first, first + apart * torch.randn(shape, dtype=dtype)


def standard(z):
    return (z - z.mean(dim=0)) / (z - z.mean(dim=0)).square().mean(dim=0).sqrt()


def by_formula(a, b, variant, tau=0.5, form="additive", **_):
    """The alignment of the additive family, or the original loss, in float64 for torch to differentiate."""
    a, b = (x.double().flatten(1) for x in (a, b))
    P = a.shape[1]
    if variant == "covariance":
        correlations = (standard(a)[:, :, None] * standard(b)[:, None]).mean(dim=0)
        aligned = (1 - correlations.diagonal()).square().sum() / P
        others = correlations.square().sum() - correlations.diagonal().square().sum()
        return aligned + others / (P * (P - 1)) if form == "original" else aligned
    if variant == "infonce_cosine":
        a, b = (x / x.square().sum(dim=1, keepdim=True).sqrt() for x in (a, b))
        logits = (a[:, None] * b[None]).sum(dim=2) / tau
    else:
        logits = -(a[:, None] - b[None]).square().sum(dim=2) / P / (1 if variant == "hinge" else tau)
    if form == "original":
        return -logits.log_softmax(dim=1).diagonal().mean()
    return logits.diagonal().square().mean() if variant == "hinge" else -logits.diagonal().mean()


def gradients(loss, *views, **arguments):
    views = [z.detach().clone().requires_grad_() for z in views]
    return torch.autograd.grad(loss(*views, **arguments), views)


def checked(case):
    """What ``by_formula`` gives: the original losses, and the alignment of the additive family."""
    if case in ORIGINAL:
        return partial(contrastive_loss, **CASES[case])
    return lambda *views: contrastive_parts(*views, **CASES[case]).alignment


# --- value and gradient


@every_case
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(3, 2), (6, 4, 5)])
def test_both_terms_are_those_of_the_formula(case, shape, dtype, rel):
    (a, b), arguments = two_views(*shape, dtype=dtype), CASES[case]
    loss, parts = contrastive_loss(a, b, **arguments), contrastive_parts(a, b, **arguments)
    assert loss.shape == () and loss.dtype == dtype
    assert torch.equal(loss, parts.alignment + parts.repulsion)
    alignment = by_formula(a, b, **{**arguments, "form": "additive"})  # the positive pair is the same in both forms
    assert parts.alignment.item() == pytest.approx(alignment.item(), rel=rel)
    if case in ORIGINAL:
        assert loss.item() == pytest.approx(by_formula(a, b, **arguments).item(), rel=rel)
    else:
        assert torch.equal(parts.repulsion, dispersive_loss(a, **arguments))


@every_case
def test_the_gradient_of_both_views_is_that_of_the_formula(case):
    a, b = two_views(6, 9)
    for actual, expected in zip(
        gradients(checked(case), a, b), gradients(by_formula, a, b, **CASES[case]), strict=True
    ):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-13)


@every_case
def test_the_second_derivative_passes_gradgradcheck_in_both_views(case):
    views = tuple(z.requires_grad_() for z in two_views(4, 3))
    assert torch.autograd.gradgradcheck(lambda *v: contrastive_loss(*v, **CASES[case]), views)


# --- the weight α


@every_additive
def test_without_alignment_it_is_the_dispersive_loss_to_the_bit(case):
    a, b = two_views(6, 9, dtype=torch.float32)
    assert torch.equal(contrastive_loss(a, b, **CASES[case], alignment_weight=0.0), dispersive_loss(a, **CASES[case]))
    of_a, of_b = gradients(contrastive_loss, a, b, **CASES[case], alignment_weight=0.0)
    assert torch.equal(of_a, gradients(dispersive_loss, a, **CASES[case])[0])
    assert (of_b == 0).all()


@every_additive
def test_the_weight_of_the_alignment_acts_linearly_and_is_one_by_default(case):
    a, b = two_views(6, 9)
    alignment, repulsion = contrastive_parts(a, b, **CASES[case])
    weighted = contrastive_loss(a, b, **CASES[case], alignment_weight=2.5)
    torch.testing.assert_close(weighted, 2.5 * alignment + repulsion)


# --- limits


@pytest.mark.parametrize("form", ["additive", "original"])
def test_a_feature_that_is_constant_in_a_view_is_not_aligned(form):
    a, b = two_views(7, 4)
    b[:, 1] = 0.1
    others = [0, 2, 3]
    expected = (1 + 3 * by_formula(a[:, others], b[:, others], "covariance")) / 4
    torch.testing.assert_close(contrastive_parts(a, b, "covariance", form=form).alignment, expected)
    of_a, of_b = gradients(contrastive_loss, a, b, variant="covariance", form=form)
    assert (of_b[:, 1] == 0).all() and of_a.isfinite().all() and of_b.isfinite().all()


MOVES = {  # of both views at once
    "samples permuted": (lambda z, r: z[torch.randperm(8, generator=r)], set(CASES)),
    "features permuted": (lambda z, r: z[:, torch.randperm(6, generator=r)], set(CASES)),
    "translated": (lambda z, r: z + torch.randn(6, generator=r).double(), {c for c in CASES if "cosine" not in c}),
    "rotated": (
        lambda z, r: z @ torch.linalg.qr(torch.randn(6, 6, generator=r).double()).Q,
        {c for c in CASES if "covariance" not in c},
    ),
    "features repeated": (lambda z, r: z.repeat(1, 3), {c for c in CASES if "covariance" not in c}),
    "each sample scaled": (
        lambda z, r: z * torch.randn(8, 1, generator=r).double().exp(),
        {c for c in CASES if "cosine" in c},
    ),
    "each feature scaled": (
        lambda z, r: z * torch.randn(6, generator=r).double(),
        {c for c in CASES if "covariance" in c},
    ),
}


@every_case
@pytest.mark.parametrize("move", MOVES)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**31))
def test_it_sees_what_it_should_when_both_views_move_and_nothing_else(case, move, seed):
    act, blind = MOVES[move]
    torch.manual_seed(seed)
    views = two_views(8, 6)
    moved = [act(z, torch.Generator().manual_seed(seed)) for z in views]
    before, after = (contrastive_loss(*v, **CASES[case]).item() for v in (views, moved))
    assert math.isclose(before, after, rel_tol=1e-9) == (case in blind)


# --- floating point


@every_case
@pytest.mark.parametrize("exponent", [-9, -6, 6, 9])
def test_at_any_norm_values_and_gradients_are_finite_and_where_they_fit_right(case, exponent):
    a, b = (torch.rand(2, 6, 8, dtype=torch.float64) * 2 - 1).mul(10.0**exponent).float()
    actual, expected = (gradients(checked(case), a, b), gradients(by_formula, a.double(), b.double(), **CASES[case]))
    assert contrastive_loss(a, b, **CASES[case]).isfinite()
    value = by_formula(a, b, **CASES[case]).item()
    assert checked(case)(a, b).item() == pytest.approx(value, rel=1e-4, abs=1e-6)
    for ours, exact in zip(actual, expected, strict=True):
        assert ours.isfinite().all()
        atol = max(1e-5 * exact.abs().max().item(), 1e-43)
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=atol)


def test_the_original_infonce_is_ntxent_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    a, b = two_views(8, 10)
    tau = 0.3
    for variant, distance, temperature in [
        ("infonce_cosine", distances.CosineSimilarity(), tau),
        ("infonce_l2", distances.LpDistance(normalize_embeddings=False, p=2, power=2), tau * 10),  # it has no 1/P
    ]:
        ntxent = losses.NTXentLoss(temperature, distance=distance)
        theirs = ntxent(a, torch.arange(8), ref_emb=b, ref_labels=torch.arange(8))
        torch.testing.assert_close(contrastive_loss(a, b, variant, tau=tau, form="original"), theirs)


# --- bad input


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "value", "others", "remedy"),
    [
        *(("alignment_weight", value, {}, "finite number of at least 0") for value in (-0.1, math.nan, math.inf, "1")),
        ("form", "barlow", {}, "choose one of additive, original"),
        ("variant", "barlow", {}, "choose one of infonce_l2, "),
        ("form", "original", {"variant": "hinge"}, "additive form only"),
        ("alignment_weight", 0.5, {"form": "original"}, "α = 1 only"),
        ("include_self", False, {"form": "original"}, "leave it out"),
        ("margin", 1.0, {}, "it takes tau and include_self"),
        ("tau", 0.0, {"form": "original"}, "a finite number above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, value, others, remedy):
    with pytest.raises(ConfigError, match=f"^{name} = {value!r} cannot be used: .*{remedy}"):
        contrastive_loss(torch.randn(4, 3), torch.randn(4, 3), **{name: value}, **others)


@pytest.mark.usefixtures("unchecked")
@every_case
@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.randn(4, 6), torch.randn(5, 6), ValueError, r"z has \(4, 6\) and z_positive \(5, 6\): give two views"),
        (torch.randn(4, 6), torch.randn(4, 5), ValueError, r"z has \(4, 6\) and z_positive \(4, 5\)"),
        (torch.randn(1, 6), torch.randn(1, 6), ValueError, "z has a batch of 1; give at least 2"),
        (torch.randn(4, 3), torch.ones(4, 3, dtype=torch.int64), TypeError, "z_positive has dtype torch.int64"),
    ],
    ids=["batches", "features", "one sample", "integers"],
)
def test_views_that_do_not_belong_together_are_refused(case, a, b, error, message):
    with pytest.raises(error, match=f"^{message}"):
        contrastive_loss(a, b, **CASES[case])


def test_views_may_come_in_different_shapes_with_as_many_features():
    a, b = two_views(5, 12)
    assert torch.equal(contrastive_loss(a.reshape(5, 3, 4), b.reshape(5, 2, 6)), contrastive_loss(a, b))
