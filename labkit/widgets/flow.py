"""Panels on flow matching: digits between noise and data, and two solvers along the same field."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product

import torch
from plotly.basedatatypes import BaseFigure
from torch import Tensor, nn
from traitlets import Enum, Float, Int

from labkit import datasets, paths
from labkit.config import Config
from labkit.metrics import DigitsClassifier, class_agreement
from labkit.plots import DASHES, PALETTE, digit_trace, figure, style_digits, tile
from labkit.runtime import generator
from labkit.sampling import SOLVERS
from labkit.sampling.guidance import guided
from labkit.sampling.solvers import euler, grid, heun
from labkit.training import starting_noise
from labkit.types import PathSample
from labkit.widgets.panel import Panel, State, choice, slider

SHOWN = 20
TIMES = [i / 20 for i in range(21)]
NAMES = {"linear": "linear", "gvp": "GVP", "vp": "VP"}
INKS = {"linear": PALETTE["baseline"], "gvp": PALETTE["contrastive"], "vp": PALETTE["gold"]}


class Interpolant(State):
    """Time and path in; the noised digits, and the share that a classifier recognises, out."""

    t = Float(0.3, min=0.0, max=1.0)
    path = Enum(list(paths.PATHS), "linear")

    def __init__(self, **traits: float | str) -> None:
        super().__init__(**traits)
        held_out = datasets.digits("held_out")
        self.x1, self.y1 = held_out.x, held_out.y
        self.picks = torch.stack([(self.y1 == digit).nonzero()[:2, 0] for digit in range(10)], dim=1).flatten()
        self.x0 = torch.randn(self.x1.shape, generator=generator(11))
        self._agreements = dict[tuple[float, str], float]()
        self.readable = {t: self.agreement(t) for t in TIMES}
        """Time → share of digits that are recognised, along the path that the state began with."""

    def at(self, t: float, path: str | None = None) -> PathSample:
        """All held-out digits at time t, each with its own noise, and their velocity."""
        way = paths.PATHS[path or self.path]
        t = min(t, way.interval("velocity")[1])  # VP's speed is infinite at the end
        return way(self.x1, self.x0, torch.full((len(self.x1),), t))

    def agreement(self, t: float, path: str | None = None) -> float:
        """Share of the held-out digits that the classifier recognises at time t."""
        place = t, path or self.path
        if place not in self._agreements:
            predicted = DigitsClassifier.load().predict(self.at(*place).x_t)
            self._agreements[place] = class_agreement(predicted, self.y1)
        return self._agreements[place]


def interpolant_panel(
    name: str = "interpolant", state: Interpolant | None = None, controls: Sequence[str] = ("t",)
) -> Panel:
    """Scrub t from noise to data; with ``path`` among the controls, along any path."""
    state = state or Interpolant()
    shown = list(paths.PATHS) if "path" in controls else [state.path]
    title = "From noise (t = 0) to data (t = 1)" + (" along a straight line" if shown == ["linear"] else "")
    panes = ["x_t", "velocity (grey is 0)", "share that a classifier recognises"]
    plot = figure(title, 1, 3, 330, horizontal_spacing=0.06, subplot_titles=panes)
    for col in (1, 2):
        plot.add_trace(digit_trace(tile(state.x1[state.picks])), 1, col)
        style_digits(plot, 1, col)
    for way, dash in zip(shown, DASHES, strict=False):
        shares = [state.agreement(t, way) for t in TIMES]
        look = dict(name=NAMES[way], line=dict(color=INKS[way], dash=dash, width=2), showlegend=len(shown) > 1)
        plot.add_scatter(x=TIMES, y=shares, mode="lines", **look, row=1, col=3)
    marker = dict(color=PALETTE["dispersive"], size=11)
    plot.add_scatter(mode="markers", marker=marker, showlegend=False, row=1, col=3)
    plot.update_xaxes(title_text="time t", row=1, col=3)
    plot.update_yaxes(tickformat=".0%", range=[0, 1.05], row=1, col=3)
    corner = dict(x=plot.layout.xaxis3.domain[0] + 0.01, xanchor="left", y=0.98, yanchor="top", orientation="v")
    plot.update_layout(legend=corner | dict(bgcolor="rgba(0,0,0,0)"))  # above the curves, which begin low

    def draw(state: Interpolant, plot: BaseFigure) -> str:
        agreement, now = state.agreement(state.t), state.at(state.t)
        size = now.velocity.square().mean().sqrt().item()
        plot.data[0].z, plot.data[1].z = (tile(x[state.picks]) for x in (now.x_t, now.velocity / (2 * size)))
        plot.data[-1].x, plot.data[-1].y = [state.t], [agreement]
        c = paths.PATHS[state.path].coefficients(torch.tensor(state.t))
        return (
            f"At t = {state.t:.2f} each image is {c.alpha:.2f}·data + {c.sigma:.2f}·noise; a classifier trained on "
            f"clean digits recognises {agreement:.0%} of {len(state.y1)} of them. The velocity has a root mean square "
            f"(RMS) of {size:.2f}; in its picture, ink is +2 of these and paper −2."
        )

    shown_controls = {"t": slider("time t", 0, 1, 0.01)}
    if "path" in controls:
        shown_controls["path"] = choice("path", [(title, way) for way, title in NAMES.items()])
    alt = "Twenty digits mixed with noise, their velocity, and the share that a classifier recognises, against time t."
    return Panel(name, state, shown_controls, plot, draw, alt)


Step = Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, float, float], Tensor]
"""(velocity, x, now, then) → x at the time then"""
STEP: Mapping[str, Step] = {"euler": euler, "heun": heun}


def guided_velocity(
    network: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, t: Tensor, y: Tensor, null: int, w: float
) -> Tensor:
    """v(∅) + w·(v(y) − v(∅)) of a network (x, t, labels) → velocity."""
    return guided(network, y, null, w)(x, t)


class Sampler(State):
    """Number of steps, time of the film and guidance in; both solvers' images and their error out.

    Every path is integrated once for each guidance, when that is first chosen; moving a slider only looks up.

    Args:
        network: a SiT.  config: its run's.
        step: method → its step, in place of the library's.  guided: function in place of ``guided_velocity``.
    """

    steps = Int(8)
    film = Float(1.0, min=0.0, max=1.0)
    guidance = Float(1.0, min=0.0)
    STEPS = (1, 2, 4, 8, 16, 32, 64)

    def __init__(
        self,
        network: nn.Module,
        config: Config,
        step: Mapping[str, Step] = STEP,
        guided: Callable[..., Tensor] = guided_velocity,
    ) -> None:
        super().__init__()
        self._network, self._guided, self._step = network, guided, {**STEP, **step}
        images = datasets.digits("train")
        self._null = images.num_classes
        self._device = next(network.parameters()).device
        self._y = (torch.arange(SHOWN) % images.num_classes).to(self._device)
        self._noise = starting_noise(images.shape, range(SHOWN), seed=0).to(self._device)
        self._paths: dict[float, dict[tuple[str, int], Tensor]] = {}

    @property
    def paths(self) -> dict[tuple[str, int], Tensor]:
        """Method and number of steps → its states, (steps + 1, images, …), at the present guidance."""
        if self.guidance not in self._paths:
            every = [*product(STEP, self.STEPS), ("heun", 2 * self.STEPS[-1])]
            with torch.no_grad():
                self._paths[self.guidance] = {(method, n): self._integrate(method, n) for method, n in every}
        return self._paths[self.guidance]

    def _integrate(self, method: str, steps: int) -> Tensor:
        """States of one solver from the same noise."""

        def field(x: Tensor, t: Tensor) -> Tensor:
            return self._guided(predict, x, t, self._y, self._null, self.guidance)

        def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self._network(x, t, y).output

        x, films = self._noise, [self._noise.cpu()]
        for now, then in pairwise(grid(steps, (0.0, 1.0))):
            x = self._step[method](field, x, now, then)
            films.append(x.cpu())
        return torch.stack(films)

    @property
    def exact(self) -> Tensor:
        """Samples by Heun with twice the most steps."""
        return self.paths["heun", 2 * self.STEPS[-1]][-1]

    def own(self, method: str) -> bool:
        """Whether a method's step is another than the library's."""
        return self._step[method] is not STEP[method]

    def at(self, method: str) -> Tensor:
        """The images of one solver at the film's time."""
        return self.paths[method, self.steps][round(self.film * self.steps)]

    @staticmethod
    def cost(method: str, steps: int) -> int:
        """Evaluations of the network."""
        evaluations = SOLVERS[method].evaluations
        assert evaluations is not None  # only dopri5 chooses their number
        return evaluations * steps

    def error(self, method: str, steps: int) -> float:
        """Root mean square (RMS) difference at t = 1 from a solution by Heun with twice the most steps."""
        return (self.paths[method, steps][-1] - self.exact).square().mean().sqrt().item()


