"""The view of ``LiveTraining``: sliders, Start, Pause, Resume, Stop, a bar, and a figure that follows."""

import html
import math
from collections.abc import Sequence
from typing import get_args

import ipywidgets as widgets
import plotly.graph_objects as go
import torch
from plotly.basedatatypes import BaseFigure

from labkit.config import REGULARIZERS
from labkit.datasets import digits
from labkit.losses.dispersive import KNOBS
from labkit.metrics import metric
from labkit.objective import metered_floor, regularized_blocks
from labkit.plots import PALETTE, colour, digit_trace, figure, scale_axis, style_digits, tile
from labkit.process import base_term
from labkit.sampling import Sampler
from labkit.time_sampling import Noise
from labkit.training import few_steps
from labkit.types import LabError
from labkit.widgets.live import PREVIEW_SAMPLES, PREVIEW_STEPS, Curve, LiveTraining
from labkit.widgets.panel import STYLE, Panel, log_slider, said, slider

BLOCK = ("dispersive", "feature_norm", "effective_rank")  # these belong to a block, the gradients to a regularizer
USUAL = ("dispersive", "feature_norm", "effective_rank", "gradient_cosine", "gradient_ratio")
BLANK = torch.full((PREVIEW_SAMPLES, 1, 8, 8), -1.0)
GRID = 12  # columns of the layout: divided by 3 panes, or by as many sheets as there are runs
ACROSS = 3


def _control(trait: str, state: LiveTraining) -> widgets.Widget:
    """The control of a trait; none of them redraws while dragged, since only Start reads them."""
    wide = widgets.Layout(width="330px")
    most = 4 * state.steps
    made = {
        "lam": lambda: slider("λ (paper: 0.5)", 0, 2, 0.05, live=False),
        "tau": lambda: log_slider("τ (paper: 0.5)", -1.3, 1.0, live=False),
        "variant": lambda: widgets.Dropdown(options=list(KNOBS), description="variant", style=STYLE, layout=wide),
        "margin": lambda: log_slider("margin ε (ours: 1)", -1, 1, live=False),
        "alpha": lambda: slider("α, weight of alignment", 0, 1, 0.05, live=False),
        "noise": lambda: widgets.Dropdown(
            options=list(get_args(Noise)), description="second view's noise", style=STYLE, layout=wide
        ),
        "max_gap": lambda: slider("largest gap in t", 0, 1, 0.01, live=False),
        "block": lambda: widgets.IntSlider(
            min=0, max=3, description="block (paper: depth/4)", style=STYLE, layout=wide
        ),
        "steps": lambda: widgets.IntSlider(
            min=min(50, state.steps), max=most, step=50, description="steps", style=STYLE, layout=wide
        ),
        "seed": lambda: widgets.BoundedIntText(
            min=0, max=9999, description="seed", style=STYLE, layout=widgets.Layout(width="150px")
        ),
    }
    return made[trait]()


def training_panel(
    name: str, state: LiveTraining, sliders: Sequence[str], title: str, panes: Sequence[str] | None = None
) -> Panel:
    """Buttons and a live figure: for one run its loss and samples, for several all meters, samples below.

    Args:
        name: of the panel; making it again stops the training of the earlier one.
        state: what trains.  sliders: the traits of ``state`` that get a control.
        title: what the figure asks or shows.  panes: names of meters; by default the usual ones.
    """
    names = list(state.configs)
    config = next(iter(state.configs.values()))
    base = base_term(config)
    panes = list(panes or ((base,) if len(names) == 1 else (base, *USUAL)))
    columns = 5 if len(names) == 1 else 10
    way = Sampler(**few_steps(config, PREVIEW_STEPS)).describe(config.family)
    plot, lines, sheets = _lay_out(names, panes, title, columns, way)
    buttons = {
        "start": widgets.Button(description="Start", icon="play", button_style="primary"),
        "pause": widgets.Button(description="Pause", icon="pause"),
        "resume": widgets.Button(description="Resume", icon="forward"),
        "stop": widgets.Button(description="Stop", icon="stop"),
    }
    bar = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="330px"))
    status = widgets.HTML()
    row = widgets.HBox(
        [*buttons.values(), bar, status], layout=widgets.Layout(flex_flow="row wrap", align_items="center")
    )
    controls = {trait: _control(trait, state) for trait in sliders}

    def draw(state: LiveTraining, plot: BaseFigure) -> str:
        status_now = state.status
        buttons["start"].disabled = status_now in ("running", "paused")
        buttons["pause"].disabled = status_now != "running"
        buttons["resume"].disabled = status_now not in ("paused", "stopped", "failed")
        buttons["stop"].disabled = status_now not in ("running", "paused")
        for trait in ("tau", "margin"):  # a variant without this setting would refuse it
            if trait in controls:
                controls[trait].disabled = trait not in KNOBS[state.variant]
        if "max_gap" in controls:
            controls["max_gap"].disabled = state.noise != "restricted"
        bar.value, status.value = state.share_done, said(html.escape(state.told()))
        for (run, meter), trace in lines.items():
            points = _floor(state) if run == "floor" else curve_of(state, run, meter)
            plot.data[trace].x, plot.data[trace].y = [s for s, _ in points], [v for _, v in points]
        for run, trace in sheets.items():
            if run in state.previews:
                plot.data[trace].z = tile(state.previews[run], columns)
        return _sentence(state, names, panes)

    alt = "Training curves and sample sheets that grow while the model trains."
    panel = Panel(name, state, controls, plot, draw, alt, extra=[row])

    def begin(_: widgets.Button) -> None:
        buttons["start"].disabled = True
        status.value = said("Preparing…")
        try:
            state.start()
        except (LabError, OSError) as refused:
            buttons["start"].disabled = False
            status.value = said(f"<b>Not started:</b> {html.escape(str(refused))}")

    buttons["start"].on_click(begin)
    for action in ("pause", "resume", "stop"):
        buttons[action].on_click(lambda _, action=action: getattr(state.runner, action)())
    state.changed = panel.redraw
    panel.on_close = state.runner.stop
    return panel


