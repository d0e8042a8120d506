"""Static figures, by matplotlib in the lab's theme: SVG, in notebooks and on pages alike.

Importing this module takes a second for matplotlib, so figures import it when they are drawn.
"""

import base64
import html
import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from labkit.metrics import metric
from labkit.plots.describe import describe, fold
from labkit.plots.theme import FONT, PALETTE

WIDTH = 960  # pixels
POINT = 0.75  # of a pixel
LETTERS = 96  # that fit side by side into this width, in the widest font of a reader
LINES = ("-", "--", ":", "-.")  # lines that cross differ in more than their colour
INK = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
EDGES = ("axes.edgecolor", "xtick.color", "ytick.color")
STYLE = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "font.family": "sans-serif",
    "font.sans-serif": [name.strip(" '") for name in FONT.split(",")],
    "font.size": 12 * POINT,
    "figure.titlesize": 16 * POINT,
    "axes.titlesize": 13 * POINT,
    "axes.titlepad": 8 * POINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "lines.markersize": 5,
    "grid.color": "#ECECEC",
    **dict.fromkeys(INK, PALETTE["ink"]),
    **dict.fromkeys(EDGES, "#B8B8B8"),
}


class StaticFigure(Figure):
    """A figure that shows itself as SVG with alternative text; the backend that a reader has chosen stays."""

    def svg(self) -> str:
        """The figure as an ``svg`` element as wide as there is room, at most ``WIDTH`` pixels."""
        file = io.StringIO()
        with mpl.rc_context(STYLE):
            self.savefig(file, format="svg", metadata={"Date": None})
        text = file.getvalue()
        size = f'role="img" aria-label="{self._alt()}" width="100%" style="max-width: {WIDTH}px" '
        return re.sub(r'width="\S+" height="\S+" ', lambda _: size, text[text.index("<svg") :], count=1)

    def _repr_html_(self) -> str:
        """The figure, and the same in words, folded. An ``img``: of an SVG, nbconvert makes one without its words."""
        source = base64.b64encode(self.svg().encode()).decode()
        size = f"width: 100%; max-width: {WIDTH}px"
        image = f'<img alt="{self._alt()}" style="{size}" src="data:image/svg+xml;base64,{source}">'
        return f'<div class="labkit-figure labkit-light">{image}</div>{fold(describe(self))}'

    def _alt(self) -> str:
        return html.escape(describe(self))


def static_figure(title: str, rows: int, columns: int, height: int) -> tuple[StaticFigure, Iterator[Axes]]:
    """An empty figure, ``WIDTH`` × height pixels, and its panes row by row."""
    with mpl.rc_context(STYLE):
        plot = StaticFigure(figsize=(WIDTH / 96, height / 96), layout="constrained")
        plot.get_layout_engine().set(w_pad=0.12, h_pad=0.06)
        plot.suptitle(title, x=0.005, ha="left")
        return plot, iter(plot.subplots(rows, columns, squeeze=False).flat)


def metric_figure(
    title: str, metrics: Sequence[str], along: str, height: int = 350, rows: int = 1
) -> tuple[StaticFigure, Iterator[tuple[str, Axes]]]:
    """A figure with a pane for each metric, and the panes: each is labelled once it has been drawn, the key at last."""
    plot, panes = static_figure(title, rows, len(metrics) // rows, height)

    def drawn() -> Iterator[tuple[str, Axes]]:
        for name, axes in zip(metrics, panes, strict=True):
            yield name, axes
            show_metric(axes, name, along)
        draw_legend(plot)

    return plot, drawn()


def show_metric(axes: Axes, name: str, along: str) -> None:
    """Titles and scale of a pane in which a metric has been drawn, by the table of metrics."""
    columns = axes.get_gridspec().ncols
    title = metric(name).label if columns < 4 else metric(name).title
    axes.set_title(textwrap.fill(title, LETTERS // columns))
    axes.set_xlabel(along)
    if metric(name).log:
        axes.set_yscale("log")
        (low, high), most = axes.get_ylim(), axes.dataLim.ymax
        if 1e4 * low < most < math.inf:  # values near 0 would press all others together
            axes.set_ylim(1e-4 * most, 1.5 * most)
        if high < 100 * low:  # too narrow for powers of ten
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    if metric(name).percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(bottom=0)


def draw_legend(plot: StaticFigure) -> None:
    """One legend for all panes, with every name that any of them has."""
    handles: dict[str, Artist] = {}
    for axes in plot.axes:
        for artist, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, artist)
    columns = max(1, 140 // (8 + max(map(len, handles), default=0)))  # letters; 8 for the line before a name and a gap
    columns = min(columns, len(handles) or 1)
    plot.legend(handles.values(), handles.keys(), loc="outside lower left", frameon=False, ncols=columns)
