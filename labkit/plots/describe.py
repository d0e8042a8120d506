"""Any figure in words, for readers who do not see it and for logs."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 20  # points; of longer lines the ends are given


class Series(NamedTuple):
    """A named line or bar of a figure."""

    name: str
    x: Sequence[float]
    """Empty for bars."""
    y: Sequence[float]


class Pane(NamedTuple):
    """One plot of a figure."""

    title: str
    along: str
    series: list[Series]


def describe(figure: "go.Figure | Figure") -> str:
    """Title, panes, and the values of every named line and bar in them.

    Args:
        figure: plotly's or matplotlib's. Of images, clouds of points and lines without a name it gives no numbers.

    Returns:
        A line for the title, each pane and each series; of more than ``FEW`` points the first and the last.
    """
    title, panes = _plotly(figure) if isinstance(figure, BaseFigure) else _matplotlib(figure)
    lines = [title]
    for pane in panes:
        places = {tuple(series.x) for series in pane.series}
        same = len(places) == 1
        along = f", along {pane.along} {_values(places.pop())}" if same and any(places) else ""
        lines.append(f"{pane.title or pane.along}{along}" + (":" if pane.series else ""))
        for series in pane.series:
            at = "" if same else f" (at {_values(series.x)})"
            lines.append(f"  {series.name}{at} {_values(series.y)}")
    return re.sub("<[^>]+>", " ", "\n".join(line for line in lines if line))


def _values(values: Sequence[float]) -> str:
    numbers = [f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in values]
    if len(numbers) <= FEW:
        return ", ".join(numbers)
    return f"{numbers[0]} to {numbers[-1]}"


def _plotly(figure: BaseFigure) -> tuple[str, Iterator[Pane]]:
    layout, panes = figure.layout, {}
    for trace in figure.data:
        series = panes.setdefault((trace.xaxis or "x", trace.yaxis or "y"), [])
        line = trace.type == "bar" or (trace.type == "scatter" and trace.mode != "markers")
        if line and trace.name and trace.y is not None and len(trace.y):
            series.append(Series(trace.name, list(map(float, trace.x)), list(map(float, trace.y))))
    titles = {(note.x, note.y): note.text for note in layout.annotations if note.xref == note.yref == "paper"}

    def pane(x: str, y: str) -> Pane:
        across, up = layout[f"xaxis{x[1:]}"], layout[f"yaxis{y[1:]}"]
        middle, top = sum(across.domain or (0, 1)) / 2, (up.domain or (0, 1))[1]
        return Pane(titles.get((middle, top), up.title.text or ""), across.title.text or "", panes[x, y])

    return layout.title.text or "", (pane(*place) for place in panes)


def _matplotlib(figure: "Figure") -> tuple[str, Iterator[Pane]]:
    def pane(axes) -> Pane:
        named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        series = [Series(line.get_label(), *map(list, line.get_data(orig=False))) for line in named]
        series += [Series(bars.get_label(), [], list(bars.datavalues)) for bars in axes.containers]
        return Pane(axes.get_title(), axes.get_xlabel(), series)

    return figure.get_suptitle(), map(pane, figure.axes)