def sampler_panel(
    network: nn.Module,
    config: Config,
    name: str = "sampler",
    step: Mapping[str, Step] = STEP,
    guided: Callable[..., Tensor] = guided_velocity,
    guidance: Sequence[float] = (),
) -> Panel:
    """Euler and Heun from the same noise: steps slider, film slider, error against evaluations.

    Args:
        network: a SiT.  config: its run's.  name: name of the panel.
        step: method → its step, in place of the library's.  guided: function in place of ``guided_velocity``.
        guidance: values to choose from; none without them.
    """
    state = Sampler(network, config, step, guided)
    kinds = {"euler": PALETTE["gold"], "heun": PALETTE["sky"]}
    titles = {method: method.capitalize() + (", your step" if state.own(method) else "") for method in kinds}
    panes = [*titles.values(), "RMS error at t = 1 against cost"]
    plot = figure("Two solvers, one field, the same noise", 1, 3, 340, horizontal_spacing=0.08, subplot_titles=panes)
    for col, method in enumerate(kinds, 1):
        plot.add_trace(digit_trace(tile(state.at(method), 5)), 1, col)
        style_digits(plot, 1, col)
    errors = dict(row=1, col=3)
    for method, ink in kinds.items():
        costs = [state.cost(method, n) for n in state.STEPS]
        plot.add_scatter(x=costs, name=titles[method], mode="lines+markers", line_color=ink, **errors)
    for ink in kinds.values():
        ring = dict(size=15, color="rgba(0,0,0,0)", line=dict(color=ink, width=2.5))
        plot.add_scatter(mode="markers", showlegend=False, hoverinfo="skip", marker=ring, **errors)
    plot.update_xaxes(type="log", dtick=1, title_text="evaluations of the network", row=1, col=3)
    plot.update_yaxes(type="log", dtick=1, tickformat="~g", row=1, col=3)  # 0.0001, not 100µ
    plot.update_layout(legend=dict(x=0.99, xanchor="right", y=0.98, yanchor="top", orientation="v"))

    def draw(state: Sampler, plot: BaseFigure) -> str:
        words = []
        for i, method in enumerate(kinds):
            plot.data[i].z = tile(state.at(method), 5)
            cost, error = state.cost(method, state.steps), state.error(method, state.steps)
            plot.data[2 + i].y = [state.error(method, n) for n in state.STEPS]
            plot.data[4 + i].x, plot.data[4 + i].y = [cost], [error]
            words.append(f"{method.capitalize()} takes {cost} evaluations and ends {error:.2g} away")
        beyond = f" and guidance {state.guidance:g}" if guidance else ""
        return (
            f"With {state.steps} steps{beyond}, shown at t = {state.film:.2f}: {'; '.join(words)} (RMS distance at "
            "t = 1 from a solution by 128 Heun steps)."
        )

    controls = {"steps": choice("steps", Sampler.STEPS), "film": slider("film: time t", 0, 1, 1 / 64)}
    if guidance:
        controls["guidance"] = choice("guidance w", guidance)
    alt = "Twenty samples by Euler and by Heun at the same time of the film, and the error of both against their cost."
    return Panel(name, state, controls, plot, draw, alt)
