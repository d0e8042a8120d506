"""The meters of features: closed forms, plain loops, and what each is blind to."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import hyp0f1

from labkit.metrics import anisotropy, effective_rank, feature_norm, geometry, mean_pairwise_distance, uniformity

METERS = (feature_norm, mean_pairwise_distance, effective_rank, uniformity, anisotropy)
SEEDS = st.integers(0, 10**6)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_numpy(z):
    """All meters from their formulas, pair by pair, in float64."""
    z = z.double().numpy()
    n, width = z.shape
    pairs = [(z[i], z[j]) for i in range(n) for j in range(n) if i != j]
    cosines = [p @ q / math.sqrt(p @ p) / math.sqrt(q @ q) for p, q in pairs]
    sigma = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    share = sigma[sigma > 1e-9 * sigma[0]] / sigma.sum()
    return {
        "feature_norm": sum(math.sqrt(p @ p / width) for p in z) / n,
        "mean_pairwise_distance": sum(math.dist(p, q) for p, q in pairs) / len(pairs) / math.sqrt(width),
        "effective_rank": math.exp(-(share * np.log(share)).sum()),
        "uniformity": math.log(sum(math.exp(-2 * (2 - 2 * cosine)) for cosine in cosines) / len(pairs)),
        "anisotropy": sum(cosines) / len(pairs),
    }


def spread(*deviations, width):
    """Two points at ± each deviation on an axis of its own: centred, with these singular values over √2."""
    axes = torch.diag(torch.tensor(deviations, dtype=torch.float32))
    return torch.nn.functional.pad(torch.cat([axes, -axes]), (0, width - len(deviations)))


@given(SEEDS, st.integers(2, 8), st.integers(1, 9), st.sampled_from([1e-10, 1.0, 1e10]), st.sampled_from([0.0, 2.0]))
def test_all_meters_equal_plain_loops_in_numpy(seed, batch, width, size, offset):
    z = size * (drawn(seed, batch, width) + offset)
    assert geometry(z) == pytest.approx(in_numpy(z), rel=1e-4, abs=1e-5 * min(size, 1))


# --- size and spread


def test_the_norm_is_the_mean_length_per_root_feature():
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert feature_norm(z) == pytest.approx((5 + 0) / 2 / math.sqrt(2))
    assert feature_norm(torch.full((3, 7, 2), -1.5)) == pytest.approx(1.5)


def test_the_distance_is_the_mean_over_other_samples_in_a_plain_loop():
    z = torch.randn(6, 9)
    loop = [math.dist(p, q) for i, p in enumerate(z.tolist()) for j, q in enumerate(z.tolist()) if i != j]
    assert mean_pairwise_distance(z) == pytest.approx(sum(loop) / 30 / 3, rel=1e-5)


@pytest.mark.parametrize("deviation", [0.01, 1.0, 20.0])
def test_gaussian_features_read_their_deviation_at_any_width(deviation):
    for width in (1000, 16000):
        z = deviation * torch.randn(32, width)
        assert feature_norm(z) == pytest.approx(deviation, rel=0.01)
        assert mean_pairwise_distance(z) == pytest.approx(deviation * math.sqrt(2), rel=0.01)


# --- effective rank


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("width", [8, 200])  # more samples than features, and fewer
def test_equal_orthogonal_directions_count_one_each(count, width):
    assert effective_rank(spread(*[0.7] * count, width=width) + 3) == pytest.approx(count, rel=1e-5)


@pytest.mark.parametrize("count", [2, 5, 32])
def test_an_orthonormal_basis_loses_one_direction_to_the_mean(count):
    basis = torch.linalg.qr(torch.randn(count, count)).Q
    assert effective_rank(basis) == pytest.approx(count - 1, rel=1e-5)
    assert effective_rank(torch.nn.functional.pad(basis, (0, 40))) == pytest.approx(count - 1, rel=1e-5)


def test_unequal_directions_count_by_the_entropy_of_their_shares():
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(spread(3.0, 1.0, width=5)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(20, 6), (6, 20)])
def test_the_rank_equals_one_from_numpys_singular_values(shape):
    z = torch.randn(shape) @ torch.randn(shape[1], shape[1])
    sigma = np.linalg.svd(z.double().numpy() - z.double().numpy().mean(axis=0), compute_uv=False)
    share = sigma[sigma > 1e-9 * sigma[0]] / sigma.sum()
    assert effective_rank(z) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_points_on_a_line_have_rank_1_and_identical_ones_0():
    line = torch.randn(1, 50) + torch.randn(12, 1) * torch.randn(1, 50)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    for z in (torch.randn(1, 50).expand(12, 50), torch.zeros(5, 3), torch.full((3, 4), 0.1)):
        assert effective_rank(z) == 0


def test_identical_float64_features_have_rank_0_too():
    assert effective_rank(torch.full((7, 3), 0.1, dtype=torch.float64)) == 0


def test_the_rank_is_at_most_one_less_than_the_samples():
    assert effective_rank(torch.randn(5, 4000)) == pytest.approx(4, rel=0.01)


def test_eigenvalues_are_taken_on_one_thread_and_the_others_come_back(monkeypatch):
    before, at, eigvalsh = torch.get_num_threads(), [], torch.linalg.eigvalsh

    def watched(matrix):
        at.append(torch.get_num_threads())
        return eigvalsh(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", watched)
    torch.set_num_threads(3)
    try:
        effective_rank(torch.randn(4, 3))
        assert (at, torch.get_num_threads()) == ([1], 3)
        monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            effective_rank(torch.randn(4, 3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# --- uniformity


def test_uniformity_equals_a_double_loop_in_numpy():
    z = torch.randn(7, 5)
    unit = z.double().numpy() / np.linalg.norm(z.double().numpy(), axis=1, keepdims=True)
    terms = [math.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(7) for j in range(7) if i != j]
    assert uniformity(z) == pytest.approx(math.log(sum(terms) / 42), abs=1e-6)


def test_uniformity_of_known_directions():
    assert uniformity(torch.rand(6, 1) + torch.zeros(1, 8)) == pytest.approx(0, abs=1e-5)  # one direction
    assert uniformity(torch.tensor([[1.0, 0.0], [-5.0, 0.0]])) == pytest.approx(-8)  # opposite: distance² 4
    assert uniformity(torch.eye(9)) == pytest.approx(-4)  # orthogonal: distance² 2


@pytest.mark.parametrize("width", [2, 3, 16])
def test_uniformity_of_a_sphere_is_its_integral(width):
    """The mean of exp(κ cos) over the sphere in R^d is ₀F₁(d/2, κ²/4); here κ = 4."""
    expected = math.log(hyp0f1(width / 2, 4)) - 4
    assert uniformity(7 * torch.randn(2000, width)) == pytest.approx(expected, abs=0.02)


def test_a_row_of_zeros_is_at_1_from_all_directions_and_at_0_from_another():
    e = [1.0, 0.0]
    assert uniformity(torch.tensor([e, e, [0.0, 0.0]])) == pytest.approx(math.log((2 + 4 * math.exp(-2)) / 6))
    assert uniformity(torch.zeros(4, 3)) == 0


# --- anisotropy


def test_anisotropy_of_known_directions():
    v, size = torch.randn(8), torch.rand(6, 1) + 0.1
    assert anisotropy(size * v) == pytest.approx(1, abs=1e-6)
    for batch in (2, 6, 20):
        either_way = torch.cat([v.expand(batch // 2, 8), -v.expand(batch // 2, 8)])
        assert anisotropy(either_way) == pytest.approx(-1 / (batch - 1), abs=1e-6)
        assert anisotropy(torch.eye(batch) - 1 / batch) == pytest.approx(-1 / (batch - 1), abs=1e-6)  # a simplex
    assert anisotropy(5 * torch.eye(9)) == 0


def test_a_row_of_zeros_has_cosine_0_with_every_other():
    assert anisotropy(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])) == pytest.approx(2 / 6)
    assert anisotropy(torch.zeros(4, 3)) == 0


@pytest.mark.parametrize("offset", [0.0, 0.5, 2.0])
def test_a_common_offset_shows_as_its_share_of_the_mean_square(offset):
    """It is of the raw features: those of deviation 1 around an offset m have a cosine of m²/(m² + 1)."""
    assert anisotropy(torch.randn(32, 16000) + offset) == pytest.approx(offset**2 / (offset**2 + 1), abs=0.005)


# --- what they are blind to


@pytest.mark.parametrize(
    ("meter", "change"),
    [
        (feature_norm, {"rotated", "permuted"}),
        (mean_pairwise_distance, {"rotated", "permuted", "shifted"}),
        (effective_rank, {"rotated", "permuted", "shifted", "scaled"}),
        (uniformity, {"rotated", "permuted", "scaled", "stretched"}),
        (anisotropy, {"rotated", "permuted", "scaled", "stretched"}),
    ],
)
def test_each_meter_is_blind_to_exactly_these_changes(meter, change):
    z = torch.randn(10, 24) * torch.linspace(0.5, 2, 24) + 0.3
    moved = {
        "rotated": z @ torch.linalg.qr(torch.randn(24, 24)).Q,
        "permuted": z[torch.randperm(10)],
        "shifted": z + torch.randn(24),
        "scaled": 3 * z,
        "stretched": z * (torch.rand(10, 1) + 0.5),  # each sample by its own factor
    }
    unchanged = {name for name, other in moved.items() if meter(other) == pytest.approx(meter(z), rel=1e-4)}
    assert unchanged == change


@given(SEEDS, st.integers(2, 12), st.integers(1, 12), st.integers(-50, 50))
def test_what_leaves_the_angles_and_the_ratios_leaves_the_meters(seed, batch, width, power):
    z = drawn(seed, batch, width).double()
    turn, order = torch.linalg.qr(drawn(seed + 1, width, width).double()).Q, drawn(seed, batch).argsort()
    found, moved = geometry(z), geometry(2.0**power * z[order] @ turn)
    for name in ("feature_norm", "mean_pairwise_distance"):
        found[name] *= 2.0**power
    assert moved == pytest.approx(found, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_directions_are_read_at_any_size_and_the_norm_does_not_overflow(size):
    z = torch.randn(6, 8)
    for meter in (effective_rank, uniformity, anisotropy):
        assert meter(size * z) == pytest.approx(meter(z), abs=1e-5)
    assert feature_norm(size * z) == pytest.approx(size * feature_norm(z), rel=1e-5)


def test_norm_and_distance_scale_with_the_features():
    z = torch.randn(10, 24)
    for meter in (feature_norm, mean_pairwise_distance):
        assert meter(3 * z) == pytest.approx(3 * meter(z), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_and_shape_gives_plain_numbers_without_gradient(dtype):
    z = torch.randn(8, 4, 6).to(dtype).requires_grad_()
    found = geometry(z)
    assert found == {meter.__name__: meter(z.detach().reshape(8, 24)) for meter in METERS}
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_a_huge_common_offset_leaves_spread_and_rank():
    z = torch.randn(12, 64)
    far = z + 1e3
    for meter in (mean_pairwise_distance, effective_rank):
        assert meter(far) == pytest.approx(meter(z), rel=1e-3)


# --- what cannot be measured


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [(2, 3), 2, slice(None)], ids=["an entry", "a row", "all"])
def test_features_that_are_not_finite_have_no_geometry(dtype, bad, where):
    z = torch.randn(5, 6).to(dtype)
    z[where] = bad
    assert geometry(z) == pytest.approx(dict.fromkeys((meter.__name__ for meter in METERS), math.nan), nan_ok=True)


def test_one_sample_has_a_norm_and_no_spread():
    one = torch.tensor([[3.0, 4.0]])
    assert feature_norm(one) == pytest.approx(5 / math.sqrt(2))
    for meter in (*METERS[1:], geometry):
        with pytest.raises(ValueError, match=r"^z has a batch of 1; .*at least 2"):
            meter(one)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("meter", METERS)
def test_what_is_no_batch_of_features_is_refused(meter):
    for shape in ((0, 3), (4, 0), ()):
        with pytest.raises(ValueError, match=r"^z has shape .* at least one entry"):
            meter(torch.zeros(shape))
    with pytest.raises(TypeError, match=r"^z has dtype torch.int64"):
        meter(torch.ones(4, 3, dtype=torch.long))


def test_autocast_does_not_reach_the_meters():
    z = torch.randn(16, 32) + 5
    outside = geometry(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert geometry(z) == outside
