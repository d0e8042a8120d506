"""Differences from a baseline as intervals, one line a condition, and the same in words."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from labkit.experiments.statistics import LESS_IS_BETTER, told
from labkit.plots.theme import PALETTE, figure

if TYPE_CHECKING:
    import pandas as pd

SIDES = {"better": "contrastive", "worse": "dispersive", "no difference shown": "quiet"}  # → colour
WHERE = {"against": "against {}", "step": "step {}", "block": "block {}", "sampler": "{}"}
LINE = 26  # pixels


def side(row: "pd.Series") -> str:
    """What an interval says: better or worse, if it lies on one side of 0; of geometry more counts as better."""
    if not (row["low"] > 0 or row["high"] < 0):
        return "no difference shown"
    less = row["measure"].startswith(LESS_IS_BETTER)
    return "better" if (row["difference"] < 0) == less else "worse"


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


def findings_told(rows: "pd.DataFrame") -> str:
    """The same in words: how many of each side, and every row."""
    sides = [side(row) for _, row in rows.iterrows()]
    counts = ", ".join(f"{sides.count(name)} {name}" for name in SIDES)
    each = "; ".join(f"{name} {told(row)}" for name, (_, row) in zip(labels(rows), rows.iterrows(), strict=True))
    return f"{counts}. {each}."
