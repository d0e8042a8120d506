"""A run's folder: what it accepts, keeps and refuses; its table of metrics; and a disk that fills up."""

import json
import os
import re
import socket
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import files, leftovers, outcome, tiny, trained

from labkit import ConfigError, Run, Trainer
from labkit.checks import LabError
from labkit.config import Engine
from labkit.disk import part_of
from labkit.losses import Contrastive, Repa
from labkit.training import CheckpointError, RunError
from labkit.training.checkpoint import Checkpoint, replace_file
from labkit.training.folder import RunFolder
from labkit.training.history import History


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run with checkpoints at steps 3 and 4."""
    return trained(tiny(steps=4, save_every=3), tmp_path / "run")


def test_what_lies_where(run):
    records = {"config.json", "data.json", "machine.json", "status.json", "metrics.csv", ".lock"}
    steps = [f"checkpoints/step-0000000{n}.safetensors" for n in (3, 4)]
    assert files(run).keys() == records.union(steps, (f"samples/step-0000000{n}.png" for n in (3, 4)))
    assert Run.open(run).config == tiny(steps=4, save_every=3)
    assert json.loads((run / "machine.json").read_text())["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"blocks": (2,)}, "dispersive.blocks: None → (2,)"),
        ({"batch_size": 16, "keep_last": 9, "seed": 9}, "batch_size: 8 → 16; seed: 0 → 9"),
    ],
)
def test_a_run_of_another_config_is_refused_by_field_and_both_values(run, changes, differences):
    before = files(run)
    with pytest.raises(RunError, match=rf"{re.escape(str(run))} .*{re.escape(f'({differences})')}"):
        Trainer(tiny(steps=4, save_every=3, **changes), run)
    assert files(run) == before


def test_a_checkpoint_of_another_config_is_refused(run, tmp_path):
    other = trained(tiny(steps=5, save_every=3, seed=1), tmp_path / "other") / "checkpoints"
    os.replace(other / "step-00000005.safetensors", run / "checkpoints" / "step-00000005.safetensors")
    with pytest.raises(RunError, match=r"step-00000005.*another config \(seed: 1 → 0\)"):
        Trainer(tiny(steps=5, save_every=3), run)


def test_fewer_steps_than_were_trained_are_refused(run):
    before = files(run)
    with pytest.raises(ConfigError, match=r"steps = 2 .*has been trained for \d already"):
        Trainer(tiny(steps=2, save_every=3), run)
    assert files(run) == before


def test_a_finished_run_changes_nothing(run):
    before = files(run)
    assert list(Trainer(tiny(steps=4, save_every=3), run)) == []
    assert files(run) == before


def test_what_is_not_a_run(tmp_path):
    missing, foreign, file = (tmp_path / name for name in ("missing", "foreign", "file"))
    foreign.mkdir()
    for path in (foreign / "notes.txt", file):
        path.write_text("mine")
    for path in (missing, foreign, file):
        with pytest.raises(RunError, match=re.escape(str(path))):
            Run.open(path)
    for path in (foreign, file):
        with pytest.raises(RunError, match=re.escape(f"{path} exists and is not the folder of a run")):
            Trainer(tiny(), path)
    assert files(tmp_path) == {"foreign/notes.txt": b"mine", "file": b"mine"}
    assert not missing.exists()


def test_an_empty_folder_or_one_with_hidden_files_can_become_a_run(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()  # JupyterLab leaves these everywhere
    (tmp_path / f".config.json.{2**22}@{socket.gethostname()}.part").touch()  # killed in the very first write
    assert outcome(trained(tiny(steps=1), tmp_path))[0] == 1
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"steps": 4}', "[]", "\xff"])
def test_a_damaged_config_names_its_file(run, text):
    (run / "config.json").write_text(text)
    for opened in (lambda: Run.open(run), lambda: Trainer(tiny(steps=4, save_every=3), run)):
        with pytest.raises(ConfigError, match=re.escape(str(run / "config.json"))):
            opened()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "SiT-Huge/2"}, "model = 'SiT-Huge/2'"),
        ({"model": "DiT-Nano/3"}, "patches of 3"),
        ({"blocks": (4,)}, "dispersive.blocks = (4,)"),
        ({"blocks": (0, 17), "lam": None}, "dispersive.blocks = (0, 17)"),
        ({"contrastive": Contrastive(0.5, blocks=(1, 4))}, "contrastive.blocks = (1, 4)"),
        ({"repa": Repa(0.5, block=4), "model": "SiT-Nano/2"}, "repa.block = "),
        ({"repa": Repa(0.5)}, "repa.teacher = 'digits'"),
        ({"engine": Engine(accumulate=3)}, "batch_size = 8 cannot be used: it must be a multiple of 1 ranks × engine"),
        ({"engine": Engine(accumulate=4), "chunk": 4}, "dispersive.chunk = 4"),
        ({"engine": Engine(accumulate=8)}, "batch_size = 8"),
        ({"engine": Engine(accumulate=4), "variant": "covariance"}, "batch_size = 8"),
    ],
)
def test_a_config_that_cannot_work_is_refused_and_leaves_no_folder(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Trainer(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, tmp_path):
    config = tiny(steps=6, save_every=3)
    cut(run / "checkpoints" / "step-00000004.safetensors")
    with pytest.warns(UserWarning, match=r"step-00000004\.safetensors.*Continuing from step 3 instead"):
        trainer = Trainer(config, run)
    assert trainer.step == 3
    list(trainer)
    assert outcome(run) == outcome(trained(config, tmp_path / "straight"))


def test_no_readable_checkpoint_at_all_is_an_error(run):
    for file in Run.open(run).checkpoints.values():
        cut(file)
    before = files(run)
    for opened in (lambda: Trainer(tiny(steps=4, save_every=3), run), lambda: Run.open(run).model()):
        with pytest.raises(CheckpointError, match="step-00000004"):
            opened()
    assert files(run) == before


def saved(folder: RunFolder, step: int) -> None:
    folder.save(Checkpoint(step, 8 * step, folder.config.to_json(), {"model.a": torch.zeros(1)}))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keep_last_and_keep_every(tmp_path, keep):
    folder = RunFolder(tmp_path).begin(tiny(keep_last=keep, keep_every=9))
    copy = tmp_path / "checkpoints" / "step-00000001-copy.safetensors"
    replace_file(copy, b"mine")
    for step in (2, 9, 10, 11, 99_999_998, 100_000_000):
        saved(folder, step)
    assert list(folder.checkpoints) == [9, *[11, 99_999_998, 100_000_000][-keep:]]
    assert copy.read_bytes() == b"mine"


def test_a_damaged_newer_checkpoint_does_not_push_out_a_good_one(tmp_path):
    """Training fell back from step 30 to 20 and stops at 25: that one must stay, not the wreck at 30."""
    folder = RunFolder(tmp_path).begin(tiny(keep_last=1))
    for step in (20, 30):
        saved(folder, step)
    saved(folder, 20)  # keep_last had dropped it
    cut(folder.checkpoints[30])
    saved(folder, 25)
    with pytest.warns(UserWarning, match="step-00000030"):
        assert folder.newest(tiny(keep_last=1)).step == 25


# --- the table of metrics


def assert_tidy(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["step", "samples", "seconds", "name", "value"]
    assert table.step.dtype == table.samples.dtype == "int64"
    assert table.seconds.dtype == table.value.dtype == "float64"
    assert pd.api.types.is_string_dtype(table.name)


def test_the_table_is_tidy_and_exact(tmp_path):
    reports = list(Trainer(tiny(steps=7, log_every=3), tmp_path))
    table = Run.open(tmp_path).metrics()
    assert_tidy(table)
    logged = [r for r in reports if r.step in (3, 6, 7)]
    expected = [(r.step, 8 * r.step, name, value) for r in logged for name, value in r.values().items()]
    rows = table[["step", "samples", "name", "value"]].itertuples(index=False, name=None)
    assert list(rows) == [(*row[:3], pytest.approx(row[3], rel=1e-15)) for row in expected]
    assert (table.seconds > 0).all()
    assert table.seconds.is_monotonic_increasing


def test_the_table_cut_anywhere_gives_the_whole_rows(run):
    table, file = Run.open(run).metrics(), run / "metrics.csv"
    whole = file.read_bytes()
    for length in [*range(0, 90, 9), *range(90, len(whole), 97)]:
        file.write_bytes(whole[:length])
        rows = Run.open(run).metrics()
        assert_tidy(rows)
        pd.testing.assert_frame_equal(rows, table[: max(whole[:length].count(b"\n") - 1, 0)])
    file.unlink()
    assert_tidy(Run.open(run).metrics())


@pytest.mark.parametrize("length", [0, 4, 30, -300, -1])
def test_a_cut_table_is_mended_on_resume(run, tmp_path, length):
    """A killed run's table can end anywhere after the rows of its newest checkpoint."""
    config = tiny(steps=6, save_every=3)
    file = run / "metrics.csv"
    whole = file.read_text()
    later = whole.index("\n4,") + 1
    (run / "checkpoints" / "step-00000004.safetensors").unlink()
    file.write_text(whole[: later + length] if length >= 0 else whole[:length])
    list(Trainer(config, run))
    assert outcome(run) == outcome(trained(config, tmp_path / "straight"))


