"""Numbers of notebook 12, of *paper against here* and of the field in the plane, computed again."""

import math
import re

import pytest
from test_numbers_03 import WORDS, claims, evidence, interval, larger_at_best, leaves_out_0, magnitude, span
from texts import assert_in_text, measured

from labkit import recipes
from labkit.datasets import digits
from labkit.evaluation import EvaluationConfig, evaluate
from labkit.experiments import Atlas, shipped_run
from labkit.metrics import feature_norm, minus
from labkit.plots import curves_of
from labkit.sampling import Sampler
from labkit.scale import cost
from labkit.widgets import Moons


def causes(step, **conditions):
    """Differences from the baseline in the loss on held-out digits."""
    names = {"always": "dispersive"} | conditions
    return {
        key: evidence().row("causes", f"coarse-{condition}", "loss_held_out", step=step)
        for key, condition in names.items()
    }


def share(rows, key):
    return f"{100 * rows[key]['difference'] / rows['always']['difference']:.0f} %"


def slow_start():
    rows = causes(
        500,
        burst="burst12",
        longer="burst100",
        large="big-init8",
        larger="big-init4",
        cosine="cosine-burst12",
        covariance="covariance-burst12",
        half="half-lr",
        warm="warmed-up",
    )
    assert all(leaves_out_0(rows[key]) for key in ("always", "burst", "longer", "large", "larger", "half", "warm"))
    assert rows["half"]["low"] > rows["always"]["high"] and not leaves_out_0(rows["covariance"])
    return (
        f"({WORDS[rows['burst']['n']]} seeds; your own table shows one of them): with the loss at every step the model "
        f"is behind by {interval(rows['always'], 3)}. Twelve steps of the loss cause {share(rows, 'burst')} of that, "
        f"and a hundred {share(rows, 'longer')}. Large embeddings without any loss cause {share(rows, 'large')} if "
        f"they are multiplied by 8, and {share(rows, 'larger')} if by 4. Twelve steps of the cosine variant, which no "
        f"growth can lower, cause {share(rows, 'cosine')}; for the covariance variant no difference is shown, "
        f"{interval(rows['covariance'], 3)}. If λ is warmed up over the 500 steps, {share(rows, 'warm')} are left. "
        f"Half the learning rate is further behind than any of them, {interval(rows['half'], 3)}"
    )


def overshoot():
    names = ("burst12", "burst100", "momentum0-dispersive")
    outcome = Atlas.load().outcome([f"coarse-{name}" for name in names])
    norms = {name: curves_of(outcome, f"coarse-{name}", "feature_norm") for name in names}
    off, on, still = (norms[name].loc[20] for name in names)
    assert (still < on.min() / 2).all() and (off > 0.9 * on).all()
    loss, ratio = (curves_of(outcome, "coarse-burst100", name).loc[20] for name in ("dispersive", "gradient_ratio"))
    assert loss.round(2).eq(-4.85).all() and (ratio < 0.001).all(), "at its floor, below a thousandth"
    return (
        f"at step 20, eight steps after the loss was switched off, the norm is {span(off, 1)}, and {span(on, 1)} where "
        f"the loss is still on; without momentum it is {span(still, 1)}, with the loss on"
    )


def cosine_on_letters():
    """Cosine at every step starts as slowly as L2 without larger features."""
    rows = {
        name: Atlas.load().difference(f"letters-{name}", "loss_held_out", step=1000)
        for name in ("cosine", "dispersive")
    }
    norm = Atlas.load().difference("letters-cosine", "feature_norm", step=1000)
    assert not leaves_out_0(norm)
    return (
        f"cosine at *every* step starts as slowly as L2 on letters, {interval(rows['cosine'], 3)} against "
        f"{interval(rows['dispersive'], 3)} after 1,000 steps, and for its feature norm no difference from the "
        f"baseline's is shown, {interval(norm)}"
    )


def no_momentum():
    without, usual = (
        evidence().row("causes", f"coarse-{condition}", "loss_held_out", step=500)
        for condition in ("momentum0-dispersive", "dispersive")
    )
    assert without["low"] > 0
    return (
        f"between two runs without momentum the loss still costs {interval(without, 3)} after 500 steps, where with "
        f"momentum it costs {interval(usual, 3)}"
    )


