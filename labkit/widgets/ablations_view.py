"""The view of ``Ablations``: seeds as dots, λ × τ as a heat map, samples of the same noise, and a training for real."""

import html
from functools import cache
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from labkit.experiments.atlas import Atlas
from labkit.metrics import metric
from labkit.plots import PALETTE, fade, figure, picture, style_digits
from labkit.types import LabError
from labkit.widgets.ablations import MEASURES, NAMES, Ablations, band_of, grid_of
from labkit.widgets.panel import STYLE, Panel, choice, said

MINE = "your run"
SHEET_COLUMNS = 10


def ablations_panel(state: Ablations | None = None, name: str = "ablations") -> Panel:
    """Seeds as dots, λ × τ as a heat map, samples of the same noise, and a button that trains it for real."""
    state = state or Ablations()
    plot = figure(
        "What did it change, seed by seed?",
        2,
        2,
        520,
        row_heights=[0.74, 0.26],
        vertical_spacing=0.22,
        column_widths=[0.52, 0.48],
        horizontal_spacing=0.13,
        subplot_titles=[
            "each dot a seed; lines join the same seed",
            "λ × τ: mean difference from the baseline",
            "baseline",
            "this condition, same noise",
        ],
    )
    lines = dict(color=fade(PALETTE["quiet"], 0.5), width=1)
    plot.add_trace(go.Scatter(mode="lines", line=lines, showlegend=False, hoverinfo="skip"), 1, 1)
    dots = dict(mode="markers", showlegend=False, hovertemplate="seed %{text}: %{x:.4g}<extra></extra>")
    plot.add_trace(go.Scatter(marker=dict(color=PALETTE["baseline"], size=9), **dots), 1, 1)
    plot.add_trace(go.Scatter(marker=dict(color=PALETTE["dispersive"], size=9), **dots), 1, 1)
    star = dict(color=PALETTE["ink"], size=14, symbol="star")
    plot.add_trace(go.Scatter(marker=star, mode="markers", showlegend=False, hoverinfo="x"), 1, 1)
    plot.add_trace(go.Scatter(mode="lines", line=dict(color=PALETTE["quiet"], dash="dot"), showlegend=False), 1, 1)
    heat = dict(showscale=False, zmid=0, texttemplate="%{text}", hoverinfo="skip", xgap=2, ygap=2)
    plot.add_trace(go.Heatmap(**heat), 1, 2)
    ring = dict(symbol="square-open", size=56, color=PALETTE["ink"], line=dict(width=3))
    plot.add_trace(go.Scatter(mode="markers", marker=ring, showlegend=False, hoverinfo="skip"), 1, 2)
    for col in (1, 2):
        plot.add_trace(go.Image(source=_sheet(state.atlas, state.condition), hoverinfo="skip"), 2, col)
        style_digits(plot, 2, col)
    plot.update_yaxes(
        range=[-0.7, 2.6], row=1, col=1, tickvals=[0, 1, 2], ticktext=["this condition", "baseline", MINE]
    )
    train = widgets.Button(
        description="Run this cell for real", icon="play", button_style="primary", layout=widgets.Layout(width="210px")
    )
    stop = widgets.Button(description="Stop", icon="stop")
    seed = widgets.BoundedIntText(min=0, max=10**6, description="seed", style=STYLE, layout=dict(width="150px"))
    status = widgets.HTML()
    row = widgets.HBox([train, stop, seed, status], layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
    seen: dict[str, Any] = {}

    def draw(state: Ablations, plot: BaseFigure) -> str:
        running = state.runner.status == "running"
        train.disabled, stop.disabled = running, not running
        status.value = said(html.escape(_progress(state)))
        key = (state.condition, state.measure, state.mine is not None and len(state.mine.rows), state.moved_too)
        if seen.get("key") != key:  # one move sets many controls, and each of them asks to be drawn
            seen.update(key=key, sentence=_draw(state, plot))
        return seen["sentence"]

    controls = {**_controls(state.atlas), "seed": seed}
    shown = {name: control for name, control in controls.items() if name != "seed"}
    alt = "Dots of two conditions by seed, a heat map over λ and τ, and samples of both from the same noise."
    panel = Panel(name, state, shown, plot, draw, alt, extra=[row])
    widgets.link((state, "seed"), (seed, "value"))

    def begin(_: widgets.Button) -> None:
        status.value = said("Preparing…")
        try:
            state.start()
        except (LabError, OSError) as refused:
            status.value = said(f"<b>Not started:</b> {html.escape(str(refused))}")

    train.on_click(begin)
    stop.on_click(lambda _: state.runner.stop())
    state.changed = panel.redraw
    panel.on_close = state.runner.stop
    return panel


def _progress(state: Ablations) -> str:
    if state.runner.status == "failed":
        return f"Failed: {state.runner.error}"
    if state.mine is None:
        return f"about a minute on two cores: {state.atlas.step(state.condition):,} steps and 500 samples"
    told = f"{state.mine.condition}: {state.mine.describe()}"
    return told if state.runner.status != "stopped" or state.mine.rows else f"{told} Stopped and saved."


def _controls(atlas: Atlas) -> dict[str, widgets.Widget]:
    def dropdown(name: str, width: str = "250px") -> widgets.Dropdown:
        options = atlas.choices(name)
        return widgets.Dropdown(options=options, description=NAMES[name], style=STYLE, layout=dict(width=width))

    def values(name: str) -> list[tuple[str, float]]:
        return [(f"{value:g}", value) for value in atlas.choices(name)]

    taus = [("none" if value == 0 else word, value) for word, value in values("tau")]
    measures = [(metric(name).label, name) for name in MEASURES]
    return {
        "measure": widgets.Dropdown(options=measures, description="show", style=STYLE, layout=dict(width="480px")),
        "lam": choice("λ (0: baseline)", values("lam")),
        "tau": choice("τ", taus),
        "alpha": choice("α, positive pair", values("alpha")),
        "variant": dropdown("variant"),
        "block": dropdown("block", "170px"),
        "noise": dropdown("noise"),
        "model": dropdown("model"),
        "dataset": dropdown("dataset"),
        "also": dropdown("also", "330px"),
    }


def _draw(state: Ablations, plot: BaseFigure) -> str:
    atlas, measure = state.atlas, state.measure
    lines, ours, theirs, star, real, heat, ring, left, right = plot.data
    there = measure in atlas.measures(state.condition)
    block = atlas.block(state.condition)
    own = band_of(atlas, state.condition, measure, block).values if there else {}
    base = band_of(atlas, state.baseline, measure, block).values if there and state.condition != state.baseline else {}
    both = sorted({*own.keys()} & {*base.keys()}) if len(base) else []
    lines.x, lines.y = [x for s in both for x in (base[s], own[s], None)], [1, 0, None] * len(both)
    for trace, values, height in ((theirs, own, 0), (ours, base, 1)):
        trace.x, trace.y, trace.text = list(dict(values).values()), [height] * len(values), [*map(str, dict(values))]
    own_run = state.mine is not None and state.mine.condition == state.condition  # its length is what is left
    mine = state.mine.value(measure) if own_run else None
    star.x, star.y = ([], []) if mine is None else ([mine], [2])
    among = atlas.real(state.condition, measure)
    real.x, real.y = ([], []) if among is None else ([among] * 2, [-0.5, 2.5])
    plot.update_xaxes(
        title_text=metric(measure).label + ("" if among is None else " (dotted: real images)"), row=1, col=1
    )
    _draw_grid(state, heat, ring)
    for trace, condition in ((left, state.baseline), (right, state.condition)):
        trace.source = _sheet(atlas, condition)
    if not there:
        return state.told()
    moved = f"Nothing else was measured there, so that also {state.moved_too}. " if state.moved_too else ""
    return moved + state.told()


@cache
def _sheet(atlas: Atlas, condition: str) -> str:
    return picture(atlas.sheet(condition), SHEET_COLUMNS)


def _draw_grid(state: Ablations, heat: Any, ring: Any) -> None:
    found = grid_of(state.atlas, state.measure, state.model)
    wide = found.pivot(index="lam", columns="tau", values="difference")
    words = found.assign(
        text=[
            f"{d:+.2g}{'*' if sure else ''}<br>n = {n}"
            for d, sure, n in zip(found["difference"], found["sure"], found["n"], strict=True)
        ]
    )
    text = words.pivot(index="lam", columns="tau", values="text").fillna("")
    good, bad, neither = PALETTE["sky"], PALETTE["gold"], PALETTE["quiet"]
    ends = {-1: (good, bad), 0: (neither, neither), 1: (bad, good)}[metric(state.measure).direction]
    heat.x, heat.y = [f"τ = {v:g}" for v in wide.columns], [f"λ = {v:g}" for v in wide.index]
    heat.z, heat.text = wide.astype(object).where(wide.notna(), None).values.tolist(), text.values.tolist()
    heat.colorscale = [[0, ends[0]], [0.5, "#FFFFFF"], [1, ends[1]]]
    at = state.atlas.points[state.condition]
    inside = state.condition in set(found["condition"])
    ring.x, ring.y = ([f"τ = {at['tau']:g}"], [f"λ = {at['lam']:g}"]) if inside else ([], [])
