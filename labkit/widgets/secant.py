"""The average velocity in one dimension: paths from noise to two heaps of data, their tangents and secants.

The data are half N(−1, c²), half N(1, c²), so that every field has a closed form. With p_k(x, t) the density at t of
the points on their way to heap k, and w_k = p_k/Σp,

    v(x, t) = Σ_k w_k·(μ_k + a·(x − t·μ_k)),    a = (t·c² − (1 − t)) / (t²·c² + (1 − t)²)
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Float as FloatTrait
from traitlets import Int

from labkit.plots import PALETTE, figure
from labkit.sampling import states
from labkit.widgets.panel import Panel, State, choice, slider

MEANS, WIDTH = (-1.0, 1.0), 0.15
FINE = 400  # Heun steps of the paths that count as exact
JUMPS = (1, 2, 4, 8, 16, 32)


def heap_velocity(x: Float[Tensor, " n"], t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """v(x, t): the mean of x₁ − x₀ over all pairs of noise and data whose path passes through x at t."""
    variance = t**2 * WIDTH**2 + (1 - t) ** 2
    heaps = torch.tensor(MEANS, dtype=x.dtype)[:, None]
    weights = torch.softmax(-((x - t * heaps) ** 2) / (2 * variance), dim=0)
    slope = (t * WIDTH**2 - (1 - t)) / variance
    return (weights * (heaps + slope * (x - t * heaps))).sum(dim=0)


class Secant(State):
    """Two times and a start in; tangent, secant and the ends of a few steps out."""

    t = FloatTrait(0.0, min=0.0, max=1.0)
    s = FloatTrait(1.0, min=0.0, max=1.0)
    start = Int(6, min=0)
    """Index of the path whose tangent and secant are drawn."""
    jumps = Int(1, min=1)

    def __init__(self) -> None:
        super().__init__()
        spread = torch.linspace(0.03, 0.97, 13, dtype=torch.float64)
        self.starts = torch.special.ndtri(spread) + 0.05  # off the middle, where both heaps are equally near
        many = torch.special.ndtri((torch.arange(500, dtype=torch.float64) + 0.5) / 500)
        self.paths, exact = _path(self.starts, FINE, "heun"), _path(many, FINE, "heun")[-1]
        self.errors = {n: (_path(many, n, "euler")[-1] - exact).square().mean().sqrt().item() for n in JUMPS}
        """Number of Euler steps → RMS distance from the exact end, of 500 starts."""
        self.ends = {n: _path(self.starts, n, "euler") for n in JUMPS}
        """Number of Euler steps → all points on the way of the shown starts."""

    @property
    def span(self) -> tuple[float, float]:
        """The two times, the earlier first, at least 0.01 apart."""
        first, last = sorted((self.t, self.s))
        return (first, last) if last > first else (min(first, 0.99), min(first, 0.99) + 0.01)

    def at(self, time: float) -> Float[Tensor, " n"]:
        """Positions of all paths at a time."""
        return self.paths[round(time * FINE)]

    def slopes(self) -> tuple[float, float]:
        """Velocity at the earlier time, and average velocity over the span, of the chosen path."""
        first, last = self.span
        x, later = self.at(first)[self.start], self.at(last)[self.start]
        velocity = heap_velocity(x[None], torch.tensor([first], dtype=x.dtype))
        return velocity.item(), ((later - x) / (last - first)).item()

    def average(self, x: Tensor, t: Tensor, span: Tensor) -> Tensor:
        """The average velocity of the shown paths, as a perfectly trained MeanFlow network would predict it."""
        first, last = t[0].item(), (t + span)[0].item()
        return (self.at(last) - self.at(first)) / (last - first)


def _path(x0: Float[Tensor, " n"], steps: int, method: str) -> Float[Tensor, "steps n"]:
    """All points from the starts to the ends; one more than there are steps."""
    return torch.stack([x for _, x in states(heap_velocity, x0, steps, method)])


def secant_panel(state: Secant | None = None, name: str = "secant") -> Panel:
    """Paths with the tangent and the secant of one, and the ends of a few steps along either."""
    state = state or Secant()
    panes = ["paths from noise (t = 0) to data (t = 1)", "error at t = 1 of 500 starts (RMS)"]
    widths = dict(column_widths=[0.62, 0.38], horizontal_spacing=0.1)
    plot = figure("Where does one step lead?", 1, 2, 420, subplot_titles=panes, **widths)
    times = np.linspace(0, 1, FINE + 1)
    paths, errors = dict(row=1, col=1), dict(row=1, col=2, showlegend=False, mode="lines+markers")
    for path in state.paths.T.numpy():
        quiet = dict(color=PALETTE["quiet"], width=1)
        plot.add_scatter(x=times, y=path, mode="lines", line=quiet, showlegend=False, hoverinfo="skip", **paths)
    first = len(plot.data)
    for label, ink, width, dash in (
        ("its path", PALETTE["ink"], 2.5, "solid"),
        ("along the velocity", PALETTE["dispersive"], 3, "dash"),
        ("along the average velocity", PALETTE["baseline"], 3, "solid"),
    ):
        line, mode = dict(color=ink, width=width, dash=dash), "lines+markers" if "along" in label else "lines"
        plot.add_scatter(name=label, mode=mode, line=line, **paths)
    for label, ink, symbol, y in (
        ("velocity", "dispersive", "circle", list(state.errors.values())),
        ("average velocity", "baseline", "square", [0.0] * len(JUMPS)),
    ):
        line, marker = dict(color=PALETTE[ink], width=2), dict(symbol=symbol, size=7)
        plot.add_scatter(x=JUMPS, y=y, name=label, line=line, marker=marker, **errors)
    plot.add_vline(state.jumps, line=dict(color=PALETTE["ink"], dash="dot", width=1.5), row=1, col=2)
    plot.update_xaxes(title_text="t", range=[-0.02, 1.02], row=1, col=1)
    plot.update_yaxes(title_text="x", range=[-2.4, 2.4], row=1, col=1)
    plot.update_xaxes(type="log", title_text="steps", tickvals=JUMPS, row=1, col=2)
    plot.update_yaxes(rangemode="tozero", row=1, col=2)
    plot.update_layout(legend=dict(x=0, xanchor="left", y=-0.16, yanchor="top"))

    def draw(state: Secant, plot: BaseFigure) -> str:
        tangent, secant = state.slopes()
        (t, s), path = state.span, state.paths[:, state.start]
        x, end = state.at(t)[state.start].item(), state.at(s)[state.start].item()
        lines = [(times, path.numpy()), _line(t, s, x, tangent), _line(t, s, x, secant)]
        if (t, s) == (0.0, 1.0) and state.jumps > 1:  # the whole way in several steps
            by = np.linspace(0, 1, state.jumps + 1)
            jumps = [x[state.start].item() for _, x in states(state.average, state.starts, state.jumps, "meanflow")]
            lines[1:] = [(by, state.ends[state.jumps][:, state.start].numpy()), (by, np.array(jumps))]
        for trace, (xs, ys) in zip(plot.data[first : first + 3], lines, strict=True):
            trace.x, trace.y = xs, ys
        plot.layout.shapes[0].x0 = plot.layout.shapes[0].x1 = state.jumps
        how = f"In {state.jumps} steps" if len(lines[1][0]) > 2 else f"From t = {t:.2f} to s = {s:.2f}"
        return (
            f"{how}: at x = {x:.2f} the velocity is {tangent:.2f} and the average velocity {secant:.2f}. Following "
            f"velocities ends at {lines[1][1][-1]:.2f}, following average velocities at {lines[2][1][-1]:.2f}; the "
            f"path itself is at {end:.2f}. Over 500 starts, the RMS error of {state.jumps} "
            f"step{'s' * (state.jumps > 1)} along velocities is {state.errors[state.jumps]:.2f}."
        )

    controls = {
        "t": slider("from t", 0, 0.99, 0.01),
        "s": slider("to s", 0.01, 1, 0.01),
        "start": choice("start x₀", [(f"{x:.2f}", i) for i, x in enumerate(state.starts.tolist())]),
        "jumps": choice("steps, from 0 to 1", JUMPS),
    }
    alt = "Paths from noise to two heaps of data; one with its tangent and its secant, and the error of few steps."
    return Panel(name, state, controls, plot, draw, alt)


def _line(t: float, s: float, x: float, slope: float) -> tuple[Sequence[float], Sequence[float]]:
    return (t, s), (x, x + (s - t) * slope)
