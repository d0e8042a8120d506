"""The table of claims: every claim has a measured answer, and its verdict follows from the differences by one rule."""

import sys

import pandas as pd
import pytest

from labkit.experiments import Atlas
from labkit.runtime import data_dir

sys.path.insert(0, str(data_dir()))
import claims as made
import questions
from conditions import CONDITIONS


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


def row(difference, p, measure="frechet", n=5):
    return pd.Series({"difference": difference, "p_holm": p, "measure": measure, "n": n})


@pytest.mark.parametrize(("rows", "verdict"), [
    ([(-1, 0.01)], made.CONFIRMED), ([(1, 0.01)], made.CONTRADICTED), ([(-1, 0.2)], made.NOT_CONFIRMED),
    ([(-1, 0.01), (-1, 0.2)], made.NOT_CONFIRMED), ([(-1, 0.01), (1, 0.01)], made.NOT_CONFIRMED),
    ([(1, 0.01), (-1, 0.2)], made.CONTRADICTED), ([(-1, float("nan"))], made.NOT_CONFIRMED),
])  # fmt: skip
def test_the_rule(rows, verdict):
    assert made.helps([row(*values) for values in rows]) == verdict


def test_two_seeds_show_nothing_and_more_recall_is_better():
    assert made.sign(row(-1, 0.01, n=2)) == 0 and made.sign(row(-1, 0.01, n=3)) == 1
    assert made.sign(row(0.1, 0.01, "recall")) == 1 and made.sign(row(0.1, 0.01, "memorisation")) == -1


def test_the_table_that_ships_is_what_the_rules_make_of_the_atlas(atlas):
    found = made.claims(atlas.findings, atlas.table)
    words = {made.CONFIRMED, made.NOT_CONFIRMED, made.CONTRADICTED, made.ANSWERED, made.NOT_TESTED}
    assert set(found["verdict"]) <= words and len(found) == len(made.CLAIMS) >= 28
    for claim in found.itertuples(index=False):
        assert "| " + " | ".join(str(cell).replace("|", "\\|") for cell in claim) + " |" in atlas.claims
        assert (claim.here == "–") == (claim.verdict == made.NOT_TESTED)


def test_questions_ask_of_conditions_that_there_are():
    for question in questions.QUESTIONS.values():
        for early, baseline in question.pairs:
            condition, _, step = early.partition("@")
            assert {condition, baseline} <= set(CONDITIONS)
            assert not step or int(step) % CONDITIONS[condition].save_every == 0, "no checkpoint is judged there"
            same = CONDITIONS[condition].replace(steps=1).batch_size == CONDITIONS[baseline].batch_size
            assert same and CONDITIONS[condition].dataset == CONDITIONS[baseline].dataset


def test_conditions_are_all_different_and_asked_about():
    assert len({config.to_json() for config in CONDITIONS.values()}) == len(CONDITIONS)
    pairs = [pair for question in questions.QUESTIONS.values() for pair in question.pairs]
    asked = {name.partition("@")[0] for pair in pairs for name in pair}
    assert asked == set(CONDITIONS)