def later():
    rows = causes(3000, burst="burst12", large="big-init8", late="late2000", larger="big-init4", sooner="late500")
    assert all(rows[key]["low"] > 0 for key in ("always", "burst", "late", "sooner"))
    assert rows["sooner"]["high"] < rows["late"]["low"], "the cost passes"
    assert not leaves_out_0(rows["large"]) and not leaves_out_0(rows["larger"])
    return (
        f"the loss at every step is still behind by {interval(rows['always'], 4)}, and twelve steps of it by "
        f"{interval(rows['burst'], 4)}. For large embeddings no difference is shown any more, "
        f"{interval(rows['large'], 4)} for × 8 and {interval(rows['larger'], 4)} for × 4. "
        f"The loss that came only at step 2,000 is behind by {interval(rows['late'], 4)}, and the one that came at "
        f"step 500 by {interval(rows['sooner'], 4)}"
    )


def still_large():
    atlas = Atlas.load()
    scaled, usual = (atlas.band(f"coarse-{name}", "feature_norm", step=3000).mean for name in ("big-init8", "baseline"))
    return f"those of × 8 are still {scaled / usual:.0f} times as large as the baseline's"


def at_best(condition):
    return evidence().in_time("loss_held_out", condition)


def gain_on_few():
    names = {
        "always": "dispersive",
        "burst": "burst12",
        "warm": "warmed-up",
        "late": "late500",
        "large": "big-init8",
        "larger": "big-init4",
        "half": "half-lr",
        "decay": "weight-decay",
        "cosine": "cosine-burst12",
        "still": "momentum0-dispersive",
    }
    rows = {key: at_best(condition) for key, condition in names.items()}
    assert all(rows[key]["high"] < 0 for key in ("always", "burst", "warm", "late", "larger", "decay"))
    assert not any(leaves_out_0(rows[key]) for key in ("large", "half", "cosine", "still"))
    return (
        f"({WORDS[rows['burst']['n']]} seeds): the loss at every step lowers it by {magnitude(rows['always'], 4)}. "
        f"Twelve steps bring {share(rows, 'burst')} of that, and a λ that is warmed up over 500 steps "
        f"{share(rows, 'warm')}; from step 500 on the loss brings {share(rows, 'late')}. Large embeddings without the "
        f"loss bring {share(rows, 'larger')} (× 4), {interval(rows['larger'], 4)}, and {share(rows, 'large')} (× 8), "
        f"{interval(rows['large'], 4)}; weight decay brings {share(rows, 'decay')}, {interval(rows['decay'], 4)}. "
        f"No difference is shown for half the learning rate, "
        f"{interval(rows['half'], 4)}, for twelve steps of the cosine variant, {interval(rows['cosine'], 4)}, and "
        f"between two runs without momentum, {interval(rows['still'], 4)}. In SiT-Micro/4, which has six times the "
        "parameters and half the learning rate, "
        f"the loss brings half as much, {interval(larger_at_best(), 4)}"
    )


def bank():
    row = evidence().row("batch", "coarse-bank", against="coarse-dispersive")
    letters = evidence().row("batch", "letters-bank", against="letters-dispersive")
    assert not leaves_out_0(row) and not leaves_out_0(letters)
    return (
        f"over {WORDS[row['n']]} seeds its Fréchet distance cannot be told from that of the batch alone, "
        f"{interval(row)}; nor on letters after 20,000 steps, over {WORDS[letters['n']]} seeds, {interval(letters)}"
    )


def converged_letters():
    run = shipped_run("letters/baseline")
    metrics = evaluate(run.model(), run.config, EvaluationConfig(300, Sampler(steps=25))).metrics
    percent = lambda value: f"{value:.0%}".replace("%", " %")  # noqa: E731
    recall, precision, frechet = (metrics[name] for name in ("recall", "precision", "frechet"))
    return (
        f"{percent(metrics['agreement'].value)} of the samples are recognised as the requested letter, and their "
        f"recall is {percent(recall.value)}, where real letters have {percent(recall.real.mean)}. Their precision is "
        f"{percent(precision.value)}, against {percent(precision.real.mean)}: half of them lie outside the "
        "neighbourhood of any real letter, broken strokes among them. The Fréchet distance would hide that: "
        f"{frechet.value:.1f} is *less* than the {frechet.real.mean:.1f} of as many real letters"
    )


def readme_causes():
    slow, few = causes(500, burst="burst12"), {key: at_best(condition) for key, condition in BURST.items()}
    warm = causes(500, warm="warmed-up")
    few["warm"] = at_best("warmed-up")
    assert all(row["high"] < 0 for row in few.values())
    return (
        "The first 12 steps of the loss alone cause "
        f"{share(slow, 'burst')} of the slow start, and bring {share(few, 'burst')} of the gain on 200 digits; a λ "
        f"that is warmed up over 500 steps brings {share(few, 'warm')} of it with {share(warm, 'warm')} of the slow "
        "start (notebook 12)."
    )


