"""One look: Okabe and Ito's colours, which colour-blind readers can tell apart, on white, with quiet axes."""

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labkit.losses import dispersive_floor
from labkit.metrics import metric

PALETTE = {
    "baseline": "#0072B2",
    "dispersive": "#D55E00",
    "contrastive": "#009E73",
    "accent": "#CC79A7",
    "gold": "#E69F00",
    "sky": "#56B4E9",
    "ink": "#222222",
    "quiet": "#8A8A8A",
}
CLASSES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8C6D1F", "#8A8A8A", "#B5A800"]
SYMBOLS = ["circle", "square", "diamond", "cross", "x", "triangle-up", "triangle-down", "pentagon", "star", "hexagram"]
"""Ten classes differ in shape as well as in colour."""
GLYPHS = "●■◆✚✖▲▼⬟★✶"  # the same shapes as text
DASHES = ("solid", "dash", "dot", "dashdot")  # lines that cross differ in more than their colour
SHARED = {  # conditions that share a colour, never shown in one figure
    "l2-independent": "contrastive",
    "l2-restricted": "sky",
    "alpha0.5": "gold",
    "cosine": "sky",
    "hinge": "gold",
    "covariance": "accent",
    "repa": "accent",
    "REPA": "accent",
    "repa-dispersive": "gold",
    "both": "gold",
    "meanflow-baseline": "baseline",
    "meanflow-dispersive": "dispersive",
}
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
AXIS = dict(gridcolor="#ECECEC", zerolinecolor="#D5D5D5", linecolor="#B8B8B8", title=dict(standoff=6, font_size=13))
TEMPLATE = go.layout.Template(
    layout=go.Layout(
        font=dict(family=FONT, size=13, color=PALETTE["ink"]),
        title=dict(x=0, xref="paper", xanchor="left", font=dict(size=16)),
        colorway=[PALETTE[n] for n in ("baseline", "dispersive", "contrastive", "accent", "gold", "sky")],
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin=dict(l=56, r=16, t=56, b=44),
        hoverlabel=dict(font=dict(family=FONT)),
        legend=dict(orientation="h", y=1.02, yanchor="bottom", x=1, xanchor="right"),
        xaxis=AXIS | dict(ticks="outside", ticklen=4, tickcolor="#B8B8B8"),
        yaxis=AXIS | dict(automargin=True),
    )
)


def colour(name: str) -> str:
    """Colour of a condition; ink for any other name."""
    return PALETTE.get(SHARED.get(name, name), PALETTE["ink"])


def class_marker(classes: Iterable[int]) -> dict[str, list[str]]:
    """Colour and symbol of each point of a scatter, by its class."""
    indices = [c % len(CLASSES) for c in classes]
    return dict(color=[CLASSES[i] for i in indices], symbol=[SYMBOLS[i] for i in indices])


def class_key(classes: Iterable[int]) -> str:
    """Shape and colour of each class as one line of text; a legend of ten traces would cost every redraw 10 ms."""
    signs = (
        f'<span style="color:{CLASSES[c % len(CLASSES)]}">{GLYPHS[c % len(GLYPHS)]}</span>&nbsp;{c}' for c in classes
    )
    return "&nbsp; &nbsp;".join(signs)


def fade(hex_colour: str, alpha: float) -> str:
    """A colour with an opacity: '#0072B2' → 'rgba(0, 114, 178, alpha)'."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


def figure(title: str, rows: int = 1, cols: int = 1, height: int = 380, **subplots: Any) -> go.Figure:
    """An empty figure in the lab's theme, with its subplots laid out."""
    plot = make_subplots(rows=rows, cols=cols, **subplots)
    plot.update_layout(template=TEMPLATE, title_text=title, height=height, autosize=True)
    plot.update_annotations(font=dict(size=13, family=FONT))  # the titles of subplots
    return plot


def scale_axis(plot: go.Figure, name: str, row: int, col: int) -> None:
    """Give a pane's axis the log or percent scale that the table of metrics names for this metric."""
    about = metric(name)
    if about.log:
        plot.update_yaxes(type="log", nticks=3, tickformat="~g", row=row, col=col)  # 0.5, not a small 5
    if about.percent:
        plot.update_yaxes(tickformat=".0%", rangemode="tozero", row=row, col=col)


def draw_floor(plot: go.Figure, batch: int, row: int, col: int, label: str = "top right") -> None:
    """Draw the floor −log B of the Dispersive Loss: a curve that stays on it has finished, it is not broken."""
    floor = dispersive_floor(batch)
    plot.add_hline(
        floor,
        line=dict(dash="dot", color=PALETTE["quiet"]),
        row=row,
        col=col,
        annotation_text=f"floor −log {batch} = −{-floor:.2f}",
        annotation_position=label,
    )
