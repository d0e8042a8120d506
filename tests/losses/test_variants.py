"""Every variant of the Dispersive Loss against its formula, its symmetries, its bounds, and floating point."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.checks import ConfigError
from labkit.losses import Variant, dispersive_floor, dispersive_loss
from labkit.metrics import uniformity

VARIANTS = get_args(Variant)
CASES = {
    "L2": {"variant": "infonce_l2", "tau": 0.5},
    "L2 without self-pairs": {"variant": "infonce_l2", "tau": 2.0, "include_self": False},
    "cosine": {"variant": "infonce_cosine", "tau": 0.2},
    "cosine without self-pairs": {"variant": "infonce_cosine", "tau": 1.0, "include_self": False},
    "hinge": {"variant": "hinge", "margin": 2.0},
    "hinge without self-pairs": {"variant": "hinge", "margin": 3.0, "include_self": False},
    "covariance": {"variant": "covariance"},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_case = pytest.mark.parametrize("case", CASES)
half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def by_hand(z, variant, tau=0.5, margin=1.0, include_self=True):
    """The formulas in numpy, pair by pair."""
    z = z.detach().double().flatten(1).numpy()
    if variant == "covariance":
        return np.square(np.corrcoef(z.T)[~np.eye(z.shape[1], dtype=bool)]).mean()
    term = {
        "infonce_l2": lambda p, q: math.exp(-np.square(p - q).mean() / tau),
        "infonce_cosine": lambda p, q: math.exp(p @ q / math.sqrt(p @ p) / math.sqrt(q @ q) / tau),
        "hinge": lambda p, q: max(0.0, margin - np.square(p - q).mean()) ** 2,
    }[variant]
    mean = np.mean([term(p, q) for i, p in enumerate(z) for j, q in enumerate(z) if include_self or i != j])
    return mean if variant == "hinge" else math.log(mean)


def by_formula(z, variant, tau=0.5, margin=1.0, include_self=True):
    """The formulas in float64 for torch to differentiate: all B×B×P differences, the P×P matrix of correlations."""
    z = z.double().flatten(1)
    batch, features = z.shape
    if variant == "covariance":
        z = z - z.mean(dim=0)
        covariances = (z[:, :, None] * z[:, None]).mean(dim=0)
        deviations = covariances.diagonal().sqrt()
        others = ~torch.eye(features, dtype=torch.bool)
        return (covariances / deviations / deviations[:, None])[others].square().sum() / (features * (features - 1))
    pairs = torch.ones(batch, batch, dtype=torch.bool) if include_self else ~torch.eye(batch, dtype=torch.bool)
    distances = (z[:, None] - z[None]).square().sum(dim=2)[pairs] / features
    if variant == "infonce_l2":
        return (-distances / tau).exp().mean().log()
    if variant == "hinge":
        return (margin - distances).clamp_min(0).square().mean()
    unit = z / z.square().sum(dim=1, keepdim=True).sqrt()
    return ((unit[:, None] * unit[None]).sum(dim=2)[pairs] / tau).exp().mean().log()


def gradient(loss, z, **arguments):
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(z, **arguments), z)[0]


# --- value and gradient


@every_case
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(3, 2), (6, 4, 5), (5, 2, 3, 3)])
def test_the_value_is_that_of_the_formula(case, shape, dtype, rel):
    z = 0.7 * torch.randn(shape, dtype=dtype)
    loss = dispersive_loss(z, **CASES[case])
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(by_hand(z, **CASES[case]), rel=rel)


@every_case
@pytest.mark.parametrize("shape", [(3, 2), (7, 4, 3), (4, 30)])
def test_the_gradient_is_that_of_the_formula(case, shape):
    z = 0.7 * torch.randn(shape, dtype=torch.float64)
    wanted = gradient(by_formula, z, **CASES[case])
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(gradient(dispersive_loss, z, **CASES[case]), wanted, rtol=1e-9, atol=1e-13)


@every_case
def test_first_and_second_derivatives_pass_gradcheck(case):
    z = (0.7 * torch.randn(4, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dispersive_loss(z, **CASES[case]), z)
    assert torch.autograd.gradgradcheck(lambda z: dispersive_loss(z, **CASES[case]), z)


@pytest.mark.parametrize(
    ("variant", "defaults"),
    [
        ("infonce_l2", {"tau": 0.5, "include_self": True}),
        ("infonce_cosine", {"tau": 0.5, "include_self": True}),
        ("hinge", {"margin": 1.0, "include_self": True}),
    ],
)
def test_what_is_not_said_is_the_default(variant, defaults):
    z = 0.5 * torch.randn(6, 8)
    assert torch.equal(dispersive_loss(z, variant), dispersive_loss(z, variant, **defaults))
    for name in defaults:
        other = {**defaults, name: not defaults[name] if name == "include_self" else 2 * defaults[name]}
        assert dispersive_loss(z, variant).item() != pytest.approx(dispersive_loss(z, variant, **other).item())


def test_the_variant_is_l2_by_default():
    z = torch.randn(6, 8)
    assert torch.equal(dispersive_loss(z), dispersive_loss(z, "infonce_l2"))


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_wide_gaussian_features_give_what_large_numbers_make_of_each_variant(scale):
    """No variant sinks to its floor, or loses its gradient, because the features are many."""
    batch, far = 16, 2 * scale**2  # D of two samples
    z = scale * torch.randn(batch, 256, 384)  # tokens × width of S/2 at 32×32
    share = 1 - 1 / batch
    for variant, arguments, value in [
        ("infonce_l2", {"tau": 0.5}, math.log(1 / batch + share * math.exp(-far / 0.5))),
        ("infonce_cosine", {"tau": 0.5}, math.log(math.exp(2) / batch + share)),
        ("hinge", {"margin": 3.0}, 9 / batch + share * (3 - far) ** 2),
        ("covariance", {}, 1 / (batch - 1)),  # the mean square of a correlation between independent features
    ]:
        assert dispersive_loss(z, variant, **arguments).item() == pytest.approx(value, rel=0.02)
        assert gradient(dispersive_loss, z, variant=variant, **arguments).count_nonzero() == z.numel()


# --- symmetries


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


DISTANCES = {"infonce_l2", "hinge"}
MOVES = {  # what is done to B×P features with a random seed, and which variants do not see it
    "samples permuted": (lambda z, r: z[draw(r, len(z)).argsort()], set(VARIANTS)),
    "features permuted": (lambda z, r: z[:, draw(r, z.shape[1]).argsort()], set(VARIANTS)),
    "features turned into tokens": (lambda z, r: z.reshape(len(z), 2, -1), set(VARIANTS)),
    "all mirrored": (lambda z, r: -z, set(VARIANTS)),
    "all translated": (lambda z, r: z + draw(r, z.shape[1]), {*DISTANCES, "covariance"}),
    "all rotated": (
        lambda z, r: z @ torch.linalg.qr(draw(r, z.shape[1], z.shape[1])).Q,
        {*DISTANCES, "infonce_cosine"},
    ),
    "features repeated": (lambda z, r: z.repeat(1, 3), {*DISTANCES, "infonce_cosine"}),
    "all scaled": (lambda z, r: 1.5 * z, {"infonce_cosine", "covariance"}),
    "each sample scaled": (lambda z, r: draw(r, len(z), 1).exp() * z, {"infonce_cosine"}),
    "each feature scaled and shifted": (lambda z, r: draw(r, z.shape[1]) * z + draw(r + 1, z.shape[1]), {"covariance"}),
}


@every_variant
@pytest.mark.parametrize("move", MOVES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), batch=st.integers(3, 9), pairs_of_features=st.integers(1, 6))
def test_each_variant_sees_what_it_should_and_nothing_else(variant, move, seed, batch, pairs_of_features):
    act, blind = MOVES[move]
    arguments = {"margin": 3.0} if variant == "hinge" else {}
    z = 0.4 * draw(seed, batch, 2 * pairs_of_features)
    before, after = (dispersive_loss(x, variant, **arguments).item() for x in (z, act(z, seed + 1)))
    assert math.isclose(before, after, rel_tol=1e-9, abs_tol=1e-12) == (variant in blind)


@pytest.mark.parametrize("variant", sorted(DISTANCES))
def test_distances_make_the_loss_fall_as_features_grow(variant):
    z = 0.1 * torch.randn(8, 24, dtype=torch.float64)
    losses = [dispersive_loss(z * scale, variant).item() for scale in (1, 1.5, 2, 3, 4)]
    assert all(more > less + 1e-4 for more, less in itertools.pairwise(losses))


def test_scale_can_be_traded_for_temperature_or_margin():
    z = 0.3 * torch.randn(8, 24, dtype=torch.float64)
    torch.testing.assert_close(dispersive_loss(3 * z, tau=0.9), dispersive_loss(z, tau=0.1))
    scaled = dispersive_loss(3 * z, "hinge", margin=1.8)
    torch.testing.assert_close(scaled, 81 * dispersive_loss(z, "hinge", margin=0.2))


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
@pytest.mark.parametrize("variant", ["infonce_cosine", "covariance"])
def test_blindness_to_scale_divides_the_gradient_by_it(variant, scale):
    z = torch.randn(6, 8)
    found, base = gradient(dispersive_loss, z * scale, variant=variant), gradient(dispersive_loss, z, variant=variant)
    torch.testing.assert_close(found * scale, base)


@pytest.mark.parametrize("batch", [2, 3, 10])
def test_self_pairs_are_counted_as_the_diagonal_identity_says(batch):
    z = 0.5 * torch.randn(batch, 7, dtype=torch.float64)
    for variant, s in {"infonce_l2": 1.0, "infonce_cosine": math.exp(1 / 0.3)}.items():
        with_self, without = (dispersive_loss(z, variant, tau=0.3, include_self=own).item() for own in (True, False))
        assert with_self == pytest.approx(math.log(s / batch + (1 - 1 / batch) * math.exp(without)), rel=1e-12)
    with_self, without = (dispersive_loss(z, "hinge", margin=2.0, include_self=own).item() for own in (True, False))
    assert with_self == pytest.approx(4 / batch + (1 - 1 / batch) * without, rel=1e-12)


# --- bounds


def ceiling(variant, tau=None, margin=None, include_self=None):
    most = {"infonce_l2": 0.0, "infonce_cosine": 1 / (tau or 1), "hinge": (margin or 0) ** 2, "covariance": 1.0}
    return most[variant]


@every_variant
@settings(max_examples=25)
@given(
    batch=st.integers(3, 12),
    P=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-8, 1e8),
    knob=st.floats(1e-2, 1e2),
    own=st.booleans(),
)
def test_the_loss_lies_between_its_floor_and_its_ceiling(variant, batch, P, seed, scale, knob, own):
    told = {"infonce_l2": "tau", "infonce_cosine": "tau", "hinge": "margin"}.get(variant)
    arguments = {"variant": variant, **({told: knob, "include_self": own} if told else {})}
    loss = dispersive_loss(scale * draw(seed, batch, P, dtype=torch.float32), **arguments).item()
    rounding = 1e-5 * (1 + abs(ceiling(**arguments)))
    assert dispersive_floor(batch, features=P, **arguments) - rounding <= loss <= ceiling(**arguments) + rounding


@pytest.mark.parametrize("batch", [2, 7])
@pytest.mark.parametrize("own", [True, False])
def test_the_floor_is_reached_by_far_samples_and_by_directions_like_a_simplex(batch, own):
    far = 1e3 * torch.arange(batch)[:, None] * torch.ones(1, 20)
    hinge = {"variant": "hinge", "margin": 1.5, "include_self": own}
    assert dispersive_loss(far, **hinge).item() == pytest.approx(dispersive_floor(batch, **hinge), abs=1e-7)
    assert dispersive_floor(batch, **hinge) == pytest.approx(2.25 / batch if own else 0)

    l2 = {"variant": "infonce_l2", "tau": 0.3, "include_self": own}
    assert dispersive_floor(batch, **l2) == pytest.approx(-math.log(batch) if own else -math.inf)
    assert dispersive_loss(far, **l2).item() < (-1e5 if not own else 1e-6 - math.log(batch))

    cosine = {"variant": "infonce_cosine", "tau": 0.3, "include_self": own}
    simplex = torch.eye(batch, dtype=torch.float64) - 1 / batch
    assert dispersive_loss(simplex, **cosine).item() == pytest.approx(dispersive_floor(batch, **cosine), abs=1e-12)
    least = -1 / 0.3 / (batch - 1)
    if own:
        least = math.log(math.exp(1 / 0.3) / batch + (1 - 1 / batch) * math.exp(least))
    assert dispersive_floor(batch, **cosine) == pytest.approx(least)


@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_the_floor_of_the_covariance_is_reached_by_features_that_fill_the_batch_evenly(repeats):
    orthogonal = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double()
    z, P = orthogonal.repeat(1, repeats), 3 * repeats
    floor = (P**2 / 3 - P) / (P * (P - 1))
    assert dispersive_floor(4, "covariance", features=P) == pytest.approx(floor, abs=1e-15)
    assert dispersive_loss(z, "covariance").item() == pytest.approx(floor, abs=1e-12)
    assert dispersive_floor(9, "covariance", features=8) == 0  # up to B − 1 features can all be uncorrelated


def test_the_floor_of_the_cosine_at_a_small_temperature_does_not_overflow():
    assert dispersive_floor(8, "infonce_cosine", tau=1e-4) == pytest.approx(1e4 - math.log(8))


# --- corners


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_case
def test_identical_samples_give_the_ceiling_and_nothing_worse(case, dtype):
    same = torch.randn(1, 3, 4, dtype=dtype).expand(6, 3, 4)
    expected = 0.0 if case == "covariance" else ceiling(**CASES[case])  # constant features correlate with nothing
    assert dispersive_loss(same, **CASES[case]).item() == pytest.approx(expected, abs=3e-6)
    assert gradient(dispersive_loss, same, **CASES[case]).abs().max() < 1e-5


def test_two_samples_of_one_feature_are_enough_for_distances_and_directions():
    z = torch.tensor([[0.0], [0.8]], dtype=torch.float64)
    assert dispersive_loss(z).item() == pytest.approx(math.log((1 + math.exp(-0.64 / 0.5)) / 2))
    assert dispersive_loss(z, "hinge").item() == pytest.approx((1 + 0.36**2) / 2)
    for sign in (1, -1):
        z = torch.tensor([[0.3], [0.8 * sign]], dtype=torch.float64)
        loss = dispersive_loss(z, "infonce_cosine").item()
        assert loss == pytest.approx(math.log((math.exp(2) + math.exp(2 * sign)) / 2))
        assert gradient(dispersive_loss, z, variant="infonce_cosine").abs().max() < 1e-15  # on a line none can turn


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e4 + 0.1, -3e30, 1e-30])
@pytest.mark.parametrize("batch", [3, 7, 48])
def test_a_constant_feature_correlates_with_nothing(batch, value):
    z = torch.randn(batch, 5)
    z[:, 2] = value
    others = dispersive_loss(z[:, [0, 1, 3, 4]], "covariance").item()
    assert dispersive_loss(z, "covariance").item() == pytest.approx(others * (4 * 3) / (5 * 4), rel=1e-5)
    grad = gradient(dispersive_loss, z, variant="covariance")
    assert (grad[:, 2] == 0).all()
    assert (grad[:, [0, 1, 3, 4]] != 0).all() and grad.isfinite().all()


@pytest.mark.parametrize("offset", [10.0, 1000.0])
def test_a_large_common_offset_costs_little_accuracy(offset):
    z = 0.5 * torch.randn(6, 12) + offset
    for variant in (*sorted(DISTANCES), "covariance"):
        assert dispersive_loss(z, variant).item() == pytest.approx(by_hand(z, variant), rel=1e-3)
        wanted = gradient(by_formula, z, variant=variant)
        assert (gradient(dispersive_loss, z, variant=variant) - wanted).norm() < 1e-3 * wanted.norm()


def test_a_row_of_zeros_has_a_cosine_of_zero_with_all_others():
    z = torch.randn(5, 6)
    z[[1, 3]] = 0
    unit = z[[0, 2, 4]].double() / z[[0, 2, 4]].double().norm(dim=1, keepdim=True)
    exponentials = (2 * unit @ unit.T).exp().sum().item() + 2 * math.exp(2) + 14
    assert dispersive_loss(z, "infonce_cosine").item() == pytest.approx(math.log(exponentials / 25), rel=1e-5)
    assert gradient(dispersive_loss, z, variant="infonce_cosine").isfinite().all()
    assert dispersive_loss(0 * z, "infonce_cosine").item() == pytest.approx(math.log((math.exp(2) + 4) / 5))


@every_variant
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_not_hidden(variant, bad):
    z = torch.randn(5, 6)
    z[1, 2] = bad
    assert dispersive_loss(z, variant).isnan()


# --- floating point


@half
@every_case
def test_half_precision_is_raised_to_float32_first(case, dtype):
    z = (40 * torch.randn(6, 4096)).to(dtype)  # its sum of squares is beyond float16
    loss = dispersive_loss(z, **CASES[case])
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert torch.equal(loss, dispersive_loss(z.float(), **CASES[case]))
    small = z / 64
    found = gradient(dispersive_loss, small, **CASES[case])
    assert found.dtype == dtype
    assert torch.equal(found, gradient(dispersive_loss, small.float(), **CASES[case]).to(dtype))


@every_case
def test_autocast_changes_neither_value_nor_gradient(case):
    z = torch.randn(8, 16, 8)
    z.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = dispersive_loss(z, **CASES[case])
    assert value.dtype == torch.float32
    assert torch.equal(value, dispersive_loss(z, **CASES[case]))
    assert torch.equal(*torch.autograd.grad(value, z), gradient(dispersive_loss, z.detach(), **CASES[case]))


@every_case
@pytest.mark.parametrize("exponent", [-12, -6, -3, 3, 6, 12])
def test_at_any_norm_the_gradient_is_the_closed_form_and_never_nan(case, exponent):
    z = (2 * torch.rand(6, 8, dtype=torch.float64) - 1).mul(10.0**exponent).float()
    loss, found = dispersive_loss(z, **CASES[case]), gradient(dispersive_loss, z, **CASES[case])
    assert loss.isfinite() and found.isfinite().all()
    wanted = gradient(by_formula, z.double(), **CASES[case])
    if wanted.isfinite().all():  # without self-pairs the plain formula takes the log of 0 when all are far
        assert loss.item() == pytest.approx(by_hand(z, **CASES[case]), rel=1e-5, abs=1e-6)
        atol = max(1e-5 * wanted.abs().max().item(), 1e-44)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=atol)


def test_at_norms_beyond_reach_the_loss_is_its_floor_and_the_gradient_zero():
    for scale in (1e3, 1e15):
        z = scale * torch.stack([torch.ones(7), -torch.ones(7), torch.tensor([1, -1, 1, -1, 1, -1, 1.0])])
        for variant, floor in {"infonce_l2": -math.log(3), "hinge": 1 / 3}.items():
            assert dispersive_loss(z, variant).item() == pytest.approx(floor, rel=1e-6)
            assert (gradient(dispersive_loss, z, variant=variant) == 0).all()


def test_below_1e_15_there_is_no_direction_and_no_correlation():
    z = 1e-30 * torch.randn(5, 6)
    nothing = dispersive_loss(torch.zeros(5, 6), "infonce_cosine").item()
    assert dispersive_loss(z, "infonce_cosine").item() == pytest.approx(nothing)
    assert dispersive_loss(z, "covariance").item() == 0


# --- other ways to call it


@every_case
def test_vmap_of_value_and_gradient_equals_a_loop(case):
    z = 0.5 * torch.randn(3, 5, 7, dtype=torch.float64)
    loss = lambda z: dispersive_loss(z, **CASES[case])  # noqa: E731
    grads, values = torch.func.vmap(torch.func.grad_and_value(loss))(z)
    torch.testing.assert_close(values, torch.stack([loss(x) for x in z]))
    torch.testing.assert_close(grads, torch.stack([gradient(loss, x) for x in z]))


@every_variant
def test_on_meta_tensors_it_is_a_scalar(variant):
    z = torch.empty(4, 8, 6, device="meta", requires_grad=True)
    loss = dispersive_loss(z, variant)
    assert (loss.shape, loss.device.type, loss.dtype) == ((), "meta", torch.float32)


# --- what others call it


def test_on_the_sphere_both_infonce_variants_are_the_uniformity_of_wang_and_isola():
    z = torch.nn.functional.normalize(torch.randn(9, 12, dtype=torch.float64), dim=1)
    known, t = uniformity(z), 2
    assert known == pytest.approx(
        math.log(
            np.mean(
                [(-t * (p - q).square().sum()).exp().item() for i, p in enumerate(z) for j, q in enumerate(z) if i != j]
            )
        )
    )
    assert dispersive_loss(z, tau=1 / (t * 12), include_self=False).item() == pytest.approx(known)
    cosine = dispersive_loss(5 * z, "infonce_cosine", tau=1 / (2 * t), include_self=False).item()
    assert cosine == pytest.approx(known + 2 * t)


# --- bad input


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf, True, "0.5"])
@pytest.mark.parametrize(
    ("variant", "name", "default"),
    [("infonce_l2", "tau", 0.5), ("infonce_cosine", "tau", 0.5), ("hinge", "margin", 1.0)],
)
def test_an_impossible_temperature_or_margin_is_refused_by_name(variant, name, default, value):
    message = rf"^{name} = {value!r} cannot be used: .* finite number above 0 \(by default {default}\)"
    with pytest.raises(ConfigError, match=message):
        dispersive_loss(torch.randn(4, 3), variant, **{name: value})
    with pytest.raises(ConfigError, match=message):
        dispersive_floor(4, variant, **{name: value})


@pytest.mark.parametrize(
    ("variant", "name", "value", "has"),
    [
        ("infonce_l2", "margin", 1.0, "tau and include_self"),
        ("infonce_cosine", "margin", 1.0, "tau and include_self"),
        ("hinge", "tau", 0.5, "margin and include_self"),
        ("covariance", "tau", 0.5, "none"),
        ("covariance", "margin", 1.0, "none"),
        ("covariance", "include_self", True, "none"),
        ("covariance", "include_self", False, "none"),
    ],
)
def test_a_setting_that_the_variant_does_not_have_is_refused_with_those_it_has(variant, name, value, has):
    message = f"^{name} = {value} cannot be used: {variant} has no such setting, it takes {has}"
    with pytest.raises(ConfigError, match=message):
        dispersive_loss(torch.randn(4, 3), variant, **{name: value})
    with pytest.raises(ConfigError, match=message):
        dispersive_floor(4, variant, **{name: value}, features=3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [1, 0, "yes"])
def test_self_pairs_are_counted_or_not(value):
    with pytest.raises(ConfigError, match=rf"^include_self = {value!r} cannot be used: say True or False"):
        dispersive_loss(torch.randn(4, 3), include_self=value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("variant", ["infonce", "l2", "", None])
def test_an_unknown_variant_is_refused_with_the_known_ones(variant):
    with pytest.raises(ConfigError, match=rf"^variant = {variant!r} .*{', '.join(VARIANTS)}"):
        dispersive_loss(torch.randn(4, 3), variant=variant)


@pytest.mark.usefixtures("unchecked")
@every_variant
@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.randn(1, 3), ValueError, "z has a batch of 1; give at least 2 samples"),
        (torch.randn(0, 3), ValueError, r"z has shape \(0, 3\).*at least one entry"),
        (torch.randn(4, 0), ValueError, r"z has shape \(4, 0\)"),
        (torch.tensor(1.0), ValueError, r"z has shape \(\)"),
        (torch.ones(4, 3, dtype=torch.int64), TypeError, "z has dtype torch.int64.*floating-point"),
        (torch.ones(4, 3, dtype=torch.bool), TypeError, "z has dtype torch.bool"),
    ],
    ids=["one sample", "no sample", "no feature", "a number", "integers", "booleans"],
)
def test_features_without_a_pair_are_refused(variant, z, error, message):
    with pytest.raises(error, match=rf"^{message}"):
        dispersive_loss(z, variant)


@pytest.mark.parametrize(("batch", "features"), [(2, 8), (8, 1), (2, 1)])
def test_a_covariance_of_two_samples_or_one_feature_is_refused(batch, features):
    message = f"^z has {batch} samples of {features} features; .* give at least 3 samples of 2 features"
    with pytest.raises(ValueError, match=message):
        dispersive_loss(torch.randn(batch, features), "covariance")
    with pytest.raises(ValueError, match=message):
        dispersive_floor(batch, "covariance", features=features)


def test_a_floor_that_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match=r"^features = None: .* number of features"):
        dispersive_floor(8, "covariance")
    with pytest.raises(ValueError, match=r"^z has 8 samples of 0 features"):
        dispersive_floor(8, "covariance", features=0)
    with pytest.raises(ValueError, match=r"^z has a batch of 1"):
        dispersive_floor(1)
