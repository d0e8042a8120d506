"""Training on two ranks: the same as in one process, and either goes on where the other stopped.

The ranks are forked, as torchrun would start them; torchrun itself is in the slow tests and in training/test_job.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import output_on_ranks

from labkit import Run
from labkit.cli import main

TINY = ["digits", "--model", "SiT-Nano/4", "--batch-size", "16", "--log-every", "1", "--save-every", "5"]
TINY += ["--dispersive.lam", "0.5", "--optimizer.lr", "0.001"]
CHUNKS = ["--dispersive.chunk", "4", "--engine.accumulate", "2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "labkit"]


def alone(*words: str) -> None:
    assert main(["train", *words]) == 0


def on_two_ranks(folder: Path, *words: str) -> str:
    return "".join(output_on_ranks(2, functools.partial(main, ["train", *words]), folder))


def log(folder: Path):
    return Run.open(folder).metrics().set_index(["step", "name"]).value


def assert_same(ours: Path, theirs: Path):
    """The whole log: losses, geometry of the batch, angles of averaged gradients; then the weights.

    The weights to within rounding, which Adam's first steps enlarge; the log compares the gradients more closely.
    """
    a, b = log(ours), log(theirs)
    assert a.index.equals(b.index)
    assert ((a - b).abs() <= 1e-4 * (1 + b.abs())).all()
    a, b = (Run.open(folder).model("model").state_dict() for folder in (ours, theirs))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0.02, atol=2e-3, msg=name)


def test_two_ranks_learn_what_one_process_learns(tmp_path):
    """Undivided, from the first step to the last; the first rank speaks for all."""
    alone(*TINY, "--steps", "8", "--out", str(tmp_path / "one"))
    words = [*TINY, "--steps", "8", "--dispersive.negatives", "global", "--out", str(tmp_path / "two")]
    printed = on_two_ranks(tmp_path, *words)
    assert_same(tmp_path / "two", tmp_path / "one")
    assert printed.count("Training SiT-Nano/4") == 1
    assert "Batches of 16 = 2 ranks × 1 × 8 on cpu, float32; 16 samples repel each other" in printed


def test_another_number_of_ranks_goes_on_with_the_same_samples(tmp_path):
    """One process, then two ranks of two micro-batches, then one: in chunks of 4, all see the same losses."""
    out = str(tmp_path / "run")
    alone(*TINY, *CHUNKS, "--steps", "3", "--out", out)
    printed = on_two_ranks(tmp_path, "--resume", out, "--steps", "6")
    assert "Batches of 16 = 2 ranks × 2 × 4 on cpu, float32; 4 samples repel each other" in printed
    alone("--resume", out, "--steps", "9")
    alone(*TINY, "--dispersive.chunk", "4", "--steps", "9", "--out", str(tmp_path / "straight"))
    assert_same(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_machine_that_is_taken_away_saves_first(tmp_path, number):
    """Preemption: the signal reaches torchrun; what was learnt is on the disk, and training goes on."""
    out = tmp_path / "run"
    words = [*TORCHRUN, "train", *TINY, "--steps", "100000", "--save-every", "100000", "--out", str(out)]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as process:
        try:
            until = time.monotonic() + 120
            while not (out / "metrics.csv").exists() or len((out / "metrics.csv").read_text()) < 5000:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until, "no step was logged"
                time.sleep(0.1)
            process.send_signal(number)
            printed, faults = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    [saved] = Run.open(out).checkpoints
    assert saved > 1
    assert f"Stopped at step {saved}, saved" in printed, faults
    assert f"labkit train --resume {out}" in printed
    alone("--resume", str(out), "--steps", str(saved + 2))
    assert log(out).index.get_level_values("step").max() == saved + 2


@pytest.mark.slow
def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path):
    out = tmp_path / "run"
    done = subprocess.run(
        [*TORCHRUN, "train", *TINY, "--batch-size", "15", "--steps", "2", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "batch_size = 15 cannot be used: it must be a multiple of 2 ranks × engine.accumulate 1" in done.stderr
    assert not out.exists()
