"""Differences from a baseline as intervals, one line a condition; conditions along training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from labkit.experiments.statistics import describe_row, side
from labkit.plots.theme import PALETTE, colour, figure

if TYPE_CHECKING:
    import pandas as pd

    from labkit.plots.static import StaticFigure

SIDES = {"better": "contrastive", "worse": "dispersive", "different": "ink", "no difference shown": "quiet"}  # → colour
WHERE = {"against": "against {}", "step": "step {:,}", "block": "measured at block {}", "sampler": "{}"}
LINE = 26  # pixels


def labels(rows: "pd.DataFrame") -> list[str]:
    """A name for each row: its condition, and those of ``WHERE`` that differ among the rows."""
    varying = {name: words for name, words in WHERE.items() if name in rows and rows[name].nunique(dropna=False) > 1}
    return [
        ", ".join([row["condition"], *(words.format(row[name]) for name, words in varying.items())])
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
    # Names take as much room as they need: titles begin at the figure's edge, and so does the key at its foot.
    key = dict(orientation="h", x=0.01, xref="container", xanchor="left", y=0, yref="container", yanchor="bottom")
    edge = dict(xref="container", x=0.01, yref="container", y=1, yanchor="top", pad=dict(t=12))
    plot.update_layout(title=edge, legend=key, showlegend=True, margin=dict(t=70, b=60))  # if all are on one side, too
    return plot


def draw_findings(plot: BaseFigure, rows: "pd.DataFrame", name: str) -> None:
    """Show rows of ``paired_differences``, with each condition's baseline in the column ``against``.

    Args:
        plot: from ``findings_figure``.  rows: differences in one metric.  name: title of that metric.
    """
    names = labels(rows)
    sides = [side(row) for _, row in rows.iterrows()]
    for trace in plot.data:
        own = [i for i, s in enumerate(sides) if s == trace.name]
        part = rows.iloc[own]
        trace.x, trace.y = part["difference"].tolist(), [names[i] for i in own]
        trace.error_x.array = (part["high"] - part["difference"]).fillna(0).tolist()
        trace.error_x.arrayminus = (part["difference"] - part["low"]).fillna(0).tolist()
    plot.update_yaxes(categoryorder="array", categoryarray=names)
    # Not the title of the axis, which would be centred on a pane that long names have left narrow.
    subtitle = dict(text=f"{name}: difference, and 95 % interval", font_size=13)
    plot.update_layout(title_subtitle=subtitle, height=170 + LINE * len(names))


def count_findings(rows: "pd.DataFrame") -> str:
    """Count of rows on each side of 0."""
    sides = [side(row) for _, row in rows.iterrows()]
    return ", ".join(f"{sides.count(name)} {name}" for name in SIDES if name in sides)


def describe_findings(rows: "pd.DataFrame") -> str:
    """Count of rows on each side of 0, and every row with its interval and wins."""
    each = "; ".join(
        f"{name} {describe_row(row)}" for name, (_, row) in zip(labels(rows), rows.iterrows(), strict=True)
    )
    return f"{count_findings(rows)}. {each}."


def ages_figure(
    table: "pd.DataFrame", conditions: Mapping[str, str], measures: Sequence[str], title: str
) -> "StaticFigure":
    """Metrics along training: one pane a metric, a thin line for each seed and a thick one for their mean.

    Args:
        table: columns condition, seed, step, measure, value; one value for each of the first four.
        conditions: condition → name, which also gives the colour.  measures: a pane each.  title: of the figure.
    """
    from labkit.plots.static import metric_figure

    plot, panes = metric_figure(title, measures, "step")
    for measure, axes in panes:
        for condition, name in conditions.items():
            own = table[(table["condition"] == condition) & (table["measure"] == measure)]
            seeds, ink = own.pivot(index="step", columns="seed", values="value"), colour(name)
            axes.plot(seeds.index, seeds, color=ink, alpha=0.35, linewidth=0.75)
            axes.plot(seeds.index, seeds.mean(axis=1), "o-", color=ink, linewidth=2, label=name)
    return plot
