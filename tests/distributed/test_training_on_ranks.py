"""Training on two ranks, as torchrun starts them: what one process learns, and either goes on where the other was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from labkit import Run

TINY = [
    "digits", "--model", "SiT-Nano/4", "--batch-size", "16", "--log-every", "1", "--save-every", "5",
    "--dispersive.lam", "0.5", "--optimizer.lr", "0.001",
]  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
ALONE = [sys.executable]


def command(start: list[str], *words: str) -> list[str]:
    return [*start, "-m", "labkit", "train", *words]


def run(start: list[str], *words: str) -> str:
    told = subprocess.run(
        command(start, *words), capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def log(folder: Path):
    return Run.open(folder).metrics().set_index(["step", "name"]).value


def assert_same_log(ours, theirs):
    assert ours.index.equals(theirs.index)
    assert ((ours - theirs).abs() <= 1e-4 * (1 + theirs.abs())).all()


def assert_same_weights(ours: Path, theirs: Path):
    """To within rounding, which Adam's first steps enlarge: gradients are compared through the whole log."""
    a, b = Run.open(ours).model("model").state_dict(), Run.open(theirs).model("model").state_dict()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0.02, atol=2e-3, msg=name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Straight runs of 12 steps, alone and on two ranks: in chunks of 4 (two micro-batches a rank), and undivided."""
    root = tmp_path_factory.mktemp("ranks")
    told = {}
    run(ALONE, *TINY, "--steps", "12", "--dispersive.chunk", "4", "--out", str(root / "chunks"))
    run(ALONE, *TINY, "--steps", "12", "--out", str(root / "all"))
    told["chunks"] = run(
        TORCHRUN, *TINY, "--steps", "12", "--dispersive.chunk", "4", "--engine.accumulate", "2",
        "--out", str(root / "chunks2"),
    )  # fmt: skip
    told["all"] = run(TORCHRUN, *TINY, "--steps", "12", "--dispersive.negatives", "global", "--out", str(root / "all2"))
    return root, told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chunks", "all"])
def test_two_ranks_learn_what_one_process_learns(folders, name):
    """Every logged figure: losses, geometry of the whole batch, angles of gradients that were averaged."""
    root, told = folders
    assert_same_log(log(root / f"{name}2"), log(root / name))
    assert_same_weights(root / f"{name}2", root / name)
    assert told[name].count("Training SiT-Nano/4") == 1  # the first rank speaks for all
    share = "2 ranks × 2 × 4" if name == "chunks" else "2 ranks × 1 × 8"
    repelling = 4 if name == "chunks" else 16
    assert f"Batches of 16 = {share} on cpu, float32; {repelling} samples repel each other" in told[name]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(ALONE, TORCHRUN), (TORCHRUN, ALONE)], ids=["1 → 2", "2 → 1"])
def test_another_number_of_ranks_goes_on_with_the_same_samples(folders, tmp_path, first, then):
    root, _ = folders
    out = str(tmp_path / "run")
    run(first, *TINY, "--steps", "5", "--dispersive.chunk", "4", "--out", out)
    run(then, "--resume", out, "--steps", "12")
    assert_same_log(log(tmp_path / "run"), log(root / "chunks"))


@pytest.mark.slow
@pytest.mark.parametrize("start", [ALONE, TORCHRUN], ids=["one process", "two ranks"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_machine_that_is_taken_away_saves_first(tmp_path, start, number):
    """Preemption: the signal reaches torchrun, or the process; what was learnt is on the disk, and training goes on."""
    out = tmp_path / "run"
    words = command(start, *TINY, "--steps", "100000", "--save-every", "100000", "--out", str(out))
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            until = time.monotonic() + 120
            while not (out / "metrics.csv").exists() or len((out / "metrics.csv").read_text()) < 5000:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until, "no step was logged"
                time.sleep(0.1)
            process.send_signal(number)
            told, faults = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert "Stopped at step" in told, faults
    assert f"labkit train --resume {out}" in told
    [saved] = Run.open(out).checkpoints
    assert saved > 1
    assert f"Stopped at step {saved}, saved" in told
    assert "is finished" not in run(ALONE, "--resume", str(out), "--steps", str(saved + 2))
    assert log(out).index.get_level_values("step").max() == saved + 2


@pytest.mark.slow
def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path):
    done = subprocess.run(
        command(TORCHRUN, *TINY, "--batch-size", "15", "--steps", "2", "--out", str(tmp_path / "run")),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert "batch_size = 15 cannot be used: it must be a multiple of 2 ranks × engine.accumulate 1" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job(tmp_path):
    """And does not leave the other one waiting for it; what was saved before can be resumed."""
    out = tmp_path / "run"
    words = command(TORCHRUN, *TINY, "--steps", "100000", "--save-every", "5", "--out", str(out))
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            until = time.monotonic() + 120
            while not list(out.glob("checkpoints/step-*")):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until, "nothing was saved"
                time.sleep(0.1)
            last = psutil.Process(process.pid).children()[-1]
            last.kill()
            _, faults = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "SIGKILL" in faults
    assert str(last.pid) in faults
    steps = max(Run.open(out).checkpoints)
    run(ALONE, "--resume", str(out), "--steps", str(steps + 1))
