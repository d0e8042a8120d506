"""Metrics of sets of images on given features: loops, closed forms and scipy agree."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from labkit.checks import ConfigError
from labkit.metrics import PixelPca, class_agreement, frechet_distance, images
from labkit.metrics.images import (
    frechet_of_moments,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
    subset_size,
)


def cloud(n, d=5, shift=0.0, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_any_two_sets_agree_with_scipys_matrix_root():
    a = torch.randn(40, 6) @ torch.randn(6, 6)
    b = torch.randn(70, 6) @ torch.randn(6, 6) + 2
    x, y = a.double().numpy(), b.double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * sqrtm(cov_x @ cov_y).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert moments(a[:, :1])[1].shape == (1, 1)


def test_the_distance_of_normal_distributions_that_share_axes():
    scale, other = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 0.25, 0.0])
    turn = torch.linalg.qr(cloud(3, 3)).Q.double()
    one, two = (turn @ torch.diag(s.double()) @ turn.T for s in (scale, other))
    shift = torch.tensor([1.0, 2.0, 2.0])
    distance = frechet_of_moments(torch.zeros(3), one, shift, two)
    assert distance == pytest.approx(9 + (scale.sqrt() - other.sqrt()).square().sum().item())
    assert frechet_of_moments(shift, one, shift, one) == pytest.approx(0, abs=1e-12)


def test_a_small_distance_beside_a_large_mean_keeps_its_digits():
    z = torch.randn(64, 4, dtype=torch.float64) + 1e3
    assert frechet_distance(z, z + 0.01) == pytest.approx(4e-4, rel=1e-2)


@pytest.mark.parametrize(("a", "b"), [((5, 4), (5, 3)), ((5, 4), (5,)), ((1, 4), (5, 4)), ((5, 4), (0, 4))])
def test_sets_that_cannot_be_compared_are_refused(a, b, unchecked):
    with pytest.raises(ConfigError, match=r"^features = \(.*(same number of columns|at least 2 rows)"):
        frechet_distance(torch.randn(a), torch.randn(b))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(bad):
    spoilt = torch.randn(64, 64)
    spoilt[3, 5] = bad
    with pytest.raises(ConfigError, match=r"^features .*finite"):
        frechet_distance(spoilt, torch.randn(64, 64))


def test_kid_over_the_whole_is_the_unbiased_discrepancy():
    """With the kernel (x·y/d + 1)³, by loops: pairs within each set, no image with itself, and pairs across."""
    a, b = cloud(12), cloud(12, shift=0.3, seed=1)

    def kernel(x, y):
        return (float(x.double() @ y.double()) / 5 + 1) ** 3

    within = [sum(kernel(x, y) for i, x in enumerate(z) for j, y in enumerate(z) if i != j) / (12 * 11) for z in (a, b)]
    across = sum(kernel(x, y) for x in a for y in b) / 144
    mean, std = kernel_distance(a, b, subsets=3, size=12)  # all subsets are the whole set
    assert mean == pytest.approx(sum(within) - 2 * across, rel=1e-5)
    assert std == pytest.approx(0, abs=1e-12)


def test_kid_of_one_distribution_is_0_within_its_deviation_and_its_subsets_follow_the_seed():
    mean, std = kernel_distance(cloud(400), cloud(400, seed=1))
    assert abs(mean) < std
    first, again, other = (kernel_distance(cloud(50), cloud(60), seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_the_size_of_subsets():
    assert [subset_size(5000, 50_000), subset_size(2000, 1999), subset_size(10, 7)] == [1000, 999, 3]
    for size in (1, 13):
        with pytest.raises(ConfigError, match=r"give at least .* rows of each"):
            kernel_distance(cloud(12), cloud(20), size=size)


@pytest.mark.parametrize("size", [3, 10, 5000])
def test_inception_score_is_the_formula_in_parts(size):
    """Of at most so many images, as in ADM's evaluator: the last part is what is left."""
    logits = 3 * cloud(25)
    scores, p = [], torch.softmax(logits.double(), dim=1).numpy()
    for part in (p[start : start + size] for start in range(0, 25, size)):
        kl = [sum(p * math.log(p / q) for p, q in zip(row, part.mean(axis=0), strict=True)) for row in part]
        scores.append(math.exp(sum(kl) / len(kl)))
    mean, std = inception_score(logits, size)
    assert size < 5000 or (mean, std) == inception_score(logits)
    assert (mean, std) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores)))


def test_the_ends_of_inception_score():
    """Sure and even over all classes: the number of classes. Parts of one image each: 1."""
    assert inception_score(1000 * torch.eye(4).repeat(10, 1))[0] == pytest.approx(4)
    assert inception_score(cloud(3), part=1)[0] == pytest.approx(1)
    with pytest.raises(ConfigError, match="give finite numbers"):
        inception_score(torch.full((3, 2), math.nan))


def among(members, points, k):
    """Share of points within some member's distance to its k-th neighbour, by loops over float64."""
    members, points = members.double(), points.double()
    reach = [
        sorted((m - o).square().sum().item() for j, o in enumerate(members) if i != j)[k - 1]
        for i, m in enumerate(members)
    ]
    within = [any((p - m).square().sum().item() <= r for m, r in zip(members, reach, strict=True)) for p in points]
    return sum(within) / len(points)


@given(st.integers(5, 12), st.integers(5, 12), st.integers(1, 4), st.floats(0, 3), st.sampled_from([1, 30, 2**25]))
def test_precision_and_recall_are_the_loops(n, m, k, shift, block):
    real, generated = cloud(n, seed=n), cloud(m, shift=shift, seed=100 + m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "BLOCK", block)
        values = precision_recall(real, generated, k)
    assert values == (pytest.approx(among(real, generated, k)), pytest.approx(among(generated, real, k)))


def test_precision_and_recall_need_more_rows_than_neighbours():
    with pytest.raises(ConfigError, match="give more than 3 rows of each"):
        precision_recall(cloud(40), cloud(3))


@pytest.mark.parametrize("components", [1, 2, 5, 16])  # a few, each by an iteration, and many
def test_pixel_axes_are_those_of_the_singular_values(components):
    x = torch.randn(40, 1, 4, 4) * torch.linspace(0.2, 3, 16).reshape(1, 1, 4, 4) + 0.5
    mean, others = x.flatten(1).double().mean(dim=0), torch.randn(7, 1, 4, 4)
    axes = torch.linalg.svd(x.flatten(1).double() - mean, full_matrices=False).Vh[:components]
    expected = (others.flatten(1).double() - mean) @ axes.T
    coordinates = PixelPca(x, components).features(others)
    torch.testing.assert_close(coordinates.abs(), expected.abs(), rtol=0, atol=1e-7)  # the sign of an axis is free


def test_class_agreement_is_the_share_of_requested_classes():
    assert class_agreement(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 4])) == 0.75
