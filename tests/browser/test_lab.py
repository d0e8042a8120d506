"""The lab in a real browser: sliders move pictures, buttons steer training, one thread is alive at most."""

THREADS = "import threading; print(sum(t.name == 'labkit-training' for t in threading.enumerate()))"
STEPS = "print(state.progress['baseline'].step if state.progress else 0)"


def number(lab, code: str) -> int:
    return int(lab.kernel_eval(code).split()[-1])


def test_notebook_00_the_sliders_move_the_points_and_the_words(lab):
    lab.open("00_start_here.ipynb")
    lab.run_all(120)
    cell = lab.find_cell("springs_panel()")
    plot = lab.wait_plot(cell, lambda p: p["traces"][3]["x"] is not None)
    assert plot["traces"][3]["x"] == ["spring<br>mean (p − start)²", "L_disp"]
    points, words = plot["traces"][2]["x"], lab.text(".labkit-said", cell)
    lab.drag_slider("λ", 0.8, within=cell)
    moved = lab.wait_plot(cell, lambda p: p["traces"][2]["x"] != points)
    lab.press_slider("τ", "ArrowRight", 5, within=cell)
    lab.wait_plot(cell, lambda p: p["traces"][2]["x"] != moved["traces"][2]["x"])
    assert lab.text(".labkit-said", cell) != words
    assert not lab.cell_errors() and not lab.console_errors


def test_a_prediction_opens_its_answer(lab):
    lab.open("00_start_here.ipynb")
    lab.run_all(120)
    cell = lab.find_cell("which_tau)")
    assert "Mean distance" not in lab.output(cell).inner_text()
    lab.choose("a middling one, τ = 0.5", cell)
    lab.click("Record my prediction", cell)
    lab.wait_for(lambda: "You predicted it" in lab.output(cell).inner_text(), 20, "the answer")
    assert "Mean distance at λ = 1" in lab.output(cell).inner_text()


def test_notebook_03_start_stop_resume_and_one_thread(lab):
    lab.open("03_train_and_compare.ipynb")
    setup, panel = lab.find_cell("predictions = Predictions()"), lab.find_cell("training_panel(")
    lab.run_cells([setup, panel])
    lab.kernel_eval("state.steps = 20000")
    lab.click("Start", panel)
    lengths = []
    for _ in range(3):  # three live updates: the curves grow while no cell runs
        seen = lengths[-1] if lengths else 0
        plot = lab.wait_plot(panel, lambda p, seen=seen: len(p["traces"][0]["x"] or []) > seen, timeout=120)
        lengths.append(len(plot["traces"][0]["x"]))
    assert lengths == sorted(set(lengths)) and number(lab, THREADS) == 1

    lab.click("Stop", panel)
    lab.wait_for(lambda: "Stopped at step" in lab.output(panel).inner_text(), 60, "the stop")
    stopped = number(lab, STEPS)
    assert number(lab, THREADS) == 0 and number(lab, STEPS) == stopped  # nothing goes on behind the reader's back
    lab.click("Resume", panel)
    lab.wait_for(lambda: number(lab, STEPS) > stopped, 60, "training to go on")

    assert not lab.console_errors
    lab.run_cell(panel)  # a second time, while it trains: the earlier training stops
    assert number(lab, THREADS) == 0
    lab.click("Start", panel)
    lab.wait_for(lambda: number(lab, STEPS) > 0, 60, "the new training")
    assert number(lab, THREADS) == 1
    lab.click("Pause", panel)
    lab.wait_for(lambda: "Paused at step" in lab.output(panel).inner_text(), 60, "the pause")
    lab.click("Stop", panel)
    lab.wait_for(lambda: number(lab, THREADS) == 0, 60, "the thread to end")
    # The page may still be handling an update of the first figure when that is closed, and says so on its console.
    assert not [error for error in lab.console_errors if "Error setting state" not in error]
    assert not lab.cell_errors()


def test_interrupting_the_straight_run_saves_it(lab):
    lab.open("03_train_and_compare.ipynb")
    setup, panel, wait = (lab.find_cell(t) for t in ("predictions = Predictions()", "training_panel(", "state.wait()"))
    lab.run_cells([setup, panel])
    lab.kernel_eval("state.steps = 20000")
    lab.start_cell(wait)
    lab.wait_plot(panel, lambda p: p["traces"][0]["x"], timeout=120)
    lab.interrupt_kernel()
    lab.wait_idle(60)
    told = lab.kernel_eval("print(state.told(), sorted(state.out.glob('*/*/checkpoints/*')) != [])")
    assert "Stopped at step" in told and told.strip().endswith("True")


def test_a_page_that_is_loaded_again_shows_the_curves(lab):
    lab.open("01_flow_matching.ipynb")
    lab.run_cells([lab.find_cell("predictions = Predictions()"), lab.find_cell("training_panel("),
                   lab.find_cell("state.wait()")])  # fmt: skip
    lab.command("docmanager:save")
    lab.wait_idle()
    lab.reload()
    panel = lab.find_cell("training_panel(")
    plot = lab.wait_plot(panel, lambda p: p["traces"][0]["x"])
    assert plot["traces"][0]["x"][-1] == 30


def test_the_panels_of_the_losses_follow_their_sliders(lab):
    for notebook, panel, slider, traces in (
        ("02_dispersive_loss.ipynb", "variants_panel()", "stretch", (0, 4, 9)),
        ("05_contrastive_vs_dispersive.ipynb", "views_panel()", "time t of the first view", (0, 3, 4)),
        ("05_contrastive_vs_dispersive.ipynb", "partners_panel()", "λ", (0, 2, 4)),
    ):
        lab.open(notebook)
        setup, cell = lab.find_cell("predictions = Predictions()"), lab.find_cell(panel)
        lab.run_cells([setup, cell])
        before = lab.wait_plot(cell)["traces"]
        words = lab.text(".labkit-said", cell)
        lab.drag_slider(slider, 0.9, within=cell)
        lab.wait_plot(cell, lambda p, old=before, t=traces: all(p["traces"][i] != old[i] for i in t))
        assert lab.text(".labkit-said", cell) != words
        assert not lab.cell_errors() and not lab.console_errors
