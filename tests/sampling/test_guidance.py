"""Classifier-free guidance: a straight line through two velocities, at twice the cost."""

import math

import pytest
import torch

from labkit.checks import ConfigError
from labkit.sampling import guided

NULL = 10


@pytest.fixture
def network():
    """Counts the samples it is asked for; its velocity knows position, time and label."""

    def velocity(x, t, y):
        velocity.samples += len(x)
        t, y = t[:, None, None, None], y[:, None, None, None]
        return (x + 0.1 * y).sin() * (1 + t)

    velocity.samples = 0
    return velocity


@pytest.fixture
def point():
    return torch.randn(5, 1, 4, 4), torch.rand(5)


@pytest.fixture
def labels():
    return torch.tensor([0, 3, 9, 1, 7])


@pytest.mark.parametrize("scale", [0, 0.5, 1, 1.0, 1.5, 4])
def test_it_is_the_straight_line_through_both_velocities(network, point, labels, scale):
    with_label, without = network(*point, labels), network(*point, torch.full((5,), NULL))
    assert not torch.allclose(with_label, without)
    found = guided(network, labels, NULL, scale)(*point)
    torch.testing.assert_close(found, (1 - scale) * without + scale * with_label)


@pytest.mark.parametrize(("scale", "cost"), [(1, 5), (1.0, 5), (0, 10), (2.5, 10)])
def test_scale_1_costs_one_evaluation_a_sample_and_any_other_two(network, point, labels, scale, cost):
    guided(network, labels, NULL, scale)(*point)
    assert network.samples == cost


def test_scale_1_is_the_default_and_the_plain_model_to_the_bit(network, point, labels):
    assert torch.equal(guided(network, labels, NULL)(*point), network(*point, labels))


def test_a_model_without_labels_is_not_moved_by_guidance(point, labels):
    def deaf(x, t, y):
        return x.cos()

    torch.testing.assert_close(guided(deaf, labels, NULL, 7.0)(*point), point[0].cos())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("scale", [-0.1, -math.inf, math.nan, "2", None])
def test_a_bad_scale_is_refused_by_name(network, labels, scale):
    with pytest.raises(ConfigError, match=r"^guidance = .*at least 0") as error:
        guided(network, labels, NULL, scale)
    assert repr(scale) in str(error.value)


def test_the_released_samplers_guide_three_of_four_latent_channels(network, labels):
    point = torch.randn(5, 4, 2, 2), torch.rand(5)
    everywhere, three = (guided(network, labels, NULL, 4.0, channels)(*point) for channels in ("all", "first_three"))
    assert torch.equal(three[:, :3], everywhere[:, :3])
    torch.testing.assert_close(three[:, 3], network(*point, labels)[:, 3])
    assert not torch.allclose(three[:, 3], everywhere[:, 3])


@pytest.mark.usefixtures("unchecked")
def test_other_channels_are_refused(network, labels):
    with pytest.raises(ConfigError, match=r"channels = 'last' .*all, first_three"):
        guided(network, labels, NULL, 2.0, "last")
