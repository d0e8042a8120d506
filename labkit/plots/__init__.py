"""Figures as pure functions: data in, a plotly figure out. One theme, one palette, for notebooks, widgets and pages."""

from labkit.plots.comparison import BASES, cost_figure, curves_figure, samples_figure, spread_figure
from labkit.plots.digits import digit_trace, picture, style_digits, tile
from labkit.plots.findings import ages_figure, ages_told
from labkit.plots.maps import maps_figure, maps_told
from labkit.plots.outcome import curves_of, differences, outcome_figure, seeds_figure, told
from labkit.plots.spread import lines_figure, lines_told, similarity_figure
from labkit.plots.theme import CLASSES, DASHES, PALETTE, SYMBOLS, colour, draw_floor, fade, figure, key_of_classes

__all__ = [
    "BASES",
    "CLASSES",
    "DASHES",
    "PALETTE",
    "SYMBOLS",
    "ages_figure",
    "ages_told",
    "colour",
    "cost_figure",
    "curves_figure",
    "curves_of",
    "differences",
    "digit_trace",
    "draw_floor",
    "fade",
    "figure",
    "key_of_classes",
    "lines_figure",
    "lines_told",
    "maps_figure",
    "maps_told",
    "outcome_figure",
    "picture",
    "samples_figure",
    "seeds_figure",
    "similarity_figure",
    "spread_figure",
    "style_digits",
    "tile",
    "told",
]
