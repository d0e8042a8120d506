"""Comparisons of tiny models, and the runs that ship."""

import json

import pytest
import torch

from labkit import Run
from labkit.checks import ConfigError
from labkit.experiments import Atlas, Comparison, shipped_run
from labkit.recipes import digits
from labkit.runtime import data_dir
from labkit.training import Look

TINY = digits(batch_size=8, steps=4, log_every=2, lam=0.5)


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


SHIPPED = sorted(f"{folder.parent.name}/{folder.name}" for folder in (data_dir() / "runs").glob("*/*"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_run_opens_and_is_a_condition_of_the_atlas(name):
    condition = Atlas.load().conditions[name.removeprefix("digits/").replace("/", "-")]
    run = shipped_run(name)
    config = run.config
    for regularizer in ("dispersive", "contrastive"):  # some were trained before τ = 0.5 was written out
        assert getattr(config, regularizer).arguments == getattr(condition, regularizer).arguments
        config = config.replace(**{regularizer: getattr(condition, regularizer)})
    assert config.breaks(condition) == []
    assert "+changes" not in json.loads((run.path / "machine.json").read_text())["commit"]
    for step in run.checkpoints:
        assert all(p.isfinite().all() for p in run.model(step=step).parameters())


def test_features_of_a_shipped_run_are_cached_among_the_readers_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "mine"))
    run = shipped_run("digits/dispersive")
    run.features(Look(count=3))
    assert list((tmp_path / "mine").rglob("*.safetensors"))
    assert not (run.path / "features").exists()
    with pytest.raises(FileNotFoundError, match="git checkout data"):
        shipped_run("digits/missing")
