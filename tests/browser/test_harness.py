"""The harness itself: what the browser tests of the notebooks rely on, shown on a notebook made here."""

from __future__ import annotations

import nbformat
import pytest

PANEL = """
import threading
import ipywidgets as widgets, numpy as np, plotly.graph_objects as go

x = np.linspace(0, 1, 5)
figure = go.FigureWidget(go.Scatter(x=x, y=x, name="curve"), go.Layout(title="power 1.0", height=320))
heat = go.FigureWidget(go.Heatmap(z=np.arange(6, dtype="float32").reshape(2, 3)), go.Layout(height=260))
power = widgets.FloatSlider(value=1, min=0, max=4, step=0.1, description="power")
said, count = widgets.Label("not clicked"), widgets.Button(description="Count", icon="plus")
said.add_class("said")
clicks, stop = [], threading.Event()

def redraw(change):
    with figure.batch_update():
        figure.data[0].y = x**power.value
        figure.layout.title.text = f"power {power.value:.1f}"

def clicked(button):
    clicks.append(button)
    said.value = f"clicked {len(clicks)}"

power.observe(redraw, "value")
count.on_click(clicked)
widgets.VBox([widgets.HBox([power, count, said]), figure, heat])
"""
LIVE = """
def train():
    step = 0
    while not stop.wait(0.1):
        step += 1
        with figure.batch_update():
            figure.layout.title.text = f"step {step}"

thread = threading.Thread(target=train)
thread.start()
"""
BUSY = "import time\nprint('busy')\nwhile True: time.sleep(0.01)"
PANEL_CELL, FAILING, LIVE_CELL, BUSY_CELL = 1, 2, 3, 4


@pytest.fixture(scope="module")
def notebook(lab_server) -> str:
    """A panel, a cell that fails, a background thread, an endless cell: written where JupyterLab serves."""
    code = nbformat.v4.new_code_cell
    cells = [nbformat.v4.new_markdown_cell("# A harness"), code(PANEL), code("print('said', 6 * 7)\n1 / 0")]
    cells += [code(LIVE), code(BUSY)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(made, lab_server.root / "harness.ipynb")
    return "harness.ipynb"


def test_a_reader_opens_runs_and_drags(lab, notebook, tmp_path):
    from shoot import walk_through

    lab.open(notebook)
    assert lab.find_cell("6 * 7") == FAILING
    lab.run_cells([PANEL_CELL, FAILING])
    assert "said 42" in lab.cell_output_text(FAILING)
    (error,) = lab.cell_errors()
    assert error.startswith("cell 2:") and "ZeroDivisionError" in error

    drawn = lab.wait_plot(PANEL_CELL, lambda plot: plot["width"] > 300)
    curve = drawn["traces"][0]
    assert drawn["title"] == "power 1.0" and drawn["axes"]["xaxis"]["title"] is None
    assert curve["name"] == "curve" and curve["type"] == "scatter"
    assert curve["x"] == curve["y"] == [0, 0.25, 0.5, 0.75, 1]
    assert lab.wait_plot(PANEL_CELL, nth=1)["traces"][0]["z"] == [[0, 1, 2], [3, 4, 5]]

    assert lab.drag_slider("power", 0.5, within=PANEL_CELL) == "2.00"
    dragged = lab.wait_plot(PANEL_CELL, lambda plot: plot["title"] == "power 2.0")
    assert dragged["traces"][0]["y"] == [0, 0.0625, 0.25, 0.5625, 1]
    assert lab.press_slider("power", "ArrowRight", 3, within=PANEL_CELL) == "2.30"
    lab.wait_plot(PANEL_CELL, lambda plot: plot["title"] == "power 2.3")
    times = lab.slider_to_redraw_ms("power", PANEL_CELL, moves=4)
    assert len(times) == 4 and all(0 < ms < 10_000 for ms in times)

    lab.click("Count", within=PANEL_CELL)
    lab.wait_for(lambda: lab.text(".said", PANEL_CELL) == "clicked 1")
    assert lab.kernel_eval("print(len(clicks))") == "1"
    with pytest.raises(RuntimeError, match="NameError"):
        lab.kernel_eval("no_such_name")
    assert [kind for kind, _ in lab.cells()] == ["markdown", "code", "code", "code", "code"]  # none was added
    views = list(walk_through(lab))
    assert views[0] == 0 and views == sorted(views)
    assert lab.screenshot(tmp_path / "seen.png").stat().st_size > 10_000
    assert lab.console_errors == []


def test_a_thread_is_seen_live_an_endless_cell_interrupted_and_the_kernel_restarted(lab, notebook):
    lab.open(notebook)
    lab.run_cells([PANEL_CELL, LIVE_CELL])
    lab.wait_plot(PANEL_CELL, lambda plot: plot["title"].startswith("step"))
    lab.start_cell(BUSY_CELL)
    lab.wait_for(lambda: "busy" in lab.cell_output_text(BUSY_CELL))
    seen = lab.plots(PANEL_CELL)[0]["title"]
    lab.wait_plot(PANEL_CELL, lambda plot: plot["title"] != seen)  # figures move on while a cell runs
    lab.interrupt_kernel()
    lab.wait_idle()
    assert "KeyboardInterrupt" in lab.cell_errors()[0]
    assert lab.kernel_eval("stop.set(); thread.join(5); print(thread.is_alive())") == "False"

    lab.restart_and_run_all()  # stops at the failing cell, as JupyterLab does
    lab.wait_plot(PANEL_CELL, lambda plot: plot["title"] == "power 1.0")
    assert lab.kernel_eval("print(len(clicks), 'thread' in globals())") == "0 False"
