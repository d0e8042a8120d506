"""The view of ``Watch``: three curves and the newest samples of a run, Stop and Resume."""

import html
import math
from pathlib import Path

import ipywidgets as widgets
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from labkit.metrics import metric
from labkit.plots import PALETTE, colour, figure
from labkit.training import Job
from labkit.widgets.panel import STYLE, Panel, said
from labkit.widgets.watch import BLANK, Watch


def watch_panel(run: Watch | Job | str | Path, title: str | None = None, name: str = "watch") -> Panel:
    """A run's curves and newest samples, which follow while it trains, with Stop and Resume.

    Args:
        run: a job, the folder of a run, or a ``Watch`` of one's own settings.
        title: what the figure asks.  name: of the panel; making it again closes the earlier one.
    """
    state = run if isinstance(run, Watch) else Watch(run)
    plot = _lay_out(state, title or f"What has the run “{state.job.path.name}” learnt so far?")
    buttons = {
        "stop": widgets.Button(description="Stop", icon="stop"),
        "resume": widgets.Button(description="Resume", icon="forward"),
    }
    bar, status = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="240px")), widgets.HTML()
    controls = {
        "over": widgets.Dropdown(
            options=["steps", "samples"], description="against", style=STYLE, layout=widgets.Layout(width="180px")
        ),
        "log": widgets.Checkbox(description="loss and norm on log scales", indent=False),
    }

    def draw(state: Watch, plot: BaseFigure) -> str:
        for button, why_not in (("stop", state.unstoppable), ("resume", state.unresumable)):
            buttons[button].disabled, buttons[button].tooltip = bool(why_not), why_not
        unreachable = state.state == "running" and state.unstoppable and not state.job.stop_requested
        off = f" Stop is off: {state.unstoppable}." if unreachable else ""
        fault = f"<b>{html.escape(state.fault)}</b> " if state.fault else ""
        bar.value, status.value = state.share_done, said(fault + html.escape(state.told + off))
        _draw_curves(state, plot)
        return _sentence(state)

    row = widgets.HBox([*buttons.values(), bar], layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
    alt = "Three training curves and the newest sheet of samples of a run, which grow while it trains."
    panel = Panel(name, state, controls, plot, draw, alt, extra=[row, status])
    for action in buttons:
        buttons[action].on_click(lambda _, action=action: getattr(state, action)())
    state.changed, panel.on_close = panel.redraw, state.close
    if state.state == "running":
        state.start()
    return panel


def _lay_out(state: Watch, title: str) -> go.Figure:
    """The empty figure: traces of the three curves, the floor, the sheet."""
    config = state.job.config
    trained = "" if "dispersive" in config.regularizers else ", not trained on"
    titles = [
        metric(state.names["base"]).label,
        f"{metric('dispersive').label} at block {state.block}{trained}",
        f"{metric('feature_norm').label} at block {state.block}",
        " ",
    ]
    plot = figure(title, 2, 2, 560, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.09)
    ink = colour(next(iter(config.regularizers), "baseline"))
    for place in range(3):
        line = go.Scatter(mode="lines", line=dict(color=ink, width=2), showlegend=False)
        plot.add_trace(line, place // 2 + 1, place % 2 + 1)
    dots = dict(color=PALETTE["quiet"], width=1.5, dash="dot")
    shown = math.isfinite(state.floor)
    plot.add_trace(go.Scatter(mode="lines", line=dots, name=_told_floor(state), showlegend=shown), 1, 2)
    plot.update_layout(showlegend=True, legend=dict(y=1.06))
    plot.add_trace(go.Image(source=BLANK, hoverinfo="skip"), 2, 2)
    plot.update_xaxes(visible=False, row=2, col=2)
    plot.update_yaxes(visible=False, row=2, col=2)
    return plot


def _draw_curves(state: Watch, plot: BaseFigure) -> None:
    *curves, floor, sheet = plot.data
    for trace, name in zip(curves, state.names, strict=True):
        trace.x, trace.y = state.curve(name)
    if len(curves[1].x) and math.isfinite(state.floor):
        floor.x, floor.y = [0, curves[1].x[-1]], [state.floor] * 2
    if state.sheet:
        sheet.source = state.sheet
    words = f"samples of the averaged weights at step {state.sheet_step:,}" if state.sheet else "no samples drawn yet"
    plot.layout.annotations[3].text = words
    for row, col in ((1, 1), (1, 2), (2, 1)):
        plot.update_xaxes(title_text="step" if state.over == "steps" else "samples seen", row=row, col=col)
        if (row, col) != (1, 2):
            plot.update_yaxes(type="log" if state.log else "linear", row=row, col=col)


def _told_floor(state: Watch) -> str:
    batch = state.job.config.batch_size
    value = f"{state.floor:.2f}".replace("-", "−")
    return f"floor −log {batch} = {value}" if state.floor == -math.log(batch) else f"floor {value}"


def _sentence(state: Watch) -> str:
    """The last value of every curve in words."""
    base = metric(state.names["base"]).title
    floor = f" ({_told_floor(state)})" if math.isfinite(state.floor) else ""
    of = " of the whole batch" if state.job.config.repelling.chunk else ""  # what is metered, whoever repels whom
    words = {"base": f"{base} {{}}", "dispersive": f"Dispersive Loss{of} {{}}{floor}", "norm": "feature norm {}"}
    curves = {name: state.job.history.curve(state.names[name]).values for name in words}
    now = [words[name].format(f"{values[-1]:.3g}") for name, values in curves.items() if len(values)]
    if not now:
        return "No curve yet."
    step = state.job.history.step
    seen = f"{step * state.job.config.batch_size:,} samples seen"
    drawn = f" The samples were drawn at step {state.sheet_step:,}." if state.sheet else ""
    return f"At step {step:,}, {seen}: {', '.join(now)}; both at block {state.block}.{drawn}"
