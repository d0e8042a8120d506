"""Numbers and comparisons in the texts of notebooks 05 and 10, computed again, and an answer on a run of one's own."""

import ast
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from texts import FOLDER, assert_in_text, cells, measured

from labkit import recipes
from labkit.experiments import Atlas
from labkit.plots import curves_of, differences
from labkit.scale import DATASHEET, cost, memory, paper_days
from labkit.training.history import Curve
from labkit.widgets import Answer, NotMeasured, Partners

(NOTEBOOK,) = FOLDER.glob("05_*.ipynb")


QUARTERS = ("dispersive", "alpha0.25", "alpha0.5", "alpha0.75", "l2-independent")
CONTRASTIVE = ("alpha0.5", "l2-restricted", "l2-independent")


def outcome():
    return Atlas.load().outcome(["baseline", "dispersive", *CONTRASTIVE])


def findings(question, measure):
    rows = Atlas.load().findings.set_index("condition")
    return rows[(rows["question"] == question) & (rows["measure"] == measure)]


def distances_at_rest():
    partners, others = zip(*(Partners(alpha=alpha).rest().distances for alpha in (0.0, 0.25, 1.0)), strict=True)
    near, far = Partners.distances(Partners().start)
    done = (partners[0] - partners[1]) / (partners[0] - partners[2])
    return (
        f"partners end {partners[0] / near:.2f} times as far",
        f"At α = 1 they end at {partners[2] / near:.2f} times that distance",
        f"end {others[2] / far:.2f} times as far apart as they began, and this hardly depends on α "
        f"({others[0] / far:.2f} times at α = 0)",
        f"partners at {partners[0]:.2f} without alignment and at {partners[2]:.2f} with all of it, and nearly half of "
        f"that way ({100 * done:.0f} %) is already done",
    )


def collapse_of_the_rank():
    conditions = ("dispersive", "l2-independent")
    dispersive, contrastive = (curves_of(outcome(), name, "effective_rank") for name in conditions)
    ratio = 100 * contrastive / dispersive[list(contrastive)]
    norm = curves_of(outcome(), "l2-independent", "feature_norm")
    (low, high), (least, most) = ((ratio.loc[step].min(), ratio.loc[step].max()) for step in (100, 200))
    before, after = norm.loc[100], norm.loc[200]
    assert contrastive.shape[1] == 3 and most < 50
    return (
        f"at step 100 it is still {low:.0f} to {high:.0f} % of the dispersive run's, at step 200 only {least:.0f} to "
        f"{most:.0f} %, and in the same steps the feature norm jumps from between {before.min():.1f} and "
        f"{before.max():.1f} to between {after.min():.1f} and {after.max():.1f}",
    )


def collapse_without_labels():
    atlas = Atlas.load()
    rank = {
        f"{prefix}{name}": atlas.band(f"{prefix}{name}", "effective_rank", step=1500).mean
        for prefix in ("", "unlabelled-")
        for name in ("baseline", "l2-independent")
    }
    both = atlas.outcome(["l2-independent", "unlabelled-l2-independent"])
    curves = [curves_of(both, name, "effective_rank").loc[[100, 200]].mean(axis="columns") for name in both.conditions]
    row = differences(
        atlas.outcome(["unlabelled-baseline", "unlabelled-l2-independent"]), "frechet", 1500, "unlabelled-baseline"
    )
    without, labelled = rank["unlabelled-l2-independent"], rank["l2-independent"]
    assert without / rank["unlabelled-baseline"] > 0.4 and labelled / rank["baseline"] < 0.2
    assert row["low"].item() > 0, "it is behind without labels, too"
    return (
        f"(three seeds): without labels the effective rank after 1,500 steps is {without:.0f}, where the baseline's is "
        f"{rank['unlabelled-baseline']:.0f}; with labels it is {labelled:.0f}, where the baseline's is "
        f"{rank['baseline']:.0f}. Nor does it fall all at once: between steps 100 and 200 it goes from "
        f"{curves[1].iloc[0]:.0f} to {curves[1].iloc[1]:.0f}, and with labels from {curves[0].iloc[0]:.0f} to "
        f"{curves[0].iloc[1]:.0f} (in a batch of 128).",
    )


