"""The view of ``Ablations``: seeds as dots, λ × τ as a heat map, samples of the same noise, and a training for real."""

from functools import cache
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from labkit.experiments.atlas import Atlas
from labkit.metrics import metric
from labkit.plots import PALETTE, fade, figure, picture, style_digits
from labkit.widgets.ablations import MEASURES, NAMES, Ablations, grid, word
from labkit.widgets.panel import Buttons, Panel, choice, dropdown, look, row

MINE = "your run"
SHEET_COLUMNS = 10


def ablations_panel(state: Ablations | None = None, name: str = "ablations") -> Panel:
    """Seeds as dots, λ × τ as a heat map, samples of the same noise, and a button that trains it for real."""
    state = state or Ablations()
    start = widgets.Button(
        description="Run this cell for real", icon="play", button_style="primary", layout=dict(width="210px")
    )
    buttons = Buttons(state, start=start, stop=widgets.Button(description="Stop", icon="stop"))
    seed = widgets.BoundedIntText(min=0, max=10**6, description="seed", **look("150px"))
    drawn: dict[str, Any] = {}

    def draw(state: Ablations, plot: BaseFigure) -> str:
        buttons.refresh(state.progress())
        key = (state.condition, state.measure, state.mine is not None and len(state.mine.rows), state.also_moved)
        if drawn.get("key") != key:  # one move sets many controls, and each of them wants a redraw
            drawn.update(key=key, sentence=_draw(state, plot))
        return drawn["sentence"]

    alt = "Dots of two conditions by seed, a heat map over λ and τ, and samples of both from the same noise."
    below = row(*buttons.buttons.values(), seed, buttons.status)
    panel = Panel(name, state, _controls(state.atlas), _lay_out(state), draw, alt, extra=[below])
    widgets.link((state, "seed"), (seed, "value"))
    state.changed, panel.on_close = panel.redraw, state.runner.stop
    return panel


def _controls(atlas: Atlas) -> dict[str, widgets.Widget]:
    def values(name: str) -> list[tuple[str, float]]:
        return [(f"{value:g}", value) for value in atlas.choices(name)]

    def menu(name: str, width: str = "250px") -> widgets.Dropdown:
        return dropdown(NAMES[name], [(word(value), value) for value in atlas.choices(name)], width)

    return {
        "measure": dropdown("show", [(metric(name).label, name) for name in MEASURES], "480px"),
        "lam": choice("λ (0: baseline)", values("lam")),
        "tau": choice("τ", [("none" if value == 0 else word, value) for word, value in values("tau")]),
        "alpha": choice("α, positive pair", values("alpha")),
        "variant": menu("variant"),
        "block": menu("block", "170px"),
        "noise": menu("noise"),
        "model": menu("model"),
        "dataset": menu("dataset"),
        "also": menu("also", "330px"),
    }


def _lay_out(state: Ablations) -> go.Figure:
    panes = ["each dot a seed; lines join the same seed", "λ × τ: mean difference from the baseline"]
    panes += ["baseline", "this condition, same noise"]
    spacing = dict(row_heights=[0.74, 0.26], vertical_spacing=0.22, horizontal_spacing=0.13)
    plot = figure("What did it change, seed by seed?", 2, 2, 520, subplot_titles=panes, **spacing)
    seeds, cells = dict(row=1, col=1, showlegend=False), dict(row=1, col=2)
    plot.add_scatter(mode="lines", line=dict(color=fade(PALETTE["quiet"], 0.5), width=1), hoverinfo="skip", **seeds)
    dots = dict(mode="markers", hovertemplate="seed %{text}: %{x:.4g}<extra></extra>")
    plot.add_scatter(marker=dict(color=PALETTE["baseline"], size=9), **dots, **seeds)
    plot.add_scatter(marker=dict(color=PALETTE["dispersive"], size=9), **dots, **seeds)
    star = dict(color=PALETTE["ink"], size=14, symbol="star")
    plot.add_scatter(marker=star, mode="markers", hoverinfo="x", **seeds)
    dotted = dict(line=dict(color=PALETTE["quiet"], dash="dot"), marker=dict(size=12, opacity=0))  # off the pane's edge
    plot.add_scatter(mode="lines+markers", **dotted, **seeds)
    plot.add_heatmap(showscale=False, zmid=0, texttemplate="%{text}", hoverinfo="skip", xgap=2, ygap=2, **cells)
    ring = dict(symbol="square-open", size=56, color=PALETTE["ink"], line=dict(width=3))
    plot.add_scatter(mode="markers", marker=ring, showlegend=False, hoverinfo="skip", **cells)
    for col in (1, 2):
        plot.add_trace(go.Image(source=_sheet(state.atlas, state.condition), hoverinfo="skip"), 2, col)
        style_digits(plot, 2, col)
    ticks = dict(tickvals=[0, 1, 2], ticktext=["this condition", "baseline", MINE])
    return plot.update_yaxes(range=[-0.7, 2.6], **ticks, row=1, col=1).update_layout(margin_b=10)