def _lay_out(
    names: list[str], panes: list[str], title: str, columns: int, way: str
) -> tuple[go.Figure, dict[tuple[str, str], int], dict[str, int]]:
    """The empty figure, the trace of each (run, meter), and the trace of each run's sheet of samples."""
    alone = len(names) == 1
    across = len(panes) + 1 if alone else ACROSS
    rows = 1 if alone else -(-len(panes) // ACROSS) + 1
    wide, half = GRID // across, GRID // len(names)
    if alone:
        specs = [_row(wide, across)]  # the panes, and the sheet
    else:
        specs = [*(_row(wide, across) for _ in range(rows - 1)), _row(half, len(names))]
    titles = [metric(meter).label + (" at the block" if meter in BLOCK else "") for meter in panes]
    titles += [""] * ((rows - 1) * ACROSS - len(panes)) if not alone else []
    titles += [f"samples ({way})"] if alone else [f"{n}, same noise" for n in names]
    plot = figure(
        title,
        rows,
        GRID,
        340 if alone else 90 + 220 * (rows - 1) + 100,
        specs=specs,
        subplot_titles=titles,
        row_heights=None if alone else [1.0] * (rows - 1) + [0.45],
        horizontal_spacing=0.045,
        vertical_spacing=0.14,
    )
    lines = {}
    for place, meter in enumerate(panes):
        row, col = place // across + 1, place % across * wide + 1
        for run in [*names, *(["floor"] if meter == "dispersive" else [])]:
            style = dict(color=colour(run), width=2)
            if run == "floor":
                style = dict(color=PALETTE["quiet"], width=1.5, dash="dot")
            lines[run, meter] = len(plot.data)
            shown = not alone and (place == 0 or run == "floor")
            plot.add_trace(go.Scatter(name=run, legendgroup=run, showlegend=shown, mode="lines", line=style), row, col)
        plot.update_xaxes(title_text="step", row=row, col=col)
        scale_axis(plot, meter, row, col)
    plot.update_layout(legend=dict(y=1.04))
    shown = {}
    for place, run in enumerate(names):
        shown[run] = len(plot.data)
        row, col = (1, len(panes) * wide + 1) if alone else (rows, place * half + 1)
        plot.add_trace(digit_trace(tile(BLANK, columns)), row, col)
        style_digits(plot, row, col)
    return plot, lines, shown


def _row(wide: int, count: int) -> list[dict[str, int] | None]:
    """A row of the grid with so many subplots of a width."""
    return [{"colspan": wide} if cell % wide == 0 and cell < wide * count else None for cell in range(GRID)]


def curve_of(state: LiveTraining, run: str, meter: str) -> Curve:
    """The points of a meter, under whichever name this run's reports carry it; empty where it has none."""
    if meter in BLOCK:
        return state.curve(run, f"block{regularized_blocks(state.configs[run])[0]}.{meter}")
    if meter.startswith("gradient"):
        return next((c for name in REGULARIZERS if (c := state.curve(run, f"{name}.{meter}"))), [])
    return state.curve(run, meter)


def _floor(state: LiveTraining) -> Curve:
    """A line from the first step to the last, where all runs that repel have one floor."""
    size = digits("train").size
    repelling = [c for c in state.configs.values() if {"dispersive", "contrastive"} & set(c.regularizers)]
    floors = {metered_floor(config, size) for config in repelling}
    most = max((report.step for report in list(state.progress.values())), default=0)
    floor = floors.pop() if len(floors) == 1 else -math.inf
    return [(1, floor), (most, floor)] if most and math.isfinite(floor) else []


def _sentence(state: LiveTraining, names: list[str], panes: list[str]) -> str:
    """The last value of every curve in words."""
    told = []
    for run in names:
        curves = {meter: curve_of(state, run, meter) for meter in panes}
        now = ", ".join(f"{metric(meter).title} {curve[-1][1]:.3g}" for meter, curve in curves.items() if curve)
        if now:
            told.append(f"{run} at step {max(curve[-1][0] for curve in curves.values() if curve):,}: {now}")
    return "; ".join(told) + "." if told else "No curve yet."
