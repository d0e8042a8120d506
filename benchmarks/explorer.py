"""How long the explorer makes a reader wait: ``python benchmarks/explorer.py`` (two minutes).

Two runs that ship, 300 held-out images. Seconds from the call to the first picture and until every view is there, with
an empty shelf of features and with a full one; the geometry of one checkpoint; and, where there is a Chromium, from a
slider's move to the redrawn figure in JupyterLab, fifty moves each. The goal is a median of at most 100 ms.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from clock import about, seconds

from labkit.experiments import geometry_table, shipped_run
from labkit.training import Look
from labkit.widgets import explorer_panel

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests" / "browser"))

from lab import LabPage  # noqa: E402 (the driver lives beside the browser tests)
from server import Server, running_chromium, running_server, why_not  # noqa: E402

RUNS = ("baseline", "dispersive")
NOTEBOOK = f"""
from labkit.experiments import shipped_run
from labkit.widgets import explorer_panel

explorer_panel({{name: shipped_run(f"digits/{{name}}") for name in {RUNS}}})
"""
SLIDERS = ("training step", "block", "time t", "image (or point at one)")
MOVES = 50


def opening() -> tuple[float, float]:
    """Seconds to the first picture, and until every view is at hand."""
    began = time.perf_counter()
    panel = explorer_panel({name: shipped_run(f"digits/{name}") for name in RUNS})
    first = time.perf_counter() - began
    while panel.state.progress()[0] < panel.state.progress()[1]:
        time.sleep(0.01)
    every = time.perf_counter() - began
    panel.close()
    return first, every


def moves(server: Server) -> dict[str, list[float]]:
    """Slider → milliseconds from each move to the redrawn figure."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, server.root / "explorer.ipynb")
    with running_chromium() as browser, contextlib.closing(LabPage(browser, server, height=1250)) as lab:
        lab.open("explorer.ipynb")
        lab.run_all()
        lab.wait_plot(0, lambda plot: plot["traces"][0]["x"])
        lab.wait_for(lambda: "all views are ready" in lab.output(0).inner_text(), 300, "all views are ready")
        for slider in SLIDERS:
            lab.press_slider(slider, "Home", within=0)
        lab.wait_still()
        return {slider: back_and_forth(lab, slider) for slider in SLIDERS}


def back_and_forth(lab: LabPage, slider: str) -> list[float]:
    """Three moves to the right, as far as the blocks go, and three back, again and again."""
    times: list[float] = []
    while len(times) < MOVES:
        times += lab.slider_to_redraw_ms(slider, 0, moves=min(6, MOVES - len(times)))
    return times


def main() -> None:
    print(about())
    print(f"load of the machine: {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as work:
        os.environ["LAB_RUNS"] = f"{work}/runs"  # the shelf of a run that ships is there
        print(f"{'seconds, with a shelf of features that is':48}{'empty':>8}{'full':>8}")
        first, every = zip(*(opening() for _ in range(2)), strict=True)

        def geometry() -> None:
            geometry_table({"baseline": shipped_run("digits/baseline")}, look=Look(count=1000, split="train"))

        measured = {
            "from explorer_panel(runs) to the first picture": first,
            "until every view is at hand": every,
            "geometry of one checkpoint, 1,000 images": [seconds(geometry) for _ in range(2)],
        }
        for name, times in measured.items():
            print(f"  {name:46}" + "".join(f"{s:8.2f}" for s in times))
        if (reason := why_not()) is not None:
            print(f"\nNo slider was moved: {reason}")
            return
        with running_server(Path(work), REPO / "notebooks", "cpu") as server:
            times = moves(server)
    print(f"\n{f'ms from a move to the redrawn figure, {MOVES} moves':48}{'median':>8}{'worst':>8}")
    for slider, waits in times.items():
        print(f"  {slider:46}{statistics.median(waits):8.0f}{max(waits):8.0f}")


if __name__ == "__main__":
    main()