def _draw(state: Ablations, plot: BaseFigure) -> str:
    atlas, measure = state.atlas, state.measure
    lines, base_dots, dots, star, dotted, heat, ring, *sheets = plot.data
    values = dict(state.band(state.condition).values) if state.measured else {}
    compared = state.measured and state.condition != state.baseline
    base = dict(state.band(state.baseline).values) if compared else {}
    both = sorted(values.keys() & base.keys())
    lines.x, lines.y = [x for s in both for x in (base[s], values[s], None)], [1, 0, None] * len(both)
    for trace, seeds, height in ((dots, values, 0), (base_dots, base, 1)):
        trace.x, trace.y, trace.text = [*seeds.values()], [height] * len(seeds), [*map(str, seeds)]
    mine = state.mine
    value = mine.value(measure) if mine is not None and mine.condition == state.condition else None
    star.x, star.y = ([], []) if value is None else ([value], [2])
    real = atlas.real(state.condition, measure)
    dotted.x, dotted.y = ([], []) if real is None else ([real] * 2, [-0.5, 2.5])
    title = metric(measure).label + ("" if real is None else " (dotted: real images)")
    plot.update_xaxes(title_text=title, row=1, col=1)
    _draw_grid(state, heat, ring)
    for trace, condition in zip(sheets, (state.baseline, state.condition), strict=True):
        trace.source = _sheet(atlas, condition)
    moved = f"Nothing else was measured there, so {state.also_moved} changed too. " if state.also_moved else ""
    return moved + state.describe()


@cache
def _sheet(atlas: Atlas, condition: str) -> str:
    return picture(atlas.sheet(condition), SHEET_COLUMNS)


def _draw_grid(state: Ablations, heat: Any, ring: Any) -> None:
    cells = grid(state.atlas, state.measure, state.model)
    marks = cells["sure"].map({True: "*", False: ""}).astype(str)
    words = cells["difference"].map(_two_digits) + marks + "<br>n = " + cells["n"].astype(str)
    values = cells.pivot(index="lam", columns="tau", values="difference").astype(object)
    text = cells.assign(text=words).pivot(index="lam", columns="tau", values="text").fillna("")
    good, bad, neither = PALETTE["sky"], PALETTE["gold"], PALETTE["quiet"]
    ends = {-1: (good, bad), 0: (neither, neither), 1: (bad, good)}[metric(state.measure).direction]
    heat.x, heat.y = [f"τ = {v:g}" for v in values.columns], [f"λ = {v:g}" for v in values.index]
    heat.z, heat.text = values.where(values.notna(), None).values.tolist(), text.values.tolist()
    heat.colorscale = [[0, ends[0]], [0.5, "#FFFFFF"], [1, ends[1]]]
    at = state.atlas.points[state.condition]
    inside = state.condition in set(cells["condition"])
    ring.x, ring.y = ([f"τ = {at['tau']:g}"], [f"λ = {at['lam']:g}"]) if inside else ([], [])


def _two_digits(value: float) -> str:
    """Two digits with a sign: +0.70, −17."""
    return f"{value:+#.2g}".rstrip(".").replace("-", "−")
