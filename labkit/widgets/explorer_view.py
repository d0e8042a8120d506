"""The view of ``Explorer``: runs side by side in one basis, their distances, and the images behind the points."""

import copy
import html
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from labkit.checks import require
from labkit.metrics import metric
from labkit.plots import (
    DASHES,
    PALETTE,
    class_key,
    class_marker,
    colour,
    digit_trace,
    distances_axes,
    draw_distances,
    figure,
    scale_axis,
    style_digits,
    table_html,
    tile,
)
from labkit.training import Run
from labkit.widgets.explorer import Explorer
from labkit.widgets.panel import Panel, choice, dropdown, live_text, look, row

GRID, ACROSS, SIDE = 29, 24, 5  # columns: all, those of the runs (divided by 1, 2, 3, 4), those of the images
HISTORIES = ("mean_pairwise_distance", "effective_rank")  # drawn against training, beside the distances at this step
UMAP_SHOWS = (
    "<b>UMAP</b> shows which points are neighbours. It cannot show spread, density, or how far apart groups are: every "
    "map fills its box. Trust it only as far as its trustworthiness goes, and nothing that another seed would move."
)
SHOWS = {  # (projection, axes) → what can be read from the picture
    ("PCA", "shared"): "<b>PCA</b> keeps lengths: a cloud that looks twice as wide <i>is</i> twice as wide along these "
    "two axes. It cannot show the other directions: read above each cloud what share of its variance the two hold.",
    ("PCA", "own"): "<b>PCA</b> of each run along its own two axes and at its own scale: compare lengths within a "
    "cloud, never between clouds. Read above each cloud its spread, and what share of its variance the axes hold.",
    ("UMAP", "shared"): UMAP_SHOWS,
    ("UMAP", "own"): UMAP_SHOWS + " All runs lie in one map, but each is drawn in a box of its own.",
}


def explorer_panel(
    runs: Mapping[str, Run] | Explorer,
    title: str = "How do features lie in space, and how did they get there?",
    name: str = "explorer",
) -> Panel:
    """Runs side by side at any age, block and time; everything is mapped in the background.

    Args:
        runs: name → run, one to four of them; or an ``Explorer`` with settings of its own.
        title: what the figure asks.  name: name of the panel.

    Raises:
        ConfigError: runs that cannot be compared.
    """
    state = runs if isinstance(runs, Explorer) else Explorer(runs)
    require(len(state.runs) <= 4, "runs", list(state.runs), "take at most four, which fit side by side")
    state.settle()  # the first picture; all others are made in the background
    plot = _lay_out(state, title)
    controls = _controls(state)
    film = widgets.Play(min=0, max=len(state.steps) - 1, interval=800, show_repeat=False)
    shows, status, numbers = widgets.HTML(), widgets.HTML(), widgets.HTML()

    def draw(state: Explorer, plot: BaseFigure) -> str:
        state = copy.copy(state)  # the reader may move a slider while this is drawn
        shows.value, status.value = live_text(SHOWS[state.projection, state.axes]), live_text(_status(state))
        _draw_images(state, plot)
        _draw_history(state, plot)
        if (fault := state.fault) is not None:
            return f"<b>This cannot be shown:</b> {html.escape(str(fault))} The picture is the one before."
        if not state.ready:
            return f"{_where(state)} is being computed; the picture is the one before."
        _draw_points(state, plot)
        numbers.value = _table(state)
        return _sentence(state)

    alt = "Features of held-out digits as points, one pane a run, above their distances and their spread over training."
    below = row(widgets.Label("film of training"), film, status)
    panel = Panel(name, state, controls, plot, draw, alt, extra=[below, shows], below=[numbers])
    widgets.link((controls["step"], "index"), (film, "value"))
    _listen(panel)
    state.start()
    return panel


def _listen(panel: Panel) -> None:
    """Choose the image that the mouse points at, and the images around which it draws a line."""
    state = panel.state

    def point(trace: Any, points: Any, device: Any) -> None:
        if points.point_inds:
            state.image = points.point_inds[0]

    def select(trace: Any, points: Any, selector: Any) -> None:
        if points.point_inds:
            state.drawn, state.highlight = tuple(points.point_inds), "drawn"
            panel.redraw()  # a second line changes ``drawn`` alone, which is no trait
        trace.selectedpoints = state.selected()

    def clear(trace: Any, points: Any, selector: Any) -> None:
        trace.selectedpoints = None

    for index, trace in enumerate(panel.figure.data):
        if index in range(0, 2 * len(state.runs), 2):  # points, not rings
            trace.on_click(point)
            trace.on_hover(point)
            trace.on_selection(select)
            trace.on_deselect(lambda *_: state.set_trait("highlight", "all"))
        elif trace.type == "scatter":  # plotly deselects all other traces first, those of other panes included
            trace.on_selection(clear)