EDITS = {
    "semicolons": (lambda text: text.replace(",", ";").replace(".", ",").encode(), "line 1 is 'step;samples"),
    "tabs": (lambda text: text.replace(",", "\t").encode(), "line 1 is 'step\\tsamples"),
    "UTF-16": (lambda text: text.encode("utf-16"), "not UTF-8"),
    "a row of notes": (lambda text: text.replace("\n2,", "\nhere it falls\n2,", 1).encode(), "is 'here it falls'"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_table_that_another_program_saved_is_refused_and_stays(run, edit):
    change, words = EDITS[edit]
    table = run / "metrics.csv"
    table.write_bytes(saved := change(table.read_text()))
    for read in (lambda: list(Trainer(tiny(steps=6, save_every=3), run)), lambda: Run.open(run).metrics()):
        with pytest.raises(RunError, match=rf"metrics\.csv is not as labkit .*{re.escape(words)}.*UTF-8.*or move it"):
            read()
    with pytest.raises(RunError, match=r"metrics\.csv is not as labkit wrote it: .*or move it"):
        History(table).refresh()
    assert table.read_bytes() == saved


@pytest.mark.parametrize("form", [lambda t: b"\xef\xbb\xbf" + t, lambda t: t.replace(b"\n", b"\r\n"), lambda t: t[:-1]])
def test_a_table_in_another_form_of_the_same_text_is_read(run, tmp_path, form):
    """With a byte order mark, with the line ends of Windows, or without the last of them."""
    table = run / "metrics.csv"
    table.write_bytes(form(table.read_bytes()))
    list(Trainer(tiny(steps=6, save_every=3), run))
    assert outcome(run) == outcome(trained(tiny(steps=6, save_every=3), tmp_path / "straight"))


def test_seconds_go_on_from_where_they_were(run):
    before = Run.open(run).metrics().seconds.max()
    trainer = Trainer(tiny(steps=6, save_every=3), run)
    began = trainer.seconds
    assert began == pytest.approx(before, abs=1e-3) and before > 0  # the table rounds to milliseconds
    assert all(report.seconds > began for report in trainer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints/step-00000010.safetensors", "samples/step-00000010.png"])
def test_a_disk_that_fills_up(tmp_path, name):
    """One sentence that names the file; what was saved stays, and training goes on from it when there is room."""
    folder = tmp_path / "run"
    file = folder / name
    written = file if name == "metrics.csv" else part_of(file)
    with pytest.raises(LabError, match=f"{re.escape(str(file))}: the disk is full"):
        for report in Trainer(tiny(), folder):
            if report.step == 7:
                written.unlink(missing_ok=True)
                written.symlink_to("/dev/full")
    assert 5 in Run.open(folder).checkpoints
    assert not leftovers(folder)
    if name == "metrics.csv":  # the symbolic link stands for the table, whose rows were lost with it
        assert list(Run.open(folder).checkpoints) == [5, 8]
    else:
        assert outcome(trained(tiny(), folder)) == outcome(trained(tiny(), tmp_path / "straight"))
