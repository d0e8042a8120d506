"""Sweeps: every combination once, a process a run, what fails fails alone, what is done is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
from forked import running
from waiting import wait_for

from labkit import Run, Trainer, recipes
from labkit.checks import ConfigError
from labkit.experiments.apart import Job, run_jobs
from labkit.experiments.sweep import Sweep, combinations, grid, sweep
from labkit.runtime import gpus
from labkit.training.folder import RunError, RunFolder

TINY = recipes.digits(model="SiT-Nano/8", steps=4, batch_size=4, save_every=2, log_every=1, keep_last=9)


@dataclass(frozen=True)
class Steps:
    """A judge that says the step, and leaves a mark each time it is asked."""

    factor: float = 1.0

    def __call__(self, run, steps):
        with open(run.path / "judged", "a") as file:
            file.write("x")
        return [dict(step=step, block=1, measure="steps", value=self.factor * step) for step in steps]

    def real(self, dataset):
        return [dict(measure="steps", value=float(len(dataset)))]


@dataclass(frozen=True)
class Killer:
    """Judges like ``Steps``, but takes the process of one seed away, until a file is there."""

    seed: int
    spare: Path

    def __call__(self, run, steps):
        if run.config.seed == self.seed and not self.spare.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return Steps()(run, steps)

    def real(self, dataset):
        return Steps().real(dataset)


def judged(out):
    return {path.parent.name: len(path.read_text()) for path in out.glob("*/judged")}


def test_a_grid_is_every_combination_under_a_name_of_its_own():
    configs = grid(TINY, {"dispersive.lam": [None, 0.5], "seed": range(3), "model": ["SiT-Nano/4", "SiT-Nano/8"]})
    assert len(configs) == 12 and len({config.to_json() for config in configs.values()}) == 12
    config = configs["lam=0.5,seed=2,model=SiT-Nano-4"]
    assert config == TINY.replace(lam=0.5, seed=2, model="SiT-Nano/4")
    both = combinations({"dispersive.lam": [0.1], "contrastive.lam": [0.2, 0.3]})
    assert list(both) == ["dispersive.lam=0.1,contrastive.lam=0.2", "dispersive.lam=0.1,contrastive.lam=0.3"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "name at least one field"),
        ({"seed": []}, r"seed = \[\] cannot be used: give each value once, and at least one"),
        ({"seed": [1, 1]}, "give each value once"),
        ({"dispersive.lambda": [1]}, "axes = 'dispersive.lambda' cannot be used: .* did you mean dispersive.lam or"),
        ({"dispersive": [1]}, "it is no setting"),
        ({"x": [1]}, "did you mean dataset or model or"),
        ({"steps": [0]}, "steps = 0"),
        ({"dispersive.lam": [1, 1.0]}, "1 and 1.0 are the same"),
        ({"dataset": ["a/b", "a-b"]}, "two of its runs would be named dataset=a-b"),
        ({"dispersive.lam": [-1.0]}, "lam = -1.0"),
    ],
)
def test_grids_that_cannot_be(axes, message):
    with pytest.raises(ConfigError, match=message):
        grid(TINY, axes)


def test_one_table_of_all_and_nothing_done_twice(tmp_path):
    """Two judges, hence two sweeps, share a run; and a run is what it would be alone."""
    configs = grid(TINY, {"dispersive.lam": [None, 0.5], "seed": [4]})
    result = sweep(configs, tmp_path, Steps(), progress=False)
    assert not result.failures and len(result.table) == 5
    [row] = result.table.query("run == 'lam=0.5,seed=4' and step == 2").to_dict("records")
    assert (row["seed"], row["dispersive.lam"], row["block"], row["measure"], row["value"]) == (4, 0.5, 1, "steps", 2)
    assert row["condition"] == "lam=0.5" and row["seconds"] > 0 and row["machine"] and row["commit"]
    [real] = result.table[result.table["seed"].isna()].to_dict("records")
    assert (real["run"], real["value"]) == ("real against real", len("digits"))
    loaded = Sweep.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.table, result.table)
    assert loaded.configs == configs and loaded.failures == {}
    pd.testing.assert_frame_equal(sweep(configs, tmp_path, Steps(), progress=False).table, result.table)
    assert judged(tmp_path) == dict.fromkeys(configs, 1)
    trained = {name: (tmp_path / name / "metrics.csv").read_text() for name in configs}
    name = next(iter(configs))
    sheet = max((tmp_path / name / "samples").glob("*.png"))
    drawn = sheet.read_bytes()
    sheet.unlink()  # as by a kill just after the last checkpoint
    other = sweep({name: configs[name]}, tmp_path, Steps(2.0), progress=False)
    assert sheet.read_bytes() == drawn
    assert other.table["value"].tolist()[:2] == [4, 8] and "dispersive.lam" not in other.table
    assert trained == {name: (tmp_path / name / "metrics.csv").read_text() for name in configs}
    for _ in Trainer(configs["lam=0.5,seed=4"], tmp_path / "alone"):
        pass
    names = ["step", "name", "value"]
    one, alone = (Run.open(tmp_path / name).metrics()[names] for name in ("lam=0.5,seed=4", "alone"))
    pd.testing.assert_frame_equal(one, alone)


def test_processes_that_end_while_others_start_end_well(tmp_path):
    """How a process ended can be asked only once, and whoever starts one asks about all."""
    jobs = {str(i): Job(time.sleep, (0.01,), tmp_path / str(i)) for i in range(40)}
    assert run_jobs(jobs, workers=8, progress=False) == {}


class Noted:
    """Stands for a process that ends at once; notes the GPUs that one started now would see."""

    exitcode, devices = 0, []

    def __init__(self, **_):
        self.sentinel, other = os.pipe()
        os.close(other)

    def start(self):
        self.devices.append(os.environ["CUDA_VISIBLE_DEVICES"])

    def join(self):
        os.close(self.sentinel)


@pytest.mark.parametrize(("visible", "used"), [("3,GPU-5e,7", ["3", "3", "GPU-5e"]), (None, ["0", "0", "1"])])
def test_runs_at_a_time_are_on_gpus_in_turn(tmp_path, monkeypatch, visible, used):
    """A new process, for a fork of one that knows all GPUs would keep them; its GPU is the first that it sees."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("labkit.experiments.apart.get_context", lambda way: SimpleNamespace(Process=Noted))
    monkeypatch.setattr(Noted, "devices", [])
    jobs = {name: Job(print, (), tmp_path) for name in "abc"}
    assert run_jobs(jobs, workers=3, progress=False, gpus=gpus()) == {}
    assert sorted(Noted.devices) == used and os.environ.get("CUDA_VISIBLE_DEVICES") == visible


