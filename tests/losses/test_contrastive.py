"""The contrastive parents: alignment against its formula, repulsion against the Dispersive Loss, and known losses."""

import math

import numpy as np
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


def alignment_by_hand(a, b, variant, tau=0.5, **_):
    a, b = (x.detach().double().flatten(1).numpy() for x in (a, b))
    if variant == "covariance":
        return np.mean([(1 - np.corrcoef(p, q)[0, 1]) ** 2 for p, q in zip(a.T, b.T, strict=True)])
    pair = {
        "infonce_l2": lambda p, q: np.square(p - q).mean() / tau,
        "infonce_cosine": lambda p, q: -(p @ q) / math.sqrt(p @ p) / math.sqrt(q @ q) / tau,
        "hinge": lambda p, q: np.square(p - q).mean() ** 2,
    }[variant]
    return np.mean([pair(p, q) for p, q in zip(a, b, strict=True)])


def original_by_hand(a, b, variant, tau=0.5, **_):
    a, b = (x.detach().double().flatten(1).numpy() for x in (a, b))
    P = a.shape[1]
    if variant == "covariance":
        correlations = np.corrcoef(a.T, b.T)[:P, P:]
        others = np.square(correlations[~np.eye(P, dtype=bool)])
        return np.square(1 - correlations.diagonal()).mean() + others.mean()
    like = {
        "infonce_l2": lambda p, q: math.exp(-np.square(p - q).mean() / tau),
        "infonce_cosine": lambda p, q: math.exp(p @ q / math.sqrt(p @ p) / math.sqrt(q @ q) / tau),
    }[variant]
    return np.mean([-math.log(like(p, b[i]) / sum(like(p, q) for q in b)) for i, p in enumerate(a)])


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


# --- value and gradient


@every_additive
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(3, 2), (6, 4, 5)])
def test_the_alignment_is_that_of_the_formula_and_the_repulsion_is_the_dispersive_loss(case, shape, dtype, rel):
    a, b = two_views(*shape, dtype=dtype)
    parts = contrastive_parts(a, b, **CASES[case])
    assert parts.alignment.shape == parts.repulsion.shape == ()
    assert parts.alignment.dtype == parts.repulsion.dtype == dtype
    assert parts.alignment.item() == pytest.approx(alignment_by_hand(a, b, **CASES[case]), rel=rel)
    assert torch.equal(parts.repulsion, dispersive_loss(a, **CASES[case]))


@every_original
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(3, 2), (6, 4, 5)])
def test_the_original_form_is_that_of_the_formula(case, shape, dtype, rel):
    a, b = two_views(*shape, dtype=dtype)
    loss, parts = contrastive_loss(a, b, **CASES[case]), contrastive_parts(a, b, **CASES[case])
    assert loss.item() == pytest.approx(original_by_hand(a, b, **CASES[case]), rel=rel)
    assert torch.equal(loss, parts.alignment + parts.repulsion)
    expected = alignment_by_hand(a, b, **CASES[case])  # the positive pair is the same in both forms
    assert parts.alignment.item() == pytest.approx(expected, rel=rel)


@every_case
def test_the_gradient_of_both_views_is_that_of_the_formula(case):
    a, b = two_views(6, 9)
    if case in ORIGINAL:
        found = gradients(contrastive_loss, a, b, **CASES[case])
    else:
        found = gradients(lambda *views: contrastive_parts(*views, **CASES[case]).alignment, a, b)
    for mine, wanted in zip(found, gradients(by_formula, a, b, **CASES[case]), strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-13)


@every_case
def test_first_and_second_derivatives_pass_gradcheck_in_both_views(case):
    views = tuple(z.requires_grad_() for z in two_views(4, 3))
    assert torch.autograd.gradcheck(lambda *v: contrastive_loss(*v, **CASES[case]), views)
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
    none, one = (contrastive_loss(a, b, **CASES[case], alignment_weight=w) for w in (0.0, 1.0))
    assert (one - none).abs() > 1e-3
    for weight in (0.3, 2.5):
        mixed = contrastive_loss(a, b, **CASES[case], alignment_weight=weight)
        torch.testing.assert_close(mixed, weight * one + (1 - weight) * none)
    assert torch.equal(contrastive_loss(a, b, **CASES[case]), one)


# --- limits


def test_views_that_agree_leave_nothing_to_align():
    z = torch.randn(7, 6, dtype=torch.float64)
    best = {"infonce_l2": 0.0, "infonce_cosine": -2.0, "hinge": 0.0, "covariance": 0.0}
    for variant, alignment in best.items():
        found = contrastive_parts(z, z.clone(), variant).alignment.item()
        assert found == pytest.approx(alignment, abs=1e-12)
        assert contrastive_parts(z, z + torch.randn_like(z), variant).alignment.item() > alignment + 0.1
    of_both = contrastive_loss(z, z.clone(), "covariance", form="original")
    torch.testing.assert_close(of_both, dispersive_loss(z, "covariance"))


