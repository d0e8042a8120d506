"""Panels on the loss itself: the push between two samples, a whole cloud that is scaled, and all four variants on one
cloud: which depend on its size, and which on its shape."""

import math
from functools import partial

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Float as FloatTrait
from traitlets import Int

from labkit.losses import dispersive_floor, dispersive_loss
from labkit.losses.dispersive import Variant, own_knobs
from labkit.metrics import effective_rank
from labkit.plots import PALETTE, draw_floor, figure, table_html
from labkit.runtime import generator
from labkit.widgets.panel import Panel, State, choice, log_slider, slider

REACH = torch.linspace(0, 4, 401, dtype=torch.float64)
LOOKS: dict[Variant, tuple[str, str, str]] = {  # warm colours: depends on the size; cool: does not
    "infonce_l2": ("InfoNCE-L2", "dispersive", "solid"),
    "hinge": ("hinge", "gold", "dash"),
    "infonce_cosine": ("InfoNCE-cosine", "baseline", "solid"),
    "covariance": ("covariance", "sky", "dash"),
}


class PairForce(State):
    """τ in; loss and push of a batch of two samples against their distance out, by differentiating the loss."""

    tau = FloatTrait(0.5, min=1e-6)

    def curves(self) -> tuple[list[float], list[float]]:
        """Loss and push ‖∂L/∂z_i‖ of two samples with one feature each (P = 1) at every distance of ``REACH``."""

        def loss(distance: Tensor) -> Tensor:
            return dispersive_loss(torch.stack([torch.zeros_like(distance), distance]), tau=self.tau)

        slopes, losses = torch.func.vmap(torch.func.grad_and_value(loss))(REACH)
        return losses.tolist(), (-slopes).tolist()


def force_panel(name: str = "force", state: PairForce | None = None) -> Panel:
    """Strength of the push between two samples, against their distance, for any τ."""
    state = state or PairForce()
    title = "At which distance do two samples push each other most?"
    panes = ["loss of two samples", "push on each of them, −∂L/∂z"]
    plot = figure(title, 1, 2, 340, horizontal_spacing=0.1, subplot_titles=panes)
    reach = REACH.tolist()
    for col, ink in ((1, "ink"), (2, "gold")):
        line = dict(color=PALETTE[ink], width=2.5)
        plot.add_scatter(x=reach, mode="lines", line=line, showlegend=False, row=1, col=col)
        plot.update_xaxes(title_text="distance √D between the two", row=1, col=col)
    dot = dict(mode="markers+text", textposition="middle right", marker=dict(color=PALETTE["gold"], size=10))
    plot.add_scatter(showlegend=False, **dot, row=1, col=2)
    draw_floor(plot, 2, row=1, col=1, label="bottom right")
    plot.update_yaxes(range=[-0.8, 0.08], row=1, col=1)

    def draw(state: PairForce, plot: BaseFigure) -> str:
        losses, forces = state.curves()
        plot.data[0].y, plot.data[1].y = losses, forces
        peak = int(np.argmax(forces))
        plot.data[2].x, plot.data[2].y = [reach[peak]], [forces[peak]]
        plot.data[2].text = [f"strongest at {reach[peak]:.2f}"]
        return (
            f"With τ = {state.tau:.2g} the push is strongest at a distance of {reach[peak]:.2f} "
            f"({reach[peak] / math.sqrt(state.tau):.2f}·√τ): identical samples do not push each other at all, and "
            "samples far apart hardly do."
        )

    controls = {"tau": log_slider("τ, temperature", -1.3, 1.0)}
    alt = "Loss of two samples, and the push on each, against their distance."
    finding = "The push is zero at contact, strongest near √τ, and fades far away"
    return Panel(name, state, controls, plot, draw, alt, finding=finding)


