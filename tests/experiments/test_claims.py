"""The table of claims: every claim has a measured answer, and its verdict follows from the differences by one rule."""

import re

import claims as rules
import numpy as np
import pandas as pd
import pays
import pytest
import questions
from conditions import CONDITIONS

from labkit.experiments import Atlas
from labkit.metrics import METRICS


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


def row(difference, p, measure="frechet", n=5):
    return pd.Series({"difference": difference, "p_holm": p, "measure": measure, "n": n})


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([(-1, 0.01)], rules.CONFIRMED),
        ([(1, 0.01)], rules.CONTRADICTED),
        ([(-1, 0.2)], rules.NOT_CONFIRMED),
        ([(-1, 0.01), (-1, 0.2)], rules.NOT_CONFIRMED),
        ([(-1, 0.01), (1, 0.01)], rules.NOT_CONFIRMED),
        ([(1, 0.01), (-1, 0.2)], rules.CONTRADICTED),
        ([(-1, float("nan"))], rules.NOT_CONFIRMED),
    ],
)
def test_the_rule(rows, verdict):
    assert rules.helps([row(*values) for values in rows]) == verdict


def test_two_seeds_show_nothing_and_more_recall_is_better():
    assert rules.sign(row(-1, 0.01, n=2)) == 0 and rules.sign(row(-1, 0.01, n=3)) == 1
    assert rules.sign(row(0.1, 0.01, "recall")) == 1 and rules.sign(row(0.1, 0.01, "memorisation")) == -1


def test_the_table_that_ships_is_what_the_rules_make_of_the_atlas(atlas):
    verdicts = rules.claims(atlas.findings, atlas.table, atlas.stopping)
    words = {rules.CONFIRMED, rules.NOT_CONFIRMED, rules.CONTRADICTED, rules.ANSWERED, rules.NOT_TESTED}
    assert set(verdicts["verdict"]) <= words and len(verdicts) == len(rules.CLAIMS) >= 28
    for claim in verdicts.itertuples(index=False):
        assert "| " + " | ".join(str(cell).replace("|", "\\|") for cell in claim) + " |" in atlas.claims
        assert (claim.here == "–") == (claim.verdict == rules.NOT_TESTED)


def test_the_page_that_ships_is_what_the_atlas_pays(atlas):
    every = pays.rows(atlas.table, atlas.stopping)
    assert pays.page(atlas.table, atlas.stopping) == atlas.pays and len(every) > 100
    conclusion = pays.conclusion(every, atlas.stopping)
    assert conclusion.split("\n")[0] in atlas.pays
    frechet = every[every["measure"].isin(["frechet", "frechet_pixels"])]
    best = every[(every["place"] == pays.AT_BEST["dispersive"]) & (every["measure"] == "loss_held_out")].iloc[0]
    assert best["side"] == "better", "README and notebook 06 say so"
    assert not ((frechet["side"] == "better") & (frechet["p_holm"] < pays.SURE)).any(), "README says so"


def test_the_pages_name_conditions_and_metrics_for_people_and_have_minus_signs(atlas):
    text = atlas.claims + atlas.pays
    ids = [*(name for name in CONDITIONS if "-" in name), *(name for name in METRICS if "_" in name), "euler_"]
    assert not [name for name in ids if re.search(rf"\b{name}\b", text)]
    assert not re.search(r"(?<!\w)-\d", text), "a hyphen before a number"


def simulated(values):
    """A table of main measures: (condition, sampler) → its values by seed."""
    return pd.DataFrame(
        [
            {
                "condition": condition,
                "sampler": way,
                "seed": seed,
                "measure": "frechet",
                "step": rules.STEPS,
                "value": value,
            }
            for (condition, way), column in values.items()
            for seed, value in enumerate(column)
        ]
    )


