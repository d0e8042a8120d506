"""A cloud beside its shrunken copy: features and PCA keep the scale, UMAP does not, and the panel says so."""

import pytest
import torch
from ipywidgets.widgets.widget import _instances

from labkit.checks import ConfigError
from labkit.metrics import mean_pairwise_distance
from labkit.widgets import Shrunk, shrunk_panel

SMALL = 0.01


@pytest.fixture(scope="module")
def cloud():
    torch.manual_seed(0)
    return torch.randn(40, 4, 5) + 3


@pytest.fixture(scope="module")
def state(cloud):
    return Shrunk(cloud, (1.0, SMALL), progress=False)


@pytest.fixture
def panel(state):
    state.scale = 1.0
    panel = shrunk_panel(state)
    yield panel
    panel.close()


def test_features_and_axes_keep_the_scale(state):
    for scale in state.scales:
        assert state.ratio("features", scale) == pytest.approx(scale, rel=1e-5)
        assert state.ratio("PCA", scale) == pytest.approx(scale, rel=1e-3)


def test_umap_draws_a_hundredth_of_a_cloud_about_as_large_as_the_cloud(state):
    assert state.ratio("UMAP", SMALL) > 0.3


def test_both_clouds_are_centred_and_alike_but_for_the_scale(state, cloud):
    features = state.maps[SMALL]["features"]
    whole, copy = features.values()
    assert whole.shape == copy.shape == (40, 20)
    torch.testing.assert_close(copy, SMALL * whole)
    assert whole.mean(dim=0).abs().max() < 1e-5
    assert mean_pairwise_distance(whole) == pytest.approx(mean_pairwise_distance(cloud), rel=1e-5)
    assert set(state.maps) == {1.0, SMALL}
    for maps in state.maps.values():
        assert {way: [tuple(xy.shape) for xy in maps[way].values()] for way in ("PCA", "UMAP")} == {
            "PCA": [(40, 2), (40, 2)],
            "UMAP": [(40, 2), (40, 2)],
        }


def test_the_slider_moves_both_maps_the_rule_and_the_sentence(panel, state):
    for scale, told in ((1.0, "1"), (SMALL, "0.01")):
        panel.controls["scale"].value = scale
        for trace, way, name in zip(
            panel.figure.data, ("PCA", "PCA", "UMAP", "UMAP"), 2 * list(state.maps[1.0]["PCA"]), strict=False
        ):
            xy = state.maps[scale][way][name]
            assert (
                trace.name == name and trace.x.tolist() == xy[:, 0].tolist() and trace.y.tolist() == xy[:, 1].tolist()
            )
        assert panel.figure.layout.shapes[0].x0 == panel.figure.layout.shapes[0].x1 == scale
        ratios = {way: f"{state.ratio(way, scale):.2g}" for way in ("features", "PCA", "UMAP")}
        words = panel.sentence.value
        assert f"The copy is the cloud times {told}. " in words and f"{ratios['features']} in feature space" in words
        assert f"{ratios['PCA']} in the PCA picture and {ratios['UMAP']} in the UMAP picture." in words


def test_the_curves_are_the_size_of_the_copy_at_every_scale(panel, state):
    for trace, way in zip(panel.figure.data[4:], ("features", "PCA", "UMAP"), strict=True):
        assert trace.name == way and trace.x == (1.0, SMALL)
        assert trace.y == tuple(state.ratio(way, scale) for scale in (1.0, SMALL))


def test_one_scale_is_enough_and_is_the_one_that_is_shown(cloud):
    state = Shrunk(cloud, (0.5,), progress=False)
    panel = shrunk_panel(state, "other")
    assert state.scale == 0.5 and "times 0.5." in panel.sentence.value
    panel.close()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -0.1), (float("nan"),), (0.1, float("nan")), (float("inf"),)])
def test_scales_that_cannot_be_are_refused(cloud, scales):
    with pytest.raises(ConfigError, match=r"^scales = "):
        Shrunk(cloud, scales, progress=False)


def test_moving_about_leaks_no_widget(state):
    shrunk_panel(state).close()
    before = set(_instances)
    panel = shrunk_panel(state)
    open_now = set(_instances)
    for move in range(20):
        state.scale = state.scales[move % 2]
    assert set(_instances) == open_now
    again = shrunk_panel(state)
    assert panel.closed
    again.close()
    assert set(_instances) == before
