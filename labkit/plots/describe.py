"""Figures in words: their alternative text, and what logs hold of them. Panels write their own sentence."""

import html
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, SupportsFloat

from plotly.basedatatypes import BaseFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 20  # points; a longer line is described by its ends


def describe(figure: "Figure | BaseFigure") -> str:
    """Title, panes, and the values of every named line and bar in them; of a plotly figure, names alone.

    Returns:
        One line for the title, one for each pane and each series. A series of more than ``FEW`` points is given by its
        first and last; images and lines without a name have no numbers. For plotly one line: the title, and the names
        of panes, axes and traces.
    """
    if isinstance(figure, BaseFigure):
        return _names(figure)
    return "\n".join([figure.get_suptitle(), *(line for axes in figure.axes for line in _pane(axes))])


def fold(words: str) -> str:
    """Lines of words as HTML that a reader opens with a click."""
    return f"<details><summary>in words</summary><pre>{html.escape(words)}</pre></details>"


def _pane(axes: "Axes") -> list[str]:
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    shared = len({tuple(line.get_xdata()) for line in lines}) == 1  # x is given once, with the title
    title = " ".join((axes.get_title() or axes.get_xlabel()).split())  # a long title has several lines
    if shared:
        title += f", along {axes.get_xlabel()} {_values(lines[0].get_xdata())}"
    at = ["" if shared else f"(at {_values(line.get_xdata())}) " for line in lines]
    series = [f"  {line.get_label()} {x}{_values(line.get_ydata())}" for line, x in zip(lines, at, strict=True)]
    series += [f"  {bar.get_label()} {_values(bar.datavalues)}" for bar in axes.containers]
    return [title + (":" if series else ""), *series]


def _values(values: Iterable[SupportsFloat]) -> str:
    numbers = [f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in map(float, values)]
    return ", ".join(numbers) if len(numbers) <= FEW else f"{numbers[0]} to {numbers[-1]}"


def _names(plot: BaseFigure) -> str:
    names = {
        "panes": [note.text for note in plot.layout.annotations],
        "axes": [axis.title.text for axis in (*plot.select_xaxes(), *plot.select_yaxes())],
        "shown": [trace.name for trace in plot.data],
    }
    texts = {
        kind: ", ".join(dict.fromkeys(_plain(text) for text in texts_of_kind if text))
        for kind, texts_of_kind in names.items()
    }
    details = "; ".join(f"{kind}: {text}" for kind, text in texts.items() if text)
    title = " ".join(text for text in (plot.layout.title.text, plot.layout.title.subtitle.text) if text)
    return f"{_plain(title)} ({details})"


def _plain(text: str) -> str:
    """Text without tags, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
