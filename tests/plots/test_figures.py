"""Figures of a comparison, sheets of images, and static figures as readers of HTML get them."""

import base64
import html
import re
from xml.etree.ElementTree import fromstring

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbconvert import HTMLExporter

from labkit.evaluation import Evaluation, EvaluationConfig, Metric, Real
from labkit.experiments import ComparisonResult, Cost
from labkit.plots import (
    PALETTE,
    cost_figure,
    curves_figure,
    describe,
    digit_trace,
    fold,
    metrics_table,
    samples_figure,
    spread_figure,
    tile,
)
from labkit.recipes import digits
from labkit.training import Samples

METERS = ("feature_norm", "mean_pairwise_distance", "effective_rank", "uniformity")


@pytest.fixture
def result():
    real = Real(0.5, 0.4, 0.6, 5)

    def evaluation(level: float) -> Evaluation:
        metrics = {
            "frechet": Metric(level, real=real),
            "frechet_pixels": Metric(level / 2),
            "agreement": Metric(level / 10),
        }
        return Evaluation(metrics, Samples(torch.full((40, 1, 8, 8), level / 10), torch.arange(40) % 10, {}), {})

    def geometry(level: float) -> dict[int, dict[str, float]]:
        return {block: dict.fromkeys(METERS, level + block) for block in range(4)}

    config = digits(lam=0.5)
    return ComparisonResult(
        EvaluationConfig(),
        {"baseline": config.replace(lam=None), "dispersive": config},
        {"baseline": evaluation(2.0), "dispersive": evaluation(5.0)},
        {"baseline": geometry(2.0), "dispersive": geometry(5.0)},
        {"baseline": Cost(10, 2.0, 1280), "dispersive": Cost(10, 4.0, 1280)},
    )


def test_tiles_keep_order_and_values():
    images = torch.arange(7.0).reshape(7, 1, 1, 1).expand(7, 1, 8, 8) / 10
    sheet = tile(images, columns=3)
    assert sheet.shape == (3 * 9 - 1, 3 * 9 - 1)
    for i in range(7):
        top, left = i // 3 * 9, i % 3 * 9
        assert np.allclose(sheet[top : top + 8, left : left + 8], i / 10)
    assert np.isfinite(sheet).all(), "NaN is no JSON, and so no notebook"
    assert digit_trace(sheet).zmin == -1


def lines(axes):
    return [list(line.get_ydata()) for line in axes.get_lines() if not line.get_label().startswith("_")]


@pytest.mark.parametrize("base", ["velocity", "noise", "score", "average_velocity"])
def test_curves_show_the_base_loss_and_the_terms_of_the_block(base):
    history = pd.DataFrame(
        [(s, name, s + k) for s in (1, 2) for k, name in enumerate([base, "block1.dispersive", "block0.x"])],
        columns=["step", "name", "value"],
    )
    plot = curves_figure({"baseline": history, "dispersive": history}, block=1, floor=-4.852)
    loss, dispersive = plot.axes[:2]
    assert lines(loss) == [[1, 2], [1, 2]] and lines(dispersive) == [[2, 3], [2, 3]]
    assert base.split("_")[0] in loss.get_title()
    assert "floor −4.85" in [text.get_text() for text in dispersive.texts]
    assert [line.get_color() for line in loss.get_lines()] == [PALETTE["baseline"], PALETTE["dispersive"]]


def test_samples_are_those_of_the_runs_pixel_by_pixel(result):
    for axes, share in zip(samples_figure(result).axes, (0.2, 0.5), strict=True):
        (image,) = axes.get_images()
        assert image.get_array()[:8, :8].flatten().tolist() == [round(127.5 * (1 - share))] * 192
        assert f"{share:.1%} of 40" in axes.get_title()


def test_figures_have_their_words(result):
    assert describe(cost_figure(result)).splitlines()[1:] == [
        "training images per second (more is cheaper):",
        "  baseline 640",
        "  dispersive 320",
    ]
    words = describe(spread_figure(result)).splitlines()
    assert words[1:4] == ["feature norm, along block 0, 1, 2, 3:", "  baseline 2, 3, 4, 5", "  dispersive 5, 6, 7, 8"]
    assert len(words) == 1 + 4 * 3
    assert describe(samples_figure(result)).splitlines()[1].startswith("baseline: 20.0% of 40")


def test_a_notebook_written_as_html_holds_the_figure_as_svg_with_its_words(result, monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "backend", "template")
    plot = spread_figure(result)
    output = nbformat.v4.new_output("execute_result", {"text/html": plot._repr_html_(), "text/plain": "a figure"})
    cell = nbformat.v4.new_code_cell("plot", outputs=[output])
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    ((alt, source),) = re.findall(r'<img alt="([^"]*)" [^>]*src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert html.unescape(alt) == describe(plot) and fold(describe(plot)) in plot._repr_html_()
    svg = fromstring(base64.b64decode(source))
    assert svg.tag.endswith("svg") and svg.get("role") == "img" and svg.get("aria-label").startswith("Do the other")
    texts = [element for element in svg.iter() if element.tag.endswith("text")]
    assert any(text.text == "effective rank" and "Inter" in text.get("style") for text in texts), "in the page's font"
    assert mpl.rcParams["backend"] == "template" and mpl.rcParams["svg.fonttype"] == "path", "nothing is left changed"


def test_the_finding_says_worse_as_plainly_as_better(result):
    finding = " ".join(result.finding().split())
    assert "20.0% of the baseline" in finding and "2.00 against 5.00" in finding and "2.0 times" in finding


def test_the_table_has_real_digits_beside_the_runs(result):
    table = result.table()
    assert list(table.index) == ["baseline", "dispersive", "real against real"]
    assert table.loc["real against real", "frechet"] == 0.5 and table.loc["dispersive", "frechet_excess"] == 4.5
    assert table.loc["dispersive", "feature_norm"] == 6  # block 1 is the regularized one
    assert table.loc["baseline", "images_per_second"] == 640


def test_a_table_of_metrics_is_text_for_people():
    table = pd.DataFrame({"frechet": [1.2, np.nan], "frechet_excess": [-0.04, 1722.3], "agreement": [0.95, 1.0]})
    shown = metrics_table(table.assign(evaluations=[50, 1044], place=["a", "b"]))
    assert shown.to_dict("list") == {
        "Fréchet distance": ["1.20", "–"],
        "Fréchet distance, above real": ["−0.0400", "1,722"],
        "recognised as requested": ["95.0%", "100.0%"],
        "evaluations": ["50", "1,044"],
        "place": ["a", "b"],
    }