class Cloud(State):
    """A Gaussian cloud of ``BATCH`` samples: deviation s a coordinate, P features and τ in; loss and gradient out."""

    scale = FloatTrait(0.5, min=1e-6)
    tau = FloatTrait(0.5, min=1e-6)
    features = Int(1024)
    BATCH = 64
    FEATURES = (4, 64, 1024)
    SCALES = torch.logspace(-2, 1, 91)

    def __init__(self, **traits: float) -> None:
        super().__init__(**traits)
        cloud = torch.randn(self.BATCH, self.FEATURES[-1], generator=generator(13))
        # Loss and gradient norm are invariant to rotations: each cloud is written in the few axes that it spans.
        self._rotated = {p: torch.linalg.qr(cloud[:, :p].T.contiguous()).R.T for p in self.FEATURES}

    def curves(self, scales: Tensor, divide: bool = True) -> tuple[list[float], list[float]]:
        """(losses, gradient norms ‖s·∂L/∂z‖) at each scale s; ``divide=False`` leaves out the division by P."""
        cloud = self._rotated[self.features]
        # dispersive_loss divides by the number of columns here; P is ``features``.
        tau = self.tau * (self.features if divide else 1) / cloud.shape[1]
        loss = torch.func.vmap(torch.func.grad_and_value(partial(dispersive_loss, tau=tau)))
        slopes, losses = loss(scales[:, None, None] * cloud)
        pushes = (scales[:, None, None] * slopes).flatten(1).norm(dim=1)
        return losses.tolist(), pushes.tolist()

    def at(self, scale: float, divide: bool = True) -> tuple[float, float]:
        """(loss, gradient norm) at one scale."""
        ((loss,), (push,)) = self.curves(torch.tensor([scale]), divide)
        return loss, push


def cloud_panel(name: str = "cloud", state: Cloud | None = None) -> Panel:
    """Scale a cloud and watch the loss fall to its floor; the same without the division by P."""
    state = state or Cloud()
    title = "How does the loss fall when a cloud merely grows, and how far?"
    panes = ["Dispersive Loss", "relative push s·‖∂L/∂z‖"]
    plot = figure(title, 1, 2, 390, horizontal_spacing=0.1, subplot_titles=panes)
    kinds = {"D = ‖z_i − z_j‖² / P": ("dispersive", "solid"), "without the division by P": ("quiet", "dash")}
    for col in (1, 2):
        pane = dict(row=1, col=col)
        for label, (ink, dash) in kinds.items():
            line = dict(color=PALETTE[ink], dash=dash, width=2.5)
            plot.add_scatter(x=Cloud.SCALES.tolist(), name=label, mode="lines", line=line, showlegend=col == 1, **pane)
        plot.add_scatter(mode="markers", marker=dict(color=PALETTE["dispersive"], size=11), showlegend=False, **pane)
        plot.update_xaxes(type="log", dtick=1, title_text="deviation s of each coordinate", row=1, col=col)
    floor = dispersive_floor(Cloud.BATCH)
    draw_floor(plot, Cloud.BATCH, row=1, col=1, label="bottom left")
    plot.update_yaxes(range=[floor - 0.6, 0.3], row=1, col=1)
    plot.update_layout(legend=dict(x=0, xanchor="left", y=-0.2, yanchor="top"))

    drawn: dict[str, tuple[float, int]] = {}

    def draw(state: Cloud, plot: BaseFigure) -> str:
        if (state.tau, state.features) != drawn.get("curves"):  # a move of s alone only moves the markers
            drawn["curves"] = state.tau, state.features
            for first, divide in ((0, True), (1, False)):
                plot.data[first].y, plot.data[first + 3].y = state.curves(state.SCALES, divide)
        loss, push = state.at(state.scale)
        wrong, no_push = state.at(state.scale, divide=False)
        plot.data[2].x, plot.data[2].y = [state.scale], [loss]
        plot.data[5].x, plot.data[5].y = [state.scale], [push]
        return (
            f"{Cloud.BATCH} samples, P = {state.features}, s = {state.scale:.2g}, τ = {state.tau:.2g}: the loss is "
            f"{loss:.2f}, with a relative push s·‖∂L/∂z‖ of {push:.2g}; without the division by P it would be "
            f"{wrong:.2f}, with a push of {no_push:.2g}."
        )

    controls = {
        "scale": log_slider("scale s", -2, 1),
        "tau": log_slider("τ, temperature", -1.3, 1.0),
        "features": choice("features P", Cloud.FEATURES),
    }
    alt = "Dispersive Loss and its gradient against the scale of a cloud, with and without the division by P."
    finding = "Growing is enough to lower the loss, down to the floor"
    return Panel(name, state, controls, plot, draw, alt, finding=finding)


