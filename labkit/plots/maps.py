"""Maps of held-out images in the feature spaces of several conditions: on shared principal axes, and by UMAP."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from labkit.plots.theme import class_key, class_marker, figure

if TYPE_CHECKING:
    import pandas as pd

ROWS = {"pca": "principal axes: one scale for all", "umap": "UMAP: no scale"}


def maps_figure(maps: "pd.DataFrame", conditions: Mapping[str, str], title: str) -> go.Figure:
    """A column a condition: above on principal axes, where sizes can be compared, below by UMAP, where they cannot.

    Args:
        maps: an atlas's table: condition, label, pca_1, pca_2, umap_1, umap_2, trustworthiness.
        conditions: those to show → their names, at most five or the panes become too small.
    """
    parts = [maps[maps["condition"] == condition] for condition in conditions]
    trust = [f"trustworthiness {part['trustworthiness'].iloc[0]:.2f}" for part in parts]
    spacing = dict(horizontal_spacing=0.02, vertical_spacing=0.1)
    plot = figure(title, 2, len(parts), 560, subplot_titles=[*conditions.values(), *trust], **spacing)
    for row, kind in enumerate(ROWS, 1):
        pair = [f"{kind}_1", f"{kind}_2"]
        # Centred: on shared axes widths can be compared, places cannot. In UMAP neither can: each has its own box.
        clouds = [(part[pair] - part[pair].mean()).to_numpy() for part in parts]
        reach = [1.05 * max(abs(cloud).max() for cloud in (clouds if kind == "pca" else [own])) for own in clouds]
        for col, (part, cloud) in enumerate(zip(parts, clouds, strict=True), 1):
            classes = part["label"].astype(int)
            pane, hover = dict(row=row, col=col), dict(text=classes, hovertemplate="%{text}<extra></extra>")
            dots = dict(mode="markers", marker=dict(size=5, **class_marker(classes)), showlegend=False)
            plot.add_scatter(x=cloud[:, 0], y=cloud[:, 1], **dots, **hover, **pane)
            box = dict(range=[-reach[col - 1], reach[col - 1]], showticklabels=False, ticks="")
            plot.update_xaxes(**box, **pane)
            plot.update_yaxes(**box, **pane)
        plot.update_yaxes(title_text=ROWS[kind], row=row, col=1)
    key = class_key(sorted(map(int, maps["label"].unique())))
    plot.add_annotation(text=key, xref="paper", yref="paper", x=0, y=-0.08, xanchor="left", showarrow=False)
    return plot


def describe_maps(maps: "pd.DataFrame", conditions: Mapping[str, str]) -> str:
    """Width of each cloud on the shared axes, relative to the first condition's."""
    widths = maps.groupby("condition")[["pca_1", "pca_2"]].std().pow(2).sum(axis=1).pow(0.5)
    first, *others = conditions
    ratios = ", ".join(f"{conditions[other]} ×{widths[other] / widths[first]:.2g}" for other in others)
    return f"Width on the shared axes, relative to {conditions[first]}: {ratios}."