def test_slopes_of_a_plane_are_found_seed_by_seed():
    """Difference = level of the seed + slope·log2 λ + slope·log2 τ, each seed with slopes of its own."""
    of_lam, of_tau, level = [0.1, 0.2, 0.3], [1.0, 1.1, 0.9], [5.0, 7.0, 6.0]
    cells = {
        (rules.coarse(name), rules.USUAL): [
            level[s] + of_lam[s] * np.log2(cell["lam"]) + of_tau[s] * np.log2(cell["tau"]) for s in range(3)
        ]
        for name, cell in rules.GRID.items()
    }
    lam, tau = rules.slopes(rules.Evidence(pd.DataFrame(), simulated(cells), pd.DataFrame()))
    assert lam.values.tolist() == pytest.approx(of_lam) and tau.values.tolist() == pytest.approx(of_tau)
    assert lam.mean == pytest.approx(0.2) and lam.high - lam.mean == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_ways_of_sampling_are_paired_by_seed():
    """Seeds add 10, 20, 30 to all: only paired differences see effects of 1 and 3."""
    seeds, noise = np.array([10.0, 20.0, 30.0]), np.array([0.1, 0.0, -0.1])
    table = simulated(
        {
            ("off", rules.USUAL): seeds,
            ("off", "other"): seeds + 1 + noise,
            ("on", rules.USUAL): seeds + 2,
            ("on", "other"): seeds + 6 + 2 * noise,
        }
    )
    e = rules.Evidence(pd.DataFrame(), table, pd.DataFrame())
    assert e.by_sampler("off", "other")["difference"] == pytest.approx(1) and e.by_sampler("off", "other")["p"] < 0.01
    shift = e.by_sampler("on", "other", "off")
    assert shift["difference"] == pytest.approx(3) and shift["n"] == 3 and shift["p"] < 0.01
    with pytest.raises(rules.Missing):
        e.by_sampler("off", "no such way")


def test_each_run_is_taken_where_its_own_loss_is_lowest():
    """Lowest at steps 200 and 300 (baseline, seeds 0 and 1) and 300 and 100 (dispersive)."""
    losses = {
        ("baseline", 0): (3, 1, 2),
        ("baseline", 1): (3, 2, 1),
        ("dispersive", 0): (9, 3, 0),
        ("dispersive", 1): (0, 1, 2),
    }
    rows = [
        {
            "condition": condition,
            "run": f"{condition}{seed}",
            "seed": seed,
            "step": step,
            "measure": measure,
            "value": value,
        }
        for (condition, seed), column in losses.items()
        for step, loss in zip((100, 200, 300), column, strict=True)
        for measure, value in (("loss_held_out", float(loss)), ("frechet", 1000.0 * seed + step))
    ]
    e = rules.Evidence(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(rows))
    assert e.in_time("loss_held_out")["difference"] == -1 and e.in_time("loss_held_out")["n"] == 2
    assert e.in_time("frechet")["difference"] == pytest.approx(((300 - 200) + (100 - 300)) / 2)
    with pytest.raises(rules.Missing):
        rules.Evidence(pd.DataFrame(), pd.DataFrame(), pd.DataFrame()).in_time("frechet")


def test_questions_ask_of_conditions_that_there_are():
    for question in questions.QUESTIONS.values():
        for pair in question.pairs:
            for name in pair:
                condition, _, step = name.partition("@")
                config = CONDITIONS[condition]
                judged = not step or int(step) % config.save_every == 0 == int(step) % (config.keep_every or 1)
                assert judged and (not step or config.keep_every), "no checkpoint is kept there"
            one, other = (CONDITIONS[name.partition("@")[0]] for name in pair)
            assert (one.batch_size, one.dataset, one.model) == (other.batch_size, other.dataset, other.model)


def test_conditions_differ_and_each_is_in_a_question():
    assert len({config.to_json() for config in CONDITIONS.values()}) == len(CONDITIONS)
    pairs = [pair for question in questions.QUESTIONS.values() for pair in question.pairs]
    assert {name.partition("@")[0] for pair in pairs for name in pair} == set(CONDITIONS)
