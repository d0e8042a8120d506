"""Forty points on a plane, each on a spring to where it started, pushed apart by the library's own loss.

    E(p) = mean (p − start)²  +  λ · L_disp(p; τ)

The first term is the mean squared error that stands in for the regression loss, the second is ``dispersive_loss``. What
is shown is where seventy steps of gradient descent, from the start, end: close to a state of least energy.
"""

from typing import NamedTuple

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Float as FloatTrait
from traitlets import HasTraits

from labkit.losses import dispersive_floor, dispersive_loss
from labkit.metrics import mean_pairwise_distance
from labkit.plots import PALETTE, draw_floor, fade, figure
from labkit.runtime import generator
from labkit.widgets.panel import Panel, log_slider, slider

POINTS = 40
DESCENT_STEPS = 70


class Rest(NamedTuple):
    """Where the points come to rest, and what both terms are worth there."""

    points: Float[Tensor, "n 2"]
    spring: float
    dispersive: float
    distance: float
    """Mean distance between two points divided by √2, the number of coordinates under the root."""


class Springs(HasTraits):
    """λ and τ in, the points at rest out."""

    lam = FloatTrait(0.2, min=0.0)
    tau = FloatTrait(0.5, min=1e-6)

    def __init__(self, **traits: float) -> None:
        super().__init__(**traits)
        draw = generator(7)
        centres = torch.tensor([[-0.7, -0.3], [0.6, 0.5], [0.5, -0.7]])
        own = torch.randint(len(centres), (POINTS,), generator=draw)
        self.start = centres[own] + 0.12 * torch.randn(POINTS, 2, generator=draw)

    def rest(self) -> Rest:
        """Descend from the start by a fixed number of steps with momentum."""
        points, velocity = self.start.clone().requires_grad_(), torch.zeros_like(self.start)
        for _ in range(DESCENT_STEPS):
            spring, dispersion = self._terms(points)
            (grad,) = torch.autograd.grad(spring + self.lam * dispersion, points)
            # The curvature of the spring is 1/POINTS a coordinate; repulsion adds at most 4λ/(τP) of that order.
            velocity = 0.8 * velocity - POINTS * grad / (1 + 2 * self.lam / self.tau)
            points = (points + velocity).detach().requires_grad_()
        spring, dispersion = self._terms(points)
        return Rest(points.detach(), spring.item(), dispersion.item(), mean_pairwise_distance(points))

    def _terms(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return (points - self.start).square().mean(), dispersive_loss(points, tau=self.tau)


def springs_panel(name: str = "springs", state: Springs | None = None) -> Panel:
    """The points with sliders for λ and τ."""
    state = state or Springs()
    x, y = state.start.T.tolist()
    plot = figure(
        "Each point is held by a spring; the loss pushes all of them apart",
        1,
        2,
        430,
        column_widths=[0.64, 0.36],
        horizontal_spacing=0.12,
        subplot_titles=["where the points come to rest", "the two terms at rest"],
    )
    ink, warm = PALETTE["quiet"], PALETTE["dispersive"]
    plot.add_trace(
        go.Scatter(mode="lines", name="spring", line=dict(color=fade(warm, 0.35), width=1.2), hoverinfo="skip"), 1, 1
    )
    plot.add_trace(
        go.Scatter(
            x=x, y=y, mode="markers", name="start", marker=dict(color="white", size=7, line=dict(color=ink, width=1.2))
        ),
        1,
        1,
    )
    plot.add_trace(go.Scatter(mode="markers", name="at rest", marker=dict(color=warm, size=9)), 1, 1)
    plot.add_trace(
        go.Bar(
            x=["spring<br>mean (p − start)²", "L_disp"],
            marker_color=[PALETTE["baseline"], warm],
            texttemplate="%{y:.3f}",
            textposition="outside",
            showlegend=False,
        ),
        1,
        2,
    )
    draw_floor(plot, POINTS, row=1, col=2, label="top left")
    plot.update_xaxes(range=[-3.2, 3.2], row=1, col=1, title_text="coordinate 1")
    plot.update_yaxes(range=[-2.6, 2.6], row=1, col=1, title_text="coordinate 2", scaleanchor="x")
    plot.update_yaxes(range=[-4.3, 1.4], row=1, col=2)
    plot.update_layout(legend=dict(x=0, xanchor="left", y=-0.16, yanchor="top"))
    controls = {"lam": slider("λ, weight of the push", 0, 2, 0.02), "tau": log_slider("τ, temperature", -1.3, 1.0)}
    alt = "Forty points at rest between springs that hold and a loss that pushes them apart; both terms as bars."
    return Panel(name, state, controls, plot, _draw, alt)


def _draw(state: Springs, plot: BaseFigure) -> str:
    rest = state.rest()
    x, y = rest.points.T.tolist()
    start = state.start.tolist()
    springs, _, points, bars = plot.data
    springs.x = [v for (sx, _), px in zip(start, x, strict=True) for v in (sx, px, None)]
    springs.y = [v for (_, sy), py in zip(start, y, strict=True) for v in (sy, py, None)]
    points.x, points.y = x, y
    bars.y = [rest.spring, rest.dispersive]
    before = mean_pairwise_distance(state.start)
    return (
        f"λ = {state.lam:.2f}, τ = {state.tau:.2g}: two points lie {rest.distance / before:.2f} times as far apart "
        f"as at the start; the springs hold {rest.spring:.3f}, L_disp is {rest.dispersive:.2f} of a possible "
        f"{dispersive_floor(POINTS):.2f}, the sum {rest.spring + state.lam * rest.dispersive:.3f}."
    )