@pytest.mark.parametrize("variant", ["infonce_l2", "infonce_cosine"])
def test_infonce_is_log_batch_where_all_is_alike_and_zero_where_only_positives_are(variant):
    same = torch.randn(1, 8).expand(6, 8)
    assert contrastive_loss(same, same, variant, form="original").item() == pytest.approx(math.log(6), rel=1e-5)
    far = 50 * torch.eye(6)
    loss = contrastive_loss(far, far, variant, tau=0.05, form="original").item()
    assert loss == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("form", ["additive", "original"])
def test_a_feature_that_is_constant_in_a_view_is_not_aligned(form):
    a, b = two_views(7, 4)
    b[:, 1] = 0.1
    others = [0, 2, 3]
    expected = (1 + 3 * alignment_by_hand(a[:, others], b[:, others], "covariance")) / 4
    assert contrastive_parts(a, b, "covariance", form=form).alignment.item() == pytest.approx(expected)
    of_a, of_b = gradients(contrastive_loss, a, b, variant="covariance", form=form)
    assert (of_b[:, 1] == 0).all() and of_a.isfinite().all() and of_b.isfinite().all()


@pytest.mark.parametrize("form", ["additive", "original"])
def test_rows_of_zeros_are_like_nothing(form):
    a, b = two_views(4, 6, dtype=torch.float32)
    b[2] = 0
    found = contrastive_parts(a, b, "infonce_cosine", form=form).alignment.item()
    others = [0, 1, 3]
    assert found == pytest.approx(0.75 * alignment_by_hand(a[others], b[others], "infonce_cosine"), rel=1e-5)
    assert all(g.isfinite().all() for g in gradients(contrastive_loss, a, b, variant="infonce_cosine", form=form))


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


@every_original
def test_the_views_are_not_confused_and_samples_are_not_mixed_up(case):
    a, b = two_views(6, 9)
    loss = contrastive_loss(a, b, **CASES[case]).item()
    swapped = contrastive_loss(b, a, **CASES[case]).item()
    assert (swapped == pytest.approx(loss, rel=1e-9)) == ("covariance" in case)  # InfoNCE looks from the first view
    assert contrastive_loss(a, b.roll(1, dims=0), **CASES[case]).item() > loss + 0.1


# --- floating point


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_float32_first(case, dtype):
    a, b = (z.to(dtype) for z in two_views(6, 300, dtype=torch.float32))
    loss = contrastive_loss(a, b, **CASES[case])
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert torch.equal(loss, contrastive_loss(a.float(), b.float(), **CASES[case]))
    wanted = gradients(contrastive_loss, a.float(), b.float(), **CASES[case])
    for found, exact in zip(gradients(contrastive_loss, a, b, **CASES[case]), wanted, strict=True):
        assert torch.equal(found, exact.to(dtype))


@every_case
def test_autocast_changes_neither_value_nor_gradients(case):
    views = [view.requires_grad_() for view in two_views(6, 40, dtype=torch.float32)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = contrastive_loss(*views, **CASES[case])
    inside = value, *torch.autograd.grad(value, views, allow_unused=True, materialize_grads=True)
    plain = [view.detach() for view in views]
    outside = contrastive_loss(*plain, **CASES[case]), *gradients(contrastive_loss, *plain, **CASES[case])
    assert all(torch.equal(x, y) for x, y in zip(inside, outside, strict=True))


@every_case
@pytest.mark.parametrize("exponent", [-9, -6, 6, 9])
def test_at_any_norm_values_and_gradients_are_finite_and_where_they_fit_right(case, exponent):
    a, b = (torch.rand(2, 6, 8, dtype=torch.float64) * 2 - 1).mul(10.0**exponent).float()
    arguments = CASES[case]
    loss = contrastive_loss if case in ORIGINAL else lambda *v, **k: contrastive_parts(*v, **k).alignment
    found = gradients(loss, a, b, **arguments)
    assert contrastive_loss(a, b, **arguments).isfinite()
    assert all(g.isfinite().all() for g in found)
    value, wanted = by_formula(a, b, **arguments), gradients(by_formula, a.double(), b.double(), **arguments)
    assert loss(a, b, **arguments).item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)
    for mine, exact in zip(found, wanted, strict=True):
        atol = max(1e-5 * exact.abs().max().item(), 1e-43)
        torch.testing.assert_close(mine.double(), exact, rtol=1e-3, atol=atol)


# --- other ways to call it


@every_case
def test_vmap_of_value_and_gradients_equals_a_loop(case):
    a, b = two_views(3, 5, 7)
    loss = lambda a, b: contrastive_loss(a, b, **CASES[case])  # noqa: E731
    grads, values = torch.func.vmap(torch.func.grad_and_value(loss, argnums=(0, 1)))(a, b)
    torch.testing.assert_close(values, torch.stack([loss(*v) for v in zip(a, b, strict=True)]))
    looped = [gradients(loss, *v) for v in zip(a, b, strict=True)]
    torch.testing.assert_close(grads, tuple(torch.stack(g) for g in zip(*looped, strict=True)))


