"""What a run's folder accepts, keeps and refuses."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import leftovers, outcome, tiny, trained

from labkit import ConfigError, Run, Trainer
from labkit.training import CheckpointError, RunError
from labkit.training.checkpoint import Checkpoint
from labkit.training.folder import RunFolder


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run with checkpoints at steps 3 and 4."""
    return trained(tiny(steps=4, save_every=3), tmp_path / "run")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_lies_where(run):
    assert files(run).keys() == {
        "config.json",
        "machine.json",
        "status.json",
        "metrics.csv",
        ".lock",
        "checkpoints/step-00000003.safetensors",
        "checkpoints/step-00000004.safetensors",
        "samples/step-00000003.png",
        "samples/step-00000004.png",
    }
    assert Run.open(run).config == tiny(steps=4, save_every=3)
    assert json.loads((run / "machine.json").read_text())["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lam": 0.0}, "dispersive.lam: 0.5 → 0.0"),
        ({"lam": None}, "dispersive.lam: 0.5 → None"),
        ({"blocks": (2,)}, "dispersive.blocks: None → (2,)"),
        ({"seed": 7}, "seed: 0 → 7"),
        ({"batch_size": 16, "keep_last": 9, "seed": 9}, "batch_size: 8 → 16; seed: 0 → 9"),
    ],
)
def test_a_run_of_another_config_is_refused_by_field_and_both_values(run, changes, told):
    before = files(run)
    with pytest.raises(RunError, match=re.escape(f"({told})")) as error:
        Trainer(tiny(steps=4, save_every=3, **changes), run)
    assert str(run) in str(error.value)
    assert "steps" not in told
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


def test_more_steps_extend_a_run(run, tmp_path):
    list(Trainer(tiny(steps=7, save_every=3), run))
    assert Run.open(run).config.steps == 7
    assert outcome(run) == outcome(trained(tiny(steps=7, save_every=3), tmp_path / "straight"))


def test_a_finished_run_changes_nothing(run):
    before = files(run)
    assert list(Trainer(tiny(steps=4, save_every=3), run)) == []
    assert files(run) == before


def test_what_is_not_a_run(tmp_path):
    missing, foreign, file = (tmp_path / name for name in ("missing", "foreign", "file"))
    foreign.mkdir()
    for path in (foreign / "notes.txt", file):
        path.write_text("mine")
    for path, told in [(missing, "no run at"), (foreign, "no config.json"), (file, "no run at")]:
        with pytest.raises(RunError, match=told) as error:
            Run.open(path)
        assert str(path) in str(error.value)
    for path in (foreign, file):
        with pytest.raises(RunError, match=re.escape(f"{path} exists and is not the folder of a run")):
            Trainer(tiny(), path)
    assert files(tmp_path) == {"foreign/notes.txt": b"mine", "file": b"mine"}
    assert not missing.exists()


def test_an_empty_folder_or_one_with_hidden_files_can_become_a_run(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()  # JupyterLab leaves these everywhere
    (tmp_path / ".config.json.part").touch()  # killed in the very first write
    assert outcome(trained(tiny(steps=1), tmp_path))[0] == 1
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"steps": 4}', "[]", "\xff"])
def test_a_damaged_config_names_its_file(run, text):
    (run / "config.json").write_text(text)
    for opened in (lambda: Run.open(run), lambda: Trainer(tiny(steps=4, save_every=3), run)):
        with pytest.raises(ConfigError, match=re.escape(str(run / "config.json"))):
            opened()


@pytest.mark.parametrize("changes", [{"blocks": (4,)}, {"model": "SiT-Nano/3"}, {"model": "SiT-Huge/2"}])
def test_a_config_that_cannot_work_leaves_no_folder(tmp_path, changes):
    with pytest.raises(ConfigError):
        Trainer(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


def foreign(file: Path) -> None:
    save_file(load_file(file), file)


@pytest.mark.parametrize("damage", [cut, emptied, flipped, foreign])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, tmp_path, damage):
    config = tiny(steps=6, save_every=3)
    damage(run / "checkpoints" / "step-00000004.safetensors")
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
def test_keep_last(tmp_path, keep):
    folder = RunFolder(tmp_path).begin(tiny(keep_last=keep))
    for step in (2, 9, 10, 11, 99_999_999, 100_000_000):
        saved(folder, step)
    assert list(folder.checkpoints) == [11, 99_999_999, 100_000_000][-keep:]


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


def test_other_files_among_the_checkpoints_are_left_alone(tmp_path):
    folder = RunFolder(tmp_path).begin(tiny(keep_last=1))
    saved(folder, 1)
    copy = tmp_path / "checkpoints" / "step-00000001-copy.safetensors"
    copy.write_bytes(b"mine")
    saved(folder, 2)
    assert list(folder.checkpoints) == [2]
    assert copy.read_bytes() == b"mine"
