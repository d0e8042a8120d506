"""A flow in the plane, learned in seconds: noise becomes two moons, though each training pair has a line of its own.

A small network learns v(x, t) from straight paths between noise x₀ and data x₁, by the library's path and loss. Since
the data are N points y_k, the average that this loss asks for has a closed form:

    v(x, t) = Σ_k w_k·(y_k − x) / (1 − t),    w = softmax_k(−‖x − t·y_k‖² / (2(1 − t)²))

λ adds the Dispersive Loss of the last hidden layer.
"""

import copy
from collections.abc import Generator

import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor, nn
from traitlets import Float as FloatTrait

from labkit import paths
from labkit.losses import dispersive_loss
from labkit.losses.flow import velocity_loss
from labkit.metrics import effective_rank, feature_norm
from labkit.plots import PALETTE, fade, figure
from labkit.runtime import generator, one_thread, seeded
from labkit.sampling import states
from labkit.widgets.panel import Buttons, Panel, slider
from labkit.widgets.runner import RunnerState
from labkit.widgets.springs import lines_between

POINTS, SHOWN, BATCH, WIDTH = 1000, 60, 128, 64
STEPS, EVERY = 800, 50  # of a training, and between two reports
FINE = 20  # Heun steps of the drawn paths
INKS, SYMBOLS = (PALETTE["dispersive"], PALETTE["baseline"]), ("circle", "diamond")


def two_moons() -> tuple[Float[Tensor, "n 2"], list[int]]:
    """Points on two half circles that reach into each other, about as wide as the noise, and the moon of each."""
    from sklearn.datasets import make_moons

    points, moon = make_moons(POINTS, noise=0.05, random_state=0)
    return 1.6 * (torch.tensor(points).float() - torch.tensor([0.5, 0.25])), moon.tolist()


def average_velocity(
    x: Float[Tensor, "n 2"], t: Float[Tensor, " n"], data: Float[Tensor, "k 2"]
) -> Float[Tensor, "n 2"]:
    """Mean of x₁ − x₀ over all pairs of noise and data whose path passes through x at t."""
    t = t[:, None].clamp(max=1 - 1e-3)
    weights = torch.softmax(-(x[:, None] - t[:, None] * data).square().sum(dim=2) / (2 * (1 - t) ** 2), dim=1)
    return (weights @ data - x) / (1 - t)


class Field(nn.Module):
    """(x, t) → velocity, and the features of the last hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        layers = (part for size in (3, WIDTH, WIDTH) for part in (nn.Linear(size, WIDTH), nn.SiLU()))
        self.hidden, self.out = nn.Sequential(*layers), nn.Linear(WIDTH, 2)

    def forward(self, x: Float[Tensor, "n 2"], t: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        features = self.hidden(torch.cat([x, t[:, None]], dim=1))
        return self.out(features), features


class FieldTraining:
    """Training of one field, as a loop for a ``Runner``."""

    def __init__(self, data: Float[Tensor, "k 2"], lam: float, steps: int) -> None:
        self.data, self.lam, self.steps, self.step = data, lam, steps, 0
        with seeded(0):
            self.network = Field()
        self._optimizer = torch.optim.Adam(self.network.parameters(), 1e-2)
        self._slower = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)
        self._draw = generator(29)
        self.curve: list[tuple[int, float]] = []
        """Step of each report, and the mean loss since the one before."""

    def pairs(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Data, noise and times."""
        chosen = torch.randint(len(self.data), (count,), generator=draw)
        return self.data[chosen], torch.randn(count, 2, generator=draw), torch.rand(count, generator=draw)

    def __iter__(self) -> Generator[None]:
        losses = []
        with one_thread():
            while self.step < self.steps:
                x1, x0, t = self.pairs(BATCH, self._draw)
                x_t, velocity = paths.linear(x1, x0, t)
                output, features = self.network(x_t, t)
                loss = velocity_loss(output, velocity)
                losses.append(loss.item())
                if self.lam:
                    loss = loss + self.lam * dispersive_loss(features, tau=0.5)
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
                self._slower.step()
                self.step += 1
                if self.step % EVERY == 0 or self.step == self.steps:
                    self.curve.append((self.step, sum(losses) / len(losses)))
                    losses.clear()
                    yield


