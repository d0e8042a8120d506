"""Two views of a digit, and partners on springs, against the library."""

import itertools

import pytest
import torch

from labkit import paths, time_sampling
from labkit.datasets import digits
from labkit.losses import contrastive_loss, dispersive_floor
from labkit.metrics import DigitsClassifier
from labkit.widgets.springs import SAMPLES, Partners, lines_between
from labkit.widgets.views import TwoViews, partners_panel, views_panel


def test_views_are_the_same_digits_with_noise_of_their_own():
    state = TwoViews(t=0.3, noise="restricted", max_gap=0.0)
    first, second, when = state.views()
    held_out = digits("held_out")
    assert torch.equal(when, torch.full((500,), 0.3))
    for view, noise in zip((first, second), state.noises, strict=True):
        assert torch.equal(view, paths.linear(held_out.x, noise, when).x_t)
    assert abs(torch.corrcoef(state.noises.flatten(1))[0, 1]) < 0.02
    assert state.y1[state.picks].tolist() == list(range(10))
    assert torch.equal(TwoViews(t=0.0).views()[0], state.noises[0])
    assert torch.equal(TwoViews(t=1.0).views()[0], held_out.x)


def test_second_times_follow_the_policy():
    state = TwoViews(noise="independent", max_gap=0.1)
    early, late = (state.second_times(torch.full((500,), t)) for t in (0.1, 0.9))
    assert torch.equal(early, late) and torch.equal(early, state.uniforms)
    state.noise, t = "restricted", state.first_times
    second = state.second_times(t)
    assert torch.equal(second, time_sampling.near(t, state.uniforms[: len(t)], 0.1))
    assert ((second - t).abs() <= 0.1 + 1e-6).all() and ((second >= 0) & (second <= 1)).all()


def test_the_sentence_counts_the_recognised_digits():
    panel = views_panel(state=TwoViews(t=0.7, noise="restricted", max_gap=0.05))
    first, second, when = panel.state.views()
    right = torch.stack([DigitsClassifier.load().predict(view) == panel.state.y1 for view in (first, second)]).double()
    one, other, both = right[0].mean(), right[1].mean(), right.prod(dim=0).mean()
    for share in (f"{one:.0%} of 500 digits in the first view", f"{other:.0%} in the second", f"{both:.0%} in both"):
        assert share in panel.sentence.value
    assert f"differ by {(when - 0.7).abs().mean():.2f}" in panel.sentence.value
    panel.close()


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


def test_nothing_moves_without_a_loss_and_the_centre_never():
    assert torch.allclose(Partners(lam=0.0).rest().views, Partners().start, atol=1e-6)
    state = Partners(alpha=1.0, lam=1.0)
    assert torch.allclose(state.rest().views.mean(dim=(0, 1)), state.start.mean(dim=(0, 1)), atol=1e-4)


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


def test_a_control_without_use_is_greyed_out_and_the_floor_is_that_of_the_variant():
    panel = views_panel()
    assert panel.controls["max_gap"].disabled
    panel.controls["noise"].value = "restricted"
    assert not panel.controls["max_gap"].disabled
    panel.close()
    panel = partners_panel()
    assert panel.controls["margin"].disabled and not panel.controls["tau"].disabled
    assert panel.figure.data[5].y == pytest.approx((dispersive_floor(SAMPLES),))
    panel.controls["variant"].value, panel.controls["margin"].value = "hinge", 1.5
    assert panel.controls["tau"].disabled and not panel.controls["margin"].disabled
    assert panel.figure.data[5].y == pytest.approx((1.5**2 / SAMPLES,))
    panel.close()
