"""Panels on training: controls, buttons, a bar, and a figure of curves and samples that follows."""

import html
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, get_args

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


class Traces(NamedTuple):
    """Index of each trace in the figure, and the place of each pane."""

    lines: dict[tuple[str, str], int]
    """(run, metric); the run of the floor is ``floor``."""
    sheets: dict[str, int]
    panes: dict[str, dict[str, int]]


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
    plot, traces = _lay_out(state, panes, title)
    controls = {trait: _control(trait, state) for trait in sliders}
    buttons = Buttons(state, **{method: widgets.Button(**BUTTONS[method]) for method in state.actions})
    bar = widgets.FloatProgress(min=0, max=1, layout=dict(width="330px"))

    def draw(state: TrainingState, plot: BaseFigure) -> str:
        buttons.refresh(state.summary())
        bar.value = state.share_done
        for trait in {"tau", "margin"} & controls.keys():  # a variant without this setting would refuse it
            controls[trait].disabled = trait not in KNOBS[state.variant]
        if "max_gap" in controls:
            controls["max_gap"].disabled = state.noise != "restricted"
        return _draw(state, plot, traces)

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


def _lay_out(state: TrainingState, panes: Sequence[str], title: str) -> tuple[go.Figure, Traces]:
    """The empty figure. The sheet of one run stands among the panes, those of several in a row of their own."""
    runs, alone = list(state.configs), len(state.configs) == 1
    cells = [("pane", name) for name in panes] + [("sheet", run) for run in runs]
    if alone:
        across = 2 if len(cells) in (2, 4) else 3
        rows = [(across, cells[i : i + across]) for i in range(0, len(cells), across)]
        height, heights = (340 if len(rows) == 1 else 280 * len(rows)), None
    else:
        rows = [(3, cells[i : min(i + 3, len(panes))]) for i in range(0, len(panes), 3)]
        height, heights = 190 + 220 * len(rows), [1.0] * len(rows) + [0.45]
        rows.append((len(runs), cells[len(panes) :]))
    starts = [[i * (GRID // across) for i in range(len(own))] for across, own in rows]
    specs = [
        [{"colspan": GRID // across} if column in own else None for column in range(GRID)]
        for (across, _), own in zip(rows, starts, strict=True)
    ]
    spacing = dict(horizontal_spacing=0.045 if len(panes) > 3 else 0.09, vertical_spacing=0.14)
    plot = figure(
        title, len(rows), GRID, height, specs=specs, row_heights=heights, subplot_titles=[" "] * len(cells), **spacing
    )
    places = [dict(row=i, col=column + 1) for i, own in enumerate(starts, 1) for column in own]
    traces = Traces({}, {}, {})
    for (kind, name), place in zip(cells, places, strict=True):
        if kind == "sheet":
            traces.sheets[name] = len(plot.data)
            plot.add_trace(go.Image(source=BLANK, hoverinfo="skip"), **place)
            plot.update_xaxes(visible=False, **place)
            plot.update_yaxes(visible=False, **place)
            continue
        for run, config in state.configs.items():
            ink = colour(next(iter(config.regularizers), "baseline") if alone else run)
            legend = dict(name=run, legendgroup=run, showlegend=not alone and not traces.panes)
            traces.lines[run, name] = len(plot.data)
            plot.add_scatter(mode="lines", line=dict(color=ink, width=2), **legend, **place)
        if name == "dispersive":
            traces.lines["floor", name] = len(plot.data)
            dots = dict(color=PALETTE["quiet"], width=1.5, dash="dot")
            plot.add_scatter(mode="lines", line=dots, showlegend=False, **place)
        traces.panes[name] = place
        scale_axis(plot, name, **place)
    plot.update_layout(showlegend=True, legend=dict(y=1.04))
    return plot, traces


def _draw(state: TrainingState, plot: BaseFigure, traces: Traces) -> str:
    """Show curves, floor, sheets and titles; every run's last values in words."""
    configs, last = state.configs, dict.fromkeys(state.configs, 0)
    floor, floor_name = _floor(list(configs.values()))
    words: dict[str, list[str]] = {run: [] for run in configs}
    for (run, name), index in traces.lines.items():
        if run == "floor":
            continue
        curve, batch = state.curve(run, name).thinned(POINTS), configs[run].batch_size
        plot.data[index].x = (curve.steps * (batch if state.over == "samples" else 1)).tolist()
        plot.data[index].y = curve.values.tolist()
        if len(curve.steps):
            last[run] = max(last[run], int(curve.steps[-1]))
            bound = f" ({floor_name})" if name == "dispersive" and floor_name else ""
            words[run].append(f"{metric(name).title} {curve.values[-1]:.3g}{bound}")
    if (index := traces.lines.get(("floor", "dispersive"))) is not None:
        ends = [x[-1] for run in configs if (x := plot.data[traces.lines[run, "dispersive"]].x)]
        shown = bool(ends and floor_name)
        plot.data[index].x, plot.data[index].y = ([0, max(ends)], [floor] * 2) if shown else ([], [])
        plot.data[index].name, plot.data[index].showlegend = floor_name, shown
    for run, (_, source) in list(state.sheets.items()):
        plot.data[traces.sheets[run]].source = source
    blocks = {regularized_blocks(config)[0] for config in configs.values()}
    block = f"block {blocks.pop()}" if len(blocks) == 1 else "the metered block"
    titles = {name: metric(name).label + (f" at {block}" if name in BLOCK_METRICS else "") for name in traces.panes}
    if "dispersive" in titles and not any(REPELS & {*config.regularizers} for config in configs.values()):
        titles["dispersive"] += ", not trained on"
    for note, title in zip(
        plot.layout.annotations, [*titles.values(), *map(state.describe_sheet, configs)], strict=True
    ):
        note.text = title
    for name, place in traces.panes.items():
        plot.update_xaxes(title_text="samples seen" if state.over == "samples" else "step", **place)
        if name in BASE_LOSSES:
            plot.update_yaxes(type="log" if state.log else "linear", **place)
    sentences = []
    for run, values in words.items():
        if values:
            seen = f"{run} at step {last[run]:,}, {last[run] * configs[run].batch_size:,} samples seen"
            drawn = f"; samples drawn at step {state.sheets[run][0]:,}" if run in state.sheets else ""
            sentences.append(f"{seen}: {', '.join(values)}{drawn}.")
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
