"""Metrics of the geometry of features: plain loops, corners, and changes that each is blind to."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.metrics import anisotropy, effective_rank, feature_norm, geometry, mean_pairwise_distance, uniformity

METRICS = (feature_norm, mean_pairwise_distance, effective_rank, uniformity, anisotropy)
SEEDS = st.integers(0, 10**6)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_numpy(z):
    """All metrics from their formulas, pair by pair, in float64."""
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


@given(SEEDS, st.integers(2, 8), st.integers(1, 9), st.sampled_from([1e-10, 1.0, 1e10]), st.sampled_from([0.0, 2.0]))
def test_all_metrics_equal_plain_loops_in_numpy(seed, batch, width, size, offset):
    z = size * (drawn(seed, batch, width) + offset)
    assert geometry(z) == pytest.approx(in_numpy(z), rel=1e-4, abs=1e-5 * min(size, 1))


# --- corners


def test_identical_samples_have_rank_0_and_rows_of_zeros_no_direction():
    for z in (torch.randn(1, 50).expand(12, 50), torch.zeros(5, 3), torch.full((7, 3), 0.1, dtype=torch.float64)):
        assert effective_rank(z) == 0
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert uniformity(z) == pytest.approx(math.log((2 + 4 * math.exp(-2)) / 6))  # at 1 from any direction
    assert anisotropy(z) == pytest.approx(2 / 6)
    assert uniformity(0 * z) == anisotropy(0 * z) == 0


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


# --- what they are blind to


@pytest.mark.parametrize(
    ("metric", "changes"),
    [
        (feature_norm, {"rotated", "permuted"}),
        (mean_pairwise_distance, {"rotated", "permuted", "shifted"}),
        (effective_rank, {"rotated", "permuted", "shifted", "scaled"}),
        (uniformity, {"rotated", "permuted", "scaled", "stretched"}),
        (anisotropy, {"rotated", "permuted", "scaled", "stretched"}),
    ],
)
def test_each_metric_is_blind_to_exactly_these_changes(metric, changes):
    z = torch.randn(10, 24) * torch.linspace(0.5, 2, 24) + 0.3
    moved = {
        "rotated": z @ torch.linalg.qr(torch.randn(24, 24)).Q,
        "permuted": z[torch.randperm(10)],
        "shifted": z + torch.randn(24),
        "scaled": 3 * z,
        "stretched": z * (torch.rand(10, 1) + 0.5),  # each sample by its own factor
    }
    unchanged = {name for name, other in moved.items() if metric(other) == pytest.approx(metric(z), rel=1e-4)}
    assert unchanged == changes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_and_shape_gives_plain_numbers_without_gradient(dtype):
    z = torch.randn(8, 4, 6).to(dtype).requires_grad_()
    values = geometry(z)
    assert values == {metric.__name__: metric(z.detach().reshape(8, 24)) for metric in METRICS}
    assert all(type(value) is float and math.isfinite(value) for value in values.values())


def test_a_huge_common_offset_leaves_spread_and_rank():
    z = torch.randn(12, 64)
    far = z + 1e3
    for metric in (mean_pairwise_distance, effective_rank):
        assert metric(far) == pytest.approx(metric(z), rel=1e-3)


# --- what cannot be measured


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [(2, 3), 2, slice(None)], ids=["an entry", "a row", "all"])
def test_features_that_are_not_finite_have_no_geometry(dtype, bad, where):
    z = torch.randn(5, 6).to(dtype)
    z[where] = bad
    assert geometry(z) == pytest.approx(dict.fromkeys((metric.__name__ for metric in METRICS), math.nan), nan_ok=True)


def test_one_sample_has_a_norm_and_no_spread():
    one = torch.tensor([[3.0, 4.0]])
    assert feature_norm(one) == pytest.approx(5 / math.sqrt(2))
    for metric in (*METRICS[1:], geometry):
        with pytest.raises(ValueError, match=r"^z has a batch of 1; .*at least 2"):
            metric(one)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_no_batch_of_features_is_refused(metric):
    for shape in ((0, 3), (4, 0), ()):
        with pytest.raises(ValueError, match=r"^z has shape .* at least one entry"):
            metric(torch.zeros(shape))
    with pytest.raises(TypeError, match=r"^z has dtype torch.int64"):
        metric(torch.ones(4, 3, dtype=torch.long))


def test_autocast_does_not_reach_the_metrics():
    z = torch.randn(16, 32) + 5
    outside = geometry(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert geometry(z) == outside
