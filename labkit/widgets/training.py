"""The view of ``LiveTraining``: sliders, Start, Pause, Resume, Stop, a bar, and a figure that follows."""

import html
from collections.abc import Sequence

import ipywidgets as widgets
import plotly.graph_objects as go
import torch
from plotly.basedatatypes import BaseFigure

from labkit.plots import colour, digit_trace, draw_floor, figure, style_digits, tile
from labkit.types import LabError
from labkit.widgets.live import PREVIEW_SAMPLES, LiveTraining
from labkit.widgets.panel import STYLE, Panel, log_slider, said, slider

PANES = {
    "velocity": "velocity loss (mean squared error)",
    "dispersive": "Dispersive Loss at the block",
    "feature_norm": "feature norm ‖z‖/√P at the block",
    "effective_rank": "effective rank at the block",
}
SHORT = {"velocity": "velocity loss", "dispersive": "L_disp", "feature_norm": "norm", "effective_rank": "rank"}
LOSSES = ("velocity",)  # these carry their own name; the other meters belong to a block
BLANK = torch.full((PREVIEW_SAMPLES, 1, 8, 8), -1.0)


def _control(trait: str, state: LiveTraining) -> widgets.Widget:
    """The slider of a trait; none of them redraws while dragged, since only Start reads them."""
    wide = widgets.Layout(width="330px")
    most = 4 * state.steps
    made = {
        "lam": lambda: slider("λ (paper: 0.5)", 0, 2, 0.05, live=False),
        "tau": lambda: log_slider("τ (paper: 0.5)", -1.3, 1.0, live=False),
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


def training_panel(name: str, state: LiveTraining, sliders: Sequence[str], title: str) -> Panel:
    """Buttons and a live figure for one run (loss and samples) or several (losses, geometry, samples).

    Args:
        name: of the panel; making it again stops the training of the earlier one.
        state: what trains.  sliders: the traits of ``state`` that get a control.
        title: what the figure asks or shows.
    """
    names = list(state.configs)
    plot, lines, sheets = _lay_out(names, title)
    if len(names) > 1:
        draw_floor(plot, next(iter(state.configs.values())).batch_size, row=1, col=2)
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

    def draw(state: LiveTraining, plot: BaseFigure) -> str:
        status_now = state.status
        buttons["start"].disabled = status_now in ("running", "paused")
        buttons["pause"].disabled = status_now != "running"
        buttons["resume"].disabled = status_now not in ("paused", "stopped", "failed")
        buttons["stop"].disabled = status_now not in ("running", "paused")
        bar.value, status.value = state.share_done, said(html.escape(state.told()))
        for (run, meter), trace in lines.items():
            curve = state.curve(run, _term(state, meter))
            plot.data[trace].x, plot.data[trace].y = [s for s, _ in curve], [v for _, v in curve]
        for run, trace in sheets.items():
            if run in state.previews:
                plot.data[trace].z = tile(state.previews[run])
        return _sentence(state, names)

    alt = "Training curves and sample sheets that grow while the model trains."
    controls = {trait: _control(trait, state) for trait in sliders}
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


def _lay_out(names: list[str], title: str) -> tuple[go.Figure, dict[tuple[str, str], int], dict[str, int]]:
    """The empty figure, the trace of each (run, meter), and the trace of each run's sheet of samples."""
    if len(names) == 1:
        panes, rows, widths = ["velocity"], 1, [0.55, 0.45]
        sheets = ["samples of the averaged weights (Heun, 10 steps)"]
    else:
        panes, rows, widths = list(PANES), 2, [0.36, 0.36, 0.28]
        sheets = [f"{name}, same noise" for name in names]
    across = len(panes) // rows
    titles = [
        t for row in range(rows) for t in [*(PANES[m] for m in panes[row * across : (row + 1) * across]), sheets[row]]
    ]
    plot = figure(
        title,
        rows,
        across + 1,
        340 if rows == 1 else 560,
        column_widths=widths,
        subplot_titles=titles,
        horizontal_spacing=0.07,
        vertical_spacing=0.14,
    )
    lines = {}
    for place, meter in enumerate(panes):
        row, col = place // across + 1, place % across + 1
        for run in names:
            style = dict(color=colour(run), width=2)
            lines[run, meter] = len(plot.data)
            plot.add_trace(
                go.Scatter(
                    name=run, legendgroup=run, showlegend=place == 0 and len(names) > 1, mode="lines", line=style
                ),
                row,
                col,
            )
        plot.update_xaxes(title_text="step", row=row, col=col)
    plot.update_layout(legend=dict(y=1.04))
    shown = {}
    for row, run in enumerate(names, 1):
        shown[run] = len(plot.data)
        plot.add_trace(digit_trace(tile(BLANK)), row, across + 1)
        style_digits(plot, row, across + 1)
    return plot, lines, shown


def _term(state: LiveTraining, meter: str) -> str:
    """The name under which reports carry a meter."""
    return meter if meter in LOSSES else f"block{state.metered_block}.{meter}"


def _sentence(state: LiveTraining, names: list[str]) -> str:
    """The last value of every curve in words."""
    told = []
    for run in names:
        meters = ["velocity"] if len(names) == 1 else list(PANES)
        curves = {meter: state.curve(run, _term(state, meter)) for meter in meters}
        now = ", ".join(f"{SHORT[meter]} {curve[-1][1]:.3g}" for meter, curve in curves.items() if curve)
        if now:
            told.append(f"{run} at step {curves['velocity'][-1][0]:,}: {now}")
    return "; ".join(told) + "." if told else "No curve yet."
