"""Points on a plane, each on a spring to where it started, pushed apart by the library's own losses.

    E(p) = mean (p − start)²  +  λ · L_disp(p; τ)

The first term stands in for the regression loss, the second is ``dispersive_loss``. The panel shows where the points
are after seventy steps of gradient descent from the start, which is close to a minimum of E. ``Partners`` has two views
of each point, and the contrastive loss in place of the Dispersive Loss.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Enum
from traitlets import Float as FloatTrait

from labkit.distances import cross_sq_distances
from labkit.losses import Contrastive, Dispersive, dispersive_floor
from labkit.losses.dispersive import KNOBS, own_knobs
from labkit.metrics import mean_pairwise_distance
from labkit.ops import off_diagonal
from labkit.plots import PALETTE, draw_floor, fade, figure
from labkit.runtime import generator
from labkit.widgets.panel import Panel, State, dropdown, log_slider, slider

POINTS, SAMPLES = 40, 20
DESCENT_STEPS = 70
TERMS = ["springs", "α·A<br>alignment", "repulsion<br>L_disp"]
BARS = dict(texttemplate="%{y:.3f}", textposition="outside", showlegend=False)


def descend(energy: Callable[[Tensor], Tensor], start: Tensor, rate: float, steps: int = DESCENT_STEPS) -> Tensor:
    """Points after so many steps of gradient descent with momentum."""
    points, velocity = start.clone(), torch.zeros_like(start)
    for _ in range(steps):
        points.requires_grad_()
        (grad,) = torch.autograd.grad(energy(points), points)
        velocity = 0.8 * velocity - rate * grad
        points = (points + velocity).detach()
    return points


def _springs(points: Float[Tensor, "*views n 2"], start: Float[Tensor, "*views n 2"]) -> Float[Tensor, ""]:
    """Mean squared distance from the start, in each coordinate; of two views the sum."""
    return (points - start).square().mean(dim=(-2, -1)).sum()


class Rest(NamedTuple):
    """The points at rest, and the values of both terms there."""

    points: Float[Tensor, "n 2"]
    spring: float
    dispersive: float
    distance: float
    """Mean distance between two points divided by √2, the number of coordinates under the root."""


class Springs(State):
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
        # Step size: the spring's curvature is 1/POINTS for each coordinate, and repulsion adds at most 4λ/(τP) of that.
        loss, start = Dispersive(tau=self.tau).repulsion, self.start
        rate = POINTS / (1 + 2 * self.lam / self.tau)
        points = descend(lambda points: _springs(points, start) + self.lam * loss(points), start, rate)
        return Rest(points, _springs(points, start).item(), loss(points).item(), mean_pairwise_distance(points))


class PartnersAtRest(NamedTuple):
    """Both views of all samples at rest, the values of the three terms there, and ``Partners.distances``."""

    views: Float[Tensor, "2 n 2"]
    spring: float
    alignment: float
    repulsion: float
    distances: tuple[float, float]


class Partners(State):
    """α, λ, the variant and its τ or ε in; two views z, z⁺ of ``SAMPLES`` samples at rest out.

    E(z, z⁺) = mean (z − start)² + mean (z⁺ − start⁺)² + λ·contrastive_loss(z, z⁺; α)
    """

    alpha, lam = FloatTrait(1.0, min=0.0), FloatTrait(0.5, min=0.0)
    tau, margin = FloatTrait(0.5, min=1e-6), FloatTrait(1.0, min=1e-6)
    variant = Enum(("infonce_l2", "hinge"), "infonce_l2")  # two features are too few for cosines and correlations

    def __init__(self, **traits: float | str) -> None:
        super().__init__(**traits)
        samples, apart = torch.randn(2, SAMPLES, 2, generator=generator(23))
        self.start = torch.stack([0.55 * samples, 0.55 * samples + 0.3 * apart])

    def unused(self) -> set[str]:
        return {"tau", "margin"} - KNOBS[self.variant].keys()

    def settings(self) -> Contrastive:
        """Settings of the contrastive loss, checked."""
        return Contrastive(variant=self.variant, **own_knobs(self.variant, self), alignment_weight=self.alpha)

    def rest(self) -> PartnersAtRest:
        """Descend from the start as ``Springs`` does."""
        # Curvatures in units of 1/SAMPLES for each coordinate, in which the springs have 1; 6α holds for gaps below 1.
        stiffness = (
            2 * (1 + self.alpha) / self.tau if self.variant == "infonce_l2" else 4 * self.margin + 6 * self.alpha
        )
        settings = self.settings()
        views = descend(partial(self.energy, settings), self.start, SAMPLES / (1 + self.lam * stiffness), steps=50)
        spring, (alignment, repulsion) = _springs(views, self.start).item(), settings.parts(*views)
        return PartnersAtRest(views, spring, alignment.item(), repulsion.item(), self.distances(views))

    def energy(self, settings: Contrastive, views: Float[Tensor, "2 n 2"]) -> Float[Tensor, ""]:
        """E of any two views."""
        return _springs(views, self.start) + self.lam * settings.loss(*views)

    @staticmethod
    def distances(views: Float[Tensor, "2 n 2"]) -> tuple[float, float]:
        """Mean distance / √2, as in ``Rest``, between the two views of a sample, and between views of two samples."""
        apart = cross_sq_distances(*views, per=2).sqrt()
        return apart.diagonal().mean().item(), off_diagonal(apart).mean().item()


def lines_between(*stages: Float[Tensor, "n 2"]) -> list[list[float | None]]:
    """The x and the y of a line through the stages of each point, with None between lines."""
    across, up = torch.stack(stages, dim=1).unbind(dim=2)
    return [[value for line in axis.tolist() for value in (*line, None)] for axis in (across, up)]


def _lay_out(title: str, panes: list[str], height: int, reach: tuple[float, float]) -> go.Figure:
    """A figure with a pane for points within ± ``reach`` and one for ``BARS`` of the terms."""
    plot = figure(title, 1, 2, height, column_widths=[0.64, 0.36], horizontal_spacing=0.12, subplot_titles=panes)
    across, up = ([-end, end] for end in reach)
    plot.update_xaxes(range=across, title_text="coordinate 1", row=1, col=1)
    plot.update_yaxes(range=up, title_text="coordinate 2", scaleanchor="x", row=1, col=1)
    return plot.update_layout(legend=dict(x=0, xanchor="left", y=-0.16, yanchor="top"))


def springs_panel(name: str = "springs", state: Springs | None = None) -> Panel:
    """The points with sliders for λ and τ."""
    state = state or Springs()
    title = "Each point is held by a spring; the loss pushes all of them apart"
    plot = _lay_out(title, ["where the points come to rest", "the two terms at rest"], 430, (4, 3.3))
    x, y = state.start.T.tolist()
    ink, warm = PALETTE["quiet"], PALETTE["dispersive"]
    line, dot = dict(color=fade(warm, 0.35), width=1.2), dict(color="white", size=7, line=dict(color=ink, width=1.2))
    plane, terms = dict(row=1, col=1), dict(row=1, col=2)
    plot.add_scatter(mode="lines", name="spring", line=line, hoverinfo="skip", **plane)
    plot.add_scatter(x=x, y=y, mode="markers", name="start", marker=dot, **plane)
    plot.add_scatter(mode="markers", name="at rest", marker=dict(color=warm, size=9), **plane)
    plot.add_bar(x=["spring<br>mean (p − start)²", "L_disp"], marker_color=[PALETTE["baseline"], warm], **BARS, **terms)
    draw_floor(plot, POINTS, **terms, label="top left")
    plot.update_yaxes(range=[-4.3, 1.4], **terms)
    controls = {"lam": slider("λ, weight of the push", 0, 2, 0.02), "tau": log_slider("τ, temperature", -1.3, 1.0)}
    alt = "Forty points at rest between springs that hold and a loss that pushes them apart; both terms as bars."
    return Panel(name, state, controls, plot, _draw_springs, alt)


def _draw_springs(state: Springs, plot: BaseFigure) -> str:
    rest = state.rest()
    springs, _, points, bars = plot.data
    springs.x, springs.y = lines_between(state.start, rest.points)
    points.x, points.y = rest.points.T.tolist()
    bars.y = [rest.spring, rest.dispersive]
    before = mean_pairwise_distance(state.start)
    return (
        f"λ = {state.lam:.2f}, τ = {state.tau:.2g}: on average, two points lie {rest.distance / before:.2f} times as "
        f"far apart as at the start; the springs' term is {rest.spring:.3f}, L_disp is {rest.dispersive:.2f} (its "
        f"floor: {dispersive_floor(POINTS):.2f}), and the springs' term + λ·L_disp is "
        f"{rest.spring + state.lam * rest.dispersive:.3f}."
    )


def partners_panel(name: str = "partners", state: Partners | None = None) -> Panel:
    """Twenty samples with two views each, between springs and the contrastive loss; α weighs the alignment."""
    state, inks = state or Partners(), {"first view z": PALETTE["dispersive"], "second view z⁺": PALETTE["contrastive"]}
    title = "The loss pushes all first views apart; α draws each to its partner"
    plot = _lay_out(title, ["where the views come to rest", "the terms at rest"], 480, (2.7, 2.2))
    spring, bond = dict(color=fade(PALETTE["quiet"], 0.4), width=1.2), dict(color=PALETTE["ink"], width=1.5)
    plane, terms = dict(row=1, col=1), dict(row=1, col=2)
    plot.add_scatter(mode="lines", name="spring, from its start", line=spring, hoverinfo="skip", **plane)
    plot.add_scatter(mode="lines", name="partners", line=bond, hoverinfo="skip", **plane)
    for label, ink in inks.items():
        plot.add_scatter(mode="markers", name=label, marker=dict(color=ink, size=9), **plane)
    plot.add_bar(x=TERMS, marker_color=[PALETTE["baseline"], *reversed(inks.values())], **BARS, **terms)
    mark = dict(symbol="line-ew", size=56, line=dict(color=PALETTE["ink"], width=2.5))
    plot.add_scatter(x=TERMS[2:], mode="markers", name="floor of the repulsion", marker=mark, **terms)
    plot.update_yaxes(title_text="value, before λ", **terms)
    plot.update_layout(legend=dict(y=0, yref="container", yanchor="bottom"), margin=dict(b=84))  # five names, below
    controls = {
        "alpha": slider("α, weight of the alignment", 0, 1, 0.02),
        "lam": slider("λ, weight of the loss", 0, 1, 0.02),
        "variant": dropdown("variant", [("InfoNCE-L2", "infonce_l2"), ("hinge", "hinge")]),
        "tau": log_slider("τ (InfoNCE-L2)", -1.3, 1.0),
        "margin": log_slider("margin ε (hinge)", -1, 0.3),
    }
    alt = "Twenty samples with two views each at rest, partners joined by lines; the three terms of the energy as bars."
    return Panel(name, state, controls, plot, _draw_partners, alt)


def _draw_partners(state: Partners, plot: BaseFigure) -> str:
    rest = state.rest()
    springs, bonds, *views, bars, mark = plot.data
    springs.x, springs.y = lines_between(state.start.flatten(0, 1), rest.views.flatten(0, 1))
    bonds.x, bonds.y = lines_between(*rest.views)
    for dots, view in zip(views, rest.views, strict=True):
        dots.x, dots.y = view.T.tolist()
    knobs = state.settings().arguments
    floor = dispersive_floor(SAMPLES, **knobs)
    bars.y, mark.y = [rest.spring, state.alpha * rest.alignment, rest.repulsion], [floor]
    low, high = min(*bars.y, floor, 0), max(*bars.y, 0.5)
    plot.update_yaxes(range=[low - 0.15 * (high - low), high + 0.15 * (high - low)], row=1, col=2)
    (partners, others), (near, far) = rest.distances, state.distances(state.start)
    knob = f"τ = {state.tau:.2g}" if "tau" in knobs else f"ε = {state.margin:.2g}"
    return (
        f"α = {state.alpha:.2f}, λ = {state.lam:.2f}, {knob}: the two views of a sample lie {partners:.2f} apart, "
        f"{partners / near:.2f} times as far as at the start; views of two samples {others:.2f}, {others / far:.2f} "
        f"times as far. The first over the second is {partners / others:.2f}, at the start {near / far:.2f}. The "
        f"repulsion is {rest.repulsion:.2f}, its floor {floor:.2f}."
    )
