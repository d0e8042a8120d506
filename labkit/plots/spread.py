"""Figures of ``geometry_table``, ``probe_table`` and ``similarity_table``."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from labkit.metrics import metric
from labkit.plots.theme import DASHES, colour, figure, scale_axis

if TYPE_CHECKING:
    import pandas as pd

AXES = {"block": "block", "t": "time t", "step": "training step"}


def lines_figure(table: "pd.DataFrame", measures: Sequence[str], along: str, title: str) -> go.Figure:
    """One pane a measure, one line a run, along ``block``, ``t`` or ``step``: one value of the table for each point."""
    titles = [metric(measure).label for measure in measures]
    plot = figure(title, 1, len(measures), 320, subplot_titles=titles, horizontal_spacing=0.07)
    shown = table[table["measure"].isin(measures)]
    dashes = dict(zip(dict.fromkeys(shown["run"]), cycle(DASHES), strict=False))
    for col, measure in enumerate(measures, 1):
        for run, own in shown[shown["measure"] == measure].groupby("run", sort=False):
            line = dict(color=colour(run), dash=dashes[run], width=2)
            named = any(other.name == run for other in plot.data)  # not every run has every measure
            plot.add_scatter(
                x=own[along],
                y=own["value"],
                name=run,
                legendgroup=run,
                showlegend=not named,
                mode="lines+markers",
                line=line,
                row=1,
                col=col,
            )
        kind = dict(dtick=1 if along == "block" else None)
        if along == "step":  # checkpoints lie ever further apart: as categories, the first ones do not fall together
            kind = dict(type="category", categoryorder="array", categoryarray=sorted(shown["step"].unique()))
        plot.update_xaxes(title_text=AXES.get(along, along), **kind, row=1, col=col)
        scale_axis(plot, measure, row=1, col=col)
    plot.update_layout(legend=dict(y=-0.28, x=0, xanchor="left", yanchor="top"))
    return plot


def similarity_figure(table: "pd.DataFrame", title: str) -> go.Figure:
    """Linear CKA of every (run, block) with every other as a heat map, the numbers written in."""
    labels = [f"{run} {block}" for run, block in table.index]
    plot = figure(title, height=150 + 30 * len(labels))
    plot.add_heatmap(
        z=table.to_numpy(),
        x=labels,
        y=labels,
        zmin=0,
        zmax=1,
        colorscale="Cividis",
        texttemplate="%{z:.2f}",
        hovertemplate="%{y} with %{x}: %{z:.3f}<extra></extra>",
        colorbar=dict(title="CKA", thickness=12),
    )
    plot.update_xaxes(type="category", ticks="", showgrid=False, tickangle=-40, automargin=True)
    plot.update_yaxes(type="category", autorange="reversed", ticks="", showgrid=False)
    runs = [run for run, _ in table.index]
    for edge in [i for i in range(1, len(runs)) if runs[i] != runs[i - 1]]:  # where one run ends
        style = dict(line=dict(color="white", width=3))
        plot.add_shape(type="line", x0=edge - 0.5, x1=edge - 0.5, y0=-0.5, y1=len(runs) - 0.5, **style)
        plot.add_shape(type="line", y0=edge - 0.5, y1=edge - 0.5, x0=-0.5, x1=len(runs) - 0.5, **style)
    plot.update_layout(margin=dict(l=8))
    return plot
