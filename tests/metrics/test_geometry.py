"""The meters of features: closed forms, plain loops, and what each is blind to."""

import math

import numpy as np
import pytest
import torch

from labkit.metrics import effective_rank, feature_norm, geometry, mean_pairwise_distance, uniformity

METERS = (feature_norm, mean_pairwise_distance, effective_rank, uniformity)


def spread(*deviations, width):
    """Two points at ± each deviation on an axis of its own: centred, with these singular values over √2."""
    axes = torch.diag(torch.tensor(deviations, dtype=torch.float32))
    return torch.nn.functional.pad(torch.cat([axes, -axes]), (0, width - len(deviations)))


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


# --- what they are blind to


@pytest.mark.parametrize(("meter", "change"), [
    (feature_norm, {"rotated", "permuted"}),
    (mean_pairwise_distance, {"rotated", "permuted", "shifted"}),
    (effective_rank, {"rotated", "permuted", "shifted", "scaled"}),
    (uniformity, {"rotated", "permuted", "scaled"}),
])  # fmt: skip
def test_each_meter_is_blind_to_exactly_these_changes(meter, change):
    z = torch.randn(10, 24) * torch.linspace(0.5, 2, 24) + 0.3
    moved = {
        "rotated": z @ torch.linalg.qr(torch.randn(24, 24)).Q,
        "permuted": z[torch.randperm(10)],
        "shifted": z + torch.randn(24),
        "scaled": 3 * z,
    }
    unchanged = {name for name, other in moved.items() if meter(other) == pytest.approx(meter(z), rel=1e-4)}
    assert unchanged == change


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
