"""From Nano to XL: what a model takes, part by part, and how long a machine would train it as the paper did."""

from collections.abc import Mapping
from math import log10
from typing import get_args

import ipywidgets as widgets
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure
from traitlets import Enum, HasTraits, observe
from traitlets import Float as FloatTrait

from labkit.checks import finite, require
from labkit.models import SIZES, Family
from labkit.plots import PALETTE, figure
from labkit.scale import BATCH, DATASHEET, Cost, Precision, cost, memory, paper_days
from labkit.widgets.panel import STYLE, Panel, choice, log_slider, slider

MINE, OWN = "this machine, measured", "a figure of your own"
PATCHES, BATCHES = (2, 4, 8), (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROOM = 1.4  # of a pane, over its longest bar: for the words beside it
SLOWEST, FASTEST = 1e-3, 1e4  # TFLOP/s
PARTS = {  # part → colour; the same thing has the same colour in every pane
    "all": "ink",
    "attention": "baseline",
    "MLP": "sky",
    "linears": "baseline",
    "modulation": "dispersive",
    "time and class": "gold",
    "ends": "quiet",
    "weights": "baseline",
    "gradients": "sky",
    "AdamW": "accent",
    "EMA": "gold",
    "activations": "contrastive",
}
WORDS = {"attention": "attention: scores and mix", "ends": "ends, time"}  # what they are called among operations


class Scale(HasTraits):
    """A model, a batch and a machine in; parameters, operations, bytes and days by part out.

    Args:
        measured: floating-point operations a second of this machine, as ``labkit.scale.measured_flops`` finds them.
        gigabytes: its memory, if it is to be drawn.
    """

    size = Enum(tuple(SIZES), "B")
    patch = Enum(PATCHES, 2)
    family = Enum(get_args(Family), "SiT")
    batch = Enum(BATCHES, 32)
    precision = Enum(get_args(Precision), "bfloat16")
    machine = Enum((MINE, *DATASHEET, OWN), "A100 SXM")
    tflops = FloatTrait(100.0, min=SLOWEST, max=FASTEST)
    """Of the machine of your own, in 10¹² operations a second; setting it chooses that machine."""
    utilisation = FloatTrait(0.4, min=0.01, max=1.0)

    def __init__(self, measured: float, gigabytes: float | None = None, **traits: float | str) -> None:
        require(finite(measured) and measured > 0, "measured", measured, "take operations a second, above 0")
        sized = gigabytes is None or (finite(gigabytes) and gigabytes > 0)
        require(sized, "gigabytes", gigabytes, "take a number above 0, or None")
        super().__init__(**traits)
        self.measured, self.gigabytes = measured, gigabytes

    @observe("tflops")
    def _own(self, change: object) -> None:
        self.machine = OWN

    @property
    def cost(self) -> Cost:
        return cost(f"{self.family}-{self.size}/{self.patch}")

    def rates(self) -> dict[str, float]:
        """Operations a second of every machine."""
        sheets = {name: gpu.tflops * 1e12 for name, gpu in DATASHEET.items()}
        return {MINE: self.measured, **sheets, OWN: self.tflops * 1e12}

    def days(self) -> dict[str, float]:
        """Of the paper's 80 epochs, on every machine."""
        return {name: paper_days(self.cost, rate, self.utilisation) for name, rate in self.rates().items()}

    def bytes(self) -> dict[str, int]:
        return memory(self.cost, self.batch, self.precision)

    def capacity(self) -> float | None:
        """Gigabytes of the chosen machine, if they are known."""
        return self.gigabytes if self.machine == MINE else getattr(DATASHEET.get(self.machine), "gigabytes", None)


def span(days: float) -> str:
    """Days as words, in the unit that suits them, with two digits."""
    for unit, length in (("years", 365.25), ("days", 1.0), ("hours", 1 / 24), ("minutes", 1 / 1440)):
        if days / length >= 2 or unit == "minutes":
            return f"{_round(days / length)} {unit}"
    raise AssertionError


def _round(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def amount(value: float, unit: str = "") -> str:
    """A number with a prefix: 130.5 M, 23 G."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            digits = 4 if value >= 100 * size else 3
            return f"{value / size:.{digits}g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def scale_panel(state: Scale, name: str = "scale") -> Panel:
    """Four panes: parameters, multiply-accumulates and memory by part, and the days of the paper's training."""
    plot = figure(
        "What would it take?",
        2,
        2,
        600,
        horizontal_spacing=0.2,
        vertical_spacing=0.17,
        subplot_titles=["parameters", "operations", "memory", "time"],
    )
    for place in range(4):
        row, col = place // 2 + 1, place % 2 + 1
        bars = go.Bar(orientation="h", textposition="outside", cliponaxis=False, showlegend=False, hoverinfo="skip")
        plot.add_trace(bars, row, col)
        plot.update_yaxes(autorange="reversed", ticks="", row=row, col=col)
        plot.update_xaxes(rangemode="tozero", showticklabels=place == 3, ticks="", row=row, col=col)
    plot.update_xaxes(type="log", dtick=1, title_text="days, each line ten times the last", row=2, col=2)
    plot.add_vline(0, line=dict(color=PALETTE["ink"], dash="dot", width=1.5), row=2, col=1)
    plot.update_layout(bargap=0.25, margin=dict(t=80))
    alt = "Bars of the parameters, operations and memory of a model by part, and of its training time by machine."
    return Panel(name, state, _controls(), plot, _draw, alt)


def _controls() -> Mapping[str, widgets.Widget]:
    def dropdown(label: str, options: tuple[str, ...], width: str) -> widgets.Dropdown:
        return widgets.Dropdown(options=options, description=label, style=STYLE, layout=widgets.Layout(width=width))

    rate = log_slider("TFLOP/s of your own", -3, 4)
    rate.readout_format = ".3g"
    return {
        "size": choice("size", tuple(SIZES)),
        "patch": choice("patch", PATCHES),
        "batch": choice("images at a time", BATCHES),
        "family": dropdown("family", get_args(Family), "190px"),
        "precision": dropdown("multiply in", get_args(Precision), "220px"),
        "machine": dropdown("machine", (MINE, *DATASHEET, OWN), "280px"),
        "tflops": rate,
        "utilisation": slider("share of it reached", 0.01, 1, 0.01),
    }


def _draw(state: Scale, plot: BaseFigure) -> str:
    c, held, days, room = state.cost, state.bytes(), state.days(), state.capacity()
    whole = {"parameters": sum(c.parameters.values()), "macs": sum(c.macs.values()), "bytes": sum(held.values())}
    _parts(plot, 0, c.parameters, "")
    _parts(plot, 1, {WORDS.get(part, part): value for part, value in c.macs.items()}, "")
    _parts(plot, 2, held, "B")
    machines, chosen = list(days), days[state.machine]
    plot.data[3].x, plot.data[3].y = list(days.values()), [_label(machine) for machine in machines]
    plot.data[3].text = [f" {span(d)}" for d in days.values()]
    inks = [PALETTE["dispersive" if machine == state.machine else "quiet"] for machine in machines]
    plot.data[3].marker.color = inks
    # log10 of days: bars start at a minute, or at a tenth of the shortest, and leave room for their words
    low, high = min(-3.0, min(log10(d) for d in days.values()) - 1), max(log10(d) for d in days.values())
    plot.layout.xaxis4.range = (low, high + 0.3 * (high - low))
    line = plot.layout.shapes[0]
    line.x0 = line.x1 = 0 if room is None else room * 1e9
    line.visible = room is not None and room * 1e9 <= ROOM * whole["bytes"]  # further off, the words must do
    fits = ""
    if room is not None:
        fits = f" of {room:g} GB" if whole["bytes"] <= room * 1e9 else f", too much for {room:g} GB"
    titles = (
        f"parameters: <b>{amount(whole['parameters'])}</b>",
        f"multiply-accumulates, one image forward: <b>{amount(whole['macs'])}</b>",
        f"memory of training, {state.batch} images at a time: <b>{amount(whole['bytes'], 'B')}</b>{fits}",
        f"the paper's 80 epochs at {state.utilisation:.0%} of the rate: <b>{span(chosen)}</b>",
    )
    for note, title in zip(plot.layout.annotations, titles, strict=False):
        note.text = title
    plot.layout.title.text = f"{c.name}: {c.depth} blocks of width {c.width}, {c.tokens} tokens an image"
    return _told(state, whole, chosen, room)


def _parts(plot: BaseFigure, place: int, parts: Mapping[str, float], unit: str) -> None:
    """Fill a pane with all and with every part."""
    shown = {"all": sum(parts.values()), **parts}
    bars = plot.data[place]
    bars.x, bars.y = list(shown.values()), list(shown)
    bars.text = [
        f" {amount(v, unit)}" + ("" if part == "all" else f" · {v / shown['all']:.1%}") for part, v in shown.items()
    ]
    names = {word: part for part, word in WORDS.items()}
    bars.marker.color = [PALETTE[PARTS[names.get(part, part)]] for part in shown]
    plot.layout["xaxis" if place == 0 else f"xaxis{place + 1}"].range = (0, ROOM * shown["all"])


def _label(machine: str) -> str:
    return machine if machine in (MINE, OWN) else f"{machine}, datasheet"


def _told(state: Scale, whole: Mapping[str, int], days: float, room: float | None) -> str:
    c = state.cost
    rate = state.rates()[state.machine]
    need = f"Training holds {amount(whole['bytes'], 'B')} with {state.batch} images at a time (activations estimated)"
    if room is not None:
        need += f", and {room:g} GB " + ("hold that" if whole["bytes"] <= room * 1e9 else "do not hold that")
    shares = BATCH // state.batch
    more = "That is the whole batch of 256" if shares == 1 else f"{shares} such shares make the batch of 256"
    origin = {MINE: "measured just now", OWN: "your figure"}.get(state.machine, "datasheet peak, dense bfloat16")
    return (
        f"{c.name} has {sum(c.parameters.values()):,} parameters and does {amount(whole['macs'])} multiply-accumulates "
        f"an image. {need}. {more}. At {amount(rate, 'FLOP/s')} ({origin}), of which {state.utilisation:.0%} are "
        f"reached, the paper's 80 epochs of ImageNet take about {span(days)} on one device: an estimate."
    )
