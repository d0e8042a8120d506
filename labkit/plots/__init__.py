"""Figures as pure functions: data in, a figure out, by plotly where readers act on it and by matplotlib elsewhere.

One theme, one palette, for notebooks, widgets and pages.
"""

from labkit.plots.comparison import cost_figure, curves_figure, samples_figure, sheets_figure, spread_figure
from labkit.plots.describe import describe, fold
from labkit.plots.digits import digit_trace, picture, style_digits, tile
from labkit.plots.findings import ages_figure, describe_findings, draw_findings, findings_figure
from labkit.plots.maps import describe_maps, maps_figure
from labkit.plots.outcome import (
    condition_title,
    curves_of,
    describe_differences,
    differences,
    outcome_figure,
    seeds_figure,
)
from labkit.plots.spread import distances_axes, draw_distances, lines_figure, similarity_figure
from labkit.plots.tables import metrics_table, table_html
from labkit.plots.theme import (
    CLASSES,
    DASHES,
    PALETTE,
    class_key,
    class_marker,
    colour,
    draw_floor,
    fade,
    figure,
    scale_axis,
)

__all__ = [
    "CLASSES",
    "DASHES",
    "PALETTE",
    "ages_figure",
    "class_key",
    "class_marker",
    "colour",
    "condition_title",
    "cost_figure",
    "curves_figure",
    "curves_of",
    "describe",
    "describe_differences",
    "describe_findings",
    "describe_maps",
    "differences",
    "digit_trace",
    "distances_axes",
    "draw_distances",
    "draw_findings",
    "draw_floor",
    "fade",
    "figure",
    "findings_figure",
    "fold",
    "lines_figure",
    "maps_figure",
    "metrics_table",
    "outcome_figure",
    "picture",
    "samples_figure",
    "scale_axis",
    "seeds_figure",
    "sheets_figure",
    "similarity_figure",
    "spread_figure",
    "style_digits",
    "table_html",
    "tile",
]