@pytest.mark.slow
def test_what_fails_fails_alone_and_goes_on_later(tmp_path):
    spare = tmp_path / "spare"
    configs = {f"seed{seed}": TINY.replace(seed=seed) for seed in (0, 1)}
    configs["wild"] = TINY.replace(optimizer=replace(TINY.optimizer, lr=1e30))
    configs["deep"] = TINY.replace(lam=0.5, blocks=(9,))
    result = sweep(configs, tmp_path / "out", Killer(1, spare), progress=False)
    assert set(result.table["run"]) == {"seed0", "real against real"}
    assert "killed by signal 9" in result.failures["seed1"] and "the same sweep goes on" in result.failures["seed1"]
    assert "is not finite" in result.failures["wild"] and "optimizer.lr" in result.failures["wild"]
    assert result.failures["deep"].startswith("dispersive.blocks = ")
    assert json.loads((tmp_path / "out" / "failures.json").read_text()) == result.failures
    spare.touch()
    del configs["wild"]
    configs["deep"] = TINY.replace(lam=0.5, blocks=(1,))
    again = sweep(configs, tmp_path / "out", Killer(1, spare), progress=False)
    assert set(again.table["run"]) == {"seed0", "seed1", "deep", "real against real"} and again.failures == {}
    assert not (tmp_path / "out" / "failures.json").exists() and set(judged(tmp_path / "out").values()) == {1}


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], str(Path(sys.argv[2]).parent)]
from test_sweep import LONG, Steps
from labkit.experiments.sweep import sweep
if __name__ == "__main__":
    sweep({"one": LONG}, Path(sys.argv[1]), Steps(), workers=1, progress=False)
