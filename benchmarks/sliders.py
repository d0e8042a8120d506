"""From a slider's move to the redrawn figure, in a real browser: ``python benchmarks/sliders.py``.

Moves each slider of notebooks 00 and 02 fifty times in JupyterLab and prints median and worst in milliseconds. The goal
is a median of at most 100 ms.
"""

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests" / "browser"))

from lab import LabPage  # noqa: E402 (the driver lives beside the browser tests)
from server import running_chromium, running_server, why_not  # noqa: E402

PANELS = {
    "00_start_here.ipynb": {"springs_panel()": ["λ", "τ"]},
    "02_dispersive_loss.ipynb": {"force_panel()": ["τ"], "cloud_panel()": ["scale", "τ"]},
}
MOVES = 50


def main() -> int:
    if (reason := why_not()) is not None:
        print(reason)
        return 2
    with (
        tempfile.TemporaryDirectory() as work,
        running_server(Path(work), REPO / "notebooks", "cpu") as server,
        running_chromium() as browser,
    ):
        for notebook, panels in PANELS.items():
            with contextlib.closing(LabPage(browser, server)) as lab:
                lab.open(notebook)
                lab.run_all()
                for source, labels in panels.items():
                    cell = lab.find_cell(source)
                    lab.wait_plot(cell, lambda plot: bool(plot["traces"]))
                    for label in labels:
                        times = lab.slider_to_redraw_ms(label, cell, moves=MOVES)
                        median, worst = statistics.median(times), max(times)
                        print(f"{notebook} {source} {label}: median {median:.0f} ms, worst {worst:.0f} ms", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
