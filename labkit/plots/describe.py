"""Any figure in words, for readers who do not see it and for logs."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 20  # points; of longer lines the ends are given
Pane = tuple[str, str, list[tuple[str, Sequence[float], Sequence[float]]]]
"""Title, title of the horizontal axis, and name, x and y of each line; a bar's x is empty."""


def describe(figure: "go.Figure | Figure") -> str:
    """Title, panes, and the values of every named line and bar in them.

    Args:
        figure: plotly's or matplotlib's. Of images, clouds of points and lines without a name it gives no numbers.

    Returns:
        A line for the title, each pane and each series; of more than ``FEW`` points the first and the last.
    """
    title, panes = _plotly(figure) if isinstance(figure, BaseFigure) else _matplotlib(figure)
    lines = [title]
    for name, axis, series in panes:
        places = {tuple(x) for _, x, _ in series}
        same = len(places) == 1
        along = f", along {axis} {_values(places.pop())}" if same and any(places) else ""
        lines.append(f"{name or axis}{along}" + (":" if series else ""))
        lines += [f"  {run}{'' if same else f' (at {_values(x)})'} {_values(y)}" for run, x, y in series]
    return re.sub("<[^>]+>", " ", "\n".join(filter(None, lines)))


def _values(values: Sequence[float]) -> str:
    numbers = [f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in values]
    return ", ".join(numbers) if len(numbers) <= FEW else f"{numbers[0]} to {numbers[-1]}"


def _plotly(figure: BaseFigure) -> tuple[str, Iterator[Pane]]:
    layout, panes = figure.layout, {}
    titles = {(note.x, note.y): note.text for note in layout.annotations if note.xref == note.yref == "paper"}
    for trace in figure.data:
        series = panes.setdefault((trace.xaxis or "x", trace.yaxis or "y"), [])
        line = trace.type == "bar" or (trace.type == "scatter" and trace.mode != "markers")
        if line and trace.name and trace.y is not None and len(trace.y):
            series.append((trace.name, list(map(float, trace.x)), list(map(float, trace.y))))

    def pane(x: str, y: str) -> Pane:
        across, up = layout[f"xaxis{x[1:]}"], layout[f"yaxis{y[1:]}"]
        middle, top = sum(across.domain or (0, 1)) / 2, (up.domain or (0, 1))[1]
        return titles.get((middle, top), up.title.text or ""), across.title.text or "", panes[x, y]

    return layout.title.text or "", (pane(*place) for place in panes)


def _matplotlib(figure: "Figure") -> tuple[str, Iterator[Pane]]:
    def pane(axes) -> Pane:
        named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        bars = [(bar.get_label(), [], bar.datavalues) for bar in axes.containers]
        return axes.get_title(), axes.get_xlabel(), [(line.get_label(), *line.get_data()) for line in named] + bars

    return figure.get_suptitle(), map(pane, figure.axes)
