"""Figures and words of an outcome over seeds, from a table whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from labkit.checks import ConfigError
from labkit.evaluation import REAL
from labkit.experiments import Outcome
from labkit.plots import PALETTE, curves_of, describe_differences, differences, outcome_figure, seeds_figure

VALUES = {"baseline": [1.0, 2.0, 3.0], "dispersive": [1.5, 2.0, 4.0]}


@pytest.fixture
def outcome():
    rows = [
        dict(condition=run, seed=seed, step=step, measure=measure, value=value * (step // 10) * factor)
        for run, values in VALUES.items()
        for seed, value in enumerate(values)
        for step in (10, 20)
        for measure, factor in (("frechet", 1), ("agreement", 0.1))
    ]
    rows += [dict(condition=REAL, measure="frechet", value=0.5), dict(condition=REAL, measure="agreement", value=0.05)]
    names = ["velocity", "block1.feature_norm", "dispersive.gradient_cosine", "repa.gradient_cosine"]
    curves = [
        dict(condition="dispersive", seed=seed, step=step, name=name, value=100 * place + 10 * seed + step)
        for place, name in enumerate(names)
        for seed in (0, 1)
        for step in (1, 2)
    ]
    return Outcome(pd.DataFrame(rows), pd.DataFrame(curves))


def test_the_last_step_is_shown_unless_another_is_asked_for(outcome):
    assert set(outcome.at()["step"].dropna()) == {20}
    assert set(outcome.at(10)["step"].dropna()) == {10}
    with pytest.raises(ConfigError, match=r"^step = 15 .*10, 20"):
        outcome.at(15)
    assert outcome.ranges(["agreement"], 10).loc["agreement"].to_dict() == {
        "baseline": "0.200  (0.100 … 0.300)",
        "dispersive": "0.250  (0.150 … 0.400)",
        REAL: "0.0500",
    }


def test_every_seed_is_a_dot_and_the_mean_a_bar(outcome):
    plot = outcome_figure(outcome, ["frechet", "agreement"], step=10)
    dots, bar = plot.data[:2]
    assert list(dots.x) == VALUES["baseline"] and list(bar.x) == [2.0]
    assert set(dots.y) == {"baseline"} and plot.data[2].y[0] == "dispersive (L2)"
    assert list(plot.data[4].x) == pytest.approx([0.1, 0.2, 0.3])
    lines = [shape.x0 for shape in plot.layout.shapes]
    assert lines == pytest.approx([0.5, 0.05]), "real against real, a line a pane"


def test_differences_are_paired_by_seed_with_students_interval(outcome):
    gap = np.array([0.5, 0.0, 1.0])
    row = differences(outcome, "frechet", step=10).loc["dispersive"]
    half = stats.t.interval(0.95, 2, gap.mean(), stats.sem(gap))
    assert (row.low, row.high) == pytest.approx(half) and row.difference == pytest.approx(0.5)
    assert row.n == 3
    back = differences(outcome, "frechet", step=10, against="dispersive").iloc[0]
    assert back.difference == pytest.approx(-0.5)
    words = describe_differences(outcome, "frechet", 10)
    assert "dispersive (L2) +0.500" in words and "3 seeds" in words
    assert "(in points)" in describe_differences(outcome, "agreement", 10)


def test_a_meter_is_looked_up_by_the_name_under_which_it_was_logged(outcome):
    norm = curves_of(outcome, "dispersive", "feature_norm")
    assert norm.loc[2].tolist() == [102, 112]
    assert curves_of(outcome, "dispersive", "velocity").loc[1].tolist() == [1, 11]
    assert curves_of(outcome, "dispersive", "gradient_cosine").loc[1].tolist() == [201, 211]
    assert curves_of(outcome, "dispersive", "repa.gradient_cosine").loc[1].tolist() == [301, 311]
    assert curves_of(outcome, "baseline", "feature_norm").empty


def test_a_curve_is_the_mean_in_a_band_over_its_seeds(outcome):
    (axes,) = seeds_figure(outcome, ["velocity"], "title").axes
    (line,), (band,) = axes.get_lines(), axes.collections
    assert list(line.get_ydata()) == [6, 7] and line.get_color() == PALETTE["dispersive"]
    assert {(x, y) for x, y in band.get_paths()[0].vertices.tolist()} == {(1, 1), (1, 11), (2, 2), (2, 12)}


def test_every_run_is_in_the_legend_once_whichever_pane_it_first_appears_in(outcome):
    plot = seeds_figure(outcome, ["missing", "velocity", "feature_norm"], "title")
    assert [text.get_text() for text in plot.legends[0].texts] == ["dispersive (L2)"]
