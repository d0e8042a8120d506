"""Classifier-free guidance: a straight line through two velocities, at twice the cost."""

import math

import pytest
import torch

from labkit.checks import ConfigError
from labkit.sampling import guided

NULL = 10
LABELS = torch.tensor([0, 3, 9, 1, 7])


@pytest.fixture
def network():
    """A velocity that depends on position, time and label; it counts the samples that it evaluates."""

    def velocity(x, t, y):
        velocity.samples += len(x)
        t, y = t[:, None, None, None], y[:, None, None, None]
        return (x + 0.1 * y).sin() * (1 + t)

    velocity.samples = 0
    return velocity


@pytest.fixture
def point():
    return torch.randn(5, 4, 2, 2), torch.rand(5)


@pytest.mark.parametrize(("scale", "cost"), [(0, 10), (0.5, 10), (1, 5), (1.0, 5), (4, 10)])
def test_it_is_the_straight_line_through_both_velocities(network, point, scale, cost):
    with_label, without = network(*point, LABELS), network(*point, torch.full((5,), NULL))
    assert not torch.allclose(with_label, without)
    network.samples = 0
    velocity = guided(network, LABELS, NULL, scale)(*point)
    assert network.samples == cost
    torch.testing.assert_close(velocity, (1 - scale) * without + scale * with_label)
    assert scale != 1 or torch.equal(velocity, with_label)


def test_the_released_samplers_guide_three_of_four_latent_channels(network, point):
    everywhere, three = (guided(network, LABELS, NULL, 4.0, channels)(*point) for channels in ("all", "first_three"))
    assert torch.equal(three[:, :3], everywhere[:, :3])
    torch.testing.assert_close(three[:, 3], network(*point, LABELS)[:, 3])
    assert not torch.allclose(three[:, 3], everywhere[:, 3])


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused_by_name(network):
    for scale in (-0.1, math.nan, "2"):
        with pytest.raises(ConfigError, match=rf"^guidance = {scale!r} .*at least 0"):
            guided(network, LABELS, NULL, scale)
    with pytest.raises(ConfigError, match=r"^channels = 'last' .*all, first_three"):
        guided(network, LABELS, NULL, 2.0, "last")
