"""The lab in a real browser: sliders move pictures, buttons steer training, one thread is alive at most."""

from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
THREADS = "import threading; print(sum(t.name == 'labkit-training' for t in threading.enumerate()))"
STEPS = "print(state.progress['baseline'].step if state.progress else 0)"


def number(lab, code: str) -> int:
    return int(lab.kernel_eval(code).split()[-1])


def test_notebook_00_sliders_move_points_and_words_and_a_prediction_opens_its_answer(lab):
    lab.show(NOTEBOOKS / "00_start_here.ipynb")
    lab.run_all()
    cell = lab.find_cell("springs_panel()")
    plot = lab.wait_plot(cell, lambda p: p["traces"][3]["x"] is not None)
    assert plot["traces"][3]["x"] == ["spring<br>mean (p − start)²", "L_disp"]
    points, words = plot["traces"][2]["x"], lab.text(".labkit-text", cell)
    lab.drag_slider("λ", 0.8, within=cell)
    moved = lab.wait_plot(cell, lambda p: p["traces"][2]["x"] != points)
    lab.press_slider("τ", "ArrowRight", 5, within=cell)
    lab.wait_plot(cell, lambda p: p["traces"][2]["x"] != moved["traces"][2]["x"])
    assert lab.text(".labkit-text", cell) != words

    cell = lab.find_cell("which_tau)")
    assert "Mean distance" not in lab.output(cell).inner_text()
    lab.choose("a middling one, τ = 0.5", cell)
    lab.click("Record my prediction", cell)
    lab.wait_for(lambda: "You predicted it" in lab.output(cell).inner_text(), 60, "the answer")
    assert "Mean distance at λ = 1" in lab.output(cell).inner_text()
    assert not lab.cell_errors() and not lab.faults


def test_a_linked_word_opens_the_glossary_at_its_entry(lab):
    lab.show(NOTEBOOKS / "02_dispersive_loss.ipynb")
    lab.page.locator(".jp-Notebook a", has_text="effective rank").first.click()
    glossary = lab.page.locator(".jp-MarkdownViewer")
    entry = glossary.locator('[data-jupyter-id="effective-rank"]')
    entry.wait_for(state="attached", timeout=60_000)

    def at_the_top() -> bool:
        return abs(entry.bounding_box()["y"] - glossary.bounding_box()["y"]) < 20

    lab.wait_for(at_the_top, 60, "the entry is scrolled to")
    lab.command("application:close")
    assert not lab.faults


def test_notebook_03_start_stop_resume_pause_interrupt_and_one_thread(lab):
    lab.show(NOTEBOOKS / "03_train_and_compare.ipynb")
    setup, panel, wait = (lab.find_cell(t) for t in ("predictions = Predictions(", "training_panel(", "state.wait()"))
    lab.run_cells([setup, panel])
    lab.kernel_eval("state.steps = 20000")
    lab.click("Start", panel)
    lengths = []
    for _ in range(2):  # two live updates: the curves grow while no cell runs
        length = lengths[-1] if lengths else 0
        plot = lab.wait_plot(panel, lambda p, length=length: len(p["traces"][0]["x"] or []) > length)
        lengths.append(len(plot["traces"][0]["x"]))
    assert lengths == sorted(set(lengths)) and number(lab, THREADS) == 1

    lab.click("Stop", panel)
    lab.wait_for(lambda: "Stopped at step" in lab.output(panel).inner_text(), 60, "the stop")
    stopped = number(lab, STEPS)
    assert number(lab, THREADS) == 0 and number(lab, STEPS) == stopped  # nothing goes on behind the reader's back
    assert not lab.faults
    lab.click("Resume", panel)
    lab.wait_for(lambda: number(lab, STEPS) > stopped, 60, "training to go on")

    lab.run_cell(panel)  # a second time, while it trains: the earlier training stops
    assert number(lab, THREADS) == 0
    lab.kernel_eval("state.steps = 20000")
    lab.click("Start", panel)
    lab.wait_for(lambda: number(lab, STEPS) > 0, 60, "the new training")
    assert number(lab, THREADS) == 1
    lab.click("Pause", panel)
    lab.wait_for(lambda: "Paused at step" in lab.output(panel).inner_text(), 60, "the pause")
    lab.click("Stop", panel)
    lab.wait_for(lambda: number(lab, THREADS) == 0, 60, "the thread to end")

    lab.run_cell(panel)
    assert not lab.cell_errors()
    lab.kernel_eval("state.steps = 20000")
    lab.start_cell(wait)  # straight through, as "Run All" does
    lab.wait_plot(panel, lambda p: p["traces"][0]["x"])
    lab.interrupt_kernel()
    lab.wait_idle()
    saved = lab.kernel_eval("print(state.describe(), max(state.out.glob('*/baseline/checkpoints/*')).stem)")
    assert "Stopped at step" in saved and f"step-{number(lab, STEPS):08d}" in saved  # an interrupt saves, too
    assert not lab.faults


@pytest.mark.slow
def test_a_page_that_is_loaded_again_shows_the_curves(lab):
    lab.show(NOTEBOOKS / "01_flow_matching.ipynb")
    setup, panel, wait = (lab.find_cell(t) for t in ("predictions = Predictions(", "training_panel(", "state.wait()"))
    lab.run_cells([setup, panel, wait])
    curve = lab.wait_plot(panel, lambda p: p["traces"][0]["x"])["traces"][0]["x"]
    lab.command("docmanager:save")
    lab.wait_idle()
    for patience in (20, 20, 60):  # where a kernel answers too late, JupyterLab gives up and has to be loaded once more
        lab.reload()
        try:
            lab.wait_plot(panel, lambda p: p["traces"][0]["x"] == curve, timeout=patience)
            return
        except AssertionError:
            if patience == 60:
                raise


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb"))[1:], ids=lambda path: path.stem)  # 00: above
def test_every_notebook_runs_and_is_drawn(lab, notebook):
    """By the menu entry, from top to bottom, every figure scrolled into view.

    The console is not judged: of figures that change while the page is busy with others, JupyterLab says many things.
    """
    lab.show(notebook)
    lab.run_all()
    for index, (kind, _) in enumerate(lab.cells()):
        if kind == "code":
            lab.cell(index).scroll_into_view_if_needed()
    lab.wait_still(at_most=5)
    assert not lab.cell_errors()
