"""Panels on two views of a sample: what noise leaves them in common, and what drawing them together does."""

import ipywidgets as widgets
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor
from traitlets import Enum, HasTraits
from traitlets import Float as FloatTrait

from labkit import datasets, paths, time_sampling
from labkit.losses import dispersive_floor
from labkit.metrics import DigitsClassifier, class_agreement
from labkit.plots import PALETTE, digit_trace, fade, figure, style_digits, tile
from labkit.runtime import generator
from labkit.widgets.panel import STYLE, Panel, log_slider, slider
from labkit.widgets.springs import SAMPLES, Partners, lines_between

PAIRS = 300
TERMS = ["springs", "α·A<br>alignment", "repulsion<br>L_disp"]
DROPDOWN = dict(style=STYLE, layout=dict(width="316px", margin="2px 14px 2px 2px"))


class TwoViews(HasTraits):
    """Noise policy, largest gap and the first view's time t in; both views of every held-out digit out.

    Each view has its own noise. The second view's time follows from one uniform number a digit, as in training, by
    ``time_sampling.second``.
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

    def second_times(self, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """t⁺ of the first n digits."""
        return time_sampling.second(t, self.uniforms[: len(t)], self.noise, self.max_gap)

    def views(self) -> tuple[Tensor, Tensor, Float[Tensor, " n"]]:
        """All digits as first view, as second view, and the times of the second."""
        t = torch.full((len(self.x1),), self.t)
        second = self.second_times(t)
        noised = (paths.linear(self.x1, x0, when).x_t for x0, when in zip(self.noises, (t, second), strict=True))
        return *noised, second


def views_panel(name: str = "views", state: TwoViews | None = None) -> Panel:
    """Ten digits as two noised views, and the times of many such pairs."""
    state, told = state or TwoViews(), "its time {}, and what the classifier reads"
    plot = figure(
        "What do two noised views of a digit still have in common?",
        2,
        2,
        330,
        column_widths=[0.74, 0.26],
        horizontal_spacing=0.08,
        vertical_spacing=0.24,
        specs=[[{}, {"rowspan": 2}], [{}, None]],
        subplot_titles=[
            "first view of 0 to 9: " + told.format("t"),
            f"times of {PAIRS} pairs",
            "second view of the same digits: " + told.format("t⁺"),
        ],
    )
    words = dict(visible=True, showgrid=False, zeroline=False, showline=False, ticks="", tickfont=dict(size=12))
    for row in (1, 2):
        plot.add_trace(digit_trace(tile(state.x1[state.picks], 10)), row, 1)
        style_digits(plot, row, 1)
        plot.update_xaxes(tickvals=[3.5 + 9 * k for k in range(10)], **words, row=row, col=1)
        plot.update_yaxes(constraintoward="top", automargin=False, row=row, col=1)
    plot.update_layout(margin_l=12)
    dots = dict(mode="markers", showlegend=False, hovertemplate="t = %{x:.2f}, t⁺ = %{y:.2f}<extra></extra>")
    plot.add_trace(go.Scatter(x=state.first_times.tolist(), marker=dict(color=PALETTE["sky"], size=5), **dots), 1, 2)
    line = dict(color=fade(PALETTE["dispersive"], 0.6), width=1.5)
    plot.add_trace(go.Scatter(y=[0, 1], mode="lines", line=line, showlegend=False, hoverinfo="skip"), 1, 2)
    plot.add_trace(go.Scatter(marker=dict(color=PALETTE["dispersive"], size=9), **dots), 1, 2)
    plot.update_xaxes(range=[-0.03, 1.03], title_text="time t of the first view", constrain="domain", row=1, col=2)
    plot.update_yaxes(range=[-0.03, 1.03], title_text="time t⁺ of the second", row=1, col=2)
    policies = [("independent: any time", "independent"), ("restricted: a time near t", "restricted")]
    controls = {
        "noise": widgets.Dropdown(options=policies, description="second view", **DROPDOWN),
        "max_gap": slider("largest gap |t⁺ − t|", 0, 1, 0.01),
        "t": slider("time t of the first view", 0, 1, 0.01),
    }
    alt = "Ten digits as first view and as second view with its own noise and time, and the times of 300 such pairs."
    return _only_where_used(Panel(name, state, controls, plot, _draw_views, alt), "noise", {"max_gap": "restricted"})


def _draw_views(state: TwoViews, plot: BaseFigure) -> str:
    first, second, when = state.views()
    top, bottom, pairs, line, dots = plot.data
    top.z, bottom.z = tile(first[state.picks], 10), tile(second[state.picks], 10)
    pairs.y = state.second_times(state.first_times).tolist()
    line.x, dots.x, dots.y = [state.t] * 2, [state.t] * 10, when[state.picks].tolist()
    seen = [state.classifier.predict(view) for view in (first, second)]
    for row, digits, shown_at in ((1, seen[0], dots.x), (2, seen[1], dots.y)):
        read = zip(shown_at, digits[state.picks].tolist(), range(10), strict=True)
        told = [f"{time:.2f}<br>{k} {'✓' if k == digit else '✗'}" for time, k, digit in read]
        plot.update_xaxes(ticktext=told, row=row, col=1)
    shares = [class_agreement(digits, state.y1) for digits in seen]
    both = ((seen[0] == state.y1) & (seen[1] == state.y1)).float().mean().item()
    rule = f"at most {state.max_gap:.2f} from t" if state.noise == "restricted" else "anywhere between 0 and 1"
    return (
        f"First view at t = {state.t:.2f}, second view with its own noise at a time {rule}: the two times differ by "
        f"{(when - state.t).abs().mean():.2f} in the mean. Of {len(state.y1)} digits the classifier, trained on clean "
        f"ones, reads {shares[0]:.0%} in the first view, {shares[1]:.0%} in the second, and {both:.0%} in both."
    )


def partners_panel(name: str = "partners", state: Partners | None = None) -> Panel:
    """Twenty samples with two views each, between springs and the contrastive loss; α weighs what joins partners."""
    state, inks = state or Partners(), {"first view z": PALETTE["dispersive"], "second view z⁺": PALETTE["contrastive"]}
    plot = figure(
        "The loss pushes all first views apart; α draws each to its partner",
        1,
        2,
        460,
        column_widths=[0.64, 0.36],
        horizontal_spacing=0.12,
        subplot_titles=["where the views come to rest", "the terms at rest"],
    )
    spring, bond = dict(color=fade(PALETTE["quiet"], 0.4), width=1.2), dict(color=PALETTE["ink"], width=1.5)
    plot.add_trace(go.Scatter(mode="lines", name="spring, from its start", line=spring, hoverinfo="skip"), 1, 1)
    plot.add_trace(go.Scatter(mode="lines", name="partners", line=bond, hoverinfo="skip"), 1, 1)
    for label, ink in inks.items():
        plot.add_trace(go.Scatter(mode="markers", name=label, marker=dict(color=ink, size=9)), 1, 1)
    bars = go.Bar(x=TERMS, textposition="outside", showlegend=False)
    bars.update(marker_color=[PALETTE["baseline"], *reversed(inks.values())], texttemplate="%{y:.3f}")
    plot.add_trace(bars, 1, 2)
    mark = dict(symbol="line-ew", size=56, line=dict(color=PALETTE["ink"], width=2.5))
    plot.add_trace(go.Scatter(x=TERMS[2:], mode="markers", name="floor of the repulsion", marker=mark), 1, 2)
    plot.update_xaxes(range=[-2.7, 2.7], row=1, col=1, title_text="coordinate 1")
    plot.update_yaxes(range=[-2.2, 2.2], row=1, col=1, title_text="coordinate 2", scaleanchor="x")
    plot.update_yaxes(title_text="value, before λ", row=1, col=2)
    plot.update_layout(legend=dict(x=0, xanchor="left", y=-0.16, yanchor="top"))
    variants = dict(options=[("InfoNCE-L2", "infonce_l2"), ("hinge", "hinge")], description="variant")
    controls = {
        "alpha": slider("α, weight of the alignment", 0, 1, 0.02),
        "lam": slider("λ, weight of the loss", 0, 1, 0.02),
        "variant": widgets.Dropdown(**variants, **DROPDOWN),
        "tau": log_slider("τ (InfoNCE-L2)", -1.3, 1.0),
        "margin": log_slider("margin ε (hinge)", -1, 0.3),
    }
    alt = "Twenty samples with two views each at rest, partners joined by lines; the three terms of the energy as bars."
    panel = Panel(name, state, controls, plot, _draw_partners, alt)
    return _only_where_used(panel, "variant", {"tau": "infonce_l2", "margin": "hinge"})


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
    knob = f"τ = {state.tau:.2g}" if knobs["tau"] else f"ε = {state.margin:.2g}"
    return (
        f"α = {state.alpha:.2f}, λ = {state.lam:.2f}, {knob}: the two views of a sample lie {partners:.2f} apart, "
        f"{partners / near:.2f} times as far as at the start; views of two samples {others:.2f}, {others / far:.2f} "
        f"times as far. Partner to others: {partners / others:.2f}, at the start {near / far:.2f}. The repulsion is "
        f"{rest.repulsion:.2f}, its floor {floor:.2f}."
    )


def _only_where_used(panel: Panel, trait: str, used: dict[str, str]) -> Panel:
    """Grey out each control in ``used`` while ``trait`` has another value than the one it belongs to."""

    def grey_out(_: object = None) -> None:
        for control, value in used.items():
            panel.controls[control].disabled = getattr(panel.state, trait) != value

    grey_out()
    panel.state.observe(grey_out, names=trait)
    panel.on_close = lambda: panel.state.unobserve(grey_out, names=trait)
    return panel
