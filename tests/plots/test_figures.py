"""Figures are pure functions: what goes in is what the traces hold."""

from xml.etree.ElementTree import fromstring

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from labkit.evaluation import Evaluation, EvaluationConfig, Metric, Real
from labkit.experiments import ComparisonResult, Cost
from labkit.plots import (
    PALETTE,
    cost_figure,
    curves_figure,
    describe,
    digit_trace,
    fade,
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


def test_curves_show_the_named_terms_of_each_run():
    history = pd.DataFrame(
        [(s, name, s + k) for s in (1, 2) for k, name in enumerate(["velocity", "block1.dispersive", "block0.x"])],
        columns=["step", "name", "value"],
    )
    plot = curves_figure({"baseline": history, "dispersive": history}, block=1, floor=-4.852)
    base, dispersive = plot.axes[:2]
    assert lines(base) == [[1, 2], [1, 2]] and lines(dispersive) == [[2, 3], [2, 3]]
    assert "floor −4.85" in [text.get_text() for text in dispersive.texts]
    assert [line.get_color() for line in base.get_lines()] == [PALETTE["baseline"], PALETTE["dispersive"]]


@pytest.mark.parametrize("base", ["noise", "score", "average_velocity"])
def test_curves_show_the_base_loss_that_there_is(base):
    history = pd.DataFrame([(1, base, 7.0), (2, base, 6.0)], columns=["step", "name", "value"])
    plot = curves_figure({"baseline": history}, block=1, floor=-2.0)
    assert lines(plot.axes[0]) == [[7, 6]] and base.split("_")[0] in plot.axes[0].get_title()


def test_spread_has_a_line_a_run_and_meter(result):
    assert [lines(axes) for axes in spread_figure(result).axes] == [[[2, 3, 4, 5], [5, 6, 7, 8]]] * 4


def test_samples_are_those_of_the_runs_pixel_by_pixel(result):
    for axes, share in zip(samples_figure(result).axes, (0.2, 0.5), strict=True):
        (image,) = axes.get_images()
        assert image.get_array()[:8, :8].flatten().tolist() == [round(127.5 * (1 - share))] * 192
        assert axes.get_title().endswith(f"{share:.1%} of 40 read as asked")


def test_figures_have_their_words(result):
    assert describe(cost_figure(result)).splitlines()[1:] == [
        "training images per second (more is cheaper):",
        "  baseline 640",
        "  dispersive 320",
    ]
    words = describe(spread_figure(result)).splitlines()
    assert words[1:4] == ["feature norm, along block 0, 1, 2, 3:", "  baseline 2, 3, 4, 5", "  dispersive 5, 6, 7, 8"]
    assert describe(samples_figure(result)).splitlines()[1] == "baseline: 20.0% of 40 read as asked"


def test_static_figures_are_svg_and_leave_the_backend_alone(result, monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "backend", "template")
    svg = spread_figure(result).svg()
    assert fromstring(svg).tag.endswith("svg") and "effective rank</text>" in svg and "Inter" in svg
    assert mpl.rcParams["backend"] == "template" and mpl.rcParams["svg.fonttype"] == "path"


def test_the_finding_says_worse_as_plainly_as_better(result):
    finding = result.finding()
    assert "20.0% of the baseline" in finding and "2.00 against 5.00" in finding and "2.0 times" in finding


def test_the_table_has_real_digits_beside_the_runs(result):
    table = result.table()
    assert list(table.index) == ["baseline", "dispersive", "real against real"]
    assert table.loc["real against real", "frechet"] == 0.5 and table.loc["dispersive", "frechet_excess"] == 4.5
    assert table.loc["dispersive", "feature_norm"] == 6  # block 1 is the regularized one
    assert table.loc["baseline", "images_per_second"] == 640


def test_fading_keeps_the_colour():
    assert fade("#0072B2", 0.5) == "rgba(0, 114, 178, 0.5)"
