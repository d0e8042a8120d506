"""Differences from a baseline as intervals, one line a condition; conditions as they grow older."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from labkit.experiments.statistics import describe_row, side
from labkit.metrics import metric
from labkit.plots.theme import PALETTE, colour, fade, figure, scale_axis

if TYPE_CHECKING:
    import pandas as pd

SIDES = {"better": "contrastive", "worse": "dispersive", "different": "ink", "no difference shown": "quiet"}  # → colour
WHERE = {"against": "against {}", "step": "step {}", "block": "block {}", "sampler": "{}"}
LINE = 26  # pixels


def labels(rows: "pd.DataFrame") -> list[str]:
    """A name for each row: its condition, and whatever else tells rows apart."""
    told_apart = {name: words for name, words in WHERE.items() if rows[name].nunique(dropna=False) > 1}
    return [
        ", ".join([row["condition"], *(words.format(row[name]) for name, words in told_apart.items())])
        for _, row in rows.iterrows()
    ]


def findings_figure(title: str) -> go.Figure:
    """An empty figure for ``draw_findings``."""
    plot = figure(title, 1, 1, 420)
    for name, ink in SIDES.items():
        bar = dict(type="data", symmetric=False, thickness=2, width=5, color=PALETTE[ink])
        dots = dict(color=PALETTE[ink], size=9)
        plot.add_trace(go.Scatter(mode="markers", name=name, marker=dots, error_x=bar, hoverinfo="x+y"))
    plot.add_vline(0, line=dict(color=PALETTE["ink"], width=1.2))
    plot.update_yaxes(autorange="reversed", automargin=True)
    return plot


def draw_findings(plot: BaseFigure, rows: "pd.DataFrame", name: str) -> None:
    """Show rows of ``paired_differences``, with its condition's baseline as ``against``.

    Args:
        plot: from ``findings_figure``.  rows: of one measure.  name: of the measure.
    """
    names = labels(rows)
    sides = [side(row) for _, row in rows.iterrows()]
    for trace in plot.data:
        own = [i for i, of in enumerate(sides) if of == trace.name]
        part = rows.iloc[own]
        trace.x, trace.y = part["difference"].tolist(), [names[i] for i in own]
        trace.error_x.array = (part["high"] - part["difference"]).fillna(0).tolist()
        trace.error_x.arrayminus = (part["difference"] - part["low"]).fillna(0).tolist()
    plot.update_yaxes(categoryorder="array", categoryarray=names)
    plot.update_xaxes(title_text=f"{name}: condition minus baseline, mean and 95 % interval over seeds")
    plot.update_layout(height=150 + LINE * len(names))


def describe_findings(rows: "pd.DataFrame") -> str:
    """How many of each side, and every row with its interval and wins."""
    sides = [side(row) for _, row in rows.iterrows()]
    counts = ", ".join(f"{sides.count(name)} {name}" for name in SIDES if name in sides)
    each = "; ".join(
        f"{name} {describe_row(row)}" for name, (_, row) in zip(labels(rows), rows.iterrows(), strict=True)
    )
    return f"{counts}. {each}."


def ages_figure(table: "pd.DataFrame", conditions: Mapping[str, str], measures: Sequence[str], title: str) -> go.Figure:
    """How conditions develop: one pane a measure, along training steps a thin line a seed and a thick one their mean.

    Args:
        table: condition, seed, step, measure, value: one value for each of them.
        conditions: condition → name, which also gives the colour.  measures: a pane each.  title: of the figure.
    """
    titles = [metric(measure).label for measure in measures]
    plot = figure(title, 1, len(measures), 330, subplot_titles=titles, horizontal_spacing=0.07)
    for col, measure in enumerate(measures, 1):
        for condition, name in conditions.items():
            own = table[(table["condition"] == condition) & (table["measure"] == measure)]
            wide = own.pivot(index="step", columns="seed", values="value")
            x, ink = wide.index.tolist(), colour(name)
            for seed in wide:
                thin = dict(color=fade(ink, 0.35), width=1)
                plot.add_scatter(
                    x=x,
                    y=wide[seed].tolist(),
                    mode="lines",
                    line=thin,
                    showlegend=False,
                    hoverinfo="skip",
                    row=1,
                    col=col,
                )
            plot.add_scatter(
                x=x,
                y=wide.mean(axis=1).tolist(),
                mode="lines+markers",
                line=dict(color=ink, width=2.5),
                name=name,
                showlegend=col == 1,
                row=1,
                col=col,
            )
        plot.update_xaxes(title_text="step", row=1, col=col)
        scale_axis(plot, measure, row=1, col=col)
    plot.update_layout(legend=dict(y=-0.28, x=0, xanchor="left", yanchor="top"))
    return plot
