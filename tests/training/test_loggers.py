"""Loggers get the numbers of metrics.csv, under its names and steps; a run that goes on continues its curves."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from labkit import ConfigError, Run, Trainer, recipes
from labkit.cli import main

TINY = dict(model="SiT-Nano/4", batch_size=4, log_every=2, save_every=3, lam=0.5)


def train(folder, logger, stop=None, **changes):
    """Train to the end, or leave the loop, as a kill would, without a save at ``stop``."""
    trainer = Trainer(recipes.digits(**TINY | changes), folder, (logger,))
    for report in trainer:
        if report.step == stop:
            trainer.save = lambda: None
            break


def table(folder):
    rows = Run.open(folder).metrics()
    return {(row.name, row.step): row.value for row in rows.itertuples(index=False)}


def test_tensorboard_holds_the_table_also_after_a_kill(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", "tensorboard", stop=5, steps=6)  # saved at 3, logged at 4
    train(tmp_path / "run", "tensorboard", steps=6)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    logged = [(name, e.step, e.value) for name in events.Tags()["scalars"] for e in events.Scalars(name)]
    expected = table(tmp_path / "run")
    assert len(logged) == len(expected) and {step for _, step in expected} == {2, 4, 6}
    for name, step, value in logged:
        assert value == pytest.approx(expected[name, step], rel=1e-6)


@pytest.fixture
def wandb(monkeypatch):
    """A module in wandb's place, which keeps what it is given."""
    module = ModuleType("wandb")
    module.Error, module.runs = RuntimeError, []

    def init(**settings):
        run = SimpleNamespace(id=settings["id"] or "abc123", settings=settings, logged=[], status=None)
        run.log, run.define_metric = run.logged.append, lambda *_, **names: module.runs.append((run, names))
        run.finish = lambda exit_code: setattr(run, "status", exit_code)
        return run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_the_table_and_one_run_however_often_it_goes_on(wandb, tmp_path):
    for stop, steps in ((3, 6), (None, 6), (None, 8)):
        train(tmp_path / "run", "wandb", stop=stop, steps=steps)
    runs = [run for run, _ in wandb.runs]
    assert [run.settings["id"] for run in runs] == [None, "abc123", "abc123"]
    assert all(run.settings["resume"] == "allow" and run.settings["project"] == "labkit" for run in runs)
    assert [run.status for run in runs] == [0, 0, 0]
    assert runs[0].settings["config"]["dispersive"]["lam"] == 0.5
    assert {names["step_metric"] for _, names in wandb.runs} == {"step"}
    logged = {(name, row["step"]): v for run in runs for row in run.logged for name, v in row.items() if name != "step"}
    assert logged == pytest.approx(table(tmp_path / "run"))


def test_a_logger_that_cannot_start_is_named_with_a_way_to_go_on(wandb, tmp_path):
    def init(**_):
        raise wandb.Error("no API key configured")

    wandb.init = init
    with pytest.raises(ConfigError, match=r"^logger = 'wandb' .*no API key.*WANDB_MODE=offline"):
        train(tmp_path / "run", "wandb", steps=2)
    assert Run.open(tmp_path / "run").status.state == "failed"
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0  # without it, the run is as any other


@pytest.mark.slow
def test_wandb_itself_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tmp_path / "run", "wandb", steps=4)
    [offline] = (tmp_path / "run" / "wandb").glob("offline-run-*")
    [kept] = offline.glob("run-*.wandb")
    content = kept.read_bytes()
    for name in ("velocity", "block1.feature_norm"):
        assert name.encode() in content, name
    assert (tmp_path / "run" / "wandb-id.txt").read_text() in kept.name
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 4
    assert table(tmp_path / "run")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_without_its_package_a_logger_is_refused_before_anything_is_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    out = str(tmp_path / "run")
    assert main(["train", "digits", "--model", "SiT-Nano/4", "--logger", name, "--out", out]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"logger = '{name}' needs the package {name}" in line and 'pip install "labkit[loggers]"' in line
    assert not (tmp_path / "run").exists()


def test_a_logger_needs_a_name_and_a_folder(tmp_path, unchecked):
    with pytest.raises(ConfigError, match=r"logger = 'mlflow' .*tensorboard, wandb"):
        Trainer(recipes.digits(**TINY), tmp_path, ("mlflow",))
    with pytest.raises(ConfigError, match=r"logger = .*folder"):
        Trainer(recipes.digits(**TINY), None, ("wandb",))
