"""Classifier-free guidance: a straight line through two velocities, at twice the cost."""

import math

import pytest
import torch

from labkit import Config, build_model
from labkit.checks import ConfigError
from labkit.sampling import guided, sample_network

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


@pytest.mark.parametrize("channels", ["all", "first_three"])
def test_outputs_beyond_the_channels_of_x_are_those_with_the_label(network, point, channels):
    """As DiT's variance, however few channels there are."""

    def both(x, t, y):
        return torch.cat([network(x, t, y), network(-2 * x, t, y)], dim=1)

    x, t = point[0][:, :1], point[1]
    with_label, without = both(x, t, LABELS), both(x, t, torch.full((5,), NULL))
    expected = torch.cat([(3 * with_label - 2 * without)[:, :1], with_label[:, 1:]], dim=1)
    torch.testing.assert_close(guided(both, LABELS, NULL, 3.0, channels)(x, t), expected)


@pytest.mark.parametrize(
    ("model", "settings", "times"),
    [
        ("SiT-Nano/4", {"method": "euler", "steps": 10}, [0.3, 0.4, 0.5, 0.6]),
        ("SiT-Nano/4", {"method": "euler_maruyama", "steps": 24}, [0.32 + 0.04 * k for k in range(8)]),
        ("MeanFlow-Nano/4", {"method": "euler", "steps": 10}, [0.3, 0.4, 0.5, 0.6]),
        ("DiT-Nano/4", {"method": "ddim", "steps": 10}, [666, 555, 444]),  # 1 − (k + 1)/1000 = 0.333, 0.444, 0.555
    ],
)
def test_a_sampler_guides_within_its_interval_alone(model, settings, times):
    """Seen from the network: two labels a sample at these times, one at others."""
    config, calls = Config(model=model), []
    network = build_model(model, 8, 1, 10, learn_sigma=config.family == "DiT").eval()
    network.register_forward_pre_hook(lambda _, arguments: calls.append((len(arguments[0]), arguments[1][0].item())))
    sample_network(network, config, 3, guidance=2.0, guidance_interval=(0.3, 0.6), **settings)
    assert [t for count, t in calls if count == 6] == pytest.approx(times, abs=1e-6)
    assert {count for count, _ in calls} == {3, 6}


def test_bad_settings_are_refused_by_name(network, unchecked):
    for scale in (-0.1, math.nan, "2"):
        with pytest.raises(ConfigError, match=rf"^guidance = {scale!r} .*at least 0"):
            guided(network, LABELS, NULL, scale)
    with pytest.raises(ConfigError, match=r"^channels = 'last' .*all, first_three"):
        guided(network, LABELS, NULL, 2.0, "last")
