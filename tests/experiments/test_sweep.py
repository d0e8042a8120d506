"""Sweeps: every combination once, a process a run, what fails fails alone, what is done is not done again."""

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from labkit import Config, Run, Trainer, recipes
from labkit.checks import ConfigError
from labkit.experiments.sweep import Sweep, combinations, grid, sweep

TINY = recipes.digits(model="SiT-Nano/8", steps=4, batch_size=4, save_every=2, log_every=1, keep_last=9)


@dataclass(frozen=True)
class Steps:
    """A judge that says the step, and leaves a mark each time it is asked."""

    factor: float = 1.0

    def __call__(self, run, steps):
        with open(run.path / "asked", "a") as file:
            file.write("x")
        return [dict(step=step, block=1, measure="steps", value=self.factor * step) for step in steps]


@dataclass(frozen=True)
class Killer:
    """Judges like ``Steps``, but takes the process of one seed away, until a file is there."""

    seed: int
    spare: Path

    def __call__(self, run, steps):
        if run.config.seed == self.seed and not self.spare.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return Steps()(run, steps)


def asked(out):
    return {path.parent.name: len(path.read_text()) for path in out.glob("*/asked")}


def test_a_grid_is_every_combination_under_a_name_of_its_own():
    found = grid(TINY, {"dispersive.lam": [None, 0.5], "seed": range(3), "model": ["SiT-Nano/4", "SiT-Nano/8"]})
    assert len(found) == 12 and len({config.to_json() for config in found.values()}) == 12
    config = found["lam=0.5,seed=2,model=SiT-Nano-4"]
    assert config == TINY.replace(lam=0.5, seed=2, model="SiT-Nano/4")
    both = combinations({"dispersive.lam": [0.1], "contrastive.lam": [0.2, 0.3]})
    assert list(both) == ["dispersive.lam=0.1,contrastive.lam=0.2", "dispersive.lam=0.1,contrastive.lam=0.3"]


@pytest.mark.parametrize(("axes", "told"), [
    ({}, "name at least one field"),
    ({"seed": []}, r"seed = \[\] cannot be used: give each value once, and at least one"),
    ({"seed": [1, 1]}, "give each value once"),
    ({"dispersive.lambda": [1]}, "axes = 'dispersive.lambda' cannot be used: it is no setting; choose one of dataset,"),
    ({"dispersive": [1]}, "it is no setting"),
    ({"steps": [0]}, "steps = 0"),
    ({"dispersive.lam": [-1.0]}, "lam = -1.0"),
])  # fmt: skip
def test_grids_that_cannot_be(axes, told):
    with pytest.raises(ConfigError, match=told):
        grid(TINY, axes)


def test_one_table_of_all_and_nothing_done_twice(tmp_path):
    configs = grid(TINY, {"dispersive.lam": [None, 0.5], "seed": [3, 4]})
    made = sweep(configs, tmp_path, Steps(), progress=False)
    assert not made.failures and len(made.table) == 8
    [row] = made.table.query("run == 'lam=0.5,seed=4' and step == 2").to_dict("records")
    assert (row["seed"], row["dispersive.lam"], row["block"], row["measure"], row["value"]) == (4, 0.5, 1, "steps", 2)
    assert row["seconds"] > 0 and row["machine"] and row["commit"]
    loaded = Sweep.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.table, made.table)
    assert loaded.configs == configs and loaded.failures == {}
    pd.testing.assert_frame_equal(sweep(configs, tmp_path, Steps(), progress=False).table, made.table)
    assert asked(tmp_path) == dict.fromkeys(configs, 1)
    trained = {name: (tmp_path / name / "metrics.csv").stat().st_mtime_ns for name in configs}
    other = sweep(dict(list(configs.items())[:1]), tmp_path, Steps(2.0), progress=False)  # another judge, the same runs
    assert other.table["value"].tolist() == [4, 8] and "dispersive.lam" not in other.table
    assert trained == {name: (tmp_path / name / "metrics.csv").stat().st_mtime_ns for name in configs}


def test_what_fails_fails_alone_and_goes_on_later(tmp_path):
    spare = tmp_path / "spare"
    configs = {f"seed{seed}": TINY.replace(seed=seed) for seed in (0, 1)}
    configs["wild"] = TINY.replace(optimizer=replace(TINY.optimizer, lr=1e30))
    made = sweep(configs, tmp_path / "out", Killer(1, spare), progress=False)
    assert set(made.table["run"]) == {"seed0"}
    assert "killed by signal 9" in made.failures["seed1"] and "the same sweep goes on" in made.failures["seed1"]
    assert "is not finite" in made.failures["wild"] and "optimizer.lr" in made.failures["wild"]
    assert json.loads((tmp_path / "out" / "failures.json").read_text()) == made.failures
    spare.touch()
    del configs["wild"]
    again = sweep(configs, tmp_path / "out", Killer(1, spare), progress=False)
    assert set(again.table["run"]) == {"seed0", "seed1"} and again.failures == {}
    assert not (tmp_path / "out" / "failures.json").exists() and asked(tmp_path / "out") == {"seed0": 1, "seed1": 1}


def test_a_run_is_what_it_would_be_alone(tmp_path):
    config = TINY.replace(lam=0.5, seed=7)
    for _ in Trainer(config, tmp_path / "alone"):
        pass
    sweep({"one": config}, tmp_path, Steps(), progress=False)
    names = ["step", "name", "value"]
    one, alone = (Run.open(tmp_path / name).metrics()[names] for name in ("one", "alone"))
    pd.testing.assert_frame_equal(one, alone)


def test_folders_that_hold_something_else_and_names_that_are_none(tmp_path):
    for _ in Trainer(TINY, tmp_path / "one"):
        pass
    made = sweep({"one": TINY.replace(seed=9, steps=6)}, tmp_path, Steps(), progress=False)
    assert "seed: 0 → 9" in made.failures["one"] and made.table.empty
    for name in ("a/b", "..", ""):
        with pytest.raises(ConfigError, match="must be that of a folder"):
            sweep({name: TINY}, tmp_path, Steps(), progress=False)
    with pytest.raises(ConfigError, match="name at least one"):
        sweep({}, tmp_path, Steps())
    with pytest.raises(ConfigError, match="it holds no table of a sweep"):
        Sweep.load(tmp_path / "nowhere")


def test_the_judge_is_shown_this_configs_checkpoints_alone(tmp_path):
    """Not those of an interruption, nor of a run that went on further."""
    for _ in Trainer(TINY.replace(steps=5), tmp_path / "one"):
        pass
    assert sorted(Run.open(tmp_path / "one").checkpoints)[-1] == 5
    made = sweep({"one": Config.from_json(TINY.replace(steps=4).to_json())}, tmp_path, Steps(), progress=False)
    assert made.table["step"].tolist() == [2, 4]
