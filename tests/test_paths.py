"""Paths: where they start and end, how fast they go, and that each quantity at a point gives all the others."""

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


@pytest.mark.parametrize("path", [paths.linear, paths.gvp])
def test_it_starts_at_noise_and_ends_at_data_exactly(path, ends):
    data, noise = ends
    for kind in (torch.float64, torch.float32):
        x1, x0 = data.to(kind), noise.to(kind)
        assert torch.equal(path(x1, x0, torch.zeros(5, dtype=kind)).x_t, x0)
        assert torch.equal(path(x1, x0, torch.ones(5, dtype=kind)).x_t, x1)


def test_vp_ends_at_data_and_starts_almost_at_noise(ends):
    data, noise = ends
    assert torch.equal(paths.vp(data, noise, torch.ones(5).double()).x_t, data)
    start = math.exp(-quad(lambda s: (20 - 19.9 * s) / 2, 0, 1)[0])  # α of the process with β falling from 20 to 0.1
    expected = start * data + math.sqrt(1 - start**2) * noise
    torch.testing.assert_close(paths.vp(data, noise, torch.zeros(5).double()).x_t, expected)
    assert start == pytest.approx(0.0066, abs=5e-5)


def test_the_coefficients_are_the_published_ones():
    t = np.linspace(0.05, 0.95, 7)
    for path, alpha, sigma in [
        (paths.linear, t, 1 - t),
        (paths.gvp, np.sin(np.pi * t / 2), np.cos(np.pi * t / 2)),
        (
            paths.vp,
            *(lambda log: (np.exp(log), np.sqrt(1 - np.exp(2 * log))))(
                -0.25 * (1 - t) ** 2 * (20 - 0.1) - 0.5 * (1 - t) * 0.1
            ),
        ),
    ]:
        c = path.coefficients(torch.from_numpy(t))
        np.testing.assert_allclose(c.alpha, alpha, rtol=1e-12)
        np.testing.assert_allclose(c.sigma, sigma, rtol=1e-12)


@pytest.mark.parametrize("path", ALL)
def test_each_sample_has_its_own_time(path, ends):
    data, noise = ends
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    together = path(data, noise, t)
    for i in range(5):
        alone = path(data[i : i + 1], noise[i : i + 1], t[i : i + 1])
        assert torch.equal(together.x_t[i], alone.x_t[0])


@pytest.mark.parametrize("path", ALL)
def test_the_velocity_is_the_derivative_of_the_position(path, ends):
    data, noise = ends
    t, h = 0.02 + 0.96 * torch.rand(5, dtype=torch.float64), 1e-5
    slope = (path(data, noise, t + h).x_t - path(data, noise, t - h).x_t) / (2 * h)
    torch.testing.assert_close(path(data, noise, t).velocity, slope, rtol=1e-6, atol=1e-6)


def test_gvp_and_vp_keep_the_variance():
    t = torch.rand(9, dtype=torch.float64)
    for path in (paths.gvp, paths.vp):
        c = path.coefficients(t)
        torch.testing.assert_close(c.alpha**2 + c.sigma**2, torch.ones_like(t))


def quantities(path, data, noise, t):
    """All four at a point, by their definitions."""
    x_t, velocity = path(data, noise, t)
    sigma = path.coefficients(t).sigma.reshape(-1, 1, 1, 1)
    return x_t, {"velocity": velocity, "noise": noise, "data": data, "score": -noise / sigma}


@given(
    path=st.sampled_from(ALL),
    known=st.sampled_from(QUANTITIES),
    wanted=st.sampled_from(QUANTITIES),
    t=st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_any_quantity_gives_every_other_and_back(path, known, wanted, t, seed):
    data, noise = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.tensor(t, dtype=torch.float64)
    x_t, true = quantities(path, data, noise, t)
    found = path.convert(true[known], known, wanted, x_t, t)
    torch.testing.assert_close(found, true[wanted], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(path.convert(found, wanted, known, x_t, t), true[known], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("known", QUANTITIES)
def test_at_the_ends_of_the_interval_everything_is_finite_and_beyond_it_something_is_not(path, known, ends):
    data, noise = (x.float() for x in ends)
    start, end = path.interval(known)
    for at in (start, end):
        t = torch.full((5,), at)
        x_t, true = quantities(path, data, noise, t)
        for wanted in QUANTITIES:
            if wanted != "score" or at < 1:  # the score of data itself is infinite, whatever is predicted
                found = path.convert(true[known], known, wanted, x_t, t)
                assert found.isfinite().all(), (known, wanted, at)
                torch.testing.assert_close(found, true[wanted], rtol=0.02, atol=0.02)
    for at in ({0.0} - {start}) | ({1.0} - {end}):
        t = torch.full((5,), at)
        x_t, true = quantities(path, data, noise, t)
        found = [path.convert(true[known], known, wanted, x_t, t) for wanted in QUANTITIES if wanted != known]
        assert not all(x.isfinite().all() for x in [*found, true[known]])


@pytest.mark.usefixtures("unchecked")
def test_shapes_and_names_that_do_not_belong_are_refused(ends):
    data, noise = ends
    with pytest.raises(ValueError, match=r"x1, x0, t have shapes \(\(5, 1, 4, 4\), \(4, 1, 4, 4\), \(5,\)\)"):
        paths.vp(data, noise[:4], torch.rand(5))
    with pytest.raises(ConfigError, match=r"wanted = 'flow' .*velocity, noise, score, data"):
        paths.linear.convert(data, "noise", "flow", data, torch.rand(5))
