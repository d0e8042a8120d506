"""The explorer in a real browser: controls move picture and words, the mouse reaches every pane, nothing piles up."""

from __future__ import annotations

import pytest

RUNS = """
import torch
from labkit import Run, recipes
from labkit.config import Optimizer
from labkit.exercises import check, mine
from labkit.experiments import Comparison
from labkit.widgets import Explorer, explorer_panel

config = recipes.digits(model="SiT-Nano/4", batch_size=8, steps=6, save_every=2, keep_last=9, lam=0.5)
config = config.replace(optimizer=Optimizer(lr=1e-2), ema_decay=0.5)
for _ in Comparison.with_and_without(config, "runs"):
    pass
runs = {name: Run.open(f"runs/{name}") for name in ("baseline", "dispersive")}
measured = []


def effective_rank(z):
    measured.append(len(z))
    sigma = torch.linalg.svdvals(z - z.mean(dim=0))
    p = sigma / sigma.sum()
    return torch.exp(-torch.special.xlogy(p, p).sum())


print(check("effective_rank", effective_rank))
measured.clear()
"""
PANEL = """
state = Explorer(runs, count=40, times=(0.3, 0.8, "mixed"), effective_rank=mine("effective_rank"))
explorer_panel(state)
"""
RUNS_CELL, CELL = 0, 1
COUNT, DOTS, RINGS, DISTANCES, CURVES, IMAGES = 40, (0, 2), (1, 3), (4, 5), range(7, 11), (11, 12)
PICTURE = """div => ({
    selected: div._fullData.map((trace) => trace.selectedpoints ?? null),
    bar: div._fullLayout.coloraxis?.showscale ?? false,
    rules: div._fullLayout.shapes.map((shape) => shape.x0),
    key: div._fullLayout.annotations.at(-1).visible,
})"""
ALIVE = "import threading; print(sum(t.name == 'labkit-explorer' for t in threading.enumerate()))"
WIDGETS = "from ipywidgets.widgets.widget import _instances; print(len(_instances))"


@pytest.fixture
def opened(scratch):
    """The page, when the panel has everything at hand; its runs are trained the first time."""
    assert [scratch.add_cell(source) for source in (RUNS, PANEL)] == [RUNS_CELL, CELL]
    scratch.run_cells([RUNS_CELL, CELL])
    scratch.wait_plot(CELL, lambda plot: plot["width"] > 300 and plot["traces"][0]["x"])
    wait_text(scratch, "all views are ready")
    yield scratch
    assert not scratch.cell_errors() and not scratch.faults


def text(lab) -> str:
    """All texts of the panel: status, what the projection can show, the sentence."""
    return " | ".join(lab.output(CELL).locator(".labkit-text").all_inner_texts())


def wait_text(lab, *words: str) -> str:
    def matching() -> str | None:
        shown = text(lab)
        return shown if all(word in shown for word in words) else None

    return lab.wait_for(matching, 60, f"{words} is shown")


def wait_moved(lab, before: list[dict], *traces: int) -> list[dict]:
    """The traces as soon as all of these are others than before."""
    keys = "x", "y", "z", "color"
    moved = lambda old, new: any(old[key] != new[key] for key in keys)  # noqa: E731
    plot = lab.wait_plot(CELL, lambda plot: all(moved(before[i], plot["traces"][i]) for i in traces))
    return plot["traces"]


def picture(lab) -> dict:
    """State of the figure that ``lab.plots`` leaves out."""
    return lab.output(CELL).locator(".js-plotly-plot").evaluate(PICTURE)


def pick(lab, menu: str, option: str) -> None:
    lab.widget(menu, CELL).locator("select").select_option(label=option)


def place(lab, pane: int, point: int) -> tuple[float, float]:
    """Position of a pane's point on the page, in pixels."""
    return tuple(
        lab.output(CELL)
        .locator(".js-plotly-plot")
        .evaluate(
            """(div, [trace, point]) => {
                const { x, y, xaxis, yaxis } = div._fullData[trace], box = div.getBoundingClientRect();
                const [across, up] = [xaxis, yaxis].map((id) => div._fullLayout[id.replace(/^./, "$&axis")]);
                const at = (axis, values) => axis._offset + axis.l2p(values[point]);
                return [box.left + at(across, x), box.top + at(up, y)];
            }""",
            [DOTS[pane], point],
        )
    )


