"""The flow in the plane: against its closed form, against chance, and driven as a reader would."""

import pytest
import torch

from labkit import paths
from labkit.losses.flow import velocity_loss
from labkit.metrics import feature_norm
from labkit.widgets import Moons, moons_panel
from labkit.widgets.moons import average_velocity


@pytest.fixture(scope="module")
def state():
    return Moons(steps=150)


def test_the_average_is_the_best_answer_to_all_pairs_through_a_point():
    """Against a plain double loop; at t = 0 it leads to the mean of the data."""
    data = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -2.0]], dtype=torch.float64)
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0.0, 0.3, 0.6, 0.9], dtype=torch.float64)
    for point, time, velocity in zip(x, t, average_velocity(x, t, data), strict=True):
        noises = [(point - time * y) / (1 - time) for y in data]
        weights = torch.stack([torch.exp(-noise.square().sum() / 2) for noise in noises])
        mean = sum(w * (y - noise) for w, y, noise in zip(weights, data, noises, strict=True)) / weights.sum()
        assert torch.allclose(velocity, mean)
    assert torch.allclose(average_velocity(x, torch.zeros_like(t), data), data.mean(dim=0) - x)


def test_the_field_learns_the_average_and_not_the_partners(state):
    x_t, t = state._held_out
    untrained = state._make().network(x_t, t)[0]
    assert state.error < 0.5 * (untrained - state.exact).square().mean().sqrt()
    assert state.curves[0.0][-1][1] < state.curves[0.0][0][1]
    ends = state.ends()
    assert ends["start to end"] < 0.6 * ends["start to partner"], "it takes noise to what is near"
    assert ends["end to partner"] > 0.8 * ends["start to partner"] and ends["end to data"] < 0.5


def test_no_field_beats_the_exact_average(state):
    pairs = state._make().pairs(2000, torch.Generator().manual_seed(1))
    x_t, velocity = paths.linear(*pairs)
    learned, best = (
        velocity_loss(v, velocity) for v in (state.velocity(x_t, pairs[2]), average_velocity(x_t, pairs[2], state.data))
    )
    assert best < learned


def test_the_panel_follows_time_and_trains_with_the_loss(state):
    panel = moons_panel(state)
    straight, learned = panel.figure.data[2], panel.figure.data[5]
    state.t = 0.0
    assert torch.tensor([straight.x, straight.y]).equal(torch.tensor([learned.x, learned.y])), (
        "both start from the noise"
    )
    state.t = 1.0
    assert torch.allclose(torch.tensor([straight.x, straight.y]).T, state.partners)
    assert torch.allclose(torch.tensor([learned.x, learned.y]).T, state.path[-1])
    before, error = feature_norm(state.features), state.error
    panel.controls["lam"].value = 0.5
    panel.widget.children[2].children[0].click()
    state.runner.wait()
    assert (
        "λ = 0.5: step 150 of 150" in panel.widget.children[2].children[2].value
        and "with λ = 0.5" in panel.sentence.value
    )
    assert feature_norm(state.features) > 3 * before and state.error < 2 * error, "features grow, the field is as good"
    assert len(panel.figure.data[7].x) == len(panel.figure.data[8].x) == 3, "the curve without the loss stays"


def test_stop_leaves_the_training_where_it_is():
    state = Moons(steps=50)
    moons_panel(state, "stopped")
    state.steps = 10**6
    state.actions["start"]()
    state.actions["stop"]()
    assert state.runner.status == "stopped" and state.runner.loop.step < 10**5
