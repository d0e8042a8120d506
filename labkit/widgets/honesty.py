"""A cloud beside a shrunken copy of itself, by PCA and by UMAP: which of the two pictures tells?"""

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from tqdm.auto import tqdm
from traitlets import Float as FloatTrait
from traitlets import HasTraits

from labkit.checks import finite, require
from labkit.metrics import mean_pairwise_distance
from labkit.plots import PALETTE, figure
from labkit.projection import Pca, UmapReference
from labkit.widgets.panel import Panel, choice

SCALES = (1.0, 0.3, 0.1, 0.03, 0.01)
CLOUDS = {"as it is": PALETTE["baseline"], "shrunk copy": PALETTE["dispersive"]}
WAYS = {"features": PALETTE["quiet"], "PCA": PALETTE["contrastive"], "UMAP": PALETTE["accent"]}


class Shrunk(HasTraits):
    """A scale in; both clouds' maps, and how large the copy looks in each, out. Every map is made beforehand.

    Args:
        z: features.  scales: of the copy, each to be chosen; the middle one is shown first.  seed: of UMAP.
    """

    scale = FloatTrait(1.0)

    def __init__(
        self, z: Float[Tensor, "n ..."], scales: tuple[float, ...] = SCALES, seed: int = 0, progress: bool = True
    ) -> None:
        possible = len(scales) > 0 and all(finite(scale) and scale > 0 for scale in scales)
        require(possible, "scales", scales, "take one or more numbers above 0")
        super().__init__(scale=scales[len(scales) // 2])
        self.scales = scales
        z = z.flatten(1) - z.flatten(1).mean(dim=0)
        self.maps: dict[float, dict[str, dict[str, Tensor]]] = {}
        for scale in tqdm(scales, unit="map", disable=not progress):
            clouds = dict(zip(CLOUDS, (z, scale * z), strict=True))
            makers = {"PCA": Pca.fit(clouds), "UMAP": UmapReference.fit(clouds, seed=seed)}
            self.maps[scale] = {"features": clouds} | {
                way: {name: torch.as_tensor(maker.transform(x)) for name, x in clouds.items()}
                for way, maker in makers.items()
            }

    def ratio(self, way: str, scale: float) -> float:
        """How far the copy's points lie from each other, over how far the cloud's do: in features or in a picture."""
        cloud, copy = (mean_pairwise_distance(x) for x in self.maps[scale][way].values())
        return copy / cloud


def shrunk_panel(state: Shrunk, name: str = "shrunk") -> Panel:
    """PCA and UMAP of both clouds at a scale, and what became of the scale in each."""
    plot = figure(
        "The copy is smaller. Which picture says so?",
        1,
        3,
        380,
        horizontal_spacing=0.08,
        subplot_titles=["PCA of both", "UMAP of both", "size of the copy, over the cloud's"],
    )
    places: dict[tuple[str, str], int] = {}
    for col, way in enumerate(("PCA", "UMAP"), 1):
        for cloud, ink in CLOUDS.items():
            places[way, cloud] = len(plot.data)
            symbol = "circle" if cloud == "as it is" else "x"
            plot.add_scatter(
                mode="markers",
                marker=dict(color=ink, size=5, symbol=symbol, opacity=0.7),
                name=cloud,
                showlegend=col == 1,
                hoverinfo="skip",
                row=1,
                col=col,
            )
        plot.update_xaxes(constrain="domain", showticklabels=way == "PCA", row=1, col=col)
        anchor = "x" if col == 1 else f"x{col}"
        plot.update_yaxes(scaleanchor=anchor, constrain="domain", showticklabels=way == "PCA", row=1, col=col)
    for place, (way, ink) in enumerate(WAYS.items()):
        line = dict(color=ink, width=2 + 3 * (way == "features"), dash="dot" if way == "features" else "solid")
        plot.add_trace(
            go.Scatter(
                x=state.scales,
                y=[state.ratio(way, s) for s in state.scales],
                name=way,
                legend="legend2",
                line=line,
                mode="lines+markers",
                marker=dict(size=7, symbol=("circle", "square", "diamond")[place]),
            ),
            1,
            3,
        )
    plot.update_xaxes(type="log", title_text="scale of the copy", dtick=1, row=1, col=3)
    plot.update_yaxes(type="log", dtick=1, row=1, col=3)
    plot.add_vline(state.scale, line=dict(color=PALETTE["ink"], dash="dot", width=1.5), row=1, col=3)
    plot.update_layout(
        legend=dict(x=0, xanchor="left", y=-0.12, yanchor="top"),
        legend2=dict(orientation="h", x=1, xanchor="right", y=-0.26, yanchor="top"),
    )

    def draw(state: Shrunk, plot: BaseFigure) -> str:
        for (way, cloud), place in places.items():
            xy = state.maps[state.scale][way][cloud].numpy()
            plot.data[place].x, plot.data[place].y = xy[:, 0], xy[:, 1]
        plot.layout.shapes[0].x0 = plot.layout.shapes[0].x1 = state.scale
        told = {way: state.ratio(way, state.scale) for way in WAYS}
        return (
            f"The copy is the cloud times {state.scale:g}. Its mean distance, over the cloud's, is "
            f"{told['features']:.2g} in feature space, {told['PCA']:.2g} in the PCA picture and {told['UMAP']:.2g} in "
            "the UMAP picture."
        )

    alt = "A cloud and its shrunken copy by PCA and by UMAP, and the size of the copy in each against its true scale."
    controls = {"scale": choice("scale of the copy", [(f"{s:g}", s) for s in state.scales])}
    return Panel(name, state, controls, plot, draw, alt)
