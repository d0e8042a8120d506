"""From Nano to XL: what a model costs, part by part, and how long a machine would train it as the paper did."""

from collections.abc import Mapping
from math import log10
from typing import get_args

import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure
from traitlets import Enum, observe
from traitlets import Float as FloatTrait

from labkit.checks import check_number
from labkit.models import SIZES, Family
from labkit.plots import PALETTE, figure
from labkit.scale import BATCH, DATASHEET, Cost, Precision, cost, memory, paper_days
from labkit.widgets.panel import Panel, State, choice, dropdown, log_slider, slider

MINE, OWN = "this machine, measured", "a rate of your own"
PATCHES, BATCHES = (2, 4, 8), (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROOM = 1.6  # width of a pane in units of its longest bar, for the words beside it
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
WORDS = {"attention": "attention proper", "ends": "ends, time"}  # names of parts in the pane of operations


class Scale(State):
    """A model, a batch and a machine in; parameters, operations, bytes and days by part out.

    Args:
        measured: floating-point operations a second of this machine, from ``labkit.scale.measured_flops``.
        gigabytes: memory of this machine, drawn as a line; None for no line.
    """

    size = Enum(tuple(SIZES), "B")
    patch = Enum(PATCHES, 2)
    family = Enum(get_args(Family), "SiT")
    batch = Enum(BATCHES, 32)
    precision = Enum(get_args(Precision), "bfloat16")
    machine = Enum((MINE, *DATASHEET, OWN), "A100 SXM")
    tflops = FloatTrait(100.0, min=SLOWEST, max=FASTEST)
    """Rate of the machine of your own, in 10¹² operations a second; setting it chooses that machine."""
    utilisation = FloatTrait(0.4, min=0.01, max=1.0)

    def __init__(self, measured: float, gigabytes: float | None = None, **traits: float | str) -> None:
        check_number("measured", measured, above=0)
        check_number("gigabytes", gigabytes, above=0, optional=True)
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
        """Days that the paper's 80 epochs take on every machine."""
        return {name: paper_days(self.cost, rate, self.utilisation) for name, rate in self.rates().items()}

    def bytes(self) -> dict[str, int]:
        """Memory of training, by part."""
        return memory(self.cost, self.batch, self.precision)

    def capacity(self) -> float | None:
        """Gigabytes of the chosen machine; None if they are not known."""
        return self.gigabytes if self.machine == MINE else getattr(DATASHEET.get(self.machine), "gigabytes", None)


def span(days: float) -> str:
    """Days as words, in the largest unit of which there are two or more, with two digits."""
    units = {"years": 365.25, "days": 1.0, "hours": 1 / 24, "minutes": 1 / 1440}
    unit = next((unit for unit, length in units.items() if days / length >= 2), "minutes")
    value = days / units[unit]
    return f"{float(f'{value:.2g}'):,.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


def amount(value: float, unit: str = "") -> str:
    """A number with a prefix: 130.5 M, 23 G."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            digits = 4 if value >= 100 * size else 3
            return f"{value / size:.{digits}g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def scale_panel(state: Scale, name: str = "scale") -> Panel:
    """Four panes: parameters, multiply-accumulates and memory by part, and the days of the paper's training."""
    spacing = dict(horizontal_spacing=0.2, vertical_spacing=0.17)
    plot = figure("What would it take?", 2, 2, 600, subplot_titles=[" "] * 4, **spacing)
    for place in range(4):
        row, col = place // 2 + 1, place % 2 + 1
        bars = go.Bar(orientation="h", textposition="outside", cliponaxis=False, showlegend=False, hoverinfo="skip")
        plot.add_trace(bars, row, col)
        plot.update_yaxes(autorange="reversed", ticks="", row=row, col=col)
        plot.update_xaxes(rangemode="tozero", showticklabels=place == 3, ticks="", row=row, col=col)
    # A number at every second line: more would touch each other.
    title = "days, each line ten times the last"
    plot.update_xaxes(type="log", dtick=2, minor=dict(dtick=1, showgrid=True), title_text=title, row=2, col=2)
    plot.add_vline(0, line=dict(color=PALETTE["ink"], dash="dot", width=1.5), row=2, col=1)
    plot.update_layout(bargap=0.25, margin=dict(t=80))
    controls = {
        "size": choice("size", tuple(SIZES)),
        "patch": choice("patch", PATCHES),
        "batch": choice("images at a time", BATCHES),
        "family": dropdown("family", get_args(Family), "190px"),
        "precision": dropdown("multiply in", get_args(Precision), "220px"),
        "machine": dropdown("machine", (MINE, *DATASHEET, OWN), "280px"),
        "tflops": log_slider("TFLOP/s of your own", -3, 4, form=".3g"),
        "utilisation": slider("share of it reached", 0.01, 1, 0.01),
    }
    alt = "Bars of the parameters, operations and memory of a model by part, and of its training time by machine."
    return Panel(name, state, controls, plot, _draw, alt)


def _draw(state: Scale, plot: BaseFigure) -> str:
    c, days, room = state.cost, state.days(), state.capacity()
    parameters, macs, held = (_draw_parts(plot, i, p) for i, p in enumerate((c.parameters, c.macs, state.bytes())))
    _draw_days(plot, days, state.machine)
    fits = room is not None and held <= room * 1e9
    line = plot.layout.shapes[0]
    line.x0 = line.x1 = 0 if room is None else room * 1e9
    line.visible = room is not None and room * 1e9 <= ROOM * held  # else it lies outside the pane
    capacity = "" if room is None else f" of {room:g} GB" if fits else f", too much for {room:g} GB"
    titles = (
        f"parameters: <b>{amount(parameters)}</b>",
        f"multiply-accumulates an image: <b>{amount(macs)}</b>",
        f"memory of training, {state.batch} images at a time: <b>{amount(held, 'B')}</b>{capacity}",
        f"the paper's 80 epochs: <b>{span(days[state.machine])}</b>",
    )
    for note, title in zip(plot.layout.annotations, titles, strict=False):
        note.text = title
    plot.layout.title.text = f"{c.name}: {c.depth} blocks of width {c.width}, {c.tokens} tokens an image"
    need = f"Training takes {amount(held, 'B')} with {state.batch} images at a time (activations estimated)"
    if room is not None:
        need += f", which {'fits' if fits else 'does not fit'} into {room:g} GB"
    shares = BATCH // state.batch
    more = "That is the whole batch of 256" if shares == 1 else f"{shares} such shares make the batch of 256"
    origin = {MINE: "measured just now", OWN: "your value"}.get(state.machine, "datasheet peak, dense bfloat16")
    return (
        f"{c.name} has {parameters:,} parameters and does {amount(macs)} multiply-accumulates an image. {need}. "
        f"{more}. At {state.utilisation:.0%} of {amount(state.rates()[state.machine], 'FLOP/s')} ({origin}), the "
        f"paper's 80 epochs of ImageNet take about {span(days[state.machine])} on one device: an estimate."
    )


def _draw_parts(plot: BaseFigure, place: int, parts: Mapping[str, int]) -> int:
    """Fill a pane with the sum and with every part; return the sum."""
    shown = {"all": sum(parts.values()), **parts}
    bars, unit = plot.data[place], "B" if place == 2 else ""
    bars.x, bars.y = list(shown.values()), [WORDS.get(part, part) if place == 1 else part for part in shown]
    bars.text = [
        f" {amount(v, unit)}" + ("" if part == "all" else f" · {v / shown['all']:.1%}") for part, v in shown.items()
    ]
    bars.marker.color = [PALETTE[PARTS[part]] for part in shown]
    plot.layout["xaxis" if place == 0 else f"xaxis{place + 1}"].range = (0, ROOM * shown["all"])
    return shown["all"]


def _draw_days(plot: BaseFigure, days: Mapping[str, float], chosen: str) -> None:
    """Fill the pane of days, on a log axis, with every machine."""
    bars = plot.data[3]
    bars.x, bars.text = list(days.values()), [f" {span(d)}" for d in days.values()]
    bars.y = [machine.partition(",")[0] for machine in days]  # where its rate is from, the sentence says
    bars.marker.color = [PALETTE["dispersive" if machine == chosen else "quiet"] for machine in days]
    # log10 of days: bars start at a minute, or at a tenth of the shortest, and leave room for their words
    low, high = min(-3.0, log10(min(days.values())) - 1), log10(max(days.values()))
    plot.layout.xaxis4.range = (low, high + 0.3 * (high - low))
