"""Panels on training: controls, buttons, a bar, and a figure of curves and samples that follows."""

import html
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import get_args

import ipywidgets as widgets
import plotly.graph_objects as go
from PIL import Image
from plotly.basedatatypes import BaseFigure

from labkit import datasets
from labkit.checks import LabError
from labkit.config import Config
from labkit.losses import dispersive_floor
from labkit.losses.dispersive import KNOBS
from labkit.metrics import BASE_LOSSES, metric
from labkit.objective import metered_floor, regularized_blocks
from labkit.plots import PALETTE, colour, figure, scale_axis
from labkit.plots.digits import data_uri
from labkit.process import base_term
from labkit.time_sampling import Noise
from labkit.training import Job
from labkit.widgets.live import BLOCK_METRICS, TrainingState
from labkit.widgets.panel import Buttons, Panel, dropdown, log_slider, look, row, slider
from labkit.widgets.watch import Watch

REPELS = {"dispersive", "contrastive"}
USUAL = ("dispersive", "feature_norm", "effective_rank", "gradient_cosine", "gradient_ratio")
POINTS = 2000  # drawn of a curve, at most
GRID = 12  # columns of the layout: divided by 2 or 3 panes, or by as many sheets as there are runs
BLANK = data_uri(Image.new("L", (400, 200), 255))
BUTTONS = {
    "start": dict(description="Start", icon="play", button_style="primary"),
    "pause": dict(description="Pause", icon="pause"),
    "resume": dict(description="Resume", icon="forward"),
    "stop": dict(description="Stop", icon="stop"),
}


def _control(trait: str, state: TrainingState) -> widgets.Widget:
    """The control of a trait; sliders do not redraw while they are dragged, since only Start reads them."""
    make = {
        "lam": lambda: slider("λ (paper: 0.5)", 0, 2, 0.05, live=False),
        "tau": lambda: log_slider("τ (paper: 0.5)", -1.3, 1.0, live=False),
        "variant": lambda: dropdown("variant", list(KNOBS)),
        "margin": lambda: log_slider("margin ε (ours: 1)", -1, 1, live=False),
        "alpha": lambda: slider("α, weight of alignment", 0, 1, 0.05, live=False),
        "noise": lambda: dropdown("second view's noise", list(get_args(Noise))),
        "max_gap": lambda: slider("largest gap in t", 0, 1, 0.01, live=False),
        "block": lambda: widgets.IntSlider(min=0, max=3, description="block (paper: depth/4)", **look()),
        "steps": lambda: widgets.IntSlider(
            min=min(50, state.steps), max=4 * state.steps, step=50, description="steps", **look()
        ),
        "seed": lambda: widgets.BoundedIntText(min=0, max=9999, description="seed", **look("150px")),
        "over": lambda: dropdown("against", ["steps", "samples"], "180px"),
        "log": lambda: widgets.Checkbox(description="loss on a log scale", indent=False),
    }
    return make[trait]()


def training_panel(
    name: str, state: TrainingState, sliders: Sequence[str], title: str, panes: Sequence[str] | None = None
) -> Panel:
    """Buttons and a live figure: for one run its loss and samples, for several all metrics, samples below.

    Args:
        name: name of the panel; making it again stops the training of the earlier one.
        state: what trains.  sliders: the traits of ``state`` that get a control.
        title: what the figure asks or shows.  panes: names of metrics, the base loss and the usual ones by default.
    """
    base = base_term(next(iter(state.configs.values())))
    panes = panes or ((base,) if len(state.configs) == 1 else (base, *USUAL))
    plot = _lay_out(state, panes, title)
    controls = {trait: _control(trait, state) for trait in sliders}
    buttons = Buttons(state, **{method: widgets.Button(**BUTTONS[method]) for method in state.actions})
    bar = widgets.FloatProgress(min=0, max=1, layout=dict(width="330px"))

    def draw(state: TrainingState, plot: BaseFigure) -> str:
        buttons.refresh(state.describe())
        bar.value = state.share_done
        for trait in {"tau", "margin"} & controls.keys():  # a variant without this setting would refuse it
            controls[trait].disabled = trait not in KNOBS[state.variant]
        if "max_gap" in controls:
            controls["max_gap"].disabled = state.noise != "restricted"
        return _draw(state, plot, panes)

    alt = "Training curves and sample sheets that grow while the model trains."
    below = row(*buttons.buttons.values(), bar, buttons.status)
    panel = Panel(name, state, controls, plot, draw, alt, extra=[below])
    state.changed = panel.redraw
    panel.on_close = state.close
    return panel


def watch_panel(run: Watch | Job | str | Path, title: str | None = None, name: str = "watch") -> Panel:
    """A run's curves and newest samples, which follow while it trains in another process, with Stop and Resume.

    Args:
        run: a job, the folder of a run, or a ``Watch`` with settings of its own.
        title: what the figure asks.  name: name of the panel; making it again closes the earlier one.
    """
    state = run if isinstance(run, Watch) else Watch(run)
    title = title or f"What has the run “{state.name}” learnt so far?"
    panes = (base_term(state.job.config), "dispersive", "feature_norm")
    panel = training_panel(name, state, ("over", "log"), title, panes)
    if state.state == "running":
        state.start()
    return panel


