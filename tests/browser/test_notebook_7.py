"""The notebooks also open in Notebook 7: cells run, a panel is drawn and follows its sliders."""

import shutil
from contextlib import closing
from pathlib import Path

from lab import LabPage

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/00_start_here.ipynb"


def test_a_notebook_runs_and_its_panel_follows(lab_server, chromium):
    shutil.copy(NOTEBOOK, lab_server.root / "in_notebook_7.ipynb")  # with a kernel of its own
    with closing(LabPage(chromium, lab_server)) as page:
        page.open("in_notebook_7.ipynb", in_notebook_7=True)
        assert page.page.locator("#jp-MainLogo, .jp-NotebookKernelLogo").count(), "this is JupyterLab"
        page.run_all()
        assert page.cell_errors() == []
        cell = page.find_cell("springs_panel(")
        before = page.wait_plot(cell, lambda plot: plot["width"] > 300)["traces"]
        page.drag_slider("λ", 0.8, within=cell)
        page.wait_plot(cell, lambda plot: plot["traces"] != before)
        hidden = page.page.locator(".jp-Cell.jp-CodeCell .jp-Placeholder")
        assert hidden.count(), "the answers of predictions are hidden here, too"