"""
LONG = TINY.replace(steps=600, save_every=600)
SHARED = {f"seed{seed}": LONG.replace(steps=60, seed=seed) for seed in range(3)}


def swept_elsewhere(out):
    """The sweep of SHARED in a process of its own, as another machine would do it."""
    return running(sweep, SHARED, out, Steps(), 1, False)


def assert_whole(out):
    """Every run logged each of its steps once and was judged once, and the table has them all."""
    for name in SHARED:
        logged = Run.open(out / name).metrics()
        assert not logged.duplicated(["step", "name"]).any() and logged["step"].nunique() == 60, name
    assert judged(out) == dict.fromkeys(SHARED, 1)
    assert set(Sweep.load(out).table["run"]) == {*SHARED, "real against real"} and Sweep.load(out).failures == {}
    assert not (out / "failures.json").exists() and not list(out.rglob("*.part"))


def test_two_sweeps_share_one_folder(tmp_path):
    """Each takes what the other has not; both end with the whole table."""
    out = tmp_path / "out"
    with swept_elsewhere(out) as other:
        wait_for(lambda: (out / "seed0" / "status.json").exists())
        result = sweep(SHARED, out, Steps(), workers=1, progress=False)
        assert result.failures == {} and set(result.table["run"]) == {*SHARED, "real against real"}
        other.join(60)
        assert other.exitcode == 0
    assert_whole(out)


@pytest.mark.slow
def test_the_runs_of_a_sweep_that_was_killed_are_taken_over(tmp_path):
    """The run that it was training is killed as well: what was not saved of it is trained anew, and logged once."""
    out = tmp_path / "out"
    with swept_elsewhere(out) as other:
        wait_for(lambda: (out / "seed0" / "metrics.csv").exists() and len(Run.open(out / "seed0").metrics()) > 10)
        other.kill()
        os.kill(RunFolder(out / "seed0").status.pid, signal.SIGKILL)
    result = sweep(SHARED, out, Steps(), workers=1, progress=False)
    assert result.failures == {}
    assert_whole(out)


def test_what_fails_elsewhere_is_not_tried_again(tmp_path, monkeypatch):
    """A run that another process trains is waited for; if it fails there, its status says why."""
    folder = RunFolder(tmp_path / "a")
    with folder.writing():
        folder.begin(TINY)
        looks = []

        def look(seconds):
            looks.append(seconds)
            folder.note("failed", 2, "the reason")

        monkeypatch.setattr(sys.modules[sweep.__module__], "time", SimpleNamespace(sleep=look))
        result = sweep({"a": TINY}, tmp_path, Steps(), workers=1, progress=False)
    assert result.failures == {"a": "the reason"} and len(looks) == 1


@pytest.mark.slow
@pytest.mark.parametrize("way", ["Ctrl-C", "kill -9 of the sweep"])
def test_what_is_stopped_is_saved_and_goes_on(tmp_path, way):
    """Ctrl-C of a terminal reaches the run's process as well; after a kill of the sweep it has to notice by itself."""
    out, run = tmp_path / "out", tmp_path / "out" / "one"
    (tmp_path / "main.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "main.py"), str(out), str(Path(__file__).parent)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (run / "config.json").exists() and len(Run.open(run).metrics()) > 0)
    if way == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    wait_for(lambda: Run.open(run).checkpoints)
    [saved] = Run.open(run).checkpoints
    assert 0 < saved < LONG.steps and not list(out.glob("one/judged-*"))
    assert process.returncode == -9 or "KeyboardInterrupt" in errors
    assert not (out / "table.parquet").exists()
    if way == "Ctrl-C":
        assert sweep({"one": LONG}, out, Steps(), progress=False).table["step"].dropna().tolist() == [LONG.steps]
        logged = Run.open(run).metrics()
        assert not logged.duplicated(["step", "name"]).any() and logged["step"].nunique() == LONG.steps


@pytest.mark.slow
def test_a_batched_sweep_that_is_told_to_end_saves_between_two_steps(tmp_path):
    configs, out = {"one": LONG, "two": LONG.replace(seed=1)}, tmp_path / "out"
    changed = SCRIPT.replace('{"one": LONG}', '{"one": LONG, "two": LONG.replace(seed=1)}')
    (tmp_path / "main.py").write_text(changed.replace("progress=False", "progress=False, batched=True"))
    command = [sys.executable, str(tmp_path / "main.py"), str(out), str(Path(__file__).parent)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (out / "two" / "config.json").exists() and len(Run.open(out / "two").metrics()) > 0)
    process.send_signal(signal.SIGTERM)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    [one], [two] = (Run.open(out / name).checkpoints for name in configs)
    assert 0 < one == two < LONG.steps
    trained = [Trainer(config, out / name) for name, config in configs.items()]
    assert [trainer.step for trainer in trained] == [one, one]
    straight = Trainer(LONG.replace(steps=one), tmp_path / "alone")
    list(straight)
    for ours, theirs in zip(trained[0].network.parameters(), straight.network.parameters(), strict=True):
        assert (ours - theirs).norm() <= 0.05 * (1e-3 + theirs.norm()), "weights of a whole step"


def test_the_judge_is_shown_this_configs_checkpoints_alone(tmp_path):
    """Not those of an interruption, nor of a run that went on further; and never those of another config."""
    for name, steps in {"one": 5, "other": 4}.items():
        for _ in Trainer(TINY.replace(steps=steps), tmp_path / name):
            pass
    result = sweep({"one": TINY, "other": TINY.replace(seed=9)}, tmp_path, Steps(), progress=False)
    assert sorted(Run.open(tmp_path / "one").checkpoints) == [2, 4, 5]
    assert result.table["step"].dropna().tolist() == [2, 4]
    assert "holds a run of another config (seed: 0 → 9)" in result.failures["other"]


def test_what_cannot_be_swept_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    for name in ("a/b", "..", ""):
        with pytest.raises(ConfigError, match="must be that of a folder"):
            sweep({name: TINY}, tmp_path, Steps(), progress=False)
    with pytest.raises(ConfigError, match="name at least one"):
        sweep({}, tmp_path, Steps())
    with pytest.raises(ConfigError, match="workers = 0"):
        sweep({"a": TINY}, tmp_path, Steps(), workers=0)
    for judge in (lambda run, steps: [], Steps().real):
        with pytest.raises(ConfigError, match=r"^judge = .*frozen dataclass"):
            sweep({"a": TINY}, tmp_path, judge)
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # as in a notebook
    monkeypatch.setattr(Steps, "__module__", "__main__")
    with pytest.raises(ConfigError, match=r"^judge = .* of a \.py file, not in a notebook"):
        sweep({"a": TINY}, tmp_path, Steps())
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="it holds no table of a sweep"):
        Sweep.load(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="is not the folder of a sweep; choose an empty or a new folder"):
        sweep({"a": TINY}, tmp_path, Steps())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@dataclass(frozen=True)
