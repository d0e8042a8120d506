"""Every variant of the Dispersive Loss: its bounds, its corners, and settings that cannot work."""

import math
from functools import partial

import pytest
import torch
from every_loss import ARGUMENTS, VARIANTS, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.checks import ConfigError
from labkit.losses import dispersive_floor, dispersive_loss
from labkit.metrics import uniformity

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_wide_gaussian_features_have_the_value_of_the_law_of_large_numbers(scale):
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
        loss, gradient = value_and_gradients(partial(dispersive_loss, variant=variant, **arguments), z)
        assert loss.item() == pytest.approx(value, rel=0.02)
        assert gradient.count_nonzero() == z.numel()


def ceiling(variant="infonce_l2", tau=0.5, margin=1.0, include_self=None):
    return {"infonce_l2": 0.0, "infonce_cosine": 1 / tau, "hinge": margin**2, "covariance": 1.0}[variant]


@every_variant
@settings(max_examples=25)
@given(
    batch=st.integers(3, 12),
    features=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-8, 1e8),
    knob=st.floats(1e-2, 1e2),
    include_self=st.booleans(),
)
def test_the_loss_lies_between_its_floor_and_its_ceiling(variant, batch, features, seed, scale, knob, include_self):
    arguments = {"variant": variant}
    if variant != "covariance":
        arguments |= {"margin" if variant == "hinge" else "tau": knob, "include_self": include_self}
    z = scale * torch.randn(batch, features, generator=torch.Generator().manual_seed(seed))
    loss = dispersive_loss(z, **arguments).item()
    rounding = 1e-5 * (1 + abs(ceiling(**arguments)))
    assert dispersive_floor(batch, features=features, **arguments) - rounding <= loss
    assert loss <= ceiling(**arguments) + rounding


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
    tiny = dispersive_floor(batch, "infonce_cosine", tau=1e-4, include_self=own)  # does not overflow
    assert tiny == pytest.approx(1e4 - math.log(batch) if own else -1e4 / (batch - 1))


@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_the_floor_of_the_covariance_is_reached_by_features_that_fill_the_batch_evenly(repeats):
    orthogonal = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double()
    z, P = orthogonal.repeat(1, repeats), 3 * repeats
    floor = (P**2 / 3 - P) / (P * (P - 1))
    assert dispersive_floor(4, "covariance", features=P) == pytest.approx(floor, abs=1e-15)
    assert dispersive_loss(z, "covariance").item() == pytest.approx(floor, abs=1e-12)
    assert dispersive_floor(9, "covariance", features=8) == 0  # up to B − 1 features can all be uncorrelated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_identical_samples_give_the_ceiling_and_nothing_worse(arguments, dtype):
    same = torch.randn(1, 3, 4, dtype=dtype).expand(6, 3, 4)
    still = arguments["variant"] == "covariance"  # constant features correlate with nothing
    expected = 0.0 if still else ceiling(**arguments)
    loss, gradient = value_and_gradients(partial(dispersive_loss, **arguments), same)
    assert loss.item() == pytest.approx(expected, abs=3e-6)
    assert gradient.abs().max() < 1e-5


@every_variant
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_not_hidden(variant, bad):
    z = torch.randn(5, 6)
    z[1, 2] = bad
    assert dispersive_loss(z, variant).isnan()


def test_on_the_sphere_both_infonce_variants_are_the_uniformity_of_wang_and_isola():
    z, t = torch.nn.functional.normalize(torch.randn(9, 12, dtype=torch.float64), dim=1), 2
    assert dispersive_loss(z, tau=1 / (t * 12), include_self=False).item() == pytest.approx(uniformity(z))
    cosine = dispersive_loss(5 * z, "infonce_cosine", tau=1 / (2 * t), include_self=False).item()
    assert cosine == pytest.approx(uniformity(z) + 2 * t)


@pytest.mark.parametrize(
    ("variant", "name", "value", "remedy"),
    [
        *(("infonce_l2", "tau", value, r"above 0, by default 0.5") for value in (0, -1, math.nan, math.inf, True)),
        ("infonce_cosine", "tau", "0.5", r"above 0, by default 0.5"),
        ("hinge", "margin", 0, r"above 0, by default 1.0"),
        ("infonce_l2", "margin", 1.0, "it takes tau and include_self"),
        ("hinge", "tau", 0.5, "it takes margin and include_self"),
        ("covariance", "tau", 0.5, "it takes none"),
        ("covariance", "include_self", False, "it takes none"),
        ("infonce_l2", "include_self", 1, "True or False"),
        ("infonce", "variant", "infonce", ", ".join(VARIANTS)),
        (None, "variant", None, ", ".join(VARIANTS)),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_loss_and_floor(variant, name, value, remedy, unchecked):
    arguments = {"variant": variant, name: value}
    with pytest.raises(ConfigError, match=rf"^{name} = {value!r} .*{remedy}"):
        dispersive_loss(torch.randn(4, 3), **arguments)
    with pytest.raises(ConfigError, match=rf"^{name} = {value!r} .*{remedy}"):
        dispersive_floor(4, **arguments, features=3)


@pytest.mark.parametrize(
    ("variant", "batch", "features", "message"),
    [
        *((variant, 1, 3, "z has a batch of 1; give at least 2 samples") for variant in VARIANTS),
        ("covariance", 2, 8, "z has 2 samples of 8 features; .* at least 3 samples of 2 features"),
        ("covariance", 8, 1, "z has 8 samples of 1 features"),
    ],
)
def test_a_batch_that_is_too_small_is_refused_by_loss_and_floor(variant, batch, features, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        dispersive_loss(torch.randn(batch, features), variant)
    with pytest.raises(ValueError, match=f"^{message}"):
        dispersive_floor(batch, variant, features=features)


def test_the_floor_of_the_covariance_needs_the_number_of_features():
    with pytest.raises(ValueError, match=r"^features = None: .* number of features"):
        dispersive_floor(8, "covariance")


@every_variant
@pytest.mark.parametrize(("shape", "dtype", "error"), [((4, 0), None, ValueError), ((4, 3), torch.bool, TypeError)])
def test_features_that_are_none_are_refused(variant, shape, dtype, error, unchecked):
    with pytest.raises(error, match=r"^z has (shape \(4, 0\)|dtype torch.bool)"):
        dispersive_loss(torch.ones(shape, dtype=dtype), variant)