class FourLosses(State):
    """Scale s, stretch, τ and ε in; each variant's loss of the same samples out.

        z_i = s·(x_i + 1),   the cloud x with deviation σ_k ∝ (1 − 0.95·stretch²)^k along direction k, mean_k σ_k² = 1

    The cloud is whitened: without stretch it is exactly isotropic. Its mean, one deviation in every feature, is scaled
    with it. The directions are oblique to the features: the covariance variant standardises each feature, and a stretch
    along one would not change it.
    """

    scale = FloatTrait(0.5, min=1e-6)
    stretch = FloatTrait(0.4, min=0.0, max=1.0)
    tau = FloatTrait(0.5, min=1e-6)
    margin = FloatTrait(1.0, min=1e-6)
    BATCH, FEATURES, MEAN = 64, 32, 1.0
    SCALES = torch.logspace(-2, 1, 61)
    STRETCHES = torch.linspace(0, 1, 41)

    def __init__(self, **traits: float) -> None:
        super().__init__(**traits)
        draw = generator(17)
        cloud = torch.randn(self.BATCH, self.FEATURES, generator=draw, dtype=torch.float64)
        self._white = torch.linalg.qr(cloud - cloud.mean(dim=0)).Q * self.BATCH**0.5
        self._turn = torch.linalg.qr(torch.randn(self.FEATURES, self.FEATURES, generator=draw, dtype=torch.float64)).Q
        self._stretched = torch.stack([self.cloud(stretch, 1.0) for stretch in self.STRETCHES.tolist()])

    def cloud(self, stretch: float, scale: float, mean: float = MEAN) -> Float[Tensor, "batch features"]:
        """The samples; ``mean`` is the mean of each feature, in units of the scale."""
        deviations = (1 - 0.95 * stretch**2) ** torch.arange(self.FEATURES, dtype=torch.float64)
        deviations = deviations / deviations.square().mean().sqrt()
        return (scale * (self._white * deviations @ self._turn + mean)).float()

    def losses(self, variant: Variant, clouds: Float[Tensor, "n batch features"]) -> Float[Tensor, " n"]:
        """The variant's loss of each cloud."""
        return torch.func.vmap(lambda z: dispersive_loss(z, variant, **own_knobs(variant, self)))(clouds)

    def progress(self, variant: Variant, losses: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Position of a loss between its largest value (0) and its floor (1)."""
        most = {"infonce_l2": 0.0, "infonce_cosine": 1 / self.tau, "hinge": self.margin**2, "covariance": 1.0}[variant]
        floor = dispersive_floor(self.BATCH, variant, features=self.FEATURES, **own_knobs(variant, self))
        return (most - losses) / (most - floor)

    def against_scale(self, variant: Variant) -> Float[Tensor, " n"]:
        """The loss at each of ``SCALES``, at this stretch."""
        return self.losses(variant, self.SCALES[:, None, None] * self.cloud(self.stretch, 1.0))

    def against_stretch(self, variant: Variant) -> Float[Tensor, " n"]:
        """The loss at each of ``STRETCHES``, at this scale."""
        return self.losses(variant, self.scale * self._stretched)


def variants_panel(name: str = "variants", state: FourLosses | None = None) -> Panel:
    """Four losses against the size and against the shape of the same cloud."""
    state = state or FourLosses()
    title = "What does each of the four losses see: size, or arrangement?"
    panes = ["against the size of the cloud", "against its shape"]
    plot = figure(title, 1, 2, 430, horizontal_spacing=0.09, shared_yaxes=True, subplot_titles=panes)
    inks = [PALETTE[ink] for _, ink, _ in LOOKS.values()]
    dots = dict(color=inks, size=11, line=dict(color="white", width=1.5))
    for col, grid in ((1, state.SCALES), (2, state.STRETCHES)):
        pane = dict(row=1, col=col)
        for label, ink, dash in LOOKS.values():
            line = dict(color=PALETTE[ink], dash=dash, width=2.5)
            legend = dict(name=label, legendgroup=label, showlegend=col == 1)
            hover = f"{label}: loss %{{customdata:.4g}}, %{{y:.1%}} of the way<extra></extra>"
            plot.add_scatter(x=grid.tolist(), mode="lines", line=line, hovertemplate=hover, **legend, **pane)
        plot.add_scatter(mode="markers", marker=dots, showlegend=False, hoverinfo="skip", **pane)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    ranks = [f"{mark:g}<br>rank {effective_rank(state.cloud(mark, 1.0)):.0f}" for mark in marks]
    plot.update_xaxes(type="log", dtick=1, title_text="scale s (deviation of a feature)", row=1, col=1)
    plot.update_xaxes(tickvals=marks, ticktext=ranks, title_text="stretch, effective rank of the cloud", row=1, col=2)
    plot.update_yaxes(tickformat=".0%", range=[-0.04, 1.06], showticklabels=True)
    plot.update_yaxes(title_text="way from largest value (0 %) to floor", row=1, col=1)
    plot.update_layout(legend=dict(x=0, xanchor="left", y=-0.24, yanchor="top"), margin_r=30)
    drawn: dict[int, tuple[object, ...]] = {}
    numbers = widgets.HTML()

    def draw(state: FourLosses, plot: BaseFigure) -> str:
        for first, held, follow in ((0, state.stretch, state.against_scale), (5, state.scale, state.against_stretch)):
            for place, variant in enumerate(LOOKS, first):
                knobs = held, *own_knobs(variant, state).values()
                if drawn.get(place) != knobs:  # else only the marker moves along this curve
                    drawn[place], losses = knobs, follow(variant)
                    plot.data[place].y = state.progress(variant, losses).tolist()
                    plot.data[place].customdata = losses.tolist()
        here, doubled = (state.cloud(state.stretch, factor * state.scale) for factor in (1, 2))
        values = {}
        for variant in LOOKS:
            losses = state.losses(variant, torch.stack([here, doubled]))
            values[variant] = losses[0].item(), *state.progress(variant, losses).tolist()
        for dots, x in ((plot.data[4], state.scale), (plot.data[9], state.stretch)):
            dots.x, dots.y = [x] * 4, [now for _, now, _ in values.values()]
        numbers.value = _table(values)
        return _sentence(state, here, values)

    controls = {
        "scale": log_slider("scale s", -2, 1),
        "stretch": slider("stretch", 0, 1, 0.01),
        "tau": log_slider("τ (InfoNCE only)", -1.3, 1.0),
        "margin": log_slider("margin ε (hinge only)", -1, 1),
    }
    alt = "Four losses of one cloud, each on the way from its largest value to its floor, against scale and stretch."
    finding = "Growing is enough for L2 and hinge; cosine and covariance see only how samples are arranged"
    return Panel(name, state, controls, plot, draw, alt, below=[numbers], finding=finding)


def _table(values: dict[Variant, tuple[float, float, float]]) -> str:
    """Each variant's loss and progress here, and its progress if the scale doubled, as HTML."""
    import pandas as pd

    rows = {LOOKS[v][0]: (loss, f"{way:.1%}", f"{after:.1%}") for v, (loss, way, after) in values.items()}
    columns = ["loss", "way from largest value to floor", "way if s doubled"]
    return table_html(pd.DataFrame.from_dict(rows, orient="index", columns=columns))


def _sentence(state: FourLosses, here: Tensor, values: dict[Variant, tuple[float, float, float]]) -> str:
    """The settings, and which variants a doubled scale would move, in words."""
    moved = [LOOKS[v][0] for v, (_, way, after) in values.items() if abs(after - way) >= 5e-4]
    would = f"move {' and '.join(moved)}, others by less than 0.05 %" if moved else "move none by as much as 0.05 %"
    centred = state.losses("infonce_cosine", state.cloud(state.stretch, state.scale, mean=0.0)[None])
    return (
        f"s = {state.scale:.2g}, stretch {state.stretch:.2f} (effective rank {effective_rank(here):.1f} of "
        f"{state.FEATURES}), τ = {state.tau:.2g}, ε = {state.margin:.2g}. Doubling s would {would}. Every "
        "feature has a mean of one deviation, scaled with the cloud; without it InfoNCE-cosine would be at "
        f"{state.progress('infonce_cosine', centred).item():.1%}."
    )
