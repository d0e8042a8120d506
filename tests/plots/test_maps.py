"""Maps of an atlas, and sheets in colour."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from labkit.plots import describe_maps, maps_figure, picture


@pytest.fixture
def maps():
    draws = np.random.default_rng(0).normal(size=(40, 4))
    parts = []
    for condition, size, shift in (("small", 1, 0), ("large", 5, 100)):
        places = dict(zip(("pca_1", "pca_2", "umap_1", "umap_2"), (size * draws + shift).T, strict=True))
        parts.append(pd.DataFrame({"condition": condition, "label": range(40), "trustworthiness": 0.9, **places}))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(label=table["label"] % 10)


def test_principal_axes_share_a_scale_and_umap_does_not(maps):
    plot = maps_figure(maps, {"small": "the baseline", "large": "L2"}, "where")
    assert [len(trace.x) for trace in plot.data] == [40] * 4
    widths = [np.std(trace.x) for trace in plot.data]
    assert widths[1] == pytest.approx(5 * widths[0]) and widths[3] == pytest.approx(5 * widths[2])
    assert all(np.mean(trace.x) == pytest.approx(0, abs=1e-9) for trace in plot.data), "places are not compared"
    axes = [plot.layout[f"xaxis{n}"] for n in ("", 2, 3, 4)]
    assert axes[0].range == axes[1].range and axes[3].range[1] == pytest.approx(5 * axes[2].range[1])
    for trace, axis in zip(plot.data, axes, strict=True):
        assert axis.range[0] < min(trace.x) and max(trace.x) < axis.range[1]
    notes = [note.text for note in plot.layout.annotations]
    assert notes[:4] == ["the baseline", "L2", *["trustworthiness 0.90"] * 2]


def test_widths_are_those_on_the_shared_axes(maps):
    words = describe_maps(maps, {"small": "the baseline", "large": "L2"})
    assert words.endswith("relative to the baseline: L2 ×5.")


def pixels(source):
    """Pixels of a PNG in a data URI, before they were enlarged."""
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as image:
        every = np.array(image)
    assert (every[::4, ::4] == every[3::4, 3::4]).all(), "four times as large, and sharp"
    return every[::4, ::4]


def test_digits_are_ink_on_white_and_colours_stay():
    digits = torch.tensor([-1.0, 1.0, 0.0, -1.0]).reshape(1, 1, 2, 2)
    assert pixels(picture(digits, 1)).tolist() == [[[255] * 3, [0] * 3], [[128] * 3, [255] * 3]]
    colours = torch.rand(3, 3, 4, 4) * 2 - 1
    sheet = pixels(picture(colours, 2))
    assert sheet.shape == (9, 9, 3) and (sheet[4] == sheet[4, 0]).all(), "a line between the images"
    expected = ((colours + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert (sheet[:4, :4] == expected[0]).all() and (sheet[:4, 5:] == expected[1]).all()
    assert (sheet[5:, :4] == expected[2]).all()