BURST = {"always": "dispersive", "burst": "burst12"}


def few_images():
    late = Atlas.load().difference("coarse-few-dispersive", "loss_held_out", step=6000)
    assert not leaves_out_0(late)
    pixels, precision, right = (evidence().in_time(measure) for measure in ("frechet_pixels", "precision", "agreement"))
    assert pixels["high"] < 0 and precision["high"] < 0 and right["high"] < 0
    return (
        f"With 200 digits, each model at its own best step, it was lower by {magnitude(at_best('dispersive'), 4)}, and "
        f"by {magnitude(larger_at_best(), 4)} in a model with six times the parameters. The samples of these steps "
        "disagree: in the small model the Fréchet distance of pixels was better, and precision and the share "
        "recognised were worse."
    )


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
        f"here DiT was worse, {interval(dit, 1)}; for one-step MeanFlow no difference was shown, {interval(one_step)}; "
        f"beside REPA the term cost something, {interval(both)}."
    )


def teacher():
    rows = evidence().findings.query("measure == 'frechet' and condition == 'repa' and against == 'dispersive'")
    return f"It was ahead of the Dispersive Loss by {magnitude(rows.iloc[0])} here"


def temperature():
    lam, tau = claims.slopes(evidence())
    assert lam.low < 0 < lam.high
    return (
        f"here doubling τ cost {tau.mean:.2f} [{tau.low:.2f}, {tau.high:.2f}]; for doubling λ no effect was shown, "
        + minus(f"{lam.mean:+.2f} [{lam.low:+.2f}, {lam.high:+.2f}].")
    )


def variants():
    rows = [Atlas.load().difference(f"coarse-{name}", "frechet") for name in ("covariance", "hinge", "dispersive")]
    assert (
        max(rows[0]["difference"], rows[1]["difference"])
        < Atlas.load().difference("coarse-cosine", "frechet")["difference"]
    )
    covariance, hinge, l2 = map(interval, rows)
    return f"Here covariance and hinge cost least, {covariance} and {hinge}, where L2 cost {l2}."


def numbers_after(words, row):
    """Difference and interval that follow these words in a row of CLAIMS.md."""
    numbers = row.split(words)[1].split(", better")[0].replace("−", "-")
    return map(float, re.findall(r"[-+][\d.]+", numbers))


def negatives():
    (row,) = (r for r in Atlas.load().claims.splitlines() if r.startswith("| 16 or 32 samples"))
    mean, low, high = numbers_after("16 instead of 128 ", row)
    assert low < 0 < high
    return minus(f"Between 16 and 128 no difference was shown here, {mean:+.2f} [{low:+.2f}, {high:+.2f}].")


def growth():
    atlas = Atlas.load()
    norms = atlas.band("dispersive", "feature_norm").values / atlas.band("baseline", "feature_norm").values
    rank = atlas.difference("dispersive", "effective_rank")
    other, larger = (atlas.difference(f"{name}-dispersive", "effective_rank") for name in ("coarse", "larger"))
    assert rank["high"] < 0 < larger["low"] and not leaves_out_0(other)
    return (
        f"in SiT-Nano/2 the norm at the regularized block grew {norms.mean():.1f} times, and the rank fell by "
        f"{-rank['difference']:.0f}; in SiT-Nano/4 no change of the rank was shown, and in Micro/4 it rose by "
        f"{larger['difference']:.0f}."
    )


def samplers():
    (row,) = (r for r in Atlas.load().claims.splitlines() if r.startswith("| The sampler matters"))
    mean, low, high = numbers_after("baselines: Nano/2 ", row)
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
    (_, first), (_, third), (_, last) = (plain.curves[0.0][k] for k in (0, 2, -1))
    assert plain.least < last < third, "and then hardly further: the dashed line is below it"
    return (
        f"The velocity loss soon falls from {first:.0f} to about {third:.1f}, and then hardly further: the dashed line "
        "is the loss of the exact average"
    )


SENTENCES = {
    "README": (readme_causes,),
    "01": (field_in_the_plane,),
    "03": (paper_against_here,),
    "10": (bank, converged_letters),
    "12": (
        few_images,
        many_images,
        other_models,
        teacher,
        temperature,
        variants,
        negatives,
        growth,
        samplers,
        patience,
        slow_start,
        overshoot,
        no_momentum,
        cosine_on_letters,
        later,
        still_large,
        gain_on_few,
    ),
}


@measured(SENTENCES)
def test_what_a_text_says_is_what_was_measured(text, sentence):
    assert_in_text(text, sentence)