def loneliest(trace: dict) -> int:
    """The point that is farthest from its neighbour: the mouse cannot miss it."""
    xy = list(zip(trace["x"], trace["y"], strict=True))
    apart = [min((a - c) ** 2 + (b - d) ** 2 for j, (c, d) in enumerate(xy) if j != i) for i, (a, b) in enumerate(xy)]
    return apart.index(max(apart))


def census(lab) -> tuple[int, ...]:
    """Figures, canvases, controls and traces on the page; widgets and threads in the kernel."""
    counts = [lab.output(CELL).locator(css).count() for css in (".js-plotly-plot", "canvas", ".widget-inline-hbox")]
    return *counts, len(lab.plots(CELL)[0]["traces"]), int(lab.kernel_eval(WIDGETS)), int(lab.kernel_eval(ALIVE))


def lonely_spot(lab) -> tuple[float, float]:
    """A position in the first pane that is far from all points."""
    taken = [place(lab, 0, point) for point in range(COUNT)]
    x0, y0 = (min(axis) for axis in zip(*taken, strict=True))
    x1, y1 = (max(axis) for axis in zip(*taken, strict=True))
    spots = [(x0 + (x1 - x0) * i / 20, y0 + (y1 - y0) * j / 20) for i in range(21) for j in range(21)]
    return max(spots, key=lambda spot: min((spot[0] - x) ** 2 + (spot[1] - y) ** 2 for x, y in taken))


def test_every_control_moves_the_picture_and_the_words_and_leaves_nothing_behind(opened):
    lab, before = opened, census(opened)
    assert before[:2] == (1, 0) and before[-1] == 1, "one figure, drawn without WebGL, and one thread"
    traces = lab.plots(CELL)[0]["traces"]
    wait_text(lab, "PCA at step 6, block 1, t = 0.3, with the class", "PCA keeps lengths")
    assert "✓ Right" in lab.output(RUNS_CELL).inner_text()
    assert lab.kernel_eval("print({*measured})").strip() == "{40}", "the reader's function measures what is shown"
    assert [len(traces[i]["x"]) for i in DOTS] == [COUNT] * 2 and picture(lab)["rules"] == [3, 3]

    assert lab.press_slider("training step", "ArrowLeft", 2, within=CELL) == "2"
    traces = wait_moved(lab, traces, *DOTS, *RINGS, *DISTANCES)
    wait_text(lab, "PCA at step 2, block 1")
    assert picture(lab)["rules"] == [1, 1]
    assert lab.press_slider("block", "ArrowRight", 2, within=CELL) == "3"
    traces = wait_moved(lab, traces, *DOTS, *RINGS, *CURVES)
    wait_text(lab, "PCA at step 2, block 3, t = 0.3")
    for value, words in (("0.8", "t = 0.8"), ("mixed", "each image at a time of its own")):
        assert lab.press_slider("time t", "ArrowRight", within=CELL) == value
        traces = wait_moved(lab, traces, *DOTS, *RINGS, *CURVES, IMAGES[1])
        wait_text(lab, f"block 3, {words}, with the class")
    lab.output(CELL).locator("input[type=checkbox]").uncheck()
    traces = wait_moved(lab, traces, *DOTS, *RINGS)
    wait_text(lab, "without the class.", "all views are ready")

    ends = lab.plots(CELL)[0]["axes"]["xaxis"]["range"]
    pick(lab, "axes and scale", "each run its own")
    traces = wait_moved(lab, traces, *DOTS, *RINGS)
    assert lab.plots(CELL)[0]["axes"]["xaxis"]["range"] != ends
    for colour in ("time t", "norm"):
        pick(lab, "colour", colour)
        traces = wait_moved(lab, traces, *DOTS)
        assert picture(lab)["bar"] and not picture(lab)["key"]
    pick(lab, "colour", "class")
    traces = wait_moved(lab, traces, *DOTS)
    assert not picture(lab)["bar"] and picture(lab)["key"]
    pick(lab, "highlight", "the 7s")
    sevens = lab.kernel_eval("print([i for i, digit in enumerate(state.y.tolist()) if digit == 7])")
    lab.wait_for(lambda: [str(picture(lab)["selected"][i]) for i in DOTS] == [sevens] * 2, 60, "the sevens alone")
    assert lab.press_slider("image (or point at one)", "ArrowRight", 4, within=CELL) == "4"
    traces = wait_moved(lab, traces, *RINGS, *IMAGES)
    fourth = lambda p: any(note.startswith("image 4: a ") for note in p["annotations"])  # noqa: E731
    traces = lab.wait_plot(CELL, fourth)["traces"]

    lab.click("UMAP", CELL)
    wait_text(lab, "UMAP shows which points are neighbours. It cannot show spread")
    wait_text(lab, "each is drawn in a box of its own")
    wait_text(lab, "UMAP at step 2, block 3", "from another seed differs by a disparity of", "all steps of this map")
    traces = wait_moved(lab, traces, *DOTS, *RINGS)
    assert all("trustworthiness" in note for note in lab.plots(CELL)[0]["annotations"][:2])
    lab.press_slider("training step", "ArrowRight", within=CELL)
    traces = wait_moved(lab, traces, *DOTS, *RINGS)
    lab.click("PCA", CELL)
    wait_moved(lab, traces, *DOTS, *RINGS)
    wait_text(lab, "PCA at step 4, block 3", "compare lengths within a cloud")

    for slider, last in (("block", "0"), ("time t", "0.3"), ("training step", "0")):
        for key, times in (("ArrowRight", 2), ("ArrowLeft", 4)):
            lab.press_slider(slider, key, times, within=CELL)
        assert lab.slider_value(slider, CELL) == last
    for projection in ("UMAP", "PCA"):
        lab.click(projection, CELL)
    wait_text(lab, "PCA at step 0, block 0, t = 0.3", "all views are ready")
    lab.wait_for(lambda: census(lab) == before, 60, "all is as before")