@every_case
def test_on_meta_tensors_it_is_a_scalar(case):
    a, b = torch.empty(2, 4, 8, 6, device="meta").requires_grad_()
    loss = contrastive_loss(a, b, **CASES[case])
    assert (loss.shape, loss.device.type, loss.dtype) == ((), "meta", torch.float32)


# --- what others call it


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


def test_the_original_covariance_is_barlow_twins_with_our_divisors():
    a, b = two_views(12, 6)
    batch, P = a.shape
    z_a, z_b = ((z - z.mean(0)) / z.std(0, correction=0) for z in (a, b))
    c = (z_a.T @ z_b) / batch
    on_diagonal = (c.diagonal() - 1).square().sum()
    off_diagonal = (c - c.diagonal().diag()).square().sum()
    trade_off = 1 / (P - 1)  # λ of its paper, where we divide the first sum by P and the second by P(P − 1)
    loss = contrastive_loss(a, b, "covariance", form="original")
    torch.testing.assert_close(loss, (on_diagonal + trade_off * off_diagonal) / P)


# --- bad input


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alignment_weight": -0.1}, "alignment_weight = -0.1 cannot be used: α must be a finite number of at least 0"),
        ({"alignment_weight": math.nan}, "alignment_weight = nan"),
        ({"alignment_weight": math.inf}, "alignment_weight = inf"),
        ({"alignment_weight": "1"}, "alignment_weight = '1'"),
        ({"form": "barlow"}, "form = 'barlow' cannot be used: choose one of additive, original"),
        ({"variant": "barlow"}, "variant = 'barlow' cannot be used: choose one of infonce_l2, "),
        (
            {"variant": "hinge", "form": "original"},
            "form = 'original' cannot be used: the hinge's parent is the additive",
        ),
        ({"form": "original", "alignment_weight": 0.5}, "alignment_weight = 0.5 cannot be used: .* with α = 1 only"),
        (
            {"form": "original", "include_self": True},
            "include_self = True cannot be used: .* is the positive; leave it",
        ),
        ({"form": "original", "include_self": False}, "include_self = False cannot be used: "),
        ({"variant": "hinge", "tau": 0.5}, "tau = 0.5 cannot be used: hinge has no such setting, it takes margin"),
        ({"variant": "infonce_l2", "margin": 1.0}, "margin = 1.0 cannot be used: infonce_l2 has no such setting"),
        ({"variant": "covariance", "include_self": True}, "include_self = True cannot be used: covariance has no such"),
        ({"form": "original", "tau": 0.0}, "tau = 0.0 cannot be used: the temperature must be a finite number above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(arguments, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        contrastive_loss(torch.randn(4, 3), torch.randn(4, 3), **arguments)


@pytest.mark.usefixtures("unchecked")
@every_case
@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.randn(4, 6), torch.randn(5, 6), ValueError, r"z has \(4, 6\) and z_positive \(5, 6\): give two views"),
        (torch.randn(4, 6), torch.randn(4, 5), ValueError, r"z has \(4, 6\) and z_positive \(4, 5\)"),
        (torch.randn(1, 6), torch.randn(1, 6), ValueError, "z has a batch of 1; give at least 2"),
        (torch.ones(4, 3, dtype=torch.int64), torch.randn(4, 3), TypeError, "z has dtype torch.int64; give floating"),
        (torch.randn(4, 3), torch.ones(4, 3, dtype=torch.int64), TypeError, "z_positive has dtype torch.int64"),
        (torch.randn(4, 3), torch.randn(4, 0), ValueError, r"z_positive has shape \(4, 0\)"),
    ],
    ids=["batches", "features", "one sample", "integers", "integers in second", "nothing in second"],
)
def test_views_that_do_not_belong_together_are_refused(case, a, b, error, message):
    with pytest.raises(error, match=f"^{message}"):
        contrastive_loss(a, b, **CASES[case])


@pytest.mark.parametrize("form", ["additive", "original"])
@pytest.mark.parametrize("shape", [(2, 5), (5, 1)])
def test_a_covariance_of_two_samples_or_one_feature_is_refused(form, shape):
    with pytest.raises(ValueError, match=f"^z has {shape[0]} samples of {shape[1]} features; .* at least 3 samples"):
        contrastive_loss(torch.randn(shape), torch.randn(shape), "covariance", form=form)


def test_views_may_come_in_different_shapes_with_as_many_features():
    a, b = two_views(5, 12)
    assert torch.equal(contrastive_loss(a.reshape(5, 3, 4), b.reshape(5, 2, 6)), contrastive_loss(a, b))