def _lay_out(state: TrainingState, panes: Sequence[str], title: str) -> go.Figure:
    """The empty figure: lines of all runs for each pane, and a floor; then the sheets of samples.

    The sheet of one run stands among the panes, those of several in a row of their own.
    """
    runs, alone = list(state.configs), len(state.configs) == 1
    cells = len(panes) + len(runs)
    if alone:
        across = 2 if cells in (2, 4) else 3
        widths = [GRID // across] * cells
    else:
        across, widths = 3, [GRID // 3] * len(panes) + [GRID // len(runs)] * len(runs)
    starts = [*range(0, cells if alone else len(panes), across), *([] if alone else [len(panes)])]  # first of each row
    specs: list[list[dict[str, int] | None]] = [[None] * GRID for _ in starts]
    places = []
    for cell, width in enumerate(widths):
        line = sum(start <= cell for start in starts) - 1
        column = (cell - starts[line]) * width
        specs[line][column] = {"colspan": width}
        places.append(dict(row=line + 1, col=column + 1))
    height = (340 if len(starts) == 1 else 280 * len(starts)) if alone else 220 * len(starts) - 30
    layout = dict(specs=specs, horizontal_spacing=0.045 if len(panes) > 3 else 0.09, vertical_spacing=0.14)
    heights = None if alone else [1.0] * (len(starts) - 1) + [0.45]
    plot = figure(title, len(starts), GRID, height, subplot_titles=[" "] * cells, row_heights=heights, **layout)
    for name, place in zip(panes, places, strict=False):
        for run, config in state.configs.items():
            ink = colour(next(iter(config.regularizers), "baseline") if alone else run)
            legend = dict(name=run, legendgroup=run, showlegend=not alone and name == panes[0])
            plot.add_scatter(mode="lines", line=dict(color=ink, width=2), **legend, **place)
        if name == "dispersive":
            dots = dict(color=PALETTE["quiet"], width=1.5, dash="dot")
            plot.add_scatter(mode="lines", line=dots, showlegend=False, **place)
        scale_axis(plot, name, **place)
    for place in places[len(panes) :]:
        plot.add_trace(go.Image(source=BLANK, hoverinfo="skip"), **place)
        plot.update_xaxes(visible=False, **place)
        plot.update_yaxes(visible=False, **place)
    return plot.update_layout(showlegend=True, legend=dict(y=1.04))


def _draw(state: TrainingState, plot: BaseFigure, panes: Sequence[str]) -> str:
    """Show curves, floor, sheets and titles; every run's last values in words."""
    configs, traces = state.configs, iter(plot.data)
    last = dict.fromkeys(configs, 0)
    words: dict[str, list[str]] = {run: [] for run in configs}
    floor, floor_name = _floor(list(configs.values()))
    blocks = {regularized_blocks(config)[0] for config in configs.values()}
    block = f"block {blocks.pop()}" if len(blocks) == 1 else "the metered block"
    trained = any(REPELS & {*config.regularizers} for config in configs.values())
    titles = []
    for name in panes:
        end, lines = 0, [next(traces) for _ in configs]
        for line, (run, config) in zip(lines, configs.items(), strict=True):
            curve = state.curve(run, name).thinned(POINTS)
            x = (curve.steps * (config.batch_size if state.over == "samples" else 1)).tolist()
            line.x, line.y = x, curve.values.tolist()
            if x:
                last[run], end = max(last[run], int(curve.steps[-1])), max(end, x[-1])
                bound = f" ({floor_name})" if name == "dispersive" and floor_name else ""
                words[run].append(f"{metric(name).title} {curve.values[-1]:.3g}{bound}")
        titles.append(metric(name).label + (f" at {block}" if name in BLOCK_METRICS else ""))
        if name == "dispersive":
            titles[-1] += "" if trained else ", not trained on"
            shown, rule = bool(end and floor_name), next(traces)
            rule.x, rule.y = ([0, end], [floor] * 2) if shown else ([], [])
            rule.name, rule.showlegend = floor_name, shown
        plot.layout["xaxis" + lines[0].xaxis[1:]].title.text = "samples seen" if state.over == "samples" else "step"
        if name in BASE_LOSSES:
            plot.layout["yaxis" + lines[0].yaxis[1:]].type = "log" if state.log else "linear"
    for run, trace in zip(configs, traces, strict=True):
        titles.append(state.describe_sheet(run))
        if run in state.sheets:
            trace.source = state.sheets[run][1]
    for note, title in zip(plot.layout.annotations, titles, strict=True):
        note.text = title
    sentences = []
    for run, values in words.items():
        if values:
            start = f"{run} at step {last[run]:,}, {last[run] * configs[run].batch_size:,} samples seen"
            drawn = f"; samples drawn at step {state.sheets[run][0]:,}" if run in state.sheets else ""
            sentences.append(f"{start}: {', '.join(values)}{drawn}.")
    return " ".join(map(html.escape, sentences)) or "No curve yet."


def _floor(configs: Sequence[Config]) -> tuple[float, str]:
    """Least value of the Dispersive Loss, if all runs that repel have the same, and its name; −inf and "" if not."""
    repelling = [config for config in configs if REPELS & {*config.regularizers}]
    floors = {_floor_of(config) for config in repelling or configs}
    if len(floors) > 1 or (floor := floors.pop()) == -math.inf:
        return -math.inf, ""
    batch, value = configs[0].batch_size, f"{floor:.2f}".replace("-", "−")
    return floor, f"floor −log {batch} = {value}" if floor == -math.log(batch) else f"floor {value}"


@lru_cache
def _floor_of(config: Config) -> float:
    """Floor of the metered Dispersive Loss, over a whole batch. Only the covariance's depends on the images' size."""
    if config.repelling.variant != "covariance":
        return dispersive_floor(config.batch_size, **config.repelling.arguments)
    try:
        return metered_floor(config, datasets.load(config.dataset).dimensions[0])
    except (LabError, OSError):  # the data are on another machine
        return -math.inf