class Moons(RunnerState[FieldTraining]):
    """Time and λ in; points on straight lines and along the learned field out.

    The first field is trained here and now, with λ as given.

    Args:
        steps: of each training.  traits: initial values of the controls.
    """

    t = FloatTrait(0.5, min=0.0, max=1.0)
    lam = FloatTrait(0.0, min=0.0)

    def __init__(self, steps: int = STEPS, **traits: float) -> None:
        super().__init__(**traits)
        self.steps = steps
        self.data, moon = two_moons()
        draw = generator(31)
        partners = torch.randint(POINTS, (SHOWN,), generator=draw)
        self.noise, self.partners = torch.randn(SHOWN, 2, generator=draw), self.data[partners]
        self.moon = [moon[partner] for partner in partners.tolist()]
        """Moon of each point's partner."""
        self.curves: dict[float, list[tuple[int, float]]] = {}
        """λ → curve of its newest training."""
        x1, x0, t = FieldTraining(self.data, 0.0, steps).pairs(2000, generator(37))
        x_t, velocity = paths.linear(x1, x0, t)
        self._held_out, self.exact = (x_t, t), average_velocity(x_t, t, self.data)
        self.least = velocity_loss(self.exact, velocity).item()
        """Loss of the exact average, which no field can beat."""
        self.wait()

    def _make(self) -> FieldTraining:
        return FieldTraining(self.data, self.lam, self.steps)

    @torch.no_grad()
    def _record(self, report: None) -> None:
        training = self.runner.loop
        assert training is not None  # whose report this is
        self.trained, self.network = training.lam, copy.deepcopy(training.network)
        self.curves[self.trained] = training.curve
        self.path = torch.stack([x for _, x in states(self.velocity, self.noise, FINE)])
        """States of the drawn points along the learned field, (FINE + 1, SHOWN, 2)."""
        output, features = self.network(*self._held_out)
        self.error = (output - self.exact).square().mean().sqrt().item()
        """Root mean square difference between the learned velocity and the exact average."""
        self.features = features[: 2 * BATCH]
        self.changed()

    @torch.no_grad()
    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The learned velocity."""
        return self.network(x, t)[0]

    def along(self, t: float) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
        """The drawn points at time t: on the lines to their partners, and along the learned field."""
        line = paths.linear(self.partners, self.noise, torch.full((SHOWN,), t)).x_t
        return line, self.path[round(t * FINE)]

    def ends(self) -> dict[str, float]:
        """Mean distances: to the partner from the start and from the learned end, and between start and learned end."""
        end, mean = self.path[-1], lambda a, b: (a - b).norm(dim=1).mean().item()
        return {
            "start to partner": mean(self.noise, self.partners),
            "start to end": mean(self.noise, end),
            "end to partner": mean(end, self.partners),
            "end to data": torch.cdist(end, self.data).amin(dim=1).mean().item(),
        }

    def describe(self) -> str:
        """How training stands."""
        training = self.runner.loop
        assert training is not None  # the first is made at once
        return f"λ = {training.lam:g}: step {training.step:,} of {training.steps:,}."


def moons_panel(state: Moons | None = None, name: str = "moons") -> Panel:
    """Straight lines between noise and data, the field that is learned from them, and its loss."""
    state = state or Moons()
    panes = ["straight lines to random partners", "along the learned field", "velocity loss"]
    widths = dict(column_widths=[0.4, 0.4, 0.2], horizontal_spacing=0.05)
    plot = figure("Where does each point of noise go?", 1, 3, 350, subplot_titles=panes, **widths)
    quiet, ink = dict(color=fade(PALETTE["quiet"], 0.35), size=3), dict(color=fade(PALETTE["ink"], 0.25), width=1)
    x, y = state.data[::4].T.tolist()
    marker = dict(size=7, color=[INKS[m] for m in state.moon], symbol=[SYMBOLS[m] for m in state.moon])
    lines, flow, loss = (dict(row=1, col=col) for col in (1, 2, 3))
    for pane, axis in ((lines, "x"), (flow, "x2")):
        plot.add_scatter(x=x, y=y, mode="markers", marker=quiet, hoverinfo="skip", **pane)
        plot.add_scatter(mode="lines", line=ink, hoverinfo="skip", **pane)
        plot.add_scatter(mode="markers", marker=marker, hoverinfo="skip", **pane)
        plot.update_xaxes(range=[-2.9, 2.9], title_text="coordinate 1", **pane)
        plot.update_yaxes(range=[-2.3, 2.3], scaleanchor=axis, **pane)
    plot.update_yaxes(title_text="coordinate 2", **lines)
    across, up = torch.meshgrid(torch.linspace(-2.6, 2.6, 11), torch.linspace(-2, 2, 9), indexing="ij")
    grid = torch.stack([across.flatten(), up.flatten()], dim=1)
    arrow = dict(symbol="arrow", angleref="previous", color=PALETTE["contrastive"], size=[0, 9, 0] * len(grid))
    plot.add_scatter(mode="lines+markers", marker=arrow, line=dict(color=PALETTE["contrastive"], width=1.2), **flow)
    plot.add_scatter(mode="lines", line=dict(color=PALETTE["quiet"], dash="dot"), **loss)  # of another training
    plot.add_scatter(mode="lines", line=dict(color=PALETTE["ink"]), **loss)
    least = dict(line=dict(color=PALETTE["quiet"], dash="dash"), annotation_text="exact average")
    plot.add_hline(state.least, annotation_position="bottom left", **least, **loss)
    plot.update_xaxes(title_text="step", range=[0, state.steps], **loss)
    plot.update_layout(showlegend=False)
    buttons = Buttons(state, start="Train with this λ")

    def draw(state: Moons, plot: BaseFigure) -> str:
        buttons.refresh(state.describe())
        straight, learned = state.along(state.t)
        _, lines, dots, _, curves, moving, arrows, other, loss = plot.data
        lines.x, lines.y = lines_between(state.noise, state.partners)
        curves.x, curves.y = lines_between(*state.path)
        (dots.x, dots.y), (moving.x, moving.y) = straight.T.tolist(), learned.T.tolist()
        velocity = state.velocity(grid, torch.full((len(grid),), state.t))
        arrows.x, arrows.y = lines_between(grid, grid + 0.16 * velocity)
        others = [points for lam, points in state.curves.items() if lam != state.trained]
        for trace, points in ((other, others[-1] if others else []), (loss, state.curves[state.trained])):
            trace.x, trace.y = [step for step, _ in points], [value for _, value in points]
        ends, step = state.ends(), state.curves[state.trained][-1][0]
        near = torch.cdist(learned, state.data).amin(dim=1).mean()
        return (
            f"At t = {state.t:.2f} the points along the learned field lie {near:.2f} from the moons' nearest point. "
            f"After {step:,} steps with λ = {state.trained:g}: along the learned field the {SHOWN} points move "
            f"{ends['start to end']:.2f} on average, and end {ends['end to data']:.2f} from the nearest point of the "
            f"moons and {ends['end to partner']:.2f} from their partners, which were {ends['start to partner']:.2f} "
            f"away at the start. The learned velocity differs by {state.error:.2f} (RMS) from the exact average, "
            f"whose loss is {state.least:.2f}. Hidden features: norm {feature_norm(state.features):.2f}, effective "
            f"rank {effective_rank(state.features):.1f} of {WIDTH}."
        )

    controls = {"t": slider("time t", 0, 1, 1 / FINE), "lam": slider("λ, for the next training", 0, 1, 0.1, live=False)}
    alt = (
        "Sixty points of noise on straight lines to random points of two moons, and along the learned field; its loss."
    )
    finding = "The learned flow takes noise to the moons nearby, and not to the partners of training"
    return Panel(name, state, controls, plot, draw, alt, extra=[buttons.row()], finding=finding)
