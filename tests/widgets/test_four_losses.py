"""All four losses of one cloud: values against the library and closed forms, and what each variant depends on."""

import pytest
import torch

from labkit.losses import dispersive_floor, dispersive_loss
from labkit.metrics import effective_rank
from labkit.widgets import FourLosses, variants_panel
from labkit.widgets.forces import LOOKS

every_variant = pytest.mark.parametrize("variant", LOOKS)
MOST = {"infonce_l2": 0.0, "infonce_cosine": 1 / 0.4, "hinge": 1.5**2, "covariance": 1.0}


def options(variant):
    return {"infonce_l2": {"tau": 0.4}, "infonce_cosine": {"tau": 0.4}, "hinge": {"margin": 1.5}}.get(variant, {})


@pytest.fixture
def state():
    return FourLosses(scale=0.6, stretch=0.5, tau=0.4, margin=1.5)


def test_the_cloud_has_the_moments_that_it_claims(state):
    for scale, stretch in ((0.1, 0.0), (2.0, 0.7)):
        cloud = state.cloud(stretch, scale)
        assert torch.allclose(cloud.mean(dim=0), torch.tensor(scale * state.MEAN), atol=1e-5)
        assert cloud.var(dim=0, correction=0).mean().sqrt().item() == pytest.approx(scale, rel=1e-5)
    assert torch.allclose(state.cloud(0.0, 1.0).T.cov(correction=0), torch.eye(state.FEATURES), atol=1e-5)


def test_stretch_takes_directions_away():
    state = FourLosses()
    ranks = [effective_rank(state.cloud(stretch, 1.0)) for stretch in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] == pytest.approx(state.FEATURES) and ranks[-1] < 1.5


@every_variant
def test_curves_are_the_librarys_loss(state, variant):
    knobs = options(variant)
    by_scale, by_stretch = state.against_scale(variant), state.against_stretch(variant)
    for place in (0, 20, 40):
        at_scale = state.cloud(0.5, state.SCALES[place].item())
        at_stretch = state.cloud(state.STRETCHES[place].item(), 0.6)
        assert by_scale[place].item() == pytest.approx(dispersive_loss(at_scale, variant, **knobs).item(), abs=1e-5)
        assert by_stretch[place].item() == pytest.approx(dispersive_loss(at_stretch, variant, **knobs).item(), abs=1e-5)


@every_variant
def test_progress_is_0_at_the_largest_value_and_1_at_the_floor(state, variant):
    floor = dispersive_floor(state.BATCH, variant, features=state.FEATURES, **options(variant))
    ends = torch.tensor([MOST[variant], (MOST[variant] + floor) / 2, floor])
    assert torch.allclose(state.progress(variant, ends), torch.tensor([0.0, 0.5, 1.0]), atol=1e-6)


@every_variant
def test_l2_and_hinge_reach_their_floor_by_growing_alone_and_the_others_do_not_depend_on_the_scale(variant):
    state = FourLosses(stretch=0.0)
    losses = state.against_scale(variant)
    if variant in ("infonce_cosine", "covariance"):
        assert torch.allclose(losses, losses[0], rtol=1e-4, atol=1e-6)
    else:
        assert (losses.diff() <= 1e-6).all() and losses[0] - losses[-1] > 0.9
        assert state.progress(variant, losses)[-1] == pytest.approx(1, abs=1e-6)


@every_variant
def test_stretching_raises_every_loss(variant):
    state = FourLosses()
    way = state.progress(variant, state.against_stretch(variant))
    assert (way.diff() < 1e-5).all() and way[0] - way[-1] > 0.05


def test_a_stretch_along_the_features_would_escape_the_covariance():
    state = FourLosses(stretch=0.6)
    oblique = state.cloud(0.6, 1.0)
    along = (oblique - state.MEAN) @ state._turn.T.float()
    assert dispersive_loss(oblique, "covariance") > 0.2
    assert dispersive_loss(along, "covariance") == pytest.approx(0, abs=1e-5)
    assert dispersive_loss(along).item() == pytest.approx(dispersive_loss(oblique).item(), abs=1e-5)


def test_without_its_mean_the_round_cloud_is_nearly_at_the_floor_of_the_cosine():
    state = FourLosses(stretch=0.0)
    ways = [
        state.progress("infonce_cosine", state.losses("infonce_cosine", state.cloud(0.0, 1.0, mean)[None])).item()
        for mean in (0.0, state.MEAN)
    ]
    assert ways[0] > 0.95 and ways[1] < 0.6


@pytest.mark.parametrize("scale", [0.01, 10.0])
@pytest.mark.parametrize("stretch", [0.0, 1.0])
@pytest.mark.parametrize("tau, margin", [(10**-1.3, 0.1), (10.0, 10.0)])
def test_extreme_sliders_give_a_way_between_0_and_1(scale, stretch, tau, margin):
    state = FourLosses(scale=scale, stretch=stretch, tau=tau, margin=margin)
    for variant in LOOKS:
        for losses in (state.against_scale(variant), state.against_stretch(variant)):
            way = state.progress(variant, losses)
            assert ((way >= -1e-4) & (way <= 1 + 1e-4)).all()  # not of NaN


def test_markers_lie_on_their_curves_and_a_control_changes_only_the_curves_that_it_concerns():
    panel = variants_panel(state=FourLosses(scale=1.0, stretch=0.25))
    data, hinge = panel.figure.data, list(LOOKS).index("hinge")
    assert data[4].y == pytest.approx([line.y[40] for line in data[:4]], abs=1e-4)  # SCALES[40] = 1
    assert data[9].y == pytest.approx([line.y[10] for line in data[5:9]], abs=1e-4)
    before = [trace.y for trace in data]
    panel.controls["margin"].value = 3.0
    changed = [place for place, trace in enumerate(data) if trace.y != before[place]]
    assert changed == [hinge, 4, 5 + hinge, 9]  # its curves, and both rows of markers
    panel.state.stretch = 0.0
    assert "Doubling s would move InfoNCE-L2 and hinge, others by less" in panel.sentence.value
    numbers = panel.widget.children[-2].value
    assert all(f"<td>{way:.1%}</td>" in numbers for way in data[4].y)
    panel.state.scale = 10.0
    assert "move none" in panel.sentence.value