def _controls(state: Explorer) -> dict[str, widgets.Widget]:
    classes = [(f"the {digit}s", digit) for digit in sorted(set(state.y.tolist()))]
    return {
        "step": choice("training step", [(f"{step:,}", step) for step in state.steps]),
        "block": choice("block", list(range(state.depth))),
        "t": choice("time t", [(t if t == "mixed" else f"{t:g}", t) for t in state.times]),
        "projection": widgets.ToggleButtons(options=["PCA", "UMAP"], style=dict(button_width="76px")),
        "axes": dropdown("axes and scale", [("shared by all runs", "shared"), ("each run its own", "own")]),
        "colour": dropdown("colour", ["class", "time t", "norm"]),
        "highlight": dropdown("highlight", [("all", "all"), *classes, ("what I drew around", "drawn")]),
        "image": widgets.IntSlider(min=0, max=len(state.y) - 1, description="image (or point at one)", **look()),
        "labelled": widgets.Checkbox(
            description="the class is an input of the model", indent=False, layout=dict(width="330px")
        ),
    }


def _lay_out(state: Explorer, title: str) -> go.Figure:
    """The empty figure: points of each run and a ring; lines of all runs for each measure; the two images."""
    names = list(state.runs)
    wide, third = ACROSS // len(names), ACROSS // (1 + len(HISTORIES))
    specs: list[list[dict[str, int] | None]] = [[None] * GRID, [None] * GRID]
    for spec, (width, count) in zip(specs, ((wide, len(names)), (third, 1 + len(HISTORIES))), strict=True):
        for place in range(count):
            spec[place * width] = {"colspan": width}
        spec[ACROSS] = {"colspan": SIDE}
    histories = (f"{metric(measure).title} over training" for measure in HISTORIES)
    titles = [*names, "image", "distances of two samples", *histories, "as the model sees it"]
    side = min(340, 560 / len(names))  # of a pane, in a window of 1,280 pixels
    height = round(side + 470)
    layout = dict(row_heights=[side, 130], horizontal_spacing=0.033, vertical_spacing=90 / (side + 220))
    plot = figure(title, 2, GRID, height, specs=specs, subplot_titles=titles, **layout)
    digits = state.y.tolist()
    pointed = dict(hovertemplate="a %{customdata[0]} (image %{customdata[1]})<extra></extra>")
    pointed |= dict(customdata=np.array([digits, range(len(digits))]).T)
    chosen = dict(unselected=dict(marker_opacity=0.08), selected=dict(marker_opacity=1))
    for place in range(len(names)):
        at = dict(row=1, col=place * wide + 1)
        dots = dict(size=6, line=dict(width=0), **class_marker(digits))
        plot.add_scatter(mode="markers", marker=dots, showlegend=False, **pointed, **chosen, **at)
        ring = dict(size=17, color="rgba(0,0,0,0)", line=dict(color=PALETTE["ink"], width=2))
        plot.add_scatter(mode="markers", marker=ring, showlegend=False, hoverinfo="skip", **at)
        anchor = plot.get_subplot(**at).xaxis.plotly_name.replace("axis", "")
        plot.update_xaxes(showticklabels=len(names) < 4, zeroline=True, constrain="domain", nticks=4, **at)
        plot.update_yaxes(scaleanchor=anchor, constrain="domain", nticks=4, automargin=False, **at)
    looks = {name: dict(color=colour(name), width=2, dash=DASHES[names.index(name)]) for name in names}
    below = dict(row=2, col=1)
    for name, line in looks.items():
        plot.add_scatter(name=name, mode="lines", line=line, **below)
    rule = dict(color=PALETTE["quiet"], dash="dot", width=1.5)
    plot.add_scatter(mode="lines", line=rule, **below)
    distances_axes(plot, **below)
    for place, measure in enumerate(HISTORIES, start=1):
        at = dict(row=2, col=place * third + 1)
        for name, line in looks.items():
            plot.add_scatter(name=name, showlegend=False, mode="lines+markers", line=line, **at)
        shown = range(len(state.steps) - 1, -1, -1 if len(state.steps) < 6 else -2)  # more would stand aslant
        ticks = dict(tickvals=list(shown), ticktext=[f"{state.steps[i]:,}" for i in shown])
        plot.update_xaxes(title_text="training step", range=[-0.3, len(state.steps) - 0.7], **ticks, **at)
        scale_axis(plot, measure, **at)
        plot.add_vline(0, line=rule, **at)
    for line in (1, 2):
        plot.add_trace(digit_trace(tile(state.inputs[state.t].x1[:1], 1)), line, ACROSS + 1)
        style_digits(plot, line, ACROSS + 1)
    corner = dict(xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom", yshift=68)
    plot.add_annotation(text=class_key(sorted(set(digits))), showarrow=False, font=dict(size=14), **corner)
    top = dict(orientation="h", x=0, xanchor="left", y=1 - 42 / height, yref="container", yanchor="top")  # under title
    return plot.update_layout(
        dragmode="lasso",
        newselection=dict(mode="gradual"),  # in mode "immediate", lines of other panes stay and count as well
        margin=dict(t=150, b=92),
        title=dict(y=1, yref="container", yanchor="top", pad=dict(t=12)),
        legend=dict(orientation="h", x=0, y=0, yref="container", yanchor="bottom"),
        coloraxis=dict(colorscale="Cividis", showscale=False, colorbar=dict(len=0.4, thickness=10, **top)),
    )


def _draw_points(state: Explorer, plot: BaseFigure) -> None:
    points, clouds, chosen = state.points(), state.clouds[state.place], state.selected()
    shown, first = state.inputs[state.t], 2 * len(state.runs)
    below = dict(zip(clouds, plot.data[first:], strict=False))
    taus = {tau for run in state.runs.values() if (tau := run.config.repelling.arguments.get("tau"))}
    draw_distances(below, plot.data[first + len(below)], {name: cloud.density for name, cloud in clouds.items()}, taus)
    for place, (name, xy) in enumerate(points.items()):
        dots, ring, cloud = *plot.data[2 * place : 2 * place + 2], clouds[name]
        xy = xy.numpy()
        dots.x, dots.y = xy[:, 0], xy[:, 1]
        dots.selectedpoints = chosen
        ring.x, ring.y = xy[[state.image], 0], xy[[state.image], 1]
        if state.colour == "class":
            dots.marker.color = class_marker(shown.y.tolist())["color"]
        else:
            dots.marker.color = (shown.t if state.colour == "time t" else cloud.norms).numpy()
        dots.marker.coloraxis = None if state.colour == "class" else "coloraxis"
        plot.layout.annotations[place].text = _caption(state, name)
        for letter, bounds in zip("xy", state.bounds(name), strict=True):
            axis = plot.layout[dots[f"{letter}axis"].replace(letter, f"{letter}axis")]
            axis.range, axis.showticklabels = bounds, state.projection == "PCA"
    bar = plot.layout.coloraxis
    bar.showscale = state.colour != "class"
    bar.cmin, bar.cmax = (0, 1) if state.colour == "time t" else (None, None)  # one t for all is no range
    bar.colorbar.title.text = "time t" if state.colour == "time t" else "norm ‖z‖/√P"
    plot.layout.annotations[-1].visible = state.colour == "class"


def _draw_images(state: Explorer, plot: BaseFigure) -> None:
    shown = state.inputs[state.t]
    for trace, images in zip(plot.data[-2:], (shown.x1, shown.x_t), strict=True):
        trace.z = tile(images[state.image : state.image + 1], 1)
    titles = plot.layout.annotations
    titles[len(state.runs)].text = f"image {state.image}: a {shown.y[state.image]}"
    titles[-2].text = f"as seen at t = {shown.t[state.image]:.2f}"  # the last is the key to the classes


def _draw_history(state: Explorer, plot: BaseFigure) -> None:
    histories = [values for measure in HISTORIES for values in state.history(measure).values()]
    for line, values in zip(plot.data[3 * len(state.runs) + 1 : -2], histories, strict=True):
        line.x = [state.steps.index(step) for step in values]
        line.y = [None if value != value else value for value in values.values()]  # NaN is no JSON
    for rule in plot.layout.shapes:
        rule.x0 = rule.x1 = state.steps.index(state.step)


def _caption(state: Explorer, name: str) -> str:
    """Title of a run's pane: the numbers beside the picture."""
    cloud = state.clouds[state.place][name]
    if state.projection == "UMAP" and state.map is not None:
        trust = f"trustworthiness {state.map.trustworthiness[name]:.2f}"
    else:
        trust = f"axes hold {cloud.explained[state.axes]:.0%} of variance"
    return f"<b>{html.escape(name)}</b><br>spread {cloud.numbers['mean_pairwise_distance']:.2g}<br>{trust}"


def _where(state: Explorer) -> str:
    t = "each image at a time of its own" if state.t == "mixed" else f"t = {state.t:g}"
    label = "with the class" if state.labelled else "without the class"
    return f"{state.projection} at step {state.step:,}, block {state.block}, {t}, {label}"


def _table(state: Explorer) -> str:
    """A row for each run and a column for each metric at this place, as HTML."""
    import pandas as pd

    numbers = {name: cloud.numbers for name, cloud in state.clouds[state.place].items()}
    return table_html(pd.DataFrame(numbers).T)


def _sentence(state: Explorer) -> str:
    end = "."
    if state.projection == "UMAP" and state.map is not None:
        end = f". A map from another seed differs by a disparity of {state.map.flicker:.2f} (0 the same, 1 unrelated)."
    return _where(state) + end


def _status(state: Explorer) -> str:
    done, total = state.progress()
    if state.projection == "UMAP" and state.map is None and state.fault is None:
        return "UMAP is being fitted in the background, some ten seconds the first time…"
    kind = "views" if state.projection == "PCA" else "steps of this map"
    return f"all {kind} are ready" if done == total else f"{done} of {total} {kind} are ready, the rest follow"
