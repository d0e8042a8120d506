"""KID, Inception Score, precision and recall, the distance of moments: loops and closed forms agree."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.checks import ConfigError
from labkit.metrics import figures
from labkit.metrics.figures import (
    frechet_of_moments,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
    subset_of,
)


def cloud(n, d=5, shift=0.0, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_moments_are_numpys():
    z = cloud(7)
    mean, covariance = moments(z)
    np.testing.assert_allclose(mean, z.double().numpy().mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(z.double().numpy(), rowvar=False))
    assert moments(z[:, :1])[1].shape == (1, 1)


def test_the_distance_of_normal_distributions_that_share_axes():
    scale, other = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 0.25, 0.0])
    turn = torch.linalg.qr(cloud(3, 3)).Q.double()
    one, two = (turn @ torch.diag(s.double()) @ turn.T for s in (scale, other))
    shift = torch.tensor([1.0, 2.0, 2.0])
    found = frechet_of_moments(torch.zeros(3), one, shift, two)
    assert found == pytest.approx(9 + (scale.sqrt() - other.sqrt()).square().sum().item())
    assert frechet_of_moments(shift, one, shift, one) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ConfigError, match="statistics = 'NaN or infinite'"):
        frechet_of_moments(shift * math.nan, one, shift, two)


def test_kid_over_the_whole_is_the_unbiased_discrepancy():
    """Of the kernel (x·y/d + 1)³, by loops: pairs within each set, no image with itself, and pairs across."""
    a, b = cloud(12), cloud(12, shift=0.3, seed=1)

    def kernel(x, y):
        return (float(x.double() @ y.double()) / 5 + 1) ** 3

    within = [sum(kernel(x, y) for i, x in enumerate(z) for j, y in enumerate(z) if i != j) / (12 * 11) for z in (a, b)]
    across = sum(kernel(x, y) for x in a for y in b) / 144
    mean, deviation = kernel_distance(a, b, subsets=3, size=12)  # of the whole all subsets are the same
    assert mean == pytest.approx(sum(within) - 2 * across, rel=1e-5)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kid_has_no_bias_and_sees_a_shift():
    mean, deviation = kernel_distance(cloud(400), cloud(400, seed=1))
    assert abs(mean) < deviation
    assert kernel_distance(cloud(400), cloud(400, shift=0.5, seed=1))[0] > 5 * deviation
    assert kernel_distance(cloud(50), cloud(60), seed=3) == kernel_distance(cloud(50), cloud(60), seed=3)
    assert kernel_distance(cloud(50), cloud(60), seed=3) != kernel_distance(cloud(50), cloud(60), seed=4)


def test_the_size_of_subsets():
    assert [subset_of(5000, 50_000), subset_of(2000, 1999), subset_of(10, 7)] == [1000, 999, 3]
    for size in (1, 13):
        with pytest.raises(ConfigError, match=f"subsets of {size} want as many rows"):
            kernel_distance(cloud(12), cloud(20), size=size)


@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score_is_the_formula_in_parts(splits):
    logits = 3 * cloud(25)
    scores = []
    for part in np.array_split(torch.softmax(logits.double(), dim=1).numpy(), splits):
        kl = [sum(p * math.log(p / q) for p, q in zip(row, part.mean(axis=0), strict=True)) for row in part]
        scores.append(math.exp(sum(kl) / len(kl)))
    mean, deviation = inception_score(logits, splits)
    assert (mean, deviation) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores)))


def test_the_ends_of_inception_score():
    """Sure and even over all classes: the number of classes. Nothing to tell apart: 1."""
    assert inception_score(1000 * torch.eye(4).repeat(10, 1), splits=1)[0] == pytest.approx(4)
    assert inception_score(torch.zeros(20, 4)) == (pytest.approx(1), pytest.approx(0))
    assert inception_score(cloud(3))[0] == pytest.approx(1)  # parts of one image each
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
    real, made = cloud(n, seed=n), cloud(m, shift=shift, seed=100 + m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "BLOCK", block)
        found = precision_recall(real, made, k)
    assert found == (pytest.approx(among(real, made, k)), pytest.approx(among(made, real, k)))


def test_precision_without_recall():
    """One mode of two: each image looks real, and half of the real ones are missed."""
    left, right = cloud(40) / 10, cloud(40, seed=1) / 10 + 10
    precision, recall = precision_recall(torch.cat([left, right]), cloud(40, seed=2) / 10)
    assert precision > 0.8 and recall < 0.5
    assert precision_recall(left, left) == (1, 1) and precision_recall(left, right) == (0, 0)
    with pytest.raises(ConfigError, match="give more than 3 rows of each"):
        precision_recall(left, right[:3])
