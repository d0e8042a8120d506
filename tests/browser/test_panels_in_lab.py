"""Panels of notebooks 01, 02, 05 to 08 and 10 in a browser: controls reach the kernel, figures and words the page."""

import math

import pytest

from labkit.widgets.live import BRANCHES

ATLAS = """
from labkit.widgets import Ablations, ablations_panel
from labkit.runtime import runs_dir

ablations_panel(Ablations(out=runs_dir() / "atlas", steps=40))
"""
QUESTIONS = "from labkit.widgets import questions_panel\nquestions_panel()"
WATCH = """
from labkit import Job, recipes
from labkit.widgets import watch_panel

config = recipes.digits(model="SiT-Nano/4", batch_size=8, steps=10**6, save_every=10**6, log_every=1, lam=0.5)
job = Job.launch(config, "runs/watched")
watch_panel(job)
"""
CELL = 0


@pytest.fixture
def lab(scratch):
    yield scratch
    assert not scratch.cell_errors() and not scratch.faults


@pytest.fixture
def opened(lab):
    """Runs a cell and waits for its panel."""

    def open_and_run(source):
        assert lab.add_cell(source) == CELL
        lab.run_cell(CELL)
        return lab.wait_plot(CELL, lambda plot: plot["width"] > 300)

    return open_and_run


def sentence(lab) -> str:
    return lab.output(CELL).locator(".labkit-text").all_inner_texts()[-1]


def after(lab, act, *traces):
    """The figure after an act, when all of these traces and the sentence have changed."""
    before, words = lab.wait_plot(CELL)["traces"], sentence(lab)
    act()
    return lab.wait_plot(CELL, lambda p: all(p["traces"][i] != before[i] for i in traces) and sentence(lab) != words)


@pytest.mark.parametrize(
    ("panel", "slider", "traces"),
    [
        ("variants_panel()", "stretch", (0, 4, 9)),
        ("views_panel()", "time t of the first view", (0, 3, 4)),
        ("scale_panel(Scale(1e11))", "TFLOP/s of your own", (3,)),
    ],
)
def test_figures_and_words_follow_a_slider(lab, opened, panel, slider, traces):
    """Of a panel for each kind of trace: points, heat map, bars. ``test_panel`` moves every control of every panel."""
    opened(f"from labkit.widgets import *\n{panel}")
    after(lab, lambda: lab.drag_slider(slider, 0.8, CELL), *traces)


def choose(lab, label, option):
    lab.widget(label, CELL).locator("select").select_option(option)


def test_a_job_is_watched_stopped_and_resumed(lab, opened):
    opened(WATCH)
    velocity, dispersive, norm = 0, BRANCHES, 2 * BRANCHES + 1  # first lines of the panes; the second has a floor, too

    def steps(plot):
        return plot["traces"][velocity]["x"] or []

    before = len(steps(lab.wait_plot(CELL, steps, 120)))
    plot = lab.wait_plot(CELL, lambda p: len(steps(p)) > before, 60)  # it grows while no cell runs
    for curve in (dispersive, norm):
        assert len(plot["traces"][curve]["x"]) > 1
    [floor] = [trace for trace in plot["traces"] if trace["name"] and trace["name"].startswith("floor")]
    assert floor["y"] == pytest.approx([-math.log(8)] * 2)
    assert min(plot["traces"][dispersive]["y"]) > floor["y"][0] - 1e-6
    assert "samples seen" in sentence(lab) and "velocity loss" in lab.output(CELL).locator("table").inner_text()
    lab.click("Stop", CELL)
    lab.wait_for(lambda: "Stopped at step" in lab.output(CELL).inner_text(), 60, "the stop")
    stopped = int(lab.kernel_eval("print(max(job.history.curve('velocity').steps))"))
    plot = lab.wait_plot(CELL, lambda p: steps(p)[-1] == stopped)
    lab.click("Resume", CELL)
    lab.wait_plot(CELL, lambda p: steps(p)[-1] > stopped, 90)
    choose(lab, "against", "samples")
    plot = lab.wait_plot(CELL, lambda p: p["axes"]["xaxis"]["title"] == "samples seen")
    assert all(x % 8 == 0 for x in steps(plot))
    lab.click("Stop", CELL)
    lab.wait_for(lambda: "False" in lab.kernel_eval("print(job.running)"), 60, "the end")


