"""Output to any encoding, to a reader who has gone, and to none; signals at any moment."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import labkit
from labkit import Run
from labkit.cli import main
from labkit.signals import ENDING, saving_on_signals
from labkit.terminal import Output
from labkit.training import Trainer

SOURCES = [*Path(labkit.__file__).parent.rglob("*.py")]
SMALL = ["digits", "--model", "SiT-Nano/4", "--batch-size", "8", "--log-every", "1"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16", "cp437"])
def test_every_sign_of_the_lab_can_be_printed_in_any_encoding(encoding):
    text = "".join(sorted({letter for source in SOURCES for letter in source.read_text("utf-8")})) + "日\udcff"
    file = io.BytesIO()
    output = Output(io.TextIOWrapper(file, encoding=encoding, newline=""))
    print(text, "λ = 0.5 → −log 8, Fréchet", file=output, flush=True)
    printed = file.getvalue().decode(encoding)
    if encoding == "ascii":
        assert printed.endswith("lambda = 0.5 -> -log 8, Frechet\n") and "\\u65e5" in printed
    else:
        assert encoding[:3] != "utf" or "λ = 0.5 → −log 8, Fréchet\n" in printed


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", buffering=1)


def full_disk():
    return open("/dev/full", "w", buffering=1)


def closed():
    return None


@pytest.mark.parametrize("stream", [closed_pipe, full_disk, closed])
def test_training_goes_on_when_nobody_reads(stream, tmp_path, monkeypatch):
    """As under ``| head -1``, with a log on a full disk, or with standard output and errors closed."""
    out, err = stream(), stream()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        assert main(["train", *SMALL, "--steps", "2", "--out", str(tmp_path / "r")]) == 0
        assert main(["sample", str(tmp_path / "r"), "--n", "2", "--steps", "1"]) == 0
    for file in filter(None, (out, err)):
        file.close()  # as Python does at its end
    assert list(Run.open(tmp_path / "r").checkpoints) == [2]


@pytest.mark.parametrize("number", ENDING)
def test_signals_stop_once_unless_nohup_ignores_them(number):
    calls = []
    before = signal.getsignal(number)
    with saving_on_signals(lambda: calls.append(number)):
        os.kill(os.getpid(), number)
    assert calls == [number] and signal.getsignal(number) == before
    try:
        signal.signal(number, signal.SIG_IGN)
        with saving_on_signals(lambda: calls.append(number)):
            os.kill(os.getpid(), number)
            assert len(calls) == 1 + (number == signal.SIGINT)  # ignored in the background of a shell, but meant
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_every_signal_saves(command, number, tmp_path, capsys, monkeypatch):
    advance = Trainer._advance

    def signalled(self):
        report = advance(self)
        if report.step == 2:
            os.kill(os.getpid(), number)
        return report

    monkeypatch.setattr(Trainer, "_advance", signalled)
    assert main([command, *SMALL, "--steps", "50", "--out", str(tmp_path / "r")]) == 130
    assert "Go on with" in capsys.readouterr().out
    runs = [tmp_path / "r"] if command == "train" else [*(tmp_path / "r").iterdir()]
    assert all(max(Run.open(run).checkpoints) in (1, 2) for run in runs)


@pytest.mark.parametrize("number", ENDING)
def test_any_command_ends_with_a_sentence_at_a_signal_amid_an_import(number, monkeypatch, capsys):
    def importing():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise RecursionError("out of numpy") from None

    monkeypatch.setattr("labkit.runtime.doctor", importing)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "\nStopped.\n"


def run(code, folder, *, words=()):
    command = [sys.executable, *(["-c", code] if code else ["-m", "labkit", *words])]
    root = str(Path(labkit.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_signal_before_anything_is_imported_ends_the_program_without_a_traceback(tmp_path):
    code = "import os, signal, sys, labkit.__main__ as program; assert not {'torch', 'tyro'} & {*sys.modules};"
    ended = run(f"{code} program.end_at_once(); os.kill(os.getpid(), signal.SIGINT)", tmp_path)
    assert (ended.returncode, ended.stderr) == (130, "\nStopped.\n")


def test_a_folder_of_a_librarys_name_is_not_taken_for_the_library(tmp_path):
    for name in ("tyro", "tqdm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')")
    shown = run("", tmp_path, words=["--version"])
    assert shown.stdout.startswith("labkit ") and not shown.stderr
