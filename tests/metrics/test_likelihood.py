"""Feature likelihood divergence: on Gaussians, against a plain loop, and on digits that are new, copied or mixed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import ConfigError
from labkit.datasets import digits
from labkit.metrics import ClassifierFeatures, FeatureLikelihood, frechet_distance
from labkit.metrics.likelihood import _log_densities, _surprise


@pytest.fixture(scope="module")
def features():
    """Of 400 training digits, of 200 others that play new samples, and of 250 held-out ones."""
    train, held_out = digits("train"), digits("held_out")
    x = torch.cat([train.x, held_out.x]).expand(-1, 3, -1, -1)
    own = ClassifierFeatures("digits")(x).features.detach().double()
    return own[:400], own[800:1000], own[1297:1547]


def test_copies_cannot_please_and_mixtures_lie_between(features):
    """The Fréchet distance is as content with copies as with new images; this is not."""
    train, new, held_out = features
    copies = train[:200]
    scores = []
    for share in (0.0, 0.5, 1.0):
        count = round(share * len(new))
        scores.append(FeatureLikelihood(train, held_out)(torch.cat([copies[:count], new[count:]])))
    assert scores == sorted(scores)
    assert abs(scores[0]) < 8
    assert scores[-1] > scores[0] + 20
    assert abs(frechet_distance(copies, held_out) - frechet_distance(new, held_out)) < 0.5


def test_what_is_far_off_or_misses_classes_is_worse(features):
    train, new, held_out = features
    good = FeatureLikelihood(train, held_out)(new)
    spread = new.std(dim=0)
    noisy = new + spread * torch.randn(new.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = digits("train").y[800:1000]
    for worse in (noisy, new[labels < 5], new[:5].repeat(40, 1)):
        assert FeatureLikelihood(train, held_out)(worse) > good + 1


def test_densities_are_those_of_gaussians():
    z, x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_var = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    got = _log_densities(torch.cdist(z, x) ** 2, log_var, 4)
    for i in range(3):
        for j in range(3):
            normal = torch.distributions.MultivariateNormal(x[j], math.exp(log_var[j]) * torch.eye(4).double())
            assert got[i, j].item() == pytest.approx(normal.log_prob(z[i]).item())


def test_one_gaussian_has_the_closed_form():
    """One sample, at the mean: the best variance is the mean square per dimension, the surprise its entropy."""
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centre = z.mean(dim=0, keepdim=True)
    expected = 0.5 * (math.log(2 * math.pi) + 1)
    assert _surprise(centre, z[:2000], z[2000:]) == pytest.approx(expected, abs=0.1)


@settings(max_examples=10)
@given(st.floats(0.01, 100), st.floats(-10, 10))
def test_scale_and_place_of_the_features_do_not_matter(scale, shift):
    draw = torch.Generator().manual_seed(2)
    train, held_out, samples = torch.randn(3, 30, 2, generator=draw, dtype=torch.float64)
    plain = FeatureLikelihood(train, held_out)(samples)
    train, held_out, samples = (scale * z + shift for z in (train, held_out, samples))
    moved = FeatureLikelihood(train, held_out)(samples)
    assert np.isclose(plain, moved, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [torch.zeros(3, 2), torch.zeros(8, 3), torch.full((8, 2), torch.nan)])
def test_refused(bad, unchecked):
    good = torch.randn(8, 2)
    with pytest.raises(ConfigError, match=r"train = |held_out = "):
        FeatureLikelihood(bad, good)(good)