def test_the_atlas_snaps_to_what_was_measured_and_trains_a_cell(lab, opened):
    own, star, heat, ring = 2, 3, 5, 6
    traces = opened(ATLAS)["traces"]
    assert "dispersive" in sentence(lab) and traces[ring]["x"] == ["τ = 0.5"] and len(traces[own]["x"]) >= 3
    plot = after(lab, lambda: lab.press_slider("λ (0: baseline)", "ArrowLeft", 1, CELL), own, ring)
    assert plot["traces"][ring]["y"] == ["λ = 0.25"] and "lam0.25-tau0.5" in sentence(lab)
    assert lab.slider_value("τ", CELL) == "0.5"
    after(lab, lambda: choose(lab, "variant", "hinge"), own, ring)  # measured at another λ, and without τ
    lab.wait_for(lambda: "so λ = 0.5, τ = 0 changed too" in sentence(lab), 60, "what moved along")
    lab.wait_for(lambda: lab.slider_value("λ (0: baseline)", CELL) == "0.5", 60, "the slider")
    after(lab, lambda: choose(lab, "show", "recall"), own, heat)
    lab.wait_for(lambda: "recall: " in sentence(lab), 60, "the words")
    choose(lab, "show", "Fréchet distance, classifier features")
    lab.output(CELL).get_by_role("button", name="Run this cell for real").click()
    plot = lab.wait_plot(CELL, lambda p: len(p["traces"][star]["x"]) == 1, timeout=120)
    assert plot["traces"][star]["x"][0] > max(plot["traces"][own]["x"]), "forty steps are worse than 1,500"
    words = lab.output(CELL).locator(".labkit-text")
    lab.wait_for(lambda: any("40 of 1,500 steps: too few" in w for w in words.all_inner_texts()), 60, "the verdict")


def test_the_questions_have_their_intervals(lab, opened):
    opened(QUESTIONS)
    assert "Does the Dispersive Loss improve samples" in lab.wait_plot(CELL)["title"]
    choose(lab, "question", "Does a regularized block change the others?")
    lab.wait_plot(CELL, lambda p: sum(len(t["x"] or []) for t in p["traces"]) >= 20)
    folded = lab.output(CELL).locator(".labkit-text").last
    lab.wait_for(lambda: "block 3, measured at block 0" in folded.text_content(), 60, "a line for each block")


def test_what_the_kernel_says_while_the_plot_library_loads_is_not_lost(lab, opened):
    opened("from labkit.widgets import variants_panel\nvariants_panel()")
    lab.page.evaluate(
        "() => { late = labkitPlotly; labkitPlotly = new Promise((go) => setTimeout(() => go(late), 4000)) }"
    )
    cell = lab.add_cell("panel = variants_panel('late')\npanel")
    lab.run_cell(cell)
    lab.kernel_eval("panel.state.stretch = 0.9; panel.state.stretch = 0.7")
    assert "Loading the plot library" in lab.output(cell).inner_text() and not lab.plots(cell)
    x = eval(lab.kernel_eval("print([list(trace.x) for trace in panel.figure.data])"))
    lab.wait_plot(cell, lambda plot: [trace["x"] for trace in plot["traces"]] == x, 60)
    lab.press_slider("stretch", "ArrowRight", 3, cell)
    lab.wait_plot(cell, lambda plot: [trace["x"] for trace in plot["traces"]] != x, 60)


def test_a_panel_can_be_read_in_the_dark_and_on_a_narrow_page(lab, opened):
    opened("from labkit.widgets import variants_panel\nvariants_panel()")
    panel = lab.output(CELL).locator(".labkit-panel")
    text, figure = panel.locator(".labkit-text").last, panel.locator(".labkit-figure")
    try:
        lab.command("apputils:change-theme", theme="JupyterLab Dark")
        lab.command("application:toggle-left-area")
        lab.page.set_viewport_size({"width": 390, "height": 900})
        bright = "e => Math.min(...getComputedStyle(e).color.match(/\\d+/g).slice(0, 3)) > 180"
        lab.wait_for(lambda: text.evaluate(bright), 60, "the text is bright")
        assert "invert" in figure.locator(".js-plotly-plot").evaluate("e => getComputedStyle(e).filter")
        lab.wait_for(lambda: figure.evaluate("e => e.scrollWidth > e.clientWidth"), 60, "the figure scrolls")
        box = panel.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert min(track.bounding_box()["width"] for track in panel.locator(".noUi-base").all()) > 100
    finally:
        lab.page.set_viewport_size({"width": 1280, "height": 900})
        lab.command("application:toggle-left-area")
        lab.command("apputils:change-theme", theme="JupyterLab Light")