class Refusing(Steps):
    """Cannot judge real images."""

    def real(self, dataset):
        raise ConfigError("too many are asked for")


def test_a_judge_that_refuses_takes_no_table_away(tmp_path):
    sweep({"a": TINY}, tmp_path / "out", Steps(), 1, progress=False)
    with pytest.raises(ConfigError, match="too many"):
        sweep({"b": TINY.replace(seed=1)}, tmp_path / "out", Refusing(), 1, progress=False)
    assert set(Sweep.load(tmp_path / "out").configs) == {"a"} and not (tmp_path / "out" / "b").exists()


def test_batched_runs_are_trained_here_and_judged_apart(tmp_path):
    """Two that share a program, one that trains alone, and one that diverges, which takes no other along."""
    configs = {**grid(TINY.replace(lam=0.5), {"seed": [0, 1]}), "alone": TINY.replace(batch_size=8)}
    wild = replace(TINY.optimizer, lr=1e30)
    configs |= {f"wild{seed}": TINY.replace(optimizer=wild, seed=seed) for seed in (0, 1)}
    result = sweep(configs, tmp_path / "out", Steps(), workers=1, progress=False, batched=True)
    assert set(result.failures) == {"wild0", "wild1"}
    assert set(result.table["run"]) - {"real against real"} == {"seed=0", "seed=1", "alone"}
    meters = {name: len(Run.open(tmp_path / "out" / name).metrics()) for name in ("seed=0", "alone")}
    assert 0 < meters["seed=0"] < meters["alone"], "what is trained together logs losses, and no meters"
