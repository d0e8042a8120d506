"""Points on a plane, each on a spring to where it started, pushed apart by the library's own losses.

    E(p) = mean (p − start)²  +  λ · L_disp(p; τ)

The first term stands in for the regression loss, the second is ``dispersive_loss``. The panel shows where the points
are after seventy steps of gradient descent from the start, which is close to a minimum of E. ``Partners`` has two views
of each point, and the contrastive loss in place of the Dispersive Loss.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Enum, HasTraits
from traitlets import Float as FloatTrait

from labkit.distances import cross_sq_distances
from labkit.losses import Contrastive, Dispersive, dispersive_floor
from labkit.losses.dispersive import own_knobs
from labkit.metrics import mean_pairwise_distance
from labkit.ops import off_diagonal
from labkit.plots import PALETTE, draw_floor, fade, figure
from labkit.runtime import generator
from labkit.widgets.panel import Panel, log_slider, slider

POINTS, SAMPLES = 40, 20
DESCENT_STEPS = 70


def descend(energy: Callable[[Tensor], Tensor], start: Tensor, rate: float, steps: int = DESCENT_STEPS) -> Tensor:
    """Points after so many steps of gradient descent with momentum."""
    points, velocity = start.clone(), torch.zeros_like(start)
    for _ in range(steps):
        points.requires_grad_()
        (grad,) = torch.autograd.grad(energy(points), points)
        velocity = 0.8 * velocity - rate * grad
        points = (points + velocity).detach()
    return points


def _spring(points: Float[Tensor, "n 2"], start: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
    """Mean squared distance from the start, in each coordinate."""
    return (points - start).square().mean()


class Rest(NamedTuple):
    """The points at rest, and the values of both terms there."""

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
        # Step size: the spring's curvature is 1/POINTS for each coordinate, and repulsion adds at most 4λ/(τP) of that.
        loss, start = Dispersive(tau=self.tau).repulsion, self.start
        rate = POINTS / (1 + 2 * self.lam / self.tau)
        points = descend(lambda points: _spring(points, start) + self.lam * loss(points), start, rate)
        return Rest(points, _spring(points, start).item(), loss(points).item(), mean_pairwise_distance(points))


class PartnersAtRest(NamedTuple):
    """Both views of all samples at rest, the values of the three terms there, and ``Partners.distances``."""

    views: Float[Tensor, "2 n 2"]
    spring: float
    alignment: float
    repulsion: float
    distances: tuple[float, float]


class Partners(HasTraits):
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
        spring, (alignment, repulsion) = self._springs(views).item(), settings.parts(*views)
        return PartnersAtRest(views, spring, alignment.item(), repulsion.item(), self.distances(views))

    def energy(self, settings: Contrastive, views: Float[Tensor, "2 n 2"]) -> Float[Tensor, ""]:
        """E of any two views."""
        return self._springs(views) + self.lam * settings.loss(*views)

    def _springs(self, views: Float[Tensor, "2 n 2"]) -> Float[Tensor, ""]:
        first, second = map(_spring, views, self.start)
        return first + second

    @staticmethod
    def distances(views: Float[Tensor, "2 n 2"]) -> tuple[float, float]:
        """Mean distance / √2, as in ``Rest``, between the two views of a sample, and between views of two samples."""
        apart = cross_sq_distances(*views, per=2).sqrt()
        return apart.diagonal().mean().item(), off_diagonal(apart).mean().item()


def lines_between(start: Float[Tensor, "n 2"], end: Float[Tensor, "n 2"]) -> list[list[float | None]]:
    """The x and the y of a line from each start to its end, with None between lines."""
    return [
        [v for s, e in zip(a, b, strict=True) for v in (s, e, None)]
        for a, b in zip(start.T.tolist(), end.T.tolist(), strict=True)
    ]


def springs_panel(name: str = "springs", state: Springs | None = None) -> Panel:
    """The points with sliders for λ and τ."""
    state = state or Springs()
    x, y = state.start.T.tolist()
    title = "Each point is held by a spring; the loss pushes all of them apart"
    panes = ["where the points come to rest", "the two terms at rest"]
    plot = figure(title, 1, 2, 430, column_widths=[0.64, 0.36], horizontal_spacing=0.12, subplot_titles=panes)
    ink, warm = PALETTE["quiet"], PALETTE["dispersive"]
    line, dot = dict(color=fade(warm, 0.35), width=1.2), dict(color="white", size=7, line=dict(color=ink, width=1.2))
    plane = dict(row=1, col=1)
    plot.add_scatter(mode="lines", name="spring", line=line, hoverinfo="skip", **plane)
    plot.add_scatter(x=x, y=y, mode="markers", name="start", marker=dot, **plane)
    plot.add_scatter(mode="markers", name="at rest", marker=dict(color=warm, size=9), **plane)
    bars = dict(x=["spring<br>mean (p − start)²", "L_disp"], marker_color=[PALETTE["baseline"], warm])
    plot.add_bar(**bars, texttemplate="%{y:.3f}", textposition="outside", showlegend=False, row=1, col=2)
    draw_floor(plot, POINTS, row=1, col=2, label="top left")
    plot.update_xaxes(range=[-4, 4], row=1, col=1, title_text="coordinate 1")
    plot.update_yaxes(range=[-3.3, 3.3], row=1, col=1, title_text="coordinate 2", scaleanchor="x")
    plot.update_yaxes(range=[-4.3, 1.4], row=1, col=2)
    plot.update_layout(legend=dict(x=0, xanchor="left", y=-0.16, yanchor="top"))
    controls = {"lam": slider("λ, weight of the push", 0, 2, 0.02), "tau": log_slider("τ, temperature", -1.3, 1.0)}
    alt = "Forty points at rest between springs that hold and a loss that pushes them apart; both terms as bars."
    return Panel(name, state, controls, plot, _draw, alt)


def _draw(state: Springs, plot: BaseFigure) -> str:
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
