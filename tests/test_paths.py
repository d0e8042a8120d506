"""Paths: their ends and velocity, and that each quantity at a point gives all the others."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from labkit import paths
from labkit.checks import ConfigError
from labkit.paths import PATHS, Quantity

ALL = list(PATHS.values())
QUANTITIES = get_args(Quantity)


@pytest.fixture
def ends():
    return torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize("path", ALL)
def test_it_starts_at_noise_and_ends_at_data_exactly(path, ends):
    """Only VP starts almost at noise, as the process with β falling from 20 to 0.1 does."""
    for dtype in (torch.float64, torch.float32):
        x1, x0 = ends.to(dtype)
        start = path(x1, x0, torch.zeros(5, dtype=dtype)).x_t
        assert torch.equal(path(x1, x0, torch.ones(5, dtype=dtype)).x_t, x1)
        if path is paths.vp:
            alpha = math.exp(-quad(lambda s: (20 - 19.9 * s) / 2, 0, 1)[0])
            assert alpha == pytest.approx(0.0066, abs=5e-5)
            torch.testing.assert_close(start, alpha * x1 + math.sqrt(1 - alpha**2) * x0)
        else:
            assert torch.equal(start, x0)


def test_coefficients_are_the_published_ones():
    t = np.linspace(0.05, 0.95, 7)
    log = -0.25 * (1 - t) ** 2 * (20 - 0.1) - 0.5 * (1 - t) * 0.1
    published = {
        "linear": (t, 1 - t),
        "gvp": (np.sin(np.pi * t / 2), np.cos(np.pi * t / 2)),
        "vp": (np.exp(log), np.sqrt(1 - np.exp(2 * log))),
    }
    for name, (alpha, sigma) in published.items():
        c = PATHS[name].coefficients(torch.from_numpy(t))
        np.testing.assert_allclose(c.alpha, alpha, rtol=1e-12)
        np.testing.assert_allclose(c.sigma, sigma, rtol=1e-12)


@pytest.mark.parametrize("path", ALL)
def test_the_velocity_is_the_derivative_of_the_position_at_each_samples_own_time(path, ends):
    data, noise = ends
    t, h = 0.02 + 0.96 * torch.rand(5, dtype=torch.float64), 1e-5
    point = path(data, noise, t)
    slope = (path(data, noise, t + h).x_t - path(data, noise, t - h).x_t) / (2 * h)
    torch.testing.assert_close(point.velocity, slope, rtol=1e-6, atol=1e-6)
    alone = [path(data[i : i + 1], noise[i : i + 1], t[i : i + 1]).x_t for i in range(5)]
    assert torch.equal(point.x_t, torch.cat(alone))


def quantities(path, data, noise, t):
    """The point, and all four quantities there by their definitions."""
    x_t, velocity = path(data, noise, t)
    sigma = path.coefficients(t).sigma.reshape(-1, 1, 1, 1)
    return x_t, {"velocity": velocity, "noise": noise, "data": data, "score": -noise / sigma}


@given(
    path=st.sampled_from(ALL),
    source=st.sampled_from(QUANTITIES),
    target=st.sampled_from(QUANTITIES),
    t=st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_any_quantity_gives_every_other_and_back(path, source, target, t, seed):
    data, noise = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.tensor(t, dtype=torch.float64)
    x_t, true = quantities(path, data, noise, t)
    converted = path.convert(true[source], source, target, x_t, t)
    torch.testing.assert_close(converted, true[target], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(path.convert(converted, target, source, x_t, t), true[source], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("source", QUANTITIES)
def test_at_the_ends_of_the_interval_everything_is_finite_and_beyond_it_something_is_not(path, source, ends):
    data, noise = ends.float()
    interval = path.interval(source)
    for time in {*interval, 0.0, 1.0}:
        t = torch.full((5,), time)
        x_t, true = quantities(path, data, noise, t)
        converted = {target: path.convert(true[source], source, target, x_t, t) for target in QUANTITIES}
        if time not in interval:
            assert not all(x.isfinite().all() for x in (*converted.values(), true[source]))
            continue
        for target, x in converted.items():
            if target != "score" or time < 1:  # the score of data itself is infinite, whatever is predicted
                assert x.isfinite().all(), (target, time)
                torch.testing.assert_close(x, true[target], rtol=0.02, atol=0.02)


def test_shapes_and_names_that_do_not_belong_are_refused(ends, unchecked):
    data, noise = ends
    with pytest.raises(ValueError, match=r"x1, x0, t have shapes \(\(5, 1, 4, 4\), \(4, 1, 4, 4\), \(5,\)\)"):
        paths.vp(data, noise[:4], torch.rand(5))
    with pytest.raises(ConfigError, match=r"^target = 'flow' .*velocity, noise, score, data"):
        paths.linear.convert(data, "noise", "flow", data, torch.rand(5))
