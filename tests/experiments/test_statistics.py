"""Paired differences on simulated runs whose effect is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp, ttest_rel

from labkit.checks import ConfigError
from labkit.experiments.statistics import describe_row, holm, paired_differences, side


def runs(values, measure="frechet", **more):
    """condition → values, whose place is the seed; None where a run is missing."""
    return pd.DataFrame(
        [
            dict(run=run, seed=seed, measure=measure, value=value, **more)
            for run, column in values.items()
            for seed, value in enumerate(column)
            if value is not None
        ]
    )


def only(table, baseline="a"):
    [row] = paired_differences(table, baseline).to_dict("records")
    return row


@pytest.mark.parametrize(("n", "effect"), [(2, 0.0), (5, 0.0), (5, 0.7)])
def test_the_interval_covers_the_true_effect_in_95_of_100_and_p_errs_in_5(n, effect):
    """200 repetitions as so many measures: seeds matter more than the effect, and both runs share them."""
    draw, repetitions = np.random.default_rng(7), 200
    seeds = 3 * draw.normal(size=(repetitions, n))
    a, b = (seeds + 0.5 * draw.normal(size=(repetitions, n)) for _ in "ab")
    table = pd.concat([runs({"a": a[k], "b": b[k] + effect}, measure=f"m{k}") for k in range(repetitions)])
    result = paired_differences(table, "a")
    covered = ((result["low"] <= effect) & (effect <= result["high"])).sum()
    assert binomtest(covered, repetitions, 0.95).pvalue > 0.001
    assert abs(result["difference"].mean() - effect) < 4 * (0.5 / n) ** 0.5 / repetitions**0.5
    outside = ((result["low"] > 0) | (result["high"] < 0)).sum()
    assert outside == (result["p"] < 0.05).sum()
    if effect == 0:
        assert binomtest(outside, repetitions, 0.05).pvalue > 0.001
    else:
        assert outside > 50  # unpaired, the seeds would bury it


def test_one_difference_is_that_of_the_paired_t_test():
    a, b = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.5, 2.25, 4.0, 2.5])
    row, test = only(runs({"a": a, "b": b})), ttest_rel(b, a)
    interval = test.confidence_interval(0.95)
    assert (row["low"], row["high"], row["p"]) == pytest.approx((interval.low, interval.high, test.pvalue))
    assert (row["run"], row["n"], row["baseline"], row["difference"]) == ("b", 4, 2.5, 0.0625)
    assert (row["wins"], row["ties"], row["note"]) == (1, 1, "")  # of a distance, less is better


@pytest.mark.parametrize(("measure", "wins"), [("agreement", 2), ("frechet_pixels", 1), ("loss_held_out", 1)])
def test_what_wins_depends_on_the_measure(measure, wins):
    assert only(runs({"a": [1, 2, 3], "b": [2, 3, 2]}, measure))["wins"] == wins


def test_only_seeds_of_both_are_compared_and_the_others_are_told():
    table = runs({"a": [1.0, 2.0, 3.0, None, 9.0], "b": [2.0, 2.0, None, 4.0, float("nan")]})
    row = only(table)
    assert (row["n"], row["baseline"], row["difference"]) == (2, 1.5, 0.5)
    assert row["note"] == "without seeds 2, 3, 4: not in both"
    pd.testing.assert_frame_equal(
        paired_differences(table.sample(frac=1, random_state=1), "a"), paired_differences(table, "a")
    )


def test_one_seed_has_a_difference_but_no_interval_and_none_has_neither():
    row = only(runs({"a": [1.0], "b": [3.0]}))
    assert (row["n"], row["difference"], row["note"]) == (1, 2.0, "one seed: no interval")
    assert np.isnan([row["low"], row["high"], row["p"], row["p_holm"]]).all()
    assert describe_row(pd.Series(row)) == "+2 (n = 1: no interval)"
    row = only(runs({"a": [1.0, None], "b": [None, 3.0]}))
    assert row["n"] == 0 and np.isnan(row["difference"])
    assert row["note"] == "without seeds 0, 1: not in both; no seed in both: no difference"


def test_ties_and_differences_that_never_vary():
    same = only(runs({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}))
    assert (same["difference"], same["low"], same["high"], same["p"], same["wins"], same["ties"]) == (0, 0, 0, 1, 0, 3)
    shifted = only(runs({"a": [1.0, 2.0, 3.0], "b": [0.5, 1.5, 2.5]}))
    assert np.isnan([shifted["low"], shifted["high"], shifted["p"], shifted["p_holm"]]).all() and shifted["wins"] == 3
    assert shifted["note"] == "the same in every seed" and side(pd.Series(shifted)) == "no difference shown"
    assert describe_row(pd.Series(shifted)) == "−0.5 in each of 3 seeds: no interval"


def test_shares_that_differ_by_one_sample_in_every_seed_are_no_certainty():
    """0.1 + 0.2 − 0.2 and the like vary by rounding, of which a t-test would make p = 1e-30."""
    base = np.array([0.002, 0.012, 0.046, 0.3])
    row = only(runs({"a": base, "b": base - 0.002}, "memorisation"))
    assert np.isnan(row["p"]) and row["difference"] == pytest.approx(-0.002)


@pytest.mark.parametrize(
    ("measure", "more", "less"),
    [("recall", "better", "worse"), ("loss_gap", "worse", "better"), ("effective_rank", "different", "different")],
)
def test_a_side_is_good_or_bad_or_merely_another(measure, more, less):
    a, d = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.1, 0.9, 1.0])
    for b, expected in ((a + d, more), (a - d, less)):
        row = pd.Series(only(runs({"a": a, "b": b}, measure)))
        assert side(row) == expected
        assert ("larger in" in describe_row(row)) == (expected == "different")


def test_each_place_is_compared_with_its_own_and_corrected_by_itself():
    a, b, c = [1.0, 2.0, 3.0, 4.0], [1.1, 2.3, 3.2, 4.1], [1.3, 1.9, 3.4, 4.2]
    tables = [
        runs({"a": a, "b": b, "c": c}, "recall", step=step, block=block) for step in (5, 9) for block in (0, None)
    ]
    tables[1] = tables[1].assign(value=-tables[1]["value"])
    tables.append(runs({"b": b}, "only b", step=5, block=0))
    tables.append(pd.DataFrame([dict(run="real", seed=None, measure="recall", value=7.0, step=5, block=0)]))
    result = paired_differences(pd.concat(tables), "a")
    assert len(result) == 2 * 2 * 2
    first, second = result[(result["step"] == 5) & (result["block"] == 0)].to_dict("records")
    assert [row["run"] for row in (first, second)] == ["b", "c"]
    assert [first["p_holm"], second["p_holm"]] == pytest.approx(holm([first["p"], second["p"]]))
    assert first["p"] < second["p"] and first["p_holm"] == pytest.approx(2 * first["p"])
    (turned,) = result[(result["step"] == 5) & result["block"].isna() & (result["run"] == "b")].to_dict("records")
    assert turned["difference"] == pytest.approx(-first["difference"])
    assert describe_row(pd.Series(first)).startswith("+0.175 [") and describe_row(pd.Series(first)).endswith(
        "better in 4 of 4"
    )


def test_holm_as_published():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=9))
def test_holm_keeps_the_order_raises_all_and_passes_over_what_is_no_test(p):
    result = np.array(holm(p))
    p = np.array(p)
    tests = ~np.isnan(p)
    assert (np.isnan(result) == ~tests).all()
    p, result = p[tests], result[tests]
    assert (result >= p).all() and (result <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(result[order]) >= 0).all()
    if len(p):
        assert result.min() == pytest.approx(min(1, p.min() * len(p)))


def test_among_many_conditions_without_effect_hardly_one_is_found():
    """Of 100 searches over ten conditions each, about 5 % find any at all; without correction 40 % would."""
    searches = 200
    differences = np.random.default_rng(3).normal(size=(searches, 10, 6))
    p = ttest_1samp(differences, 0, axis=2).pvalue
    found = sum(min(holm(each)) < 0.05 for each in p)
    assert binomtest(found, searches, 0.05).pvalue > 0.001
    assert (p.min(axis=1) < 0.05).mean() > 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t.drop(columns="seed"), "a"), "it has no column seed"),
        (lambda t: (t, "z"), "baseline = 'z' cannot be used: choose one of a, b"),
        (lambda t: (t[t["run"] == "a"], "a"), "give another condition"),
        (lambda t: (pd.concat([t, t]), "a"), "run = 'a' cannot be used: it has two values for one seed"),
    ],
)
def test_tables_that_cannot_be_compared(change, message):
    table, baseline = change(runs({"a": [1.0, 2.0], "b": [2.0, 3.0]}))
    with pytest.raises(ConfigError, match=message):
        paired_differences(table, baseline)
