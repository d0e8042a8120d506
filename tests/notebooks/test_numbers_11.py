"""Numbers of the closing page, of *paper against here* and of the field in the plane, computed again."""

import math

import pytest
from test_notebooks import FOLDER, cells
from test_numbers_03 import claims, evidence, interval, leaves_out_0, minus

from labkit import recipes
from labkit.datasets import digits
from labkit.experiments import Atlas
from labkit.metrics import feature_norm
from labkit.scale import cost
from labkit.widgets import Moons


def magnitude(row, digits=2):
    """A difference below 0 as a positive number, with its interval."""
    assert row["high"] < 0
    return f"{-row['difference']:.{digits}f} [{-row['high']:.{digits}f}, {-row['low']:.{digits}f}]"


def few_images():
    late = Atlas.load().difference("coarse-few-dispersive", "loss_held_out", step=6000)
    assert not leaves_out_0(late)
    best = magnitude(evidence().in_time("loss_held_out"), 4)
    return f"With 200 digits the best loss on held-out images was lower by {best}."


def many_images():
    difference = Atlas.load().difference
    early = [difference(name, "frechet") for name in ("dispersive", "coarse-dispersive", "larger-dispersive")]
    late = difference("coarse-dispersive", "frechet", step=6000)
    assert all(row["low"] > 0 for row in early) and not leaves_out_0(late)
    sizes = [row["difference"] for row in early]
    return (
        f"The Fréchet distance was worse after 1,500 steps in all three SiTs, by {min(sizes):.2f} to {max(sizes):.2f}, "
        f"and after 6,000 steps no difference was shown, {interval(late)}."
    )


def other_models():
    dit = Atlas.load().difference("dit-dispersive", "frechet")
    one_step, both = evidence().row("meanflow", "meanflow-dispersive"), evidence().row("both", "repa-dispersive")
    assert dit["low"] > 0 and both["low"] > 0 and not leaves_out_0(one_step)
    return (
        f"here DiT was worse, {interval(dit, 1)}; one-step MeanFlow was not told apart, {interval(one_step)}; beside "
        f"REPA the term cost, {interval(both)}."
    )


def teacher():
    rows = evidence().findings.query("measure == 'frechet' and condition == 'repa' and against == 'dispersive'")
    return f"It was ahead of the Dispersive Loss by {magnitude(rows.iloc[0])} here"


def temperature():
    _, tau = claims.slopes(evidence())
    return f"here doubling τ cost {tau.mean:.2f} [{tau.low:.2f}, {tau.high:.2f}]"


def variants():
    rows = [Atlas.load().difference(f"coarse-{name}", "frechet") for name in ("covariance", "hinge", "dispersive")]
    assert (
        max(rows[0]["difference"], rows[1]["difference"])
        < Atlas.load().difference("coarse-cosine", "frechet")["difference"]
    )
    covariance, hinge, l2 = map(interval, rows)
    return f"Here covariance and hinge cost least, {covariance} and {hinge}, where L2 cost {l2}."


def negatives():
    (row,) = (r for r in Atlas.load().claims.splitlines() if r.startswith("| 16 or 32 samples"))
    numbers = row.split("16 instead of 128 ")[1].split(", better")[0]
    mean, low, high = (float(number) for number in numbers.replace("[", "").replace("]", "").replace(",", "").split())
    assert low < 0 < high
    return minus(f"Here 16 did as well as 128, {mean:+.2f} [{low:+.2f}, {high:+.2f}].")


def growth():
    atlas = Atlas.load()
    norms = atlas.band("dispersive", "feature_norm").values / atlas.band("baseline", "feature_norm").values
    rank = atlas.difference("dispersive", "effective_rank")
    assert rank["high"] < 0
    fell = -rank["difference"]
    return f"the norm at the regularized block grew {norms.mean():.1f} times, and the rank fell by {fell:.0f}."


def samplers():
    (row,) = (r for r in Atlas.load().claims.splitlines() if r.startswith("| The sampler matters"))
    numbers = row.split("baselines: Nano/2 ")[1].split(", better")[0]
    mean, low, high = (float(number) for number in numbers.replace("[", "").replace("]", "").replace(",", "").split())
    return minus(f"an SDE instead of an ODE changed the Fréchet distance by {mean:+.2f} [{low:+.2f}, {high:+.2f}].")


def patience():
    early, late = (Atlas.load().difference("dispersive", "frechet", step=step)["difference"] for step in (500, 3000))
    return f"SiT-Nano/2's distance was behind by {early:.0f} after 500 steps, and by {late:.2f} after 3,000."


def paper_against_here():
    images, config, paper = digits("train"), recipes.digits(steps=1500), recipes.imagenet256("SiT-B/2", "paper")
    ours, theirs = cost(config.model, *images.dimensions, False), cost("SiT-B/2")
    parameters = sum(theirs.parameters.values()) / sum(ours.parameters.values())
    assert round(parameters, -2) == 400 and config.optimizer.lr / paper.optimizer.lr == pytest.approx(20)
    features = theirs.tokens * theirs.width / (ours.tokens * ours.width)
    epochs = [c.steps * c.batch_size / n for c, n in ((config, len(images)), (paper, 1_281_167))]
    floors = [minus(f"{-math.log(repel):.2f}") for repel in (paper.dispersive.chunk, config.batch_size)]
    return (
        f"SiT-B/2 has about 400 times as many parameters and {features:.0f} times as many features. It takes "
        f"{paper.steps / config.steps:.0f} times as many steps, at a twentieth of the learning rate. Only "
        f"{paper.dispersive.chunk} samples repel each other there, so that its floor is "
        f"{floors[0]}, while yours is {floors[1]}. What is nearly "
        f"alike is how often each image is seen: {epochs[0]:.0f} times here, {epochs[1]:.0f} times there."
    )


def field_in_the_plane():
    plain, dispersive = Moons(), Moons(lam=0.5)
    ends = plain.ends()
    assert ends["start to end"] / ends["start to partner"] == pytest.approx(1 / 3, abs=0.05)
    assert ends["end to partner"] > ends["start to partner"] and ends["end to data"] < 0.3
    assert abs(dispersive.error - plain.error) < 0.1 and plain.curves[0.0][-1][1] == pytest.approx(1.5, abs=0.1)
    assert feature_norm(dispersive.features) / feature_norm(plain.features) == pytest.approx(20, abs=4)
    return f"The velocity loss stays near {plain.least:.1f}: the dashed line is the loss of the exact average"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        ("01", field_in_the_plane),
        ("03", paper_against_here),
        ("11", few_images),
        ("11", many_images),
        ("11", other_models),
        ("11", teacher),
        ("11", temperature),
        ("11", variants),
        ("11", negatives),
        ("11", growth),
        ("11", samplers),
        ("11", patience),
    ],
)
def test_what_a_notebook_says_is_what_was_measured(number, sentence):
    (path,) = FOLDER.glob(f"{number}_*.ipynb")
    assert sentence() in "\n".join(cells(path, "markdown"))
