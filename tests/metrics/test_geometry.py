"""Metrics of the geometry of features, and of two representations of the same samples: plain loops, and corners."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.metrics import (
    alignment,
    anisotropy,
    cka_table,
    distance_density,
    effective_rank,
    feature_norm,
    geometry,
    linear_cka,
    mean_pairwise_distance,
    uniformity,
)

METRICS = (feature_norm, mean_pairwise_distance, effective_rank, uniformity, anisotropy)
PAIRED = (linear_cka, alignment)
SEEDS = st.integers(0, 10**6)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def geometry_in_numpy(z):
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


def cka_in_numpy(a, b):
    """The definition as printed, on features: entry by entry, in float64."""
    a, b = (z.double().numpy() - z.double().numpy().mean(axis=0) for z in (a, b))

    def size(x, y):  # ‖XᵀY‖²
        return sum((x[:, p] * y[:, q]).sum() ** 2 for p in range(x.shape[1]) for q in range(y.shape[1]))

    return size(a, b) / math.sqrt(size(a, a) * size(b, b))


def alignment_in_numpy(a, b):
    pairs = zip(a.double().numpy(), b.double().numpy(), strict=True)
    return np.mean([((p / np.linalg.norm(p) - q / np.linalg.norm(q)) ** 2).sum() for p, q in pairs])


# --- values


@given(SEEDS, st.integers(2, 8), st.integers(1, 9), st.sampled_from([1e-10, 1.0, 1e10]), st.sampled_from([0.0, 2.0]))
def test_the_geometry_equals_plain_loops_in_numpy(seed, batch, width, size, offset):
    z = size * (drawn(seed, batch, width) + offset)
    assert geometry(z) == pytest.approx(geometry_in_numpy(z), rel=1e-4, abs=1e-5 * min(size, 1))


@given(SEEDS, st.integers(2, 9), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1e-15, 1.0, 1e15]))
def test_cka_equals_its_definition_in_plain_loops(seed, batch, p, q, size):
    a, b = size * drawn(seed, batch, p), drawn(seed + 1, batch, q) + 1
    assert linear_cka(a, b) == pytest.approx(cka_in_numpy(a / size, b), rel=1e-5, abs=1e-9)
    assert linear_cka(b, a) == pytest.approx(linear_cka(a, b), rel=1e-12)


@given(SEEDS, st.integers(1, 8), st.integers(1, 9), st.sampled_from([1e-12, 1.0, 1e12]))
def test_alignment_equals_a_loop_in_numpy(seed, batch, width, size):
    a, b = size * drawn(seed, batch, width), drawn(seed + 1, batch, width)
    assert alignment(a, b) == pytest.approx(alignment_in_numpy(a / size, b), rel=1e-5)
    assert alignment(b, a) == alignment(a, b)


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


@pytest.mark.parametrize(("batch", "p", "q"), [(200, 200, 200), (100, 50, 1000), (400, 30, 30)])
def test_unrelated_features_have_the_cka_that_the_docstring_states(batch, p, q):
    values = [linear_cka(torch.randn(batch, p), torch.randn(batch, q)) for _ in range(10)]
    assert np.mean(values) == pytest.approx(math.sqrt(p / (p + batch) * q / (q + batch)), rel=0.03)


# --- corners


@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_the_density_of_distances_counts_every_pair_once(size):
    z = size * torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(1))
    middles, density = distance_density(z)
    apart = [math.dist(p, q) / math.sqrt(15) for p, q in itertools.permutations(z.flatten(1).tolist(), 2)]
    decades = np.histogram(np.log10(apart), len(middles), (-4, 4), density=True)[0]
    assert density.numpy() == pytest.approx(decades, abs=1e-4)
    assert math.log10(middles[0]) == pytest.approx(-4, abs=0.03) and (middles * density).sum() > 0
    assert distance_density(torch.full_like(z, math.nan))[1].isnan().all(), "a run that diverged"


def test_identical_samples_have_rank_0_and_rows_of_zeros_no_direction():
    for z in (torch.randn(1, 50).expand(12, 50), torch.zeros(5, 3), torch.full((7, 3), 0.1, dtype=torch.float64)):
        assert effective_rank(z) == 0
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert uniformity(z) == pytest.approx(math.log((2 + 4 * math.exp(-2)) / 6))  # at 1 from any direction
    assert anisotropy(z) == pytest.approx(2 / 6)
    assert uniformity(0 * z) == anisotropy(0 * z) == alignment(0 * z, 0 * z) == 0
    assert alignment(0 * z[:2], z[:2]) == 1


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # in float64 the mean of equal numbers is not exact
def test_without_variation_there_is_no_cka(value, dtype):
    still, moving = torch.full((7, 3), value, dtype=dtype), torch.randn(7, 4)
    for pair in ((still, moving), (moving, still), (still, still)):
        assert math.isnan(linear_cka(*pair))


def test_a_huge_common_offset_leaves_spread_rank_and_cka():
    z, other = torch.randn(2, 12, 64)
    for metric in (mean_pairwise_distance, effective_rank, lambda z: linear_cka(z, other)):
        assert metric(z + 1e3) == pytest.approx(metric(z), rel=1e-3)


def test_close_views_keep_their_digits():
    """1 − cos of these is too small for float32."""
    z, gap = torch.randn(4, 64), 1e-5 * torch.randn(4, 64)
    assert alignment(z, z + gap) == pytest.approx(alignment_in_numpy(z, z + gap), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_and_shape_gives_plain_numbers_without_gradient(dtype):
    z, b = torch.randn(8, 4, 6).to(dtype).requires_grad_(), torch.randn(8, 24)
    flat = z.detach().reshape(8, 24)
    values = geometry(z)
    assert values == {metric.__name__: metric(flat) for metric in METRICS}
    pairs = {metric: metric(z.reshape(8, 24), b) for metric in PAIRED}
    raised = torch.promote_types(dtype, torch.float32)
    assert pairs == {metric: metric(flat.to(raised), b) for metric in PAIRED}
    assert all(type(value) is float and math.isfinite(value) for value in (*values.values(), *pairs.values()))


def test_autocast_does_not_reach_the_metrics():
    z, b = torch.randn(16, 32) + 5, torch.randn(16, 32) + 1
    outside = geometry(z), [metric(z, b) for metric in PAIRED]
    with torch.autocast("cpu", torch.bfloat16):
        assert (geometry(z), [metric(z, b) for metric in PAIRED]) == outside


def test_eigenvalues_are_computed_on_one_thread_and_the_others_come_back(monkeypatch):
    before, at, eigvalsh = torch.get_num_threads(), [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda z: at.append(torch.get_num_threads()) or eigvalsh(z))
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


# --- input that cannot be measured


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [(2, 3), 2, slice(None)], ids=["an entry", "a row", "all"])
def test_features_that_are_not_finite_give_nan(dtype, bad, where):
    z, b = torch.randn(5, 6).to(dtype), torch.randn(5, 6)
    z[where] = bad
    values = [*geometry(z).values(), *(metric(*pair) for metric in PAIRED for pair in ((z, b), (b, z)))]
    assert all(math.isnan(value) for value in values)
    table = cka_table({"bad": z, "b": b, "c": torch.randn(5, 2)})
    np.testing.assert_array_equal(table.isna(), [[True] * 3, [True, False, False], [True, False, False]])


def test_one_sample_has_a_norm_and_no_spread():
    one = torch.tensor([[3.0, 4.0]])
    assert feature_norm(one) == pytest.approx(5 / math.sqrt(2))
    for metric in (*METRICS[1:], geometry):
        with pytest.raises(ValueError, match=r"^z has a batch of 1; .*at least 2"):
            metric(one)


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_without_features_is_refused(metric, unchecked):
    with pytest.raises(ValueError, match=r"^z has shape .* at least one entry"):
        metric(torch.zeros(4, 0))


def test_different_samples_are_refused_by_name(unchecked):
    with pytest.raises(ValueError, match=r"a has 5, b has 7.*the same number"):
        linear_cka(torch.randn(5, 3), torch.randn(7, 3))
    with pytest.raises(ValueError, match="there is none"):
        cka_table({})
    with pytest.raises(ValueError, match=r"^a has a batch of 1; .*at least 2"):
        linear_cka(torch.randn(1, 3), torch.randn(1, 3))
    for shape in ((5, 3), (6, 4), (6,), (6, 1, 3)):
        with pytest.raises(ValueError, match=r"^a has shape \(6, 3\) and b \(.*two views of the same samples"):
            alignment(torch.randn(6, 3), torch.randn(shape))


@pytest.mark.parametrize("labels", [[3, 0, "pixels"], [("baseline", 0), ("dispersive", 0), ("dispersive", 1)]])
def test_the_table_holds_all_pairs_under_their_labels(labels):
    features = torch.randn(9, 4, 2), torch.randn(9, 5), torch.randn(9, 1, 3, 3).double()
    table = cka_table(dict(zip(labels, features, strict=True)))
    assert list(table.index) == list(table.columns) == labels
    for one, a in zip(labels, features, strict=True):
        for other, b in zip(labels, features, strict=True):
            assert table.loc[one, other] == pytest.approx(linear_cka(a, b), rel=1e-12)
    np.testing.assert_array_equal(table, table.T)
    assert table.to_numpy().max() <= 1


def test_each_representation_is_reduced_once(monkeypatch):
    """n Gram matrices of features, and one of the n of them; not one for each of the n² pairs."""
    module = sys.modules["labkit.metrics.geometry"]  # the package's attribute is the function
    sizes, gram = [], module.gram
    monkeypatch.setattr(module, "gram", lambda z: sizes.append(tuple(z.shape)) or gram(z))
    cka_table({width: torch.randn(7, width) for width in range(1, 6)})
    assert sizes == [(7, 1), (7, 2), (7, 3), (7, 4), (7, 5), (5, 49)]
