"""The linear path: where it starts, where it ends, how fast it goes."""

import pytest
import torch

from labkit import paths


@pytest.fixture
def ends():
    return torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)


def test_it_starts_at_noise_and_ends_at_data_exactly(ends):
    data, noise = ends
    assert torch.equal(paths.linear(data, noise, torch.zeros(5).double()).x_t, noise)
    assert torch.equal(paths.linear(data, noise, torch.ones(5).double()).x_t, data)


def test_each_sample_has_its_own_time(ends):
    data, noise = ends
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    x_t = paths.linear(data, noise, t).x_t
    for i, share in enumerate(t.tolist()):
        torch.testing.assert_close(x_t[i], share * data[i] + (1 - share) * noise[i])


def test_the_velocity_is_the_derivative_of_the_position(ends):
    data, noise = ends
    t, h = torch.rand(5, dtype=torch.float64), 1e-4
    slope = (paths.linear(data, noise, t + h).x_t - paths.linear(data, noise, t - h).x_t) / (2 * h)
    torch.testing.assert_close(paths.linear(data, noise, t).velocity, slope, rtol=1e-8, atol=1e-8)


def test_a_point_and_its_velocity_give_back_both_ends(ends):
    data, noise = ends
    t = torch.rand(5, dtype=torch.float64)
    x_t, velocity = paths.linear(data, noise, t)
    t = t[:, None, None, None]
    torch.testing.assert_close(x_t + (1 - t) * velocity, data)
    torch.testing.assert_close(x_t - t * velocity, noise)
