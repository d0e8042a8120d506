"""The average velocity, seen in one dimension: paths from noise to two heaps of data, their tangents and secants.

The data are half N(−1, c²), half N(1, c²), so that every field is known exactly. With p_k(x, t) the density at t of the
points on their way to heap k, and w_k = p_k/Σp,

    v(x, t) = Σ_k w_k·(μ_k + a·(x − t·μ_k)),    a = (t·c² − (1 − t)) / (t²·c² + (1 − t)²)
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Float as FloatTrait
from traitlets import HasTraits, Int

from labkit.plots import PALETTE, figure
from labkit.sampling import states
from labkit.widgets.panel import Panel, choice, slider

MEANS, WIDTH = (-1.0, 1.0), 0.15
FINE = 400  # Heun steps that stand for the exact path
JUMPS = (1, 2, 4, 8, 16, 32)


def heap_velocity(x: Float[Tensor, " n"], t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """v(x, t): the mean of x₁ − x₀ over all noise and data that pass through x at t."""
    variance = t**2 * WIDTH**2 + (1 - t) ** 2
    heaps = torch.tensor(MEANS, dtype=x.dtype)[:, None]
    weights = torch.softmax(-((x - t * heaps) ** 2) / (2 * variance), dim=0)
    slope = (t * WIDTH**2 - (1 - t)) / variance
    return (weights * (heaps + slope * (x - t * heaps))).sum(dim=0)


class Secant(HasTraits):
    """Two times and a start in; tangent, secant and the ends of few steps out."""

    t = FloatTrait(0.0, min=0.0, max=1.0)
    s = FloatTrait(1.0, min=0.0, max=1.0)
    start = Int(6, min=0)
    """Which of the shown paths."""
    jumps = Int(1, min=1)

    def __init__(self, count: int = 13) -> None:
        super().__init__()
        spread = torch.linspace(0.03, 0.97, count, dtype=torch.float64)
        self.starts = torch.special.ndtri(spread) + 0.05  # off the middle, where a path would have to choose
        many = torch.special.ndtri((torch.arange(500, dtype=torch.float64) + 0.5) / 500)
        self.paths, exact = self._exact(self.starts), self._exact(many)[-1]
        self.errors = {n: self._error(many, exact, n) for n in JUMPS}
        """Jumps → RMS distance from the exact end, of 500 starts: by velocities (Euler)."""
        self.ends = {n: self._euler(self.starts, n) for n in JUMPS}

    def _exact(self, x0: Float[Tensor, " n"]) -> Float[Tensor, "steps n"]:
        return torch.stack([x for _, x in states(heap_velocity, x0, FINE, "heun")])

    @staticmethod
    def _euler(x0: Float[Tensor, " n"], steps: int) -> Float[Tensor, "steps n"]:
        return torch.stack([x for _, x in states(heap_velocity, x0, steps, "euler")])

    def _error(self, x0: Tensor, exact: Tensor, steps: int) -> float:
        return (self._euler(x0, steps)[-1] - exact).square().mean().sqrt().item()

    @property
    def span(self) -> tuple[float, float]:
        """The two times, the earlier first, and apart."""
        first, last = sorted((self.t, self.s))
        return (first, last) if last > first else (min(first, 0.99), min(first, 0.99) + 0.01)

    def at(self, time: float) -> Float[Tensor, " n"]:
        """All paths at a time."""
        return self.paths[round(time * FINE)]

    def slopes(self) -> tuple[float, float]:
        """(velocity at the earlier time, average velocity over the span) of the chosen path."""
        first, last = self.span
        x, later = self.at(first)[self.start], self.at(last)[self.start]
        velocity = heap_velocity(x[None], torch.tensor([first], dtype=x.dtype))
        return velocity.item(), ((later - x) / (last - first)).item()

    def average(self, x: Tensor, t: Tensor, span: Tensor) -> Tensor:
        """The average velocity of the shown paths, as a network that has learnt it would say it."""
        first, last = t[0].item(), (t + span)[0].item()
        return (self.at(last) - self.at(first)) / (last - first)


def secant_panel(state: Secant | None = None, name: str = "secant") -> Panel:
    """Paths with the tangent and the secant of one, and what a few steps along either come to."""
    state = state or Secant()
    plot = figure(
        "Where does one step lead?",
        1,
        2,
        420,
        column_widths=[0.62, 0.38],
        horizontal_spacing=0.1,
        subplot_titles=["paths from noise (t = 0) to data (t = 1)", "error at t = 1 of 500 starts (RMS)"],
    )
    times = np.linspace(0, 1, FINE + 1)
    for path in state.paths.T.numpy():
        quiet = dict(color=PALETTE["quiet"], width=1)
        plot.add_trace(go.Scatter(x=times, y=path, mode="lines", line=quiet, showlegend=False, hoverinfo="skip"), 1, 1)
    first = len(plot.data)
    for label, ink, width, dash in (
        ("its path", PALETTE["ink"], 2.5, "solid"),
        ("along the velocity", PALETTE["dispersive"], 3, "dash"),
        ("along the average velocity", PALETTE["baseline"], 3, "solid"),
    ):
        line = dict(color=ink, width=width, dash=dash)
        plot.add_trace(go.Scatter(name=label, mode="lines+markers" if "along" in label else "lines", line=line), 1, 1)
    for label, ink, mark in (("velocity", "dispersive", "circle"), ("average velocity", "baseline", "square")):
        errors = list(state.errors.values()) if label == "velocity" else [0.0] * len(JUMPS)
        trace = go.Scatter(
            x=JUMPS,
            y=errors,
            mode="lines+markers",
            showlegend=False,
            name=label,
            line=dict(color=PALETTE[ink], width=2),
            marker=dict(symbol=mark, size=7),
        )
        plot.add_trace(trace, 1, 2)
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
            f"{how}: at x = {x:.2f} the velocity is {tangent:.2f} and the average velocity {secant:.2f}. Velocities "
            f"lead to {lines[1][1][-1]:.2f}, average velocities to {lines[2][1][-1]:.2f}; the path itself is at "
            f"{end:.2f}. Over 500 starts, {state.jumps} step{'s' * (state.jumps > 1)} along velocities miss by "
            f"{state.errors[state.jumps]:.2f}."
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
