"""Figures of an ``Outcome``: every seed as a dot, every curve with the range of its seeds, differences in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from labkit.config import REGULARIZERS
from labkit.evaluation import REAL
from labkit.experiments import Outcome
from labkit.experiments.statistics import paired_differences
from labkit.metrics import metric
from labkit.plots.theme import PALETTE, colour, fade, figure

if TYPE_CHECKING:
    import pandas as pd

    from labkit.plots.static import StaticFigure

RUNS = {
    "baseline": "baseline",
    "dispersive": "dispersive (L2)",
    "cosine": "dispersive (cosine)",
    "hinge": "dispersive (hinge)",
    "covariance": "dispersive (covariance)",
    "contrastive_independent": "contrastive, independent",
    "contrastive_restricted": "contrastive, restricted",
    "halfway": "halfway (α = 0.5, independent)",
    "repa": "REPA",
    "repa_dispersive": "REPA + dispersive",
    "meanflow": "MeanFlow",
    "meanflow_dispersive": "MeanFlow + dispersive",
}


def _label(run: str) -> str:
    return RUNS.get(run, run)


def outcome_figure(
    outcome: Outcome, runs: Sequence[str], measures: Sequence[str], step: int | None = None
) -> go.Figure:
    """One pane a measure, one line a run: each seed a dot, their mean a bar; real digits against real dotted."""
    table = outcome.at(step)
    count = table["seed"].nunique()
    plot = figure(
        f"After {table['step'].iloc[0]:,} steps: each dot a seed of {count}, the bar their mean",
        1,
        len(measures),
        110 + 34 * len(runs),
        subplot_titles=[metric(measure).title for measure in measures],
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    for col, measure in enumerate(measures, 1):
        values = table[table["measure"] == measure]
        for run in runs:
            own = values.loc[values["run"] == run, "value"]
            label = [_label(run)]
            dots = dict(color=fade(colour(run), 0.55), size=9)
            bar = dict(color=colour(run), size=17, symbol="line-ns", line=dict(color=colour(run), width=3))
            plot.add_scatter(x=own, y=label * len(own), mode="markers", marker=dots, showlegend=False, row=1, col=col)
            plot.add_scatter(x=[own.mean()], y=label, mode="markers", marker=bar, showlegend=False, row=1, col=col)
        real = values.loc[values["run"] == REAL, "value"]
        if len(real):
            style = dict(line=dict(dash="dot", color=PALETTE["quiet"]), annotation_text="real", row=1, col=col)
            plot.add_vline(real.mean(), annotation_position="top right", **style)
        if metric(measure).percent:
            plot.update_xaxes(tickformat=".0%", row=1, col=col)
    plot.update_yaxes(autorange="reversed")
    return plot


def seeds_figure(outcome: Outcome, runs: Sequence[str], meters: Sequence[str], title: str) -> "StaticFigure":
    """Curves over training: the mean of the seeds, and a band from the lowest to the highest.

    Args:
        meters: ``feature_norm`` and ``effective_rank`` are those of the metered block, ``gradient_cosine`` and
            ``gradient_ratio`` those of the run's first regularizer; a full name such as ``repa.gradient_cosine`` means
            just that.
    """
    from labkit.plots.static import draw_legend, show_metric, static_figure

    plot, panes = static_figure(title, 1, len(meters), 350)
    for meter, axes in zip(meters, panes, strict=True):
        for run in runs:
            seeds = curves_of(outcome, run, meter)
            if len(seeds):
                ink = colour(run)
                axes.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=ink, alpha=0.18, linewidth=0)
                axes.plot(seeds.index, seeds.mean(axis=1), color=ink, label=_label(run))
        show_metric(axes, meter, "step")
    draw_legend(plot)
    return plot


def curves_of(outcome: Outcome, run: str, meter: str) -> "pd.DataFrame":
    """One column a seed, one row a logged step, of a meter of one run; empty if it has none."""
    curves = outcome.curves
    last = curves["name"].str.rsplit(".", n=1).str[-1]
    first = curves["name"].str.split(".").str[0]
    part = (last == meter) & (first.str.startswith("block") | first.isin(REGULARIZERS))
    wanted = (curves["name"] == meter) | part
    own = curves[wanted & (curves["run"] == run)]
    own = own[own["name"] == own["name"].iloc[0]] if len(own) else own
    return own.pivot(index="step", columns="seed", values="value")


def differences(
    outcome: Outcome, measure: str, runs: Sequence[str], step: int | None = None, against: str = "baseline"
) -> "pd.DataFrame":
    """Each run minus the baseline, or another, paired by seed: mean, 95 % interval (Student's t), number of seeds.

    Two runs of one seed share initial weights, data and noise, so their difference is steadier than either.
    """
    table = outcome.at(step)
    rows = table[(table["measure"] == measure) & table["run"].isin((against, *runs))]
    paired = paired_differences(rows, against).set_index("run").loc[list(runs)]
    return paired[["difference", "low", "high", "n"]].rename(index=_label)


def describe_differences(
    outcome: Outcome, measure: str, runs: Sequence[str], step: int | None = None, against: str = "baseline"
) -> str:
    """The differences in words, a line each."""
    rows = differences(outcome, measure, runs, step, against)
    lines = [f"{run} {row.difference:+.3g} ({row.low:+.3g} to {row.high:+.3g})" for run, row in rows.iterrows()]
    seeds = f"mean and 95 % interval of {int(rows['n'].min())} seeds"
    other = "the baseline" if against == "baseline" else _label(against)
    return "\n  ".join([f"{metric(measure).title}, minus {other}'s, paired by seed ({seeds}):", *lines])
