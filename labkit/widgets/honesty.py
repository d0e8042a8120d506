"""A cloud beside a shrunken copy of itself, by PCA and by UMAP: which of the two shows the difference in size?"""

import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from tqdm.auto import tqdm
from traitlets import Float as FloatTrait

from labkit.checks import finite, require
from labkit.metrics import mean_pairwise_distance
from labkit.plots import PALETTE, figure
from labkit.projection import Pca, UmapReference
from labkit.widgets.panel import Panel, State, choice

SCALES = (1.0, 0.3, 0.1, 0.03, 0.01)
CLOUDS = {"as it is": PALETTE["baseline"], "shrunk copy": PALETTE["dispersive"]}
SPACES = {"features": PALETTE["quiet"], "PCA": PALETTE["contrastive"], "UMAP": PALETTE["accent"]}


class Shrunk(State):
    """A scale in; both clouds' maps, and the size of the copy in each, out. Every map is made beforehand.

    Args:
        z: features.  scales: sizes of the copy to choose from; the middle one is shown first.
    """

    scale = FloatTrait(1.0)

    def __init__(self, z: Float[Tensor, "n ..."], scales: tuple[float, ...] = SCALES) -> None:
        possible = len(scales) > 0 and all(finite(scale) and scale > 0 for scale in scales)
        require(possible, "scales", scales, "take one or more numbers above 0")
        super().__init__(scale=scales[len(scales) // 2])
        self.scales = scales
        z = z.flatten(1) - z.flatten(1).mean(dim=0)
        self.maps: dict[float, dict[str, dict[str, Tensor]]] = {}
        for scale in tqdm(scales, unit="map"):
            clouds = dict(zip(CLOUDS, (z, scale * z), strict=True))
            projections = {"PCA": Pca.fit(clouds), "UMAP": UmapReference.fit(clouds)}
            self.maps[scale] = {"features": clouds} | {
                space: {name: torch.as_tensor(projection.transform(x)) for name, x in clouds.items()}
                for space, projection in projections.items()
            }

    def ratio(self, space: str, scale: float) -> float:
        """Mean pairwise distance of the copy over that of the cloud, in the features or in one of the maps."""
        cloud, copy = (mean_pairwise_distance(x) for x in self.maps[scale][space].values())
        return copy / cloud


def shrunk_panel(state: Shrunk, name: str = "shrunk") -> Panel:
    """PCA and UMAP of both clouds at a scale, and the size of the copy in each of them."""
    panes = ["PCA of both", "UMAP of both", "size of the copy, over the cloud's"]
    title = "The copy is smaller. Which picture says so?"
    plot = figure(title, 1, 3, 380, horizontal_spacing=0.08, subplot_titles=panes)
    places: dict[tuple[str, str], int] = {}
    for col, space in enumerate(("PCA", "UMAP"), 1):
        pane = dict(row=1, col=col)
        for cloud, ink in CLOUDS.items():
            places[space, cloud] = len(plot.data)
            dots = dict(color=ink, size=5, symbol="circle" if cloud == "as it is" else "x", opacity=0.7)
            plot.add_scatter(mode="markers", marker=dots, name=cloud, showlegend=col == 1, hoverinfo="skip", **pane)
        plot.update_xaxes(constrain="domain", showticklabels=space == "PCA", **pane)
        plot.update_yaxes(scaleanchor=("x", "x2")[col - 1], constrain="domain", showticklabels=space == "PCA", **pane)
    for (space, ink), symbol in zip(SPACES.items(), ("circle", "square", "diamond"), strict=True):
        line = dict(color=ink, width=5, dash="dot") if space == "features" else dict(color=ink, width=2)
        look = dict(mode="lines+markers", line=line, marker=dict(size=7, symbol=symbol))
        ratios = [state.ratio(space, scale) for scale in state.scales]
        plot.add_scatter(x=state.scales, y=ratios, name=space, legend="legend2", **look, row=1, col=3)
    plot.update_xaxes(type="log", title_text="scale of the copy", dtick=1, row=1, col=3)
    plot.update_yaxes(type="log", dtick=1, row=1, col=3)
    plot.add_vline(state.scale, line=dict(color=PALETTE["ink"], dash="dot", width=1.5), row=1, col=3)
    plot.update_layout(
        legend=dict(x=0, xanchor="left", y=-0.12, yanchor="top"),
        legend2=dict(orientation="h", x=1, xanchor="right", y=-0.26, yanchor="top"),
    )

    def draw(state: Shrunk, plot: BaseFigure) -> str:
        for (space, cloud), place in places.items():
            plot.data[place].x, plot.data[place].y = state.maps[state.scale][space][cloud].T.numpy()
        plot.layout.shapes[0].x0 = plot.layout.shapes[0].x1 = state.scale
        features, pca, umap = (state.ratio(space, state.scale) for space in SPACES)
        return (
            f"The copy is the cloud times {state.scale:g}. Its mean pairwise distance is {features:.2g} times the "
            f"cloud's in feature space, {pca:.2g} times in the PCA picture and {umap:.2g} times in the UMAP picture."
        )

    alt = "A cloud and its shrunken copy by PCA and by UMAP, and the size of the copy in each against its true scale."
    controls = {"scale": choice("scale of the copy", [(f"{s:g}", s) for s in state.scales])}
    return Panel(name, state, controls, plot, draw, alt)
