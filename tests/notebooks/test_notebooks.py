"""Every notebook runs from top to bottom in the smoke tier, its answers open, and it is committed clean."""

import importlib
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import ForkedPopen, elsewhere
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from texts import FOLDER, NOTEBOOKS, cells, read

from labkit.training import detached
from labkit.widgets import NotMeasured


def names(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_it_is_committed_clean(path):
    import nbformat  # its validator takes seconds to import

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 300_000
    assert notebook.metadata.kernelspec.name == "python3", "any other name opens a dialog"
    assert "widgets" not in notebook.metadata, "widget state is 5 MB a figure"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "clear the outputs before a commit"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_code_that_holds_an_answer_is_hidden_in_jupyter_and_on_colab(path):
    hidden = [cell for cell in read(path) if cell["metadata"].get("jupyter", {}).get("source_hidden")]
    asking = [cell for cell in read(path) if "predictions.ask(\n" in "".join(cell["source"])]
    assert all(cell in hidden for cell in asking)
    for cell in hidden:
        assert cell["metadata"]["cellView"] == "form" and cell["source"][0].startswith("# @title ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_it_tells_the_reader_what_to_expect(path):
    text = "\n".join(cells(path, "markdown"))
    for part in (
        "**Goal:**",
        "inute",
        "**What you should see:**",
        "**Explain.**",
        "**Check.**",
        "**If it looks different.**",
    ):
        assert part in text, f"{path.name} lacks {part}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_it_runs_from_top_to_bottom(path, tmp_path):
    """In a process that has imported the lab already; with kernels of their own, they run in the browser's tests."""
    assert elsewhere(run, path, tmp_path, folder=tmp_path) == ""


def run(path: Path, place: Path) -> str:
    """Run a notebook's cells as a kernel does; returns what it warned of."""
    os.environ |= {"LAB_TIER": "smoke", "LAB_RUNS": str(place / "runs"), "IPYTHONDIR": str(place / "ipython")}
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that it starts
    os.chdir(FOLDER)
    importlib.import_module("smoke")
    detached.subprocess = SimpleNamespace(Popen=ForkedPopen, DEVNULL=None, STDOUT=None)
    shell = InteractiveShell.instance()
    warned = []
    for source in cells(path, "code"):
        with capture_output() as captured:
            result = shell.run_cell(source, store_history=True)
        result.raise_error()
        warned += [captured.stderr] if "Warning" in captured.stderr else []
    for question in shell.user_ns["predictions"].questions.values():
        with suppress(NotMeasured):  # by the short training of this tier
            assert question.answer.option in question.options, question.text
    return "\n".join(warned)


def test_a_cell_that_is_run_before_those_above_it_says_which_to_run(tmp_path):
    first, library, own, local = elsewhere(run_too_early, tmp_path, folder=tmp_path)
    assert first.startswith("trainer is not defined yet: ") and "Run All Above Selected Cell" in " ".join(first.split())
    assert "NameError: name 'trainer' is not defined" in first and "Traceback" in first
    for error in (library, local):
        assert "not defined yet" not in error and "Error" in error, "it is no cell's"
    assert own.startswith("trainer is not defined yet: "), "a function of a cell"


def run_too_early(place: Path) -> list[str]:
    """Outputs of cells that fail, after the first one of a notebook."""
    os.environ["IPYTHONDIR"] = str(place / "ipython")
    shell = InteractiveShell.instance(colors="nocolor")
    (place / "faulty.py").write_text("def f():\n    return lacking\n")
    shell.run_cell("from labkit.widgets import Predictions\nPredictions('00')")
    late = "def later():\n    return trainer\nlater()"
    local = "def unset():\n    x\n    x = 1\nunset()"
    outputs = []
    for source in (
        "trainer.step",
        f"import sys; sys.path.append({str(place)!r}); import faulty; faulty.f()",
        late,
        local,
    ):
        with capture_output() as captured:
            shell.run_cell(source)
        outputs.append(captured.stdout)
    return outputs


def test_the_map_in_notebook_00_and_in_the_readme_name_every_notebook():
    start, readme = (FOLDER / "00_start_here.ipynb").read_text(), (FOLDER.parent / "README.md").read_text()
    for path in NOTEBOOKS[1:]:
        assert path.name in start and path.name in readme