MINE = """
from labkit import recipes
from labkit.exercises import check, mine
from labkit.widgets import LiveTraining, training_panel

config = recipes.digits(model="SiT-Nano/4", steps=60, batch_size=8, log_every=5, lam=0.5)
state = LiveTraining(
    lambda state: {"the library's loss": config, "my loss": config},
    own=lambda state: {"my loss": {"dispersive": mine("dispersive_loss")}},
)


def dispersive_loss(z, tau=0.5):
    z = z.flatten(1)
    D = torch.cdist(z, z).square() / POWER
    return (-D / tau).exp().mean().log()


print(check("dispersive_loss", dispersive_loss))
training_panel("mine", state, (), "Whose loss?", ("velocity", "dispersive"))
"""


def test_my_loss_is_judged_and_then_trains_in_the_panel(lab, opened):
    wrong, right = (f"import torch\n{MINE}".replace("POWER", divisor) for divisor in ("1.0", "z.shape[1]"))
    opened(wrong)
    assert "✗" in lab.output(CELL).inner_text() and "P" in lab.output(CELL).inner_text()
    cell = lab.add_cell(right)
    lab.run_cell(cell)
    assert "✓ Right" in lab.output(cell).inner_text()
    lab.click("Start", cell)
    library, own = BRANCHES, BRANCHES + 1  # of the second pane
    plot = lab.wait_plot(cell, lambda p: 60 in (p["traces"][own]["x"] or []), 120)
    assert plot["traces"][own]["y"] == pytest.approx(plot["traces"][library]["y"], rel=1e-3)
    own_code = "print(state.runs.trainers['my loss'].objective.repulsion is dispersive_loss)"
    assert lab.kernel_eval(own_code).strip() == "True"


FORKS = """
from pathlib import Path
from labkit import recipes
from labkit.widgets import LiveTraining, training_panel


def configs(s):
    return {"run": recipes.digits(**s.weight(), model="SiT-Nano/4", steps=s.steps, batch_size=8, log_every=1)}


state = LiveTraining(configs, out=Path("runs/forks"), steps=20000)
training_panel("forks", state, ("lam", "painted", "steps"), "When does it act?", ("velocity", "lam"))
"""


def test_lambda_is_painted_and_a_run_is_forked_with_the_mouse(lab, opened):
    opened(FORKS)
    strip = lab.output(CELL).get_by_role("img", name="λ over the steps")
    strip.scroll_into_view_if_needed()
    box = strip.bounding_box()
    lab.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.97 * box["height"])
    lab.page.mouse.down()
    lab.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.97 * box["height"], steps=5)
    lab.page.mouse.up()
    lab.wait_for(lambda: "[]" not in lab.kernel_eval("print(state.painted)"), 60, "the painting to arrive")
    painted = eval(lab.kernel_eval("print([list(knot) for knot in state.painted])"))
    assert min(lam for _, lam in painted) == 0.0 and painted[0][1] == 0.5
    lab.wait_for(lambda: "λ: 0.5 at step" in lab.output(CELL).inner_text(), 60, "the painting in words")
    lab.click("Start", CELL)
    lab.wait_plot(CELL, lambda p: len(p["traces"][0]["x"] or []) > 3, 90)
    lab.click("As the slider says", CELL)
    lab.press_slider("λ (paper: 0.5)", "ArrowRight", 4, CELL)
    # Jupyter holds a slider's values back while the kernel is busy with the last one; a click is sent at once.
    lab.wait_for(lambda: lab.kernel_eval("print(state.lam)").strip() == "0.7", 60, "the slider's value to arrive")
    lab.click("Fork", CELL)
    plot = lab.wait_plot(CELL, lambda p: len(p["traces"][1]["x"] or []) > 3, 90)  # the fork's line, in another colour
    assert plot["traces"][0]["y"][0] == plot["traces"][1]["y"][0], "they have their first steps in common"
    assert [trace["name"] for trace in plot["traces"][:2]] == ["run", "fork 1"]
    lab.wait_for(lambda: "forked from run at step" in lab.output(CELL).inner_text(), 60, "where it comes from")
    lab.click("Stop", CELL)
    lab.wait_for(lambda: "Stopped at step" in lab.output(CELL).inner_text(), 60, "the stop")
    assert lab.kernel_eval("print(state.runs.trainers['fork 1'].config.dispersive.lam)").strip() == "0.7"
