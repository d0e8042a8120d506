"""Figures of an ``Outcome``: every seed as a dot, every curve with the range of its seeds, differences in words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from labkit.config import REGULARIZERS
from labkit.evaluation import REAL
from labkit.experiments import Outcome
from labkit.experiments.statistics import paired_differences
from labkit.plots.theme import PALETTE, colour, fade, figure

if TYPE_CHECKING:
    import pandas as pd

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
MEASURES = {
    "frechet": "Fréchet distance",
    "frechet_pixels": "Fréchet on pixel PCA",
    "agreement": "read as asked",
    "feature_norm": "feature norm ‖z‖/√P",
    "effective_rank": "effective rank",
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
        subplot_titles=[MEASURES.get(m, m) for m in measures],
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
        if measure == "agreement":
            plot.update_xaxes(tickformat=".0%", row=1, col=col)
    plot.update_yaxes(autorange="reversed")
    return plot


def seeds_figure(outcome: Outcome, runs: Sequence[str], meters: Mapping[str, str], title: str) -> go.Figure:
    """Curves over training: the mean of the seeds, and a band from the lowest to the highest.

    Args:
        meters: name → title. ``feature_norm`` and ``effective_rank`` are those of the metered block,
            ``gradient_cosine`` and ``gradient_ratio`` those of the run's first regularizer; a full name such as
            ``repa.gradient_cosine`` means just that.
    """
    plot = figure(title, 1, len(meters), 330, subplot_titles=list(meters.values()), horizontal_spacing=0.07)
    named = set()
    for col, meter in enumerate(meters, 1):
        for run in runs:
            seeds = curves_of(outcome, run, meter)
            if seeds.empty:
                continue
            steps, ink = list(seeds.index), colour(run)
            band = dict(x=steps + steps[::-1], y=[*seeds.max(axis=1), *seeds.min(axis=1)[::-1]])
            plot.add_scatter(
                **band,
                fill="toself",
                fillcolor=fade(ink, 0.18),
                line=dict(width=0),
                hoverinfo="skip",
                showlegend=False,
                legendgroup=run,
                row=1,
                col=col,
            )
            plot.add_scatter(
                x=steps,
                y=seeds.mean(axis=1),
                mode="lines",
                line=dict(color=ink, width=2),
                name=_label(run),
                legendgroup=run,
                showlegend=run not in named,
                row=1,
                col=col,
            )
            named.add(run)
        plot.update_xaxes(title_text="step", row=1, col=col)
        if meter.endswith("gradient_ratio"):
            plot.update_yaxes(type="log", nticks=6, tickformat=".0e", row=1, col=col)
    plot.update_layout(legend=dict(y=-0.28, x=0, xanchor="left", yanchor="top"))
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
    found = paired_differences(rows, against).set_index("run").loc[list(runs)]
    return found[["difference", "low", "high", "n"]].rename(index=_label)


def told(
    outcome: Outcome, measure: str, runs: Sequence[str], step: int | None = None, against: str = "baseline"
) -> str:
    """The differences in words, a line each."""
    found = differences(outcome, measure, runs, step, against)
    lines = [f"{run} {row.difference:+.3g} ({row.low:+.3g} to {row.high:+.3g})" for run, row in found.iterrows()]
    seeds = f"mean and 95 % interval of {int(found['n'].min())} seeds"
    other = "the baseline" if against == "baseline" else _label(against)
    return "\n  ".join([f"{MEASURES.get(measure, measure)}, minus {other}'s, paired by seed ({seeds}):", *lines])
