"""The command line as a person types it."""

import html
import signal
import subprocess
import sys
import time

import pytest

from labkit import Run
from labkit.cli import main

SMALL = ["--batch-size", "8", "--steps", "4", "--log-every", "2"]


def test_train_sample_and_train_on(tmp_path, capsys):
    out = tmp_path / "x"
    asked = ["--dispersive.lam", "0.5", "--dispersive.tau", "0.25", "--dispersive.blocks", "0", "3"]
    assert main(["train", "digits", *SMALL, *asked, "--out", str(out)]) == 0
    run = Run.open(out)
    assert (run.config.dispersive.lam, run.config.dispersive.tau, run.config.dispersive.blocks) == (0.5, 0.25, (0, 3))
    assert list(run.checkpoints) == [4] and (out / "samples" / "step-00000004.png").exists()
    assert main(["sample", str(out), "--n", "12", "--steps", "2", "--guidance", "1.5"]) == 0
    assert "guidance 1.5" in capsys.readouterr().out and len(list((out / "samples").iterdir())) == 2
    assert main(["train", "--resume", str(out)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["train", "--resume", str(out), "--steps", "6"]) == 0
    assert max(run.checkpoints) == 6


def test_compare_writes_one_page_that_needs_nothing_else(tmp_path, capsys):
    assert main(["compare", "digits", *SMALL, "--out", str(tmp_path / "c")]) == 0
    told = capsys.readouterr().out
    assert "frechet" in told and "real against real" in told
    page = (tmp_path / "c" / "compare.html").read_text()
    assert "plotly" in page and 'src="http' not in page and "@import" not in page
    for part in (
        "Same noise, same labels",
        "What training did",
        "Do the other blocks follow",
        "slow training down",
        '"lam": 0.5',
    ):
        assert part in html.unescape(page)
    assert Run.open(tmp_path / "c" / "baseline").config.dispersive.lam is None


@pytest.mark.parametrize(
    "words, told",
    [
        (["nonsense"], "'nonsense' is not a command"),
        (["train"], "no recipe is named"),
        (["train", "cats"], "'cats' is not a recipe"),
        (["train", "--resume", "nowhere"], "There is no run at nowhere"),
        (["sample", "nowhere"], "There is no run at nowhere"),
        (["train", "digits", "--model", "SiT-Q/2", "--out", "o"], "model = 'SiT-Q/2'"),
        (["train", "digits", "--model", "SiT-Nano/3", "--out", "o"], "patches of 3"),
        (["train", "digits", "--dispersive.lam", "1", "--dispersive.blocks", "9", "--out", "o"], "numbered 0 to 3"),
        (["compare", "digits", "--dispersive.lam", "None"], "dispersive.lam = None"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    streams = capsys.readouterr()
    assert told in streams.err and "Traceback" not in streams.err
    assert not list(tmp_path.iterdir()), "a refused request must leave nothing behind"


def test_a_bad_value_names_the_field(capsys):
    with pytest.raises(SystemExit):
        main(["train", "digits", "--dispersive.lam", "-1", "--out", "o"])
    streams = capsys.readouterr()
    assert "dispersive.lam = -1.0" in (streams.out + streams.err).replace("\n", " ")


def test_doctor_tells_all_is_well(capsys):
    assert main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(f"labkit {command}" in told for command in ("doctor", "train", "sample", "compare"))


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent differently there")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "x"
    command = [
        sys.executable,
        "-m",
        "labkit",
        "train",
        "digits",
        "--batch-size",
        "8",
        "--log-every",
        "1",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and lines(out / "metrics.csv") < 2:
        time.sleep(0.02)  # polling, until it has trained a step
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert f"labkit train --resume {out}" in told
    (saved,) = Run.open(out).checkpoints
    assert f"step {saved}" in told
