"""Figures as pure functions: data in, a plotly figure out. One theme, one palette, for notebooks, widgets and pages."""

from labkit.plots.comparison import cost_figure, curves_figure, samples_figure, spread_figure
from labkit.plots.digits import digit_trace, style_digits, tile
from labkit.plots.outcome import curves_of, differences, outcome_figure, seeds_figure, told
from labkit.plots.theme import PALETTE, colour, draw_floor, fade, figure

__all__ = [
    "PALETTE",
    "colour",
    "cost_figure",
    "curves_figure",
    "curves_of",
    "differences",
    "digit_trace",
    "draw_floor",
    "fade",
    "figure",
    "outcome_figure",
    "samples_figure",
    "seeds_figure",
    "spread_figure",
    "style_digits",
    "tile",
    "told",
]
