"""Two views of a digit, against the library."""

import torch

from labkit import paths, time_sampling
from labkit.datasets import digits
from labkit.metrics import DigitsClassifier
from labkit.widgets import TwoViews, views_panel


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


def test_a_gap_is_greyed_out_where_second_times_are_independent():
    panel = views_panel()
    assert panel.controls["max_gap"].disabled
    panel.controls["noise"].value = "restricted"
    assert not panel.controls["max_gap"].disabled
