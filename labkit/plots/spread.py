"""Figures of spread: distances between samples, ``geometry_table``, ``probe_table`` and ``similarity_table``."""

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.basedatatypes import BaseTraceType
from torch import Tensor

from labkit.plots.theme import colour, figure

if TYPE_CHECKING:
    import pandas as pd

    from labkit.plots.static import StaticFigure

Density = tuple[Tensor, Tensor]  # of ``distance_density``
AXES = {"block": "block", "t": "time t", "step": "training step"}


def distances_axes(plot: go.Figure, row: int, col: int) -> None:
    """Axes of a pane for ``draw_distances``."""
    plot.update_xaxes(type="log", tickformat="~g", nticks=3, title_text="√D", row=row, col=col)  # 4: 0.6, 0.7, 0.8, …
    plot.update_yaxes(showticklabels=False, rangemode="tozero", row=row, col=col)


def draw_distances(
    lines: Mapping[str, BaseTraceType], rule: BaseTraceType, densities: Mapping[str, Density], taus: Collection[float]
) -> None:
    """Show how distances between two samples are distributed, and √τ, which the Dispersive Loss measures them by.

    Args:
        lines: run → its trace, on a log axis.  rule: the trace of √τ, shown if ``taus`` holds one value.
        densities: run → ``distance_density`` of its features; runs without one get no line.
    """
    top = 0.0
    for run, line in lines.items():
        middles, density = densities.get(run, (torch.empty(0), torch.empty(0)))
        there = density.nonzero()[:, 0] if density.isfinite().all() else density[:0]  # NaN: a run that diverged
        shown = slice(max(int(there[0]) - 1, 0), int(there[-1]) + 2) if len(there) else slice(0)
        line.x, line.y = middles[shown].tolist(), density[shown].tolist()
        top = max([top, *density[shown].tolist()])
    one = len(taus) == 1 and top > 0
    rule.x, rule.y = ([next(iter(taus)) ** 0.5] * 2, [0, top]) if one else ([], [])
    rule.name, rule.showlegend = "√τ", one


def lines_figure(table: "pd.DataFrame", measures: Sequence[str], along: str, title: str) -> "StaticFigure":
    """One pane a metric, one line a run, along ``block``, ``t`` or ``step``; each point is one row of the table."""
    from labkit.plots.static import LINES, metric_figure

    plot, panes = metric_figure(title, measures, AXES.get(along, along), 340)
    shown = table[table["measure"].isin(measures)]
    styles, places = dict(zip(dict.fromkeys(shown["run"]), cycle(LINES), strict=False)), sorted(shown[along].unique())
    number = np.arange(len(places))
    evenly = (lambda x: np.interp(x, places, number)), (lambda x: np.interp(x, number, places))
    for measure, axes in panes:
        for run, own in shown[shown["measure"] == measure].groupby("run", sort=False):
            look = dict(marker="o", linestyle=styles[run], color=colour(run), clip_on=False)
            axes.plot(own[along], own["value"], label=run, **look)
        if along == "step" and len(places) > 1:  # checkpoints lie ever further apart: spaced evenly
            axes.set_xscale("function", functions=evenly)
        if along != "t":
            axes.set_xticks(places, [f"{place:,}" for place in places])
            axes.set_xticks([], minor=True)
    return plot


def similarity_figure(table: "pd.DataFrame", title: str) -> go.Figure:
    """Linear CKA of every (run, block) with every other, as a heat map with its numbers."""
    labels = [f"{run} {block}" for run, block in table.index]
    plot = figure(title, height=150 + 30 * len(labels))
    scale = dict(zmin=0, zmax=1, colorscale="Cividis", colorbar=dict(title="CKA", thickness=12))
    words = dict(texttemplate="%{z:.2f}", hovertemplate="%{y} with %{x}: %{z:.3f}<extra></extra>")
    plot.add_heatmap(z=table.to_numpy(), x=labels, y=labels, **scale, **words)
    plot.update_xaxes(type="category", ticks="", showgrid=False, tickangle=-40, automargin=True)
    plot.update_yaxes(type="category", autorange="reversed", ticks="", showgrid=False)
    runs = [run for run, _ in table.index]
    for edge in [i for i in range(1, len(runs)) if runs[i] != runs[i - 1]]:  # where one run ends
        plot.add_vline(edge - 0.5, line=dict(color="white", width=3))
        plot.add_hline(edge - 0.5, line=dict(color="white", width=3))
    plot.update_layout(margin=dict(l=8))
    return plot
