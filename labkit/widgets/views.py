"""Two views of each digit: what they have in common in spite of their noise."""

import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Enum
from traitlets import Float as FloatTrait

from labkit import datasets, paths, time_sampling
from labkit.metrics import DigitsClassifier
from labkit.plots import PALETTE, digit_trace, fade, figure, style_digits, tile
from labkit.runtime import generator
from labkit.widgets.panel import Panel, State, dropdown, slider

PAIRS = 300
NAMES = {"first view of 0 to 9": "t", "second view of the same digits": "t⁺"}


class TwoViews(State):
    """Noise policy, largest gap and the first view's time t in; both views of every held-out digit out.

    Each view has its own noise. As in training, ``time_sampling.second`` makes the second view's time from one uniform
    number for each digit.
    """

    noise = Enum(("independent", "restricted"), "independent")
    max_gap = FloatTrait(0.1, min=0.0, max=1.0)
    t = FloatTrait(0.6, min=0.0, max=1.0)

    def __init__(self, **traits: float | str) -> None:
        super().__init__(**traits)
        held_out, draw = datasets.digits("held_out"), generator(19)
        self.x1, self.y1 = held_out.x, held_out.y
        self.noises = torch.randn(2, *self.x1.shape, generator=draw)
        self.uniforms = torch.rand(len(self.x1), generator=draw)
        self.first_times = torch.rand(PAIRS, generator=draw)
        self.picks = torch.stack([(self.y1 == digit).nonzero()[0, 0] for digit in range(10)])
        self.classifier = DigitsClassifier.load()

    def unused(self) -> set[str]:
        return set() if self.noise == "restricted" else {"max_gap"}

    def second_times(self, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """t⁺ of the first n digits."""
        return time_sampling.second(t, self.uniforms[: len(t)], self.noise, self.max_gap)

    def views(self) -> tuple[Tensor, Tensor, Float[Tensor, " n"]]:
        """First view and second view of all digits, and the times of the second."""
        t = torch.full((len(self.x1),), self.t)
        t_second = self.second_times(t)
        first, second = (paths.linear(self.x1, *draw).x_t for draw in zip(self.noises, (t, t_second), strict=True))
        return first, second, t_second


def views_panel(name: str = "views", state: TwoViews | None = None) -> Panel:
    """Ten digits as two noised views, and the times of many such pairs."""
    state = state or TwoViews()
    first, second = (f"{view}: its time {t}, and the classifier's answer" for view, t in NAMES.items())
    layout = dict(column_widths=[0.74, 0.26], horizontal_spacing=0.08, vertical_spacing=0.24)
    layout |= dict(specs=[[{}, {"rowspan": 2}], [{}, None]], subplot_titles=[first, f"times of {PAIRS} pairs", second])
    plot = figure("What do two noised views of a digit still have in common?", 2, 2, 330, **layout)
    ticks = dict(visible=True, showgrid=False, zeroline=False, showline=False, ticks="", tickfont=dict(size=12))
    for row in (1, 2):
        plot.add_trace(digit_trace(tile(state.x1[state.picks], 10)), row, 1)
        style_digits(plot, row, 1)
        plot.update_xaxes(tickvals=[3.5 + 9 * k for k in range(10)], **ticks, row=row, col=1)
        plot.update_yaxes(constraintoward="top", automargin=False, row=row, col=1)
    plot.update_layout(margin_l=12)
    dots = dict(mode="markers", showlegend=False, hovertemplate="t = %{x:.2f}, t⁺ = %{y:.2f}<extra></extra>")
    right = dict(row=1, col=2)
    plot.add_scatter(x=state.first_times.tolist(), marker=dict(color=PALETTE["sky"], size=5), **dots, **right)
    line = dict(color=fade(PALETTE["dispersive"], 0.6), width=1.5)
    plot.add_scatter(y=[0, 1], mode="lines", line=line, showlegend=False, hoverinfo="skip", **right)
    plot.add_scatter(marker=dict(color=PALETTE["dispersive"], size=9), **dots, **right)
    plot.update_xaxes(range=[-0.03, 1.03], title_text="time t of the first view", constrain="domain", row=1, col=2)
    plot.update_yaxes(range=[-0.03, 1.03], title_text="time t⁺ of the second", row=1, col=2)
    policies = [("independent: any time", "independent"), ("restricted: a time near t", "restricted")]
    controls = {
        "noise": dropdown("second view", policies),
        "max_gap": slider("largest gap |t⁺ − t|", 0, 1, 0.01),
        "t": slider("time t of the first view", 0, 1, 0.01),
    }
    alt = "Ten digits as first view and as second view with its own noise and time, and the times of 300 such pairs."
    return Panel(name, state, controls, plot, _draw, alt)


def _draw(state: TwoViews, plot: BaseFigure) -> str:
    first, second, when = state.views()
    top, bottom, pairs, line, dots = plot.data
    top.z, bottom.z = tile(first[state.picks], 10), tile(second[state.picks], 10)
    pairs.y = state.second_times(state.first_times).tolist()
    line.x, dots.x, dots.y = [state.t] * 2, [state.t] * 10, when[state.picks].tolist()
    predictions = [state.classifier.predict(view) for view in (first, second)]
    for row, predicted, times in zip((1, 2), predictions, (dots.x, dots.y), strict=True):
        labels = zip(times, predicted[state.picks].tolist(), range(10), strict=True)
        words = [f"{time:.2f}<br>{k} {'✓' if k == digit else '✗'}" for time, k, digit in labels]
        plot.update_xaxes(ticktext=words, row=row, col=1)
    right = torch.stack([predicted == state.y1 for predicted in predictions]).double()
    one, other, both = right[0].mean(), right[1].mean(), right.prod(dim=0).mean()
    rule = f"at most {state.max_gap:.2f} from t" if state.noise == "restricted" else "anywhere between 0 and 1"
    return (
        f"First view at t = {state.t:.2f}, second view with its own noise at a time {rule}: the two times differ by "
        f"{(when - state.t).abs().mean():.2f} on average. A classifier trained on clean digits recognises {one:.0%} of "
        f"{len(state.y1)} digits in the first view, {other:.0%} in the second, and {both:.0%} in both."
    )
