"""The states under the panels of notebooks 00 to 02, driven without a browser."""

import numpy as np
import pytest
import torch

from labkit import recipes
from labkit.datasets import digits
from labkit.losses import dispersive_floor
from labkit.training.trainer import build_network
from labkit.widgets import (
    Cloud,
    Interpolant,
    PairForce,
    Sampler,
    Springs,
    cloud_panel,
    force_panel,
    interpolant_panel,
    sampler_panel,
    springs_panel,
)


def test_springs_rest_where_no_force_is_left():
    state = Springs(lam=1.0, tau=0.5)
    points = state.rest().points.requires_grad_()
    spring, dispersion = state._terms(points)
    (force,) = torch.autograd.grad(spring + state.lam * dispersion, points)
    assert len(points) * force.norm(dim=1).max() < 0.05  # against forces of order 1 of each kind


def test_springs_do_not_move_without_a_push():
    state = Springs(lam=0.0)
    assert torch.allclose(state.rest().points, state.start, atol=1e-6)


def test_pushes_cancel_so_the_centre_stays():
    state = Springs(lam=2.0, tau=0.5)
    assert torch.allclose(state.rest().points.mean(0), state.start.mean(0), atol=1e-4)


@pytest.mark.parametrize("trait, values", [("lam", (0.2, 1.5)), ("tau", (0.2, 3.0))])
def test_moving_a_slider_of_the_springs_moves_points_and_sentence(trait, values):
    panel = springs_panel(state=Springs(lam=1.0))
    shown = []
    for value in values:
        panel.controls[trait].value = value
        shown.append((panel.figure.data[2].x, panel.figure.data[3].y, panel.sentence.value))
    assert all(a != b for a, b in zip(*shown, strict=True))
    panel.close()


def test_pair_force_matches_the_closed_form():
    state = PairForce(tau=0.7)
    losses, forces = state.curves()
    r = np.linspace(0, 4, 401)
    kernel = np.exp(-(r**2) / 0.7)
    assert np.allclose(losses, np.log((1 + kernel) / 2), atol=1e-9)
    assert np.allclose(forces, 2 * r / 0.7 * kernel / (1 + kernel), atol=1e-9)


def test_cloud_without_the_division_is_dead_where_the_right_one_is_alive():
    state = Cloud(features=1024, scale=0.5)
    loss, pull = state.at(0.5)
    wrong, no_pull = state.at(0.5, divide=False)
    assert pull > 1e-3 and loss > dispersive_floor(Cloud.BATCH) / 2
    assert no_pull == 0 and wrong == pytest.approx(dispersive_floor(Cloud.BATCH))


def test_interpolant_ends_are_noise_and_data():
    state = Interpolant()
    assert torch.equal(state.x_t(0.0), state.x0) and torch.equal(state.x_t(1.0), state.x1)
    assert state.readable[0.0] < 0.25 < 0.9 < state.readable[1.0]
    assert state.y1[state.picks].tolist() == [*range(10), *range(10)]


@pytest.fixture(scope="module")
def network():
    config = recipes.digits()
    model = build_network(config, digits())
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)  # open the zero-initialised gates
    return model.eval(), config


def test_sampler_looks_up_what_integration_gives(network):
    state = Sampler(*network)
    state.steps, state.film = 4, 0.5
    assert torch.equal(state.at("euler"), state.paths["euler", 4][2])
    assert torch.equal(state.paths["euler", 4][0], state.paths["heun", 64][0])  # the same noise
    errors = [state.error("heun", n) for n in state.STEPS]
    assert errors[-1] < errors[2] < errors[0]
    assert state.error("heun", 16) < state.error("euler", 32)


@pytest.mark.parametrize("make", [force_panel, cloud_panel, interpolant_panel])
def test_every_control_changes_the_sentence(make):
    panel = make()
    for trait, control in panel.controls.items():
        before = panel.sentence.value
        options = getattr(control, "options", None)
        control.value = options[0] if options else control.value * 0.6
        assert panel.sentence.value != before, trait
    panel.close()


def test_sampler_panel_moves(network):
    panel = sampler_panel(*network)
    before = np.array(panel.figure.data[0].z)
    panel.controls["film"].value = 0.25
    assert not np.array_equal(before, np.array(panel.figure.data[0].z))
    panel.controls["steps"].value = 32
    assert panel.figure.data[4].x == (32,) and panel.figure.data[5].x == (64,)
    panel.close()