def test_the_mouse_reaches_both_panes_and_the_film_runs(opened):
    lab, mouse = opened, opened.page.mouse
    shared = lab.plots(CELL)[0]["traces"]
    pick(lab, "axes and scale", "each run its own")  # or one cloud is too small to hit a point of it
    before = wait_moved(lab, shared, *DOTS)
    point = loneliest(before[DOTS[1]])
    x, y = place(lab, 1, point)
    mouse.move(x - 40, y - 40)
    mouse.move(x, y, steps=5)
    lab.wait_for(lambda: lab.slider_value("image (or point at one)", CELL) == str(point), 60, "the image pointed at")
    traces = wait_moved(lab, before, *RINGS, *IMAGES)
    for dots, ring in zip(DOTS, RINGS, strict=True):
        assert [traces[ring][axis] for axis in "xy"] == [[traces[dots][axis][point]] for axis in "xy"]

    for pane in (0, 1):
        point = loneliest(before[DOTS[pane]])
        x, y = place(lab, pane, point)
        mouse.move(x - 9, y - 9)
        lab.wait_still(200)  # as a reader's hand: of events that follow each other within an instant the page sends one
        mouse.down()
        for across, down in ((9, -9), (9, 9), (-9, 9), (-9, -9)):
            mouse.move(x + across, y + down, steps=6)
        lab.wait_still(200)
        mouse.up()
        chosen = [[point] if i in DOTS else None for i in range(len(traces))]
        lab.wait_for(lambda chosen=chosen: picture(lab)["selected"] == chosen, 60, f"image {point} alone is selected")
        assert lab.kernel_eval("print(state.drawn)") == f"({point},)"
        assert lab.widget("highlight", CELL).locator("select").input_value() == "what I drew around"
    mouse.move(*lonely_spot(lab))
    lab.wait_still(200)
    mouse.dblclick(*lonely_spot(lab))
    lab.wait_for(lambda: not any(picture(lab)["selected"]), 60, "nothing is selected")
    assert lab.widget("highlight", CELL).locator("select").input_value() == "all"

    lab.output(CELL).locator(".jupyter-widget-Play, .widget-play").locator("button").first.click()
    texts = {step: wait_text(lab, f"PCA at step {step},") for step in (0, 2, 4, 6)}
    assert len(set(texts.values())) == 4 and lab.slider_value("training step", CELL) == "6"

    assert not lab.faults
    again = census(lab)
    lab.run_cell(CELL)
    lab.wait_plot(CELL, lambda plot: plot["width"] > 300 and plot["traces"][0]["x"])
    lab.wait_for(lambda: census(lab) == again, 60, "the first panel and its thread are gone")
