"""Where held-out images lie in the features of several conditions: on shared principal axes, and by UMAP."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from labkit.plots.theme import CLASSES, SYMBOLS, figure, key_of_classes

if TYPE_CHECKING:
    import pandas as pd

ROWS = {"pca": "principal axes: one scale for all", "umap": "UMAP: no scale"}


def maps_figure(maps: "pd.DataFrame", conditions: Sequence[str], title: str) -> go.Figure:
    """A column a condition: above on principal axes, where sizes can be compared, below by UMAP, where they cannot.

    Args:
        maps: of an atlas: condition, label, pca_1, pca_2, umap_1, umap_2, trustworthiness.
        conditions: which of its, at most five or the panes become too small.
    """
    parts = [maps[maps["condition"] == of] for of in conditions]
    trust = [f"trustworthiness {part['trustworthiness'].iloc[0]:.2f}" for part in parts]
    plot = figure(
        title, 2, len(parts), 560, subplot_titles=[*conditions, *trust], horizontal_spacing=0.02, vertical_spacing=0.1
    )
    for row, kind in enumerate(ROWS, 1):
        pair = [f"{kind}_1", f"{kind}_2"]
        # Centred: widths can be compared on shared axes, places cannot. Of UMAP neither can: a box for each.
        clouds = [(part[pair] - part[pair].mean()).to_numpy() for part in parts]
        reach = [1.05 * max(abs(cloud).max() for cloud in (clouds if kind == "pca" else [own])) for own in clouds]
        for col, (part, cloud) in enumerate(zip(parts, clouds, strict=True), 1):
            classes = part["label"].astype(int)
            marks = dict(
                size=5,
                color=[CLASSES[c % len(CLASSES)] for c in classes],
                symbol=[SYMBOLS[c % len(SYMBOLS)] for c in classes],
            )
            plot.add_scatter(
                x=cloud[:, 0],
                y=cloud[:, 1],
                mode="markers",
                marker=marks,
                text=classes,
                hovertemplate="%{text}<extra></extra>",
                showlegend=False,
                row=row,
                col=col,
            )
            box = dict(range=[-reach[col - 1], reach[col - 1]], showticklabels=False, ticks="")
            plot.update_xaxes(**box, row=row, col=col)
            plot.update_yaxes(**box, row=row, col=col)
        plot.update_yaxes(title_text=ROWS[kind], row=row, col=1)
    key = key_of_classes(sorted(map(int, maps["label"].unique())))
    plot.add_annotation(text=key, xref="paper", yref="paper", x=0, y=-0.08, xanchor="left", showarrow=False)
    return plot


def describe_maps(maps: "pd.DataFrame", conditions: Sequence[str]) -> str:
    """How wide each cloud is on the shared axes."""
    wide = maps.groupby("condition")[["pca_1", "pca_2"]].std().pow(2).sum(axis=1).pow(0.5)
    first = conditions[0]
    others = ", ".join(f"{of} ×{wide[of] / wide[first]:.2g}" for of in conditions[1:])
    return f"Width on the shared axes, beside that of {first}: {others}."
