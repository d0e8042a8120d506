"""Figures of an ``Outcome``: every seed as a dot, every curve with the range of its seeds, differences in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from labkit.config import REGULARIZERS
from labkit.evaluation import REAL
from labkit.experiments import Outcome
from labkit.experiments.statistics import paired_differences
from labkit.metrics import metric, minus, three_digits
from labkit.plots.theme import PALETTE, colour, fade, figure

if TYPE_CHECKING:
    import pandas as pd

    from labkit.plots.static import StaticFigure

LABELS = {
    "dispersive": "dispersive (L2)",
    "cosine": "dispersive (cosine)",
    "hinge": "dispersive (hinge)",
    "covariance": "dispersive (covariance)",
    "l2-independent": "contrastive, independent",
    "l2-restricted": "contrastive, restricted",
    "alpha0.5": "half-way (α = 0.5, independent)",
    "repa": "REPA",
    "repa-dispersive": "REPA + dispersive",
    "meanflow-baseline": "MeanFlow",
    "meanflow-dispersive": "MeanFlow + dispersive",
    "unlabelled-baseline": "baseline, no labels",
    "unlabelled-dispersive": "dispersive (L2), no labels",
    "unlabelled-l2-independent": "contrastive, independent, no labels",
    "cosine-burst10000": "dispersive (cosine) until step 10,000",
}
"""Condition → its name for people; any other has its own."""
LETTERS = "letters-"


def condition_title(condition: str) -> str:
    """Name of a condition in figures and sentences."""
    own = condition.removeprefix(LETTERS)
    return LABELS.get(own, own) + (", letters" if condition.startswith(LETTERS) else "")


def outcome_figure(outcome: Outcome, measures: Sequence[str], step: int | None = None) -> go.Figure:
    """One pane a measure, one line a condition: each seed a dot, their mean a bar; real digits against real dotted."""
    table, conditions = outcome.at(step), outcome.conditions
    plot = figure(
        f"After {table['step'].iloc[0]:,} steps: each dot is a seed, the bar their mean",
        1,
        len(measures),
        120 + 34 * len(conditions),
        subplot_titles=[metric(measure).title for measure in measures],
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    for col, measure in enumerate(measures, 1):
        values = table[table["measure"] == measure].set_index("condition")["value"]
        for condition in conditions:
            own, label, ink = values.loc[[condition]], [condition_title(condition)], colour(condition)
            dots, bar = (
                dict(color=fade(ink, 0.55), size=9),
                dict(size=17, symbol="line-ns", line_color=ink, line_width=3),
            )
            plot.add_scatter(x=own, y=label * len(own), mode="markers", marker=dots, showlegend=False, row=1, col=col)
            plot.add_scatter(x=[own.mean()], y=label, mode="markers", marker=bar, showlegend=False, row=1, col=col)
        if REAL in values:
            style = dict(line=dict(dash="dot", color=PALETTE["quiet"]), annotation_text="real", row=1, col=col)
            plot.add_vline(values[REAL], annotation_position="top right", **style)
        if metric(measure).percent:
            plot.update_xaxes(tickformat=".0%", row=1, col=col)
    plot.update_yaxes(range=[len(conditions) - 0.5, -0.9])  # the first on top, under a free line for "real"
    return plot


def seeds_figure(outcome: Outcome, meters: Sequence[str], title: str) -> "StaticFigure":
    """Curves over training: the mean of the seeds, and a band from the lowest to the highest.

    Args:
        meters: ``feature_norm`` and ``effective_rank`` are those of the metered block, ``gradient_cosine`` and
            ``gradient_ratio`` those of the condition's first regularizer; a full name such as ``repa.gradient_cosine``
            means just that.
    """
    from labkit.plots.static import metric_figure

    plot, panes = metric_figure(title, meters, "step")
    for meter, axes in panes:
        for condition in outcome.conditions:
            seeds, ink = curves_of(outcome, condition, meter), colour(condition)
            if len(seeds):
                axes.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=ink, alpha=0.18, linewidth=0)
                axes.plot(seeds.index, seeds.mean(axis=1), color=ink, label=condition_title(condition))
    return plot


def curves_of(outcome: Outcome, condition: str, meter: str) -> "pd.DataFrame":
    """One column a seed, one row a logged step, of a meter of one condition; empty if it has none."""
    curves = outcome.curves[outcome.curves["condition"] == condition]
    last = curves["name"].str.rsplit(".", n=1).str[-1]
    first = curves["name"].str.split(".").str[0]
    part = (last == meter) & (first.str.startswith("block") | first.isin(REGULARIZERS))
    own = curves[(curves["name"] == meter) | part]
    own = own[own["name"] == own["name"].iloc[0]] if len(own) else own
    return own.pivot(index="step", columns="seed", values="value")


def differences(outcome: Outcome, measure: str, step: int | None = None, against: str = "baseline") -> "pd.DataFrame":
    """Each condition minus the baseline, or another, paired by seed: mean, 95 % interval (Student's t), seeds.

    Two runs of one seed share initial weights, data and noise, so their difference is steadier than either.
    """
    table = outcome.at(step)
    paired = paired_differences(table[table["measure"] == measure], against, column="condition").set_index("condition")
    return paired[["difference", "low", "high", "n"]]


def describe_differences(outcome: Outcome, measure: str, step: int | None = None, against: str = "baseline") -> str:
    """The differences in words, a line each; those of a share in points of a percent."""
    rows = differences(outcome, measure, step, against)
    scale, unit = (100, " (in points)") if metric(measure).percent else (1, "")
    lines = []
    for condition, row in rows.iterrows():
        mean, low, high = (minus(three_digits(scale * value, "+")) for value in (row.difference, row.low, row.high))
        lines.append(f"{condition_title(condition)} {mean} ({low} to {high}; {int(row.n)} seeds)")
    other = "the baseline's" if against.removeprefix(LETTERS) == "baseline" else f"that of {condition_title(against)}"
    title = f"{metric(measure).title}{unit}, minus {other}: mean and 95 % interval, paired by seed"
    return "\n  ".join([title, *lines])
