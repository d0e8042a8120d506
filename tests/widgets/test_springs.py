"""Points on springs, and partners on springs, against the library."""

import itertools

import pytest
import torch

from labkit.losses import contrastive_loss, dispersive_floor, dispersive_loss
from labkit.widgets import Partners, Springs, partners_panel
from labkit.widgets.springs import SAMPLES, lines_between


def test_springs_rest_where_no_force_is_left():
    state = Springs(lam=1.0, tau=0.5)
    points = state.rest().points.requires_grad_()
    energy = (points - state.start).square().mean() + state.lam * dispersive_loss(points, tau=state.tau)
    (force,) = torch.autograd.grad(energy, points)
    assert len(points) * force.norm(dim=1).max() < 0.05  # against forces of order 1 of each kind


def test_the_energy_is_springs_plus_the_librarys_contrastive_loss():
    state = Partners(alpha=0.7, lam=0.3, variant="hinge", margin=1.2)
    rest = state.rest()
    loss = contrastive_loss(*rest.views, "hinge", margin=1.2, alignment_weight=0.7).item()
    spring = sum((view - start).square().mean().item() for view, start in zip(rest.views, state.start, strict=True))
    assert rest.spring == pytest.approx(spring, rel=1e-5)
    assert 0.7 * rest.alignment + rest.repulsion == pytest.approx(loss, rel=1e-5)
    assert state.energy(state.settings(), rest.views).item() == pytest.approx(spring + 0.3 * loss, rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"variant": "hinge", "margin": 10**0.3}, {"tau": 10**-1.3}])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_partners_rest_where_little_force_is_left(settings, alpha):
    state = Partners(alpha=alpha, lam=1.0, **settings)
    views = state.rest().views.requires_grad_()
    (force,) = torch.autograd.grad(state.energy(state.settings(), views), views)
    assert SAMPLES * force.norm(dim=-1).max() < 0.08  # against springs of 1 a unit of length


@pytest.mark.parametrize("kind", [Springs, Partners])
def test_nothing_moves_without_a_loss_and_the_centre_never(kind):
    start, (unmoved, *_), (moved, *_) = kind().start, kind(lam=0.0).rest(), kind(lam=2.0).rest()
    assert torch.allclose(unmoved, start, atol=1e-6)
    assert torch.allclose(moved.reshape(-1, 2).mean(dim=0), start.reshape(-1, 2).mean(dim=0), atol=1e-4)


@pytest.mark.parametrize("variant", ["infonce_l2", "hinge"])
def test_alignment_draws_partners_together_and_dispersion_alone_lets_them_drift(variant):
    at_start, _ = Partners.distances(Partners().start)
    apart = [Partners(alpha=alpha, lam=0.5, variant=variant).rest().distances[0] for alpha in (0.0, 0.25, 0.5, 1.0)]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > 1.1 * at_start and apart[-1] < at_start


def test_distances_by_a_double_loop():
    views = Partners().start
    apart = torch.tensor([[(a - b).norm().item() / 2**0.5 for b in views[1]] for a in views[0]])
    own = apart.diagonal().mean().item()
    others = (apart.sum() - apart.diagonal().sum()).item() / (SAMPLES * (SAMPLES - 1))
    assert Partners.distances(views) == pytest.approx((own, others), abs=1e-5)


def test_lines_have_none_between_them():
    start, end = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[4.0, 5.0], [6.0, 7.0]])
    assert lines_between(start, end) == [[0.0, 4.0, None, 2.0, 6.0, None], [1.0, 5.0, None, 3.0, 7.0, None]]


def test_extreme_sliders_give_finite_partners():
    ends = dict(alpha=(0.0, 1.0), lam=(0.0, 1.0), tau=(10**-1.3, 10.0), margin=(0.1, 10**0.3))
    corners = [{name: end[side] for name, end in ends.items()} for side in (0, 1)]
    corners += [corners[side] | {name: end[1 - side]} for name, end in ends.items() for side in (0, 1)]
    for variant, corner in itertools.product(("infonce_l2", "hinge"), corners):
        rest = Partners(variant=variant, **corner).rest()
        assert rest.views.abs().max() < 4 and torch.tensor([*rest[1:4], *rest.distances]).isfinite().all()


def test_a_setting_that_the_variant_lacks_is_greyed_out_and_the_floor_is_its_own():
    panel = partners_panel()
    assert panel.controls["margin"].disabled and not panel.controls["tau"].disabled
    assert panel.figure.data[5].y == pytest.approx((dispersive_floor(SAMPLES),))
    panel.controls["variant"].value, panel.controls["margin"].value = "hinge", 1.5
    assert panel.controls["tau"].disabled and not panel.controls["margin"].disabled
    assert panel.figure.data[5].y == pytest.approx((1.5**2 / SAMPLES,))
