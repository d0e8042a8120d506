"""States of the panels of notebooks 01, 02 and 08, against closed forms and the library."""

import numpy as np
import pytest
import torch
from small import randomised

from labkit import recipes
from labkit.datasets import digits
from labkit.losses import dispersive_floor
from labkit.plots import tile
from labkit.training.trainer import build_network
from labkit.widgets import Cloud, Interpolant, PairForce, Secant, interpolant_panel, sampler_panel, secant_panel
from labkit.widgets.secant import heap_velocity


def test_pair_force_matches_the_closed_form():
    state = PairForce(tau=0.7)
    losses, forces = state.curves()
    r = np.linspace(0, 4, 401)
    kernel = np.exp(-(r**2) / 0.7)
    assert np.allclose(losses, np.log((1 + kernel) / 2), atol=1e-9)
    assert np.allclose(forces, 2 * r / 0.7 * kernel / (1 + kernel), atol=1e-9)


def test_cloud_without_the_division_is_dead_where_the_right_one_is_alive():
    state = Cloud(features=1024, scale=0.5)
    loss, push = state.at(0.5)
    wrong, no_push = state.at(0.5, divide=False)
    assert push > 1e-3 and loss > dispersive_floor(Cloud.BATCH) / 2
    assert no_push == 0 and wrong == pytest.approx(dispersive_floor(Cloud.BATCH))


def test_interpolant_ends_are_noise_and_data():
    state = Interpolant()
    assert torch.equal(state.at(0.0).x_t, state.x0) and torch.equal(state.at(1.0).x_t, state.x1)
    assert torch.equal(state.at(0.4).velocity, state.x1 - state.x0)
    assert state.readable[0.0] < 0.25 < 0.9 < state.readable[1.0]
    assert state.y1[state.picks].tolist() == [*range(10), *range(10)]


def test_the_interpolant_s_panel_follows_time_and_path():
    state = Interpolant(path="gvp")
    panel = interpolant_panel("paths", state, ("t", "path"))
    assert [trace.name for trace in panel.figure.data[2:5]] == ["linear", "GVP", "VP"]
    for path in ("linear", "gvp", "vp"):
        for t in (0.0, 0.5, 1.0):
            state.path, state.t = path, t
            now = state.at(t)
            assert all(x.isfinite().all() for x in now)
            assert np.array_equal(panel.figure.data[0].z, tile(now.x_t[state.picks]))
            assert panel.figure.data[-1].y == (state.agreement(t),)
    assert "each image is 1.00·data + 0.00·noise" in panel.sentence.value
    state.path, state.t = "gvp", 0.5
    assert "0.71·data + 0.71·noise" in panel.sentence.value


@pytest.mark.parametrize("t", [0.0, 0.2, 0.37, 0.8])
def test_the_secant_leads_where_the_path_goes_and_the_tangent_does_not(t):
    state = Secant()
    state.t, state.s = t, 1.0
    tangent, secant = state.slopes()
    x, end = state.at(t)[state.start], state.at(1.0)[state.start]
    assert x + (1 - t) * secant == pytest.approx(end.item(), abs=1e-12)
    assert tangent == pytest.approx((state.at(t + 0.005) - state.at(t))[state.start].item() / 0.005, abs=0.05)


def test_the_heaps_field_is_the_mean_velocity_through_a_point():
    """Against a sum over a fine grid of data, each with the one noise that leads through the point."""
    grid = torch.linspace(-2.5, 2.5, 40001, dtype=torch.float64)
    heaps = sum(torch.exp(-((grid - mean) ** 2) / (2 * 0.15**2)) for mean in (-1.0, 1.0))
    for x, t in ((0.3, 0.2), (-0.8, 0.5), (0.1, 0.8)):
        noise = (x - t * grid) / (1 - t)
        weights = heaps * torch.exp(-(noise**2) / 2)
        mean = ((grid - noise) * weights).sum() / weights.sum()
        velocity = heap_velocity(*(torch.tensor([v], dtype=torch.float64) for v in (x, t)))
        assert velocity.item() == pytest.approx(mean.item(), rel=1e-9)


def test_the_secant_s_panel_says_where_steps_lead():
    panel = secant_panel(Secant())
    state = panel.state
    assert state.errors[1] > 0.9 and state.errors[32] < 0.03, "one step along the velocity ends in the middle"
    end = state.at(1.0)[state.start].item()
    for jumps in (1, 4, 32):
        state.jumps = jumps
        chosen, velocities, averages = panel.figure.data[13:16]
        assert averages.y[-1] == pytest.approx(end, abs=1e-9) == chosen.y[-1]
        assert len(velocities.x) == len(averages.x) == jumps + 1
        assert f"the path itself is at {end:.2f}" in panel.sentence.value
    state.t, state.s = 0.9, 0.2
    assert "From t = 0.20 to s = 0.90" in panel.sentence.value, "the earlier first, whichever slider says it"
    state.t = state.s = 1.0
    assert state.span == (0.99, 1.0)


def test_the_sampler_looks_up_what_integration_gives():
    config = recipes.digits(model="SiT-Nano/4")
    panel = sampler_panel(randomised(build_network(config, *digits().dimensions).eval(), 0.05), config)
    state = panel.state
    panel.controls["steps"].value, panel.controls["film"].value = 4, 0.5
    assert torch.equal(state.at("euler"), state.paths["euler", 4][2])
    assert np.array_equal(panel.figure.data[0].z, tile(state.at("euler"), 5))
    assert panel.figure.data[4].x == (4,) and panel.figure.data[5].x == (8,)
    assert torch.equal(state.paths["euler", 4][0], state.paths["heun", 64][0]), "the same noise"
    errors = [state.error("heun", n) for n in state.STEPS]
    assert errors[-1] < errors[2] < errors[0] and state.error("heun", 16) < state.error("euler", 32)
