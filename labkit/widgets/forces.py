"""Panels on the loss itself: the push between two samples, and a whole cloud that is scaled."""

import math
from functools import partial

import numpy as np
import torch
from plotly.basedatatypes import BaseFigure
from traitlets import Float, HasTraits, Int

from labkit.losses import dispersive_floor, dispersive_loss
from labkit.plots import PALETTE, draw_floor, figure
from labkit.runtime import generator
from labkit.widgets.panel import Panel, choice, log_slider

REACH = torch.linspace(0, 4, 401, dtype=torch.float64)


class PairForce(HasTraits):
    """τ in; loss and push of a batch of two samples against their distance out, by differentiating the loss."""

    tau = Float(0.5, min=1e-6)

    def curves(self) -> tuple[list[float], list[float]]:
        """Loss and push ‖∂L/∂z_i‖ of two samples with one feature each (P = 1) at every distance of ``REACH``."""

        def loss(distance: torch.Tensor) -> torch.Tensor:
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


class Cloud(HasTraits):
    """A Gaussian cloud of ``BATCH`` samples: deviation s a coordinate, P features and τ in; loss and gradient out."""

    scale = Float(0.5, min=1e-6)
    tau = Float(0.5, min=1e-6)
    features = Int(1024)
    BATCH = 64
    FEATURES = (4, 64, 1024)
    SCALES = torch.logspace(-2, 1, 91)

    def __init__(self, **traits: float) -> None:
        super().__init__(**traits)
        cloud = torch.randn(self.BATCH, self.FEATURES[-1], generator=generator(13))
        # Loss and gradient norm are invariant to rotations: each cloud is written in the few axes that it spans.
        self._rotated = {p: torch.linalg.qr(cloud[:, :p].T.contiguous()).R.T for p in self.FEATURES}

    def curves(self, scales: torch.Tensor, divide: bool = True) -> tuple[list[float], list[float]]:
        """(losses, gradient norms ‖s·∂L/∂z‖) at each scale s; ``divide=False`` leaves out the division by P."""
        cloud = self._rotated[self.features]
        # dispersive_loss divides by the number of columns here; P is ``features``.
        tau = self.tau * (self.features if divide else 1) / cloud.shape[1]
        slopes, losses = torch.func.vmap(torch.func.grad_and_value(partial(dispersive_loss, tau=tau)))(
            scales[:, None, None] * cloud
        )
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
