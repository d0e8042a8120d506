"""A cloud beside its shrunken copy: features and PCA keep the scale, UMAP does not."""

import pytest
import torch

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
    return Shrunk(cloud, (1.0, SMALL))


@pytest.fixture
def panel(state):
    state.scale = 1.0
    return shrunk_panel(state)


def test_features_and_pca_keep_the_scale_and_umap_does_not(state, cloud):
    assert set(state.maps) == {1.0, SMALL}
    for scale, maps in state.maps.items():
        whole, copy = maps["features"].values()
        torch.testing.assert_close(copy, scale * whole)
        assert whole.shape == (40, 20) and whole.mean(dim=0).abs().max() < 1e-5
        assert mean_pairwise_distance(whole) == pytest.approx(mean_pairwise_distance(cloud), rel=1e-5)
        assert state.ratio("features", scale) == pytest.approx(scale, rel=1e-5)
        assert state.ratio("PCA", scale) == pytest.approx(scale, rel=1e-3)
    assert state.ratio("UMAP", SMALL) > 0.3


def test_the_slider_moves_both_maps_the_rule_and_the_sentence(panel, state):
    for scale in (1.0, SMALL):
        panel.controls["scale"].value = scale
        clouds = [(name, xy) for space in ("PCA", "UMAP") for name, xy in state.maps[scale][space].items()]
        for trace, (name, xy) in zip(panel.figure.data, clouds, strict=False):
            assert (trace.name, trace.x.tolist(), trace.y.tolist()) == (name, xy[:, 0].tolist(), xy[:, 1].tolist())
        assert panel.figure.layout.shapes[0].x0 == panel.figure.layout.shapes[0].x1 == scale
        words = [f"{state.ratio(space, scale):.2g} times" for space in ("features", "PCA", "UMAP")]
        assert f"the cloud times {scale:g}. " in panel.sentence.value
        assert all(word in panel.sentence.value for word in words)
    for trace, space in zip(panel.figure.data[4:], ("features", "PCA", "UMAP"), strict=True):
        assert trace.name == space and trace.x == (1.0, SMALL)
        assert trace.y == tuple(state.ratio(space, scale) for scale in (1.0, SMALL))


def test_one_scale_is_enough_and_is_the_one_that_is_shown(cloud):
    state = Shrunk(cloud, (0.5,))
    panel = shrunk_panel(state, "other")
    assert state.scale == 0.5 and "times 0.5." in panel.sentence.value


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -0.1), (float("nan"),), (0.1, float("nan")), (float("inf"),)])
def test_scales_that_cannot_be_are_refused(cloud, scales):
    with pytest.raises(ConfigError, match=r"^scales = "):
        Shrunk(cloud, scales)
