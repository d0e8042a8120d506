"""How the atlas is made: what is trained, what is kept, what stands where."""

import sys
from dataclasses import replace

import pandas as pd
import pytest

from labkit.experiments import Atlas
from labkit.experiments.evaluate import REAL
from labkit.runtime import data_dir

sys.path.insert(0, str(data_dir()))
import build_atlas as made
from questions import Question


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


def test_what_ships_need_not_be_made_again(atlas):
    every = {run for run in atlas.table["run"] if run != REAL}
    assert made.known(atlas) == every, "conditions.py says something else than what ships was trained with"


def test_what_was_changed_must_be_made_again(atlas, monkeypatch):
    condition = "hinge"
    own = {run for run in made.known(atlas) if run.rpartition("-seed")[0] == condition}
    assert len(own) >= 3
    config = made.CONDITIONS[condition]
    for changed, gone in (
        (config.replace(lam=0.7), True), (config.replace(steps=3000), True), (config.replace(steps=1000), False),
        (config.replace(keep_last=7), False),
    ):  # fmt: skip
        monkeypatch.setattr(made, "CONDITIONS", {**made.CONDITIONS, condition: changed})
        assert (own & made.known(atlas) == set()) == gone
    monkeypatch.setattr(made, "JUDGE", replace(made.JUDGE, count=100))
    assert made.known(atlas) == set()


def test_the_first_seeds_of_all_come_first():
    names = list(made.wanted([0, 1]))
    assert len(names) == 2 * len(made.CONDITIONS) == len({*names})
    assert all(name.endswith("-seed0") for name in names[: len(made.CONDITIONS)])


def test_questions_are_answered_by_pairs_of_the_right_steps(monkeypatch):
    """Simulated: condition minus baseline is 1 at step 500, 2 at 1,500, and the seeds' own part is the same in both."""
    rows = [
        {"condition": of, "run": f"{of}{seed}", "seed": seed, "step": step, "block": None, "sampler": None,
         "measure": "frechet", "value": 10.0 * seed + 100 / step + 0.01 * seed * (of == "on") + (of == "on") * effect}
        for of in ("off", "on") for seed in range(4) for step, effect in ((500, 1), (1500, 2))
    ]  # fmt: skip
    asked = {
        "usual": Question("?", [("on", "off")]), "both": Question("?", [("on", "off")], steps=(500, 1500)),
        "early": Question("?", [("on@500", "off"), ("lost", "off")]),
    }  # fmt: skip
    monkeypatch.setattr(made, "QUESTIONS", asked)
    found = made.found(pd.DataFrame(rows)).set_index(["question", "condition", "step"])["difference"]
    shift, early = 0.015, 100 / 500 - 100 / 1500  # mean of 0.01·seed; what the baseline still gained meanwhile
    assert found.to_dict() == pytest.approx({
        ("usual", "on", 1500): 2 + shift, ("both", "on", 500): 1 + shift, ("both", "on", 1500): 2 + shift,
        ("early", "on@500", 1500): 1 + shift + early,
    })  # fmt: skip