def quality_over_time():
    early, late = (differences(outcome(), "frechet", step) for step in (1500, 3000))
    values = {step: outcome().at(step).query("measure == 'frechet'") for step in (1500, 3000)}
    for table in values.values():
        wide = table.dropna().pivot(index="seed", columns="condition", values="value")
        gaps = wide.drop(columns="baseline").sub(wide["baseline"], axis=0).stack().dropna()
        assert len(gaps) == 14 and (gaps > 0).all()
    half_way, end = (differences(outcome(), "frechet", step, "dispersive").loc[[*CONTRASTIVE]] for step in (1500, 3000))
    assert ((half_way["low"] < 0) & (half_way["high"] > 0)).all()
    assert (end["low"] > 0).to_dict() == {"alpha0.5": False, "l2-restricted": True, "l2-independent": True}
    assert late.loc["dispersive", "low"] > 0, "worse than no term"
    pixels = differences(outcome(), "frechet_pixels", against="dispersive")
    assert pixels.loc["alpha0.5", "high"] < 0 and pixels.loc["l2-independent", ["low", "high"]].prod() < 0
    for measure in ("frechet", "frechet_pixels"):
        row = differences(outcome(), measure, against="l2-independent").loc["l2-restricted"]
        assert row["low"] < 0 < row["high"]
    (a, b), (c, d) = ((table["difference"].min(), table["difference"].max()) for table in (early, late))
    independent, restricted = (end.loc[name, "difference"] for name in ("l2-independent", "l2-restricted"))
    return (
        f"from between {a:.2f} and {b:.2f} to between {c:.2f} and {d:.2f}.",
        f"with independent noise they are behind by {independent:.2f}, with restricted noise by {restricted:.2f}, and",
    )


def ranks_at_the_end():
    table = outcome().at().query("measure == 'effective_rank'").groupby("condition")["value"].mean()
    return (
        f"({table['dispersive']:.0f} against {table['baseline']:.0f}); alignment takes it down to "
        f"{table['alpha0.5']:.0f} at α = 0.5, and to {table['l2-independent']:.0f} with independent and "
        f"{table['l2-restricted']:.0f} with restricted noise at α = 1",
    )


def gradient_cosines():
    names = ["dispersive", *CONTRASTIVE, "cosine", "covariance"]
    both = Atlas.load().outcome(names)
    values = {name: curves_of(both, name, "gradient_cosine").loc[2:].stack() for name in names}
    assert all(values[name].min() < -0.4 and values[name].max() > 0.4 for name in names[:4])
    mean, low, high = (getattr(values["dispersive"], part)() for part in ("mean", "min", "max"))
    for name in ("cosine", "covariance"):
        assert (curves_of(both, name, "gradient_cosine").loc[2:].mean() > 0.2).all(), "in each seed"
    return (
        f"it is {mean:.2f}, with single logged steps from {low:.2f} to {high:+.2f}.".replace("-", "−"),
        f"on average ({values['cosine'].mean():+.2f} and {values['covariance'].mean():+.2f}, three seeds each)",
    )


def quarters_of_alpha():
    frechet, loss = findings("alpha", "frechet"), findings("alpha", "loss_held_out")
    assert len(frechet) == len(loss) == 7 and (frechet["difference"] > 0).all() and (loss["low"] > 0).all()
    name = "coarse-{}".format
    ends = {name("dispersive"), name("l2-restricted")}
    assert {*frechet.index[frechet["low"] > 0]} == ends | {name("alpha0.25"), name("l2-independent")}
    assert {*frechet.index[frechet["p_holm"] < 0.05]} == ends
    against = differences(Atlas.load().outcome([*map(name, QUARTERS)]), "frechet", against=name("dispersive"))
    assert len(against) == 4 and ((against["low"] < 0) & (against["high"] > 0)).all()
    means, gaps = (table.loc[[*map(name, QUARTERS)], "difference"] for table in (frechet, loss))
    ranks = [Atlas.load().band(name(each), "effective_rank").mean for each in QUARTERS]
    assert (ranks[0] - ranks[1]) / (ranks[0] - ranks[-1]) > 0.5
    none, *some, full = (f"{gap:+.3f}" for gap in gaps)
    return (
        f"({means.iloc[1:].min():+.2f} to {means.iloc[1:].max():+.2f} against {means.iloc[0]:+.2f})",
        f"the more alignment, the worse: {none} at α = 0, then {', '.join(some)}, and {full} at α = 1.",
        f"too: {ranks[0]:.0f} at α = 0, then {', '.join(f'{rank:.0f}' for rank in ranks[1:-1])}, and {ranks[-1]:.0f} "
        "at α = 1.",
    )


