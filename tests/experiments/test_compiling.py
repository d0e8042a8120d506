"""Compiled sweeps on a CPU: only what trains for long, and then the same run but for rounding."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_sweep import TINY, Steps

from labkit import Run, recipes
from labkit.config import Config, Engine
from labkit.experiments import compiling, grid, sweep
from labkit.experiments.compiling import worth_compiling
from labkit.runtime import compiler_fault
from labkit.training.checkpoint import Checkpoint
from labkit.training.folder import RunFolder

LONG = grid(recipes.digits(steps=1500), {"dispersive.lam": [None, 0.5], "seed": range(3)})


def test_programs_that_train_for_long_are_compiled(monkeypatch):
    monkeypatch.setattr(compiling, "compiler_fault", lambda: "")
    short = {"short": recipes.digits(steps=100, batch_size=64), "alone": recipes.digits(steps=1500, model="SiT-Nano/4")}
    assert worth_compiling(LONG | short) == set(LONG)
    one_of_each = {name: config for name, config in LONG.items() if config.seed == 0}
    assert worth_compiling(one_of_each) == set()
    assert worth_compiling({name: replace(config, steps=9000) for name, config in one_of_each.items()})


def test_nothing_is_compiled_without_a_compiler(monkeypatch):
    monkeypatch.setattr(compiling, "compiler_fault", lambda: "there is no g++")
    assert worth_compiling(LONG) == set()


def test_a_run_that_has_begun_goes_on_as_it_began(tmp_path, monkeypatch):
    """Whatever its length: the others of its program may have ended meanwhile, and its last bits depend on it."""
    sweeping = sys.modules["labkit.experiments.sweep"]
    monkeypatch.setattr(sweeping, "worth_compiling", lambda configs: {*configs} - {"new, short"})
    monkeypatch.setattr(sweeping, "compiler_fault", lambda: "")
    for name in ("compiled", "plain"):
        config = replace(TINY, engine=Engine(compile=name == "compiled"))
        RunFolder(tmp_path / name).begin(config).save(Checkpoint(1, 8, config.to_json(), {"model.a": torch.zeros(1)}))
    configs = dict.fromkeys(("compiled", "plain", "new", "new, short"), TINY)
    assert sweeping._compiled(configs, tmp_path) == {"compiled", "new"}


def everything(configs: dict[str, Config]) -> set[str]:
    return set(configs)


@pytest.mark.slow
@pytest.mark.skipif(compiler_fault() != "", reason="there is no C++ compiler")
def test_a_compiled_sweep_is_the_same_but_for_rounding(tmp_path, monkeypatch):
    configs = grid(TINY, {"seed": range(2)})
    plain = sweep(configs, tmp_path / "plain", Steps(), progress=False)
    monkeypatch.setattr(sys.modules["labkit.experiments.sweep"], "worth_compiling", everything)
    compiled = sweep(configs, tmp_path / "compiled", Steps(), progress=False)
    assert not compiled.failures
    columns = ["run", "seed", "step", "measure", "value"]
    pd.testing.assert_frame_equal(compiled.table[columns], plain.table[columns])
    for name in configs:
        one, other = (Run.open(tmp_path / way / name) for way in ("plain", "compiled"))
        assert other.config.engine.compile and not one.config.engine.compile
        np.testing.assert_allclose(other.metrics()["value"], one.metrics()["value"], rtol=1e-3, atol=1e-5)
    again = sweep(configs, tmp_path / "compiled", Steps(), progress=False)
    pd.testing.assert_frame_equal(again.table, compiled.table)
