"""Comparisons and their protocol, on tiny models."""

import json

import pandas as pd
import pytest
import torch

from labkit import Config, Run, Trainer
from labkit.checks import ConfigError
from labkit.evaluation import EvaluationConfig
from labkit.experiments import Comparison, bands, over_seeds, ship, ship_run, shipped, shipped_run
from labkit.recipes import digits
from labkit.sampling import Sampler
from labkit.training import Look, RunError

TINY = digits(batch_size=8, steps=4, log_every=2, lam=0.5)
QUICK = EvaluationConfig(70, Sampler(steps=2))


def test_runs_take_turns_and_see_the_same_data():
    comparison = Comparison.with_and_without(TINY)
    order = [(name, report.step) for name, report in comparison]
    assert order == [(name, step) for step in (1, 2, 3, 4) for name in ("baseline", "dispersive")]
    positions = [trainer.stream.at(16) for trainer in comparison.trainers.values()]
    assert torch.equal(positions[0][0].x, positions[1][0].x) and torch.equal(
        positions[0][1].noise, positions[1][1].noise
    )


def test_side_by_side_is_the_same_as_alone():
    together = Comparison({"a": TINY, "b": TINY.replace(seed=1)})
    alone = Comparison({"a": TINY})
    for loop in (together, alone):
        for _ in loop:
            pass
    pairs = zip(together.trainers["a"].network.parameters(), alone.trainers["a"].network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_comparison_that_is_left_saves_every_run_and_goes_on(tmp_path):
    comparison = Comparison.with_and_without(TINY, tmp_path)
    for _, report in comparison:
        if report.step == 2:
            break
    del report
    again = Comparison.with_and_without(TINY, tmp_path)
    assert {t.step for t in again.trainers.values()} <= {1, 2} and len(again) <= 6
    for _ in again:
        pass
    assert all(max(Run.open(tmp_path / name).checkpoints) == 4 for name in ("baseline", "dispersive"))


def test_without_a_weight_there_is_nothing_to_compare():
    with pytest.raises(ConfigError, match=r"^lam = None .*regularizer"):
        Comparison.with_and_without(TINY.replace(lam=None))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    out = tmp_path_factory.mktemp("seeds")
    configs = {"baseline": TINY.replace(lam=None, save_every=2), "dispersive": TINY.replace(save_every=2)}
    return out, configs, over_seeds(configs, [3, 4], QUICK, out)


def test_seeds_give_a_tidy_table_of_every_checkpoint(outcome):
    _, configs, (table, curves, record) = outcome
    assert set(table["run"]) == {*configs, "real against real"} and set(table["seed"]) == {3, 4}
    assert set(table["step"]) == {2, 4}
    assert not table.duplicated(["run", "seed", "step", "measure"]).any()
    assert {"velocity", "dispersive"} <= set(curves["name"])
    assert record["seeds"] == [3, 4] and record["configs"]["dispersive"]["dispersive"]["lam"] == 0.5
    assert {"processor", "torch", "commit"} <= record["machines"][0].keys()


def test_what_is_trained_is_only_judged_again(outcome, monkeypatch):
    out, configs, first = outcome
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    again = over_seeds(configs, [3, 4], QUICK, out)
    pd.testing.assert_frame_equal(first.table, again.table)
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}


def test_runs_that_went_on_further_are_judged_as_they_were(outcome):
    out, configs, first = outcome
    short = over_seeds({run: config.replace(steps=2) for run, config in configs.items()}, [3], QUICK, out)
    then = first.table[(first.table["step"] == 2) & (first.table["seed"] == 3)]
    pd.testing.assert_frame_equal(short.table, then.reset_index(drop=True))
    assert short.curves["step"].max() == 2


def test_a_run_of_another_config_is_not_judged_as_this_one(outcome):
    out, configs, _ = outcome
    with pytest.raises(RunError, match=r"dispersive-seed3 holds a run of another config \(dispersive.lam: 0.5 → 0.7"):
        over_seeds({"dispersive": configs["dispersive"].replace(lam=0.7)}, [3], QUICK, out)
    with pytest.raises(ConfigError, match="seeds = "):
        over_seeds(configs, [], QUICK, out)


def test_what_an_interruption_saved_is_not_judged(tmp_path):
    config = TINY.replace(steps=4, save_every=2, seed=5)
    reports = iter(Trainer(config, tmp_path / "run-seed5"))
    for _ in range(3):
        next(reports)
    reports.close()
    assert 3 in Run.open(tmp_path / "run-seed5").checkpoints
    assert set(over_seeds({"run": config}, [5], QUICK, tmp_path).table["step"]) == {4}


def test_an_outcome_ships_and_comes_back_whole(outcome, tmp_path, monkeypatch):
    _, _, first = outcome
    ship("t", first, tmp_path / "runs")
    monkeypatch.setattr("labkit.experiments.seeds.data_dir", lambda: tmp_path)
    again = shipped("t")
    pd.testing.assert_frame_equal(again.table, first.table, rtol=1e-5)
    pd.testing.assert_frame_equal(again.curves, first.curves, rtol=1e-4)
    assert again.record == first.record
    with pytest.raises(FileNotFoundError, match="git checkout data"):
        shipped("missing")


def test_a_run_ships_as_an_export_that_opens(outcome, tmp_path, monkeypatch):
    out, configs, _ = outcome
    monkeypatch.setattr("labkit.experiments.seeds.data_dir", lambda: tmp_path)
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "mine"))
    trained = Run.open(out / "dispersive-seed3")
    for _ in range(2):  # a second time, it replaces the first
        ship_run("t/dispersive", trained, tmp_path / "runs", trained.steps[-1:])
    run = shipped_run("t/dispersive")
    assert run.config == configs["dispersive"].replace(seed=3)
    assert run.steps == [0, trained.steps[-1]]
    for mine, theirs in zip(run.model().parameters(), trained.model().parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    run.features(Look(count=3))
    assert list((tmp_path / "mine").rglob("*.safetensors"))
    assert not (run.path / "features").exists()
    with pytest.raises(FileNotFoundError, match="git checkout data"):
        shipped_run("t/missing")


def test_bands_name_mean_and_range():
    table = pd.DataFrame({"seed": [0, 1], "run": "a", "measure": "m", "value": [1.0, 3.0]})
    assert bands(table).loc["m", "a"] == "2  (1 … 3)"


def test_the_shipped_outcome_is_whole():
    table, curves, record = shipped("digits_losses")
    assert len(record["seeds"]) >= 3
    assert not any("+changes" in machine["commit"] for machine in record["machines"])
    counts = table.groupby(["run", "step", "measure"]).size()
    assert (counts == len(record["seeds"])).all()
    assert set(record["configs"]) == set(curves["run"]) == set(table["run"]) - {"real against real"}


EXPORTED = {
    name: outcome
    for outcome in ("digits_losses", "digits_meanflow")
    for name in shipped(outcome).record["configs"]
    if name not in ("halfway", "repa_dispersive")
}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_run_ships_as_an_export(name):
    run = shipped_run(f"digits/{name}")
    asked = Config.from_json(json.dumps(shipped(EXPORTED[name]).record["configs"][name]))
    unlike = run.config.replace(save_every=asked.save_every, keep_last=asked.keep_last, log_every=asked.log_every)
    assert unlike.replace(seed=0) == asked.replace(seed=0)
    assert "+changes" not in json.loads((run.path / "machine.json").read_text())["commit"]
    for step in run.checkpoints:
        assert all(p.isfinite().all() for p in run.model(step=step).parameters())