def other_parents():
    frechet, loss = findings("parents", "frechet"), findings("parents", "loss_held_out")
    others = [f"coarse-{variant}-independent" for variant in ("cosine", "hinge", "covariance")]
    assert ((frechet.loc[others, "low"] < 0) & (frechet.loc[others, "high"] > 0)).all()
    assert (loss.loc[others, "low"] > 0).all()
    frechet, loss = findings("noise", "frechet"), findings("noise", "loss_held_out")
    assert len(frechet) == 4 and (frechet["high"] > 0).all() and (loss["high"] > 0).all()
    assert list(frechet.index[frechet["low"] > 0]) == ["coarse-covariance-restricted"]
    return ("by the Fréchet distance it is worse for the covariance",)


def one_number_of_many():
    pixels, frechet = (Atlas.load().difference("coarse-dispersive", name) for name in ("frechet_pixels", "frechet"))
    assert pixels["low"] < 0 < pixels["high"] and frechet["low"] > 0 and frechet["n"] == 5
    norms = [Atlas.load().band(f"coarse-{name}", "feature_norm").mean for name in ("dispersive", "baseline")]
    return (
        f"on features of the lab's classifier does ({frechet['difference']:+.2f}), and the features themselves are "
        f"{norms[0] / norms[1]:.1f} times as large",
    )


def price_of_the_recipe():
    paper, release = (recipes.imagenet256(preset=preset) for preset in ("paper", "release"))
    assert len(paper.differences(release)) == 5
    h100, models = DATASHEET["H100 SXM"].tflops * 1e12, {size: cost(f"SiT-{size}/2") for size in ("B", "XL")}
    days = {size: paper_days(model, h100, 0.4) for size, model in models.items()}
    assert 1.8 < days["XL"] < 2.2 and 0.4 < days["B"] < 0.6
    assert sum(memory(models["XL"], 256, "bfloat16").values()) > 80e9
    return (
        "They differ in five settings at once",
        "about two days for SiT-XL/2 on one H100, half a day for B/2",
        "XL's activations at batch 256 do not fit on 80 GB",
    )


SENTENCES = {
    "05": (
        distances_at_rest,
        collapse_of_the_rank,
        collapse_without_labels,
        quality_over_time,
        ranks_at_the_end,
        gradient_cosines,
        quarters_of_alpha,
        other_parents,
    ),
    "10": (one_number_of_many, price_of_the_recipe),
}


@measured(SENTENCES)
def test_what_a_text_says_is_what_was_measured(text, sentence):
    assert_in_text(text, sentence)


@pytest.fixture
def rank_answer():
    """The notebook's function, as a reader's run of 400 steps calls it, and what that run has logged of the rank."""
    tree = ast.parse("\n".join(cell for cell in cells(NOTEBOOK, "code") if "%pip" not in cell))
    names = {"rank_answer", "WHEN"}
    named = lambda node: {getattr(node, "name", ""), *(getattr(t, "id", "") for t in getattr(node, "targets", []))}  # noqa: E731
    wanted = [node for node in tree.body if names & named(node)]
    logged = {"dispersive": [60, 80, 90, 90], "contrastive": [60, 70, 30, 20]}
    steps = np.array([1, 100, 300, 500])
    state = SimpleNamespace(
        configs={"contrastive": SimpleNamespace(steps=500)},
        curve=lambda run, metric: Curve(steps[: len(logged[run])], np.array(logged[run], float)),
        last_step=lambda run: int(steps[len(logged[run]) - 1]) if logged[run] else 0,
    )
    scope = {"Answer": Answer, "NotMeasured": NotMeasured, "pd": pd, "state": state}
    exec(compile(ast.Module(wanted, []), str(NOTEBOOK), "exec"), scope)
    return scope["rank_answer"], logged


def test_the_rank_is_read_off_the_readers_whole_curve(rank_answer):
    answer, logged = rank_answer
    assert answer().option == "between steps 100 and 400"
    assert "at step 300" in answer().why and "at step 500 the contrastive run's effective rank is 20" in answer().why
    logged["contrastive"] = [60, 70, 60, 50]
    assert answer().option == "later, or not at all"
    for logged["contrastive"] in ([60, 70], []):
        with pytest.raises(NotMeasured, match="Let it finish"):
            answer()
