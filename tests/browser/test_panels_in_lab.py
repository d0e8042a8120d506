"""The panels of notebooks 01, 02, 05 to 08 and 10 in a browser: each control moves what it says, picture and words."""

import math

import pytest

SECANT = "from labkit.widgets import Secant, secant_panel\nsecant_panel(Secant())"
PATHS = """
from labkit.widgets import Interpolant, interpolant_panel

interpolant_panel("paths", Interpolant(t=0.5), ("t", "path"))
"""
SCALE = "from labkit.widgets import Scale, scale_panel\nscale_panel(Scale(1e11))"
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
        ("variants_panel", "stretch", (0, 4, 9)),
        ("views_panel", "time t of the first view", (0, 3, 4)),
        ("partners_panel", "λ", (0, 2, 4)),
    ],
)
def test_the_panels_of_the_losses_follow_their_sliders(lab, opened, panel, slider, traces):
    opened(f"from labkit.widgets import {panel}\n{panel}()")
    after(lab, lambda: lab.drag_slider(slider, 0.9, CELL), *traces)


def test_the_secant_follows_its_times_its_start_and_its_steps(lab, opened):
    path, tangent, secant = range((first := len(opened(SECANT)["traces"]) - 5), first + 3)

    def ends(plot):
        return [[plot["traces"][i][axis][-1] for axis in "xy"] for i in (tangent, secant)]

    whole = lab.wait_plot(CELL)["traces"]
    assert whole[secant]["x"] == [0, 1] and whole[secant]["y"][-1] == pytest.approx(whole[path]["y"][-1], abs=1e-3)
    assert abs(whole[tangent]["y"][-1]) < 0.1 < abs(whole[path]["y"][-1])  # one step leads to the mean of the data
    after(lab, lambda: lab.drag_slider("from t", 0.5, CELL), tangent, secant)
    t = float(lab.slider_value("from t", CELL))
    lab.wait_plot(CELL, lambda p: p["traces"][tangent]["x"][0] == pytest.approx(t))  # a drag passes many values
    lab.wait_for(lambda: f"From t = {t:.2f} to s = 1.00" in sentence(lab), 60, "the words")
    after(lab, lambda: lab.drag_slider("to s", 0.75, CELL), tangent, secant)
    s = float(lab.slider_value("to s", CELL))
    lab.wait_plot(CELL, lambda p: ends(p)[0][0] == pytest.approx(s))
    after(lab, lambda: lab.press_slider("start x₀", "ArrowRight", 3, CELL), path, tangent, secant)
    lab.press_slider("from t", "Home", 1, CELL)
    lab.press_slider("to s", "End", 1, CELL)
    lab.press_slider("steps, from 0 to 1", "ArrowRight", 2, CELL)
    plot = lab.wait_plot(CELL, lambda p: len(p["traces"][tangent]["x"]) == 5)
    lab.wait_for(lambda: "In 4 steps" in sentence(lab), 60, "the words")
    assert len(plot["traces"][secant]["x"]) == 5
    assert ends(plot)[1][1] == pytest.approx(plot["traces"][path]["y"][-1], abs=0.01)


def test_the_paths_differ_between_their_common_ends(lab, opened):
    traces = opened(PATHS)["traces"]
    mark = len(traces) - 1
    assert [t["name"] for t in traces[2:-1]] == ["linear", "gvp", "vp"]
    linear = lab.wait_plot(CELL)["traces"][0]["z"]
    assert "is 0.50·data + 0.50·noise" in sentence(lab)
    plot = after(lab, lambda: lab.press_slider("path", "ArrowRight", 1, CELL), 0, 1, mark)
    lab.wait_for(lambda: "is 0.71·data + 0.71·noise" in sentence(lab), 60, "the words")
    assert plot["traces"][0]["z"] != linear
    after(lab, lambda: lab.press_slider("path", "ArrowRight", 1, CELL), 0, 1, mark)
    after(lab, lambda: lab.drag_slider("time t", 0.8, CELL), 0, 1, mark)
    t = float(lab.slider_value("time t", CELL))
    lab.wait_plot(CELL, lambda p: p["traces"][mark]["x"] == [pytest.approx(t)])
    lab.press_slider("time t", "End", 1, CELL)
    lab.wait_for(lambda: "is 1.00·data + 0.00·noise" in sentence(lab), 60, "the end of every path: data alone")


def choose(lab, label, option):
    lab.widget(label, CELL).locator("select").select_option(option)


def test_the_scale_follows_model_batch_precision_and_machine(lab, opened):
    opened(SCALE)
    parameters, operations, held, days = range(4)
    first = lab.wait_plot(CELL)
    assert first["title"].startswith("SiT-B/2: 12 blocks of width 768, 256 tokens")
    after(lab, lambda: lab.press_slider("size", "ArrowRight", 2, CELL), parameters, operations, held, days)
    lab.wait_for(lambda: "SiT-XL/2 has 675,129,632 parameters" in sentence(lab), 60, "the largest model")
    after(lab, lambda: lab.press_slider("patch", "ArrowRight", 1, CELL), operations, held, days)
    lab.wait_plot(CELL, lambda p: "SiT-XL/4" in p["title"])
    after(lab, lambda: lab.press_slider("images at a time", "ArrowRight", 1, CELL), held)
    after(lab, lambda: choose(lab, "multiply in", "float32"), held)
    after(lab, lambda: choose(lab, "family", "MeanFlow"), operations, days)
    after(lab, lambda: choose(lab, "machine", "H100 SXM"), days)
    before = lab.wait_plot(CELL)["traces"][days]["x"]
    after(lab, lambda: lab.drag_slider("share of it reached", 0.9, CELL), days)
    share = float(lab.slider_value("share of it reached", CELL))
    expected = pytest.approx([d * 0.4 / share for d in before], rel=1e-6)
    lab.wait_plot(CELL, lambda p: p["traces"][days]["x"] == expected)
    after(lab, lambda: lab.drag_slider("TFLOP/s of your own", 0.5, CELL), days)
    lab.wait_for(lambda: "your value" in sentence(lab), 60, "the words")
    assert lab.widget("machine", CELL).locator("select").input_value() == "a rate of your own"


def test_a_job_is_watched_stopped_and_resumed(lab, opened):
    opened(WATCH)
    velocity, dispersive, norm = 0, 1, 3  # between the last two, the floor

    def steps(plot):
        return plot["traces"][velocity]["x"] or []

    seen = len(steps(lab.wait_plot(CELL, steps, 120)))
    plot = lab.wait_plot(CELL, lambda p: len(steps(p)) > seen, 60)  # it grows while no cell runs
    for curve in (dispersive, norm):
        assert len(plot["traces"][curve]["x"]) > 1
    [floor] = [trace for trace in plot["traces"] if trace["name"] and trace["name"].startswith("floor")]
    assert floor["y"] == pytest.approx([-math.log(8)] * 2)
    assert min(plot["traces"][dispersive]["y"]) > floor["y"][0] - 1e-6
    assert "samples seen: velocity loss" in sentence(lab)
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
    lab.wait_for(lambda: "block-last, block 0" in sentence(lab), 60, "a line for each block")
