"""How the atlas is made: what is trained, what is kept, what stands where, and the whole way in miniature."""

from dataclasses import replace

import build_atlas as build
import pandas as pd
import pytest
from questions import Question

from labkit import recipes
from labkit.evaluation import REAL
from labkit.experiments import Atlas, Measures
from labkit.sampling import Sampler


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


def test_what_ships_need_not_be_made_again(atlas):
    every = {run for run in atlas.table["run"] if run != REAL}
    assert build.kept_runs(atlas) == every, "conditions.py says something else than what ships was trained with"


def test_what_was_changed_must_be_made_again(atlas, monkeypatch):
    condition = "hinge"
    own = {run for run in build.kept_runs(atlas) if run.rpartition("-seed")[0] == condition}
    assert len(own) >= 3
    config = build.CONDITIONS[condition]
    for changed, gone in (
        (config.replace(lam=0.7), True),
        (config.replace(steps=2 * config.steps), True),
        (config.replace(steps=1000), True),
        (config.replace(keep_last=7), False),
    ):
        monkeypatch.setattr(build, "CONDITIONS", {**build.CONDITIONS, condition: changed})
        assert (own & build.kept_runs(atlas) == set()) == gone
    monkeypatch.setattr(build, "JUDGE", replace(build.JUDGE, count=100))
    assert build.kept_runs(atlas) == set()


def test_a_run_that_lacks_a_step_must_be_made_again(atlas, monkeypatch):
    lost = (atlas.table["run"] == "baseline-seed1") & (atlas.table["step"] == 500)
    assert lost.any()
    assert build.kept_runs(replace(atlas, table=atlas.table[~lost])) == build.kept_runs(atlas) - {"baseline-seed1"}


def test_conditions_without_seeds_or_baseline_are_left_out(monkeypatch, capsys):
    base = recipes.digits(steps=4)
    conditions = {
        "off": base,
        "on": base.replace(lam=0.5),
        "few-off": base.replace(batch_size=8),
        "few-on": base.replace(batch_size=8, lam=0.5),
        "strong": base.replace(lam=2.0),
    }
    monkeypatch.setattr(build, "CONDITIONS", conditions)
    seeds = {"off": range(3), "on": range(4), "few-off": range(2), "few-on": range(3), "strong": (1, 2, 3)}
    table = pd.DataFrame([{"condition": condition, "seed": seed} for condition, own in seeds.items() for seed in own])
    assert build.enough(table) == {"off", "on"}
    output = capsys.readouterr().out
    assert "few-on: its baseline few-off is not enough" in output and "strong: seeds [1, 2, 3] are not enough" in output


def test_the_first_seeds_of_all_come_first():
    names = list(build.all_runs([0, 1]))
    assert len(names) == 2 * len(build.CONDITIONS) == len({*names})
    assert all(name.endswith("-seed0") for name in names[: len(build.CONDITIONS)])


def test_questions_are_answered_by_pairs_of_the_right_steps(monkeypatch):
    """Simulated: condition minus baseline is 1 at step 500, 2 at 1,500, and the seeds' own part is the same in both."""
    rows = [
        {
            "condition": condition,
            "run": f"{condition}{seed}",
            "seed": seed,
            "step": step,
            "block": None,
            "sampler": None,
            "measure": "frechet",
            "value": 10.0 * seed + 100 / step + 0.01 * seed * (condition == "on") + (condition == "on") * effect,
        }
        for condition in ("off", "on")
        for seed in range(4)
        for step, effect in ((500, 1), (1500, 2))
    ]
    questions = {
        "usual": Question("?", [("on", "off")]),
        "both": Question("?", [("on", "off")], steps=(500, 1500)),
        "early": Question("?", [("on@500", "off"), ("lost", "off")]),
    }
    monkeypatch.setattr(build, "QUESTIONS", questions)
    monkeypatch.setattr(build, "CONDITIONS", dict.fromkeys(("on", "off", "lost"), recipes.digits()))
    differences = build.differences(pd.DataFrame(rows)).set_index(["question", "condition", "step"])["difference"]
    shift, early = 0.015, 100 / 500 - 100 / 1500  # mean of 0.01·seed; what the baseline still gained meanwhile
    assert differences.to_dict() == pytest.approx(
        {
            ("usual", "on", 1500): 2 + shift,
            ("both", "on", 500): 1 + shift,
            ("both", "on", 1500): 2 + shift,
            ("early", "on@500", 1500): 1 + shift + early,
        }
    )


@pytest.mark.slow
def test_an_atlas_is_made_and_completed(tmp_path, monkeypatch):
    """Two conditions of four steps; then a seed is asked for that nobody trained; then a condition is added."""
    tiny = recipes.digits(model="SiT-Nano/4", batch_size=8, steps=4, save_every=2, keep_last=9)
    conditions = {"coarse-baseline": tiny, "coarse-dispersive": tiny.replace(lam=0.5)}
    judge = Measures(40, (Sampler("euler", 2),), (4,))
    changes = dict(
        CONDITIONS=conditions,
        FOLLOWED=list(conditions),
        STEPS=4,
        COMPARED_AT={"digits": 4},
        LEAST=2,
        JUDGE=judge,
        OTHER_SAMPLERS=(Sampler("euler", 1),),
        SAMPLED=("coarse-baseline",),
        STOPPING={"baseline": tiny, "dispersive": tiny.replace(lam=0.5)},
    )
    for name, value in changes.items():
        monkeypatch.setattr(build, name, value)
    words = ["--out", str(tmp_path / "runs"), "--to", str(tmp_path / "atlas"), "--workers", "2"]
    build.main([*words, "--seeds", "2"])
    first = Atlas.load(tmp_path / "atlas")
    assert first.record["seeds_of_each"] == dict.fromkeys(conditions, 2) and not first.record["missing"]
    assert {"euler with 2 steps, guidance 1", "euler with 1 step, guidance 1"} <= set(first.table["sampler"])
    assert {"frechet", "cka_with_baseline", "logged_gradient_cosine"} <= set(first.table["measure"])
    assert set(first.maps["condition"]) == set(conditions) == set(first.samples)
    assert {"works", "variants", "size"} <= set(first.findings["question"])
    outcome = first.outcome(list(conditions))
    assert outcome.conditions == list(conditions) and outcome.steps == [4]
    assert set(outcome.curves["seed"]) == {0, 1} and {"velocity", "dispersive"} <= set(outcome.curves["name"])
    judged = first.stopping[first.stopping["measure"] == "loss_held_out"]
    assert set(zip(judged["condition"], judged["seed"], judged["step"], strict=True)) == {
        (condition, seed, step) for condition in ("baseline", "dispersive") for seed in (0, 1) for step in (2, 4)
    }

    build.main([*words, "--seeds", "3", "--missing", "--trained"])
    again = Atlas.load(tmp_path / "atlas")
    assert again.table.equals(first.table) and again.stopping.equals(first.stopping)
    assert again.curves.equals(first.curves)

    monkeypatch.setattr(build, "CONDITIONS", {**conditions, "larger-baseline": tiny.replace(batch_size=4)})
    build.main([*words, "--seeds", "2", "--missing"])
    second = Atlas.load(tmp_path / "atlas")
    assert second.record["seeds_of_each"] == {**first.record["seeds_of_each"], "larger-baseline": 2}
    kept = second.table[second.table["condition"].isin(conditions)].reset_index(drop=True)
    assert kept.equals(first.table[first.table["condition"] != REAL].reset_index(drop=True))
