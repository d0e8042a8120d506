"""The benchmarks run; what they say about time is not tested, and how they count operations in test_flops."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import results

FOLDER = Path(__file__).parent.parent / "benchmarks"
LAB = ("jupyterlab", "ipykernel", "ipywidgets", "anywidget", "plotly", "matplotlib", "umap", "nbconvert", "IPython")
WITHOUT_THE_LAB = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({LAB}, None))
sys.argv[0] = {str(FOLDER / "gpu.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script: str, *words: str) -> str:
    done = subprocess.run([sys.executable, FOLDER / script, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_step_at_full_size(tmp_path):
    output = run("step.py", "--smoke", "--out", str(tmp_path / "step.json"))
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert {"float32 loop", "fused", "recipe", "dispersive, whole", "contrastive"} <= {row["row"] for row in rows}
    assert all(row["images/s"] > 0 and row["share of the matmul"] > 0 for row in rows)
    assert " FLOPs an image and step" in output


def test_readme_says_of_gpus_what_was_measured():
    text = results.README.read_text(encoding="utf-8")
    assert results.with_table(text) == text, "run python benchmarks/results.py"


@pytest.mark.slow
def test_all_that_a_gpu_can_tell_is_rehearsed_without_the_packages_of_the_lab(tmp_path, monkeypatch):
    out = tmp_path / "card"
    words = [sys.executable, "-c", WITHOUT_THE_LAB, "--rehearse", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = results.records(out)
    assert not any("failed" in record for record in records.values()), done.stdout
    figures = {name: record["figures"] for name, record in records.items()}
    assert figures.keys() == {"ceilings", "correctness", "steps", "models", "pair-seed0"}
    assert figures["correctness"]["failed"] == [] and figures["correctness"]["passed"] > 5
    assert len(figures["steps"]) == 6 and all(row["images/s"] > 0 for row in figures["steps"])
    assert [row["models"] for row in figures["models"]] == [1, 2]
    pair = figures["pair-seed0"]
    assert {(row["condition"], row["step"]) for row in pair["rows"]} == {
        (name, step) for name in ("baseline", "dispersive") for step in (2, 4)
    }
    assert {row["condition"] for row in pair["blocks"]} == {"baseline", "dispersive"}
    assert all((out / run["weights"]).stat().st_size > 0 for run in pair["runs"].values())
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert "| SiT-Nano/8 | recipe |" in results.table()


@pytest.mark.slow
def test_a_step_on_digits():
    output = run("digits_step.py", "--turns", "1", "--steps", "1", "--heun", "2")
    assert "a MeanFlow step takes" in output
    assert "64 digits with 2 Heun steps" in output


@pytest.mark.slow
def test_work_that_is_killed_comes_to_the_same_bits(tmp_path):
    run("kills.py", "--kills", "1", "--out", str(tmp_path / "tally.json"))
    kinds = json.loads((tmp_path / "tally.json").read_text())["kinds"]
    assert kinds.keys() == {"training", "saving", "preparing", "evaluating", "sweeping"}
    assert all(kind["kills"] == 1 and not kind["different"] and kind["parts"] > 5 for kind in kinds.values())
