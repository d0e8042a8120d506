"""The benchmarks run, and count operations right; what they say about time is not tested."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit.models import build_model

FOLDER = Path(__file__).parent.parent / "benchmarks"


def run(script: str, *words: str) -> str:
    done = subprocess.run([sys.executable, FOLDER / script, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_step_at_full_size(tmp_path):
    told = run("step.py", "--smoke", "--out", str(tmp_path / "step.json"))
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert {"plain float32", "fused", "resident", "dispersive", "contrastive"} <= {row["row"] for row in rows}
    assert all(row["images/s"] > 0 and row["utilisation"] > 0 for row in rows)
    with torch.device("meta"):
        network = build_model("SiT-Nano/8", learn_sigma=False)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 4, 32, 32), torch.empty(1), torch.zeros(1, dtype=torch.long))
    [counted] = re.findall(r"([\d,]+) FLOPs an image and step", told)
    assert int(counted.replace(",", "")) == 3 * counter.get_total_flops()


@pytest.mark.slow
def test_a_step_on_digits():
    told = run("digits_step.py", "--turns", "1", "--steps", "1", "--heun", "2")
    assert "a MeanFlow step takes" in told
    assert "64 digits with 2 Heun steps" in told
