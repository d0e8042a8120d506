"""What a run was trained on: other images are refused by name before anything is written, its own are found again."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import files, outcome, tiny, trained

from labkit import ConfigError, Job, Run, Trainer
from labkit.datasets import DataIdentity, identify, prepare
from labkit.experiments import Measures, sweep
from labkit.sampling import Sampler
from labkit.training import RunError, checkpoint
from labkit.widgets.explorer import Explorer


def store(folder: Path, grey: int = 0, classes: int = 2, side: int = 8, **settings) -> Path:
    """A store of 20 grey images in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    x, y = np.full((20, side, side, 1), grey, np.uint8), np.arange(20) % classes
    np.savez(folder.with_suffix(".npz"), x=x, y=y)
    prepared = prepare(folder.with_suffix(".npz"), folder, size=side, channels=1, progress=False, **settings)
    folder.with_suffix(".npz").unlink()
    return prepared


def config(**changes):
    return tiny(**dict(dataset="data", steps=2, save_every=1, keep_last=9) | changes)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The working folder, with a run on a store, both named by relative paths."""
    monkeypatch.chdir(tmp_path)
    store(Path("data"), held_out=4)
    trained(config(), Path("run"))
    return tmp_path


OTHERS = {
    "pixels": dict(grey=255),
    "classes": dict(classes=4),
    "side": dict(side=16),
    "split": dict(held_out=8),
    "flips": dict(flips=False),
}
USES = {
    "resume": lambda: Run.open("run").trainer(steps=4),
    "the same command": lambda: Trainer(config(steps=4), "run"),
    "job": lambda: Job.launch(config(steps=4), "run"),
    "sample": lambda: Run.open("run").sample(2, steps=1),
    "model": lambda: Run.open("run").model(),
    "features": lambda: Run.open("run").features(),
    "fork": lambda: Run.open("run").fork(1, "fork"),
    "explorer": lambda: Explorer({"a": Run.open("run")}, count=4),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_run_refuses_data_that_replaced_its_own(project, other):
    Run.open("run").features()  # cached, which must not hide the change
    mine = identify("data")
    theirs = identify(store(Path("data"), **dict(held_out=4) | OTHERS[other]))
    before = files(Path("run"))
    for use in USES.values():
        with pytest.raises(RunError) as refusal:
            use()
        for words in (mine.describe(), theirs.describe(), str(project / "data"), "was trained on", "put the former"):
            assert words in str(refusal.value)
    assert files(Path("run")) == before and not Path("fork").exists()


def test_a_path_is_that_of_the_folder_where_the_run_was_made(project, monkeypatch, tmp_path):
    Path("elsewhere").mkdir()
    store(Path("elsewhere/data"), grey=255)
    monkeypatch.chdir("elsewhere")
    run = Run.open("../run")
    assert run.config.dataset == str(project / "data")
    assert run.fork(1, "fork", lam=0.0).data == run.data
    list(run.trainer(steps=4))
    monkeypatch.chdir(project)
    assert json.loads(Path("run/config.json").read_text())["dataset"] == "data"
    assert outcome(Path("run")) == outcome(trained(config(steps=4), Path("straight")))


def test_data_that_moved_are_found_by_their_content(project, tmp_path_factory):
    """Named anew, or with the whole project; else an error names the place, and samples need none."""
    shutil.copytree("data", "moved")
    shutil.rmtree("data")
    with pytest.raises(ConfigError, match=f"nothing at {project / 'data'}"):
        Run.open("run").trainer(steps=3)
    assert len(Run.open("run").sample(2, steps=1).x) == 2
    assert Run.open("run").model(step=0).num_classes == 2
    with pytest.raises(RunError, match=r"digits holds .* \(10 classes of 1×8×8\); choose another folder"):
        Trainer(config(dataset="digits", steps=3), "run")
    list(Trainer(config(dataset="moved", steps=3), "run"))
    assert Run.open("run").data.path == str(project / "moved")
    copy = tmp_path_factory.mktemp("copy") / "project"
    os.rename(project, copy)
    os.chdir(copy)
    list(Run.open("run").trainer(steps=4))
    assert Run.open("run").data.path == str(copy / "moved")
    assert identify("moved").digest == Run.open("run").data.digest


def test_a_checkpoint_of_other_data_or_of_another_name_is_refused(project):
    store(Path("other"), grey=9)
    trained(config(dataset="other"), Path("run2"))
    mine, theirs = Run.open("run"), Run.open("run2")
    shutil.copy(theirs.checkpoints[2], mine.checkpoints[2])
    for use in (mine.model, lambda: mine.model(step=2), lambda: mine.trainer(steps=3)):
        with pytest.raises(RunError, match=rf"step-00000002.* {theirs.data.digest[:12]} .* {mine.data.digest[:12]} "):
            use()
    theirs.checkpoints[2].rename(theirs.path / "checkpoints" / "step-00000009.safetensors")
    for use in (theirs.model, lambda: theirs.model(step=9), lambda: theirs.trainer(steps=12)):
        with pytest.raises(RunError, match=r"step-00000009.* at step 2 .* step-00000002\.safetensors"):
            use()


def test_runs_of_earlier_versions_open_and_go_on(project):
    """They know neither data nor place, so these are taken as they come, and are known from then on."""
    straight = outcome(trained(config(steps=4), Path("straight")))
    Path("run/data.json").unlink()
    for file in Run.open("run").checkpoints.values():
        state = checkpoint.read(file)
        checkpoint.write(file, state._replace(data=""))
    run = Run.open("run")
    assert run.data is None and run.config.dataset == "data" and len(run.sample(2, steps=1).x) == 2
    os.rename("data", "kept")
    store(Path("data"), classes=4)
    before = files(Path("run"))
    with pytest.raises(RunError, match=r"digest not known \(2 classes of 1×8×8\), and .* \(4 classes of 1×8×8\)"):
        Trainer(config(steps=4), "run")
    assert files(Path("run")) == before
    shutil.rmtree("data")
    os.rename("kept", "data")
    store(Path("other"), held_out=4)
    with pytest.raises(RunError, match="dataset: 'data' → 'other'"):
        Trainer(config(dataset="other", steps=4), "run")
    trained(config(steps=4), Path("run"))
    assert outcome(Path("run")) == straight
    assert Run.open("run").data == identify("data") and Run.open("run").model(step=1)
    (Path("run") / "data.json").write_text("{")
    with pytest.raises(RunError, match=r"run/data.json .*move it elsewhere"):
        Run.open("run")


def test_an_explorer_compares_runs_on_the_same_images(project):
    shutil.copytree("data", "copy")
    store(Path("other"), grey=9, held_out=4)
    runs = {name: Run.open(trained(config(dataset=name), Path(f"run-{name}"))) for name in ("copy", "other")}
    assert Explorer({"a": Run.open("run"), "b": runs["copy"]}, count=4).steps
    with pytest.raises(ConfigError, match=f"{runs['other'].data.digest[:12]}.*same data set"):
        Explorer({"a": Run.open("run"), "b": runs["other"]}, count=4)


def test_a_sweep_neither_trains_nor_quotes_runs_on_other_images(project):
    judge = Measures(8, (Sampler("euler", 1),))
    store(Path("data"), grey=255, held_out=4)
    Path("sweep").mkdir()
    os.rename("run", "sweep/run")
    result = sweep({"run": config()}, "sweep", judge, 1, progress=False)
    assert re.search(r"sweep/run was trained on .*put the former back", result.failures["run"])
    assert "run" not in set(result.table["run"])


@pytest.mark.parametrize("name", ["digits", "digits-few", "emoji-16"])
def test_an_embedded_set_is_known_by_its_content(name):
    mine = identify(name)
    assert mine == DataIdentity.from_json(mine.to_json()) and mine.path is None and mine.located() == name
    assert len({identify(other).digest for other in ("digits", "digits-few", "digits-unlabelled", "emoji")}) == 4
