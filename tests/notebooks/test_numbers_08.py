"""Numbers and comparisons in the texts of notebooks 08 and 09, computed again: from the atlas, or from what ships."""

import json

import pandas as pd
from safetensors import safe_open
from texts import assert_in_text, measured

from labkit.evaluation import EvaluationConfig, evaluate
from labkit.experiments import Atlas, paired_differences, shipped_run
from labkit.plots import curves_of, differences
from labkit.runtime import data_dir
from labkit.sampling import Sampler
from labkit.widgets import Secant

AGES = (500, 1000, 1500, 3000)


def row(condition, measure, step=3000):
    """A condition of these notebooks minus its baseline, paired by seed."""
    baseline = Atlas.load().baseline(condition)
    return differences(Atlas.load().outcome([baseline, condition]), measure, step, baseline).iloc[0]


def surely(condition, measure, step=3000):
    """1 if it is above its baseline, −1 if below, 0 if the interval over the seeds does not tell."""
    difference = row(condition, measure, step)
    return int(difference.low > 0) - int(difference.high < 0)


def signed(condition, measure, step=3000, scale=1, digits=2):
    values = (scale * row(condition, measure, step)[name] for name in ("difference", "low", "high"))
    return "{} ({} to {})".format(*(f"{value:+.{digits}f}" for value in values)).replace("-", "−")


def size(condition, measure, step, digits=2):
    low, middle, high = sorted(abs(row(condition, measure, step)[name]) for name in ("difference", "low", "high"))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def real():
    return Atlas.load().real("baseline", "frechet")


def slopes_before_and_across_a_bend():
    state, apart = Secant(), []
    for state.t, state.s in ((0.0, 0.5), (0.5, 0.8)):
        tangent, secant = state.slopes()
        apart.append(abs(secant - tangent))
    return (
        f"their slopes differ by only {apart[0]:.2f} from $t = 0$ to $0.5$. Across its bend, from $0.5$ to $0.8$, they "
        f"differ by {apart[1]:.1f}."
    )


def one_euler_step():
    run = shipped_run("digits/baseline")
    values = evaluate(run.model(), run.config, EvaluationConfig(100, Sampler(method="euler", steps=1))).values
    assert values["agreement"] == 1 and values["recall"] == 0 and values["frechet"] > 10 * real()
    return "the classifier recognises all of them. *Agreement cannot see that nothing varies*; recall, which is 0, and"


def few_steps_and_many():
    run = shipped_run("digits/meanflow-baseline")
    two = evaluate(run.model(), run.config, EvaluationConfig(500, Sampler(steps=2))).values["frechet"]
    one, heun = (
        Atlas.load().band(condition, "frechet", step=3000).values for condition in ("meanflow-baseline", "baseline")
    )
    assert heun.max() < two < one.min() and len(one) == 3 and len(heun) == 5
    return (
        f"In one step, MeanFlow then has a Fréchet distance of {one.min():.2f} to {one.max():.2f} (three seeds), and a "
        f"flow model with Heun's 100 evaluations one of {heun.min():.2f} to {heun.max():.2f} (five seeds). Two jumps "
        f"come close to that: {two:.2f} against {heun[0]:.2f} (both seed 0)."
    )


def weight_of_the_dispersive_gradient():
    means = []
    for condition in ("meanflow-dispersive", "dispersive"):
        ratio = curves_of(Atlas.load().outcome([condition]), condition, "gradient_ratio")
        means.append(100 * ratio[ratio.index >= 100].mean().mean())
    return (
        f"over steps 100 to 3,000 and all seeds, the norm of the dispersive gradient is {means[0]:.1f} % of the base "
        f"gradient's here and {means[1]:.1f} % in the SiT of notebook 03"
    )


def features_of_a_dispersive_meanflow():
    norm, plain = (
        Atlas.load().band(f"meanflow-{condition}", "feature_norm", step=3000).mean
        for condition in ("dispersive", "baseline")
    )
    assert surely("meanflow-dispersive", "effective_rank") < 0
    return (
        f"the features are {norm / plain:.1f} times as large with dispersion, and their effective rank changes by "
        f"{signed('meanflow-dispersive', 'effective_rank', digits=0)}"
    )


def one_step_samples_with_dispersion():
    level = ("frechet", "kernel_distance", "precision", "recall", "agreement")
    assert not any(surely("meanflow-dispersive", measure) for measure in level)
    assert surely("meanflow-dispersive", "frechet_pixels") == surely("meanflow-dispersive", "frechet_pixels", 1500) == 1
    values = {name: signed("meanflow-dispersive", name) for name in ("frechet", "precision", "recall")}
    pixels = [size("meanflow-dispersive", "frechet_pixels", step) for step in (3000, 1500)]
    return (
        f"With dispersion, the Fréchet distance of the one-step samples changes by {values['frechet']}, precision by "
        f"{values['precision']}, recall by {values['recall']}, and the share that is recognised as requested by "
        f"{signed('meanflow-dispersive', 'agreement', scale=100, digits=1)} points. None of these intervals leaves out "
        f"0. The Fréchet distance of pixels does: it is larger by {pixels[0]}, and was after 1,500 steps, by "
        f"{pixels[1]}."
    )


def guidance_trades_recall():
    def band(measure, scale):
        return Atlas.load().band("baseline", measure, sampler=f"heun with 50 steps, guidance {scale}").mean

    assert band("precision", 2) > band("precision", 1) and band("frechet_pixels", 2) > band("frechet_pixels", 1)
    recall = [band("recall", scale) for scale in (1, 2)]
    return f"Guidance lowers recall too (of a flow model from {recall[0]:.2f} to {recall[1]:.2f} at scale 2)"


def record_of_the_teacher():
    with safe_open(data_dir() / "digits_teacher.safetensors", "pt") as file:
        return json.loads(file.metadata()["record"])["probes"]


def probes_of_the_teacher():
    probes = record_of_the_teacher()
    untrained, teacher, pixels = probes["untrained"]["pooled"], probes["teacher"]["pooled"], probes["pixels"]
    return (
        f"of an untrained encoder recognises about {100 * untrained:.0f} % of the held-out digits, on that of the "
        f"shipped teacher about {100 * teacher:.0f} %, and on the pixels {100 * pixels:.0f} %"
    )


def loss_without_looking():
    return f"about −{record_of_the_teacher()['cosine_by_place']:.2f} for the guess"


def repa_over_training():
    assert [surely("repa", "frechet", step) for step in AGES] == [-1, 0, 0, 0]
    gains = [-row("repa", "frechet", step).difference for step in AGES]
    return (
        "After 500 steps, where your own runs ended, REPA is ahead: its Fréchet distance is smaller than the "
        f"baseline's by {size('repa', 'frechet', 500)}. This lead shrinks to {gains[1]:.2f} after 1,000 steps, "
        f"{gains[2]:.2f} after 1,500 and {gains[3]:.2f} after 3,000, and none of these three intervals leaves out 0."
    )


def dispersion_over_training():
    assert [surely("dispersive", "frechet", step) for step in AGES] == [1, 1, 1, 1]
    assert [surely("repa-dispersive", "frechet", step) for step in AGES] == [1, 1, 1, 0]
    worse = [size("dispersive", "frechet", step) for step in (500, 3000)]
    return (
        f"The Dispersive Loss is behind the baseline at every age, by {worse[0]} after 500 steps and by {worse[1]} "
        "after 3,000. Both together are behind, too, until the last difference, "
        f"{signed('repa-dispersive', 'frechet')}, no longer tells."
    )


def other_metrics_after_3000_steps():
    metrics = ("frechet_pixels", "kernel_distance", "precision", "recall", "agreement")
    assert not any(surely("repa", measure) for measure in metrics)
    assert surely("dispersive", "frechet_pixels") == 1
    assert surely("dispersive", "precision") == surely("dispersive", "agreement") == -1
    conditions = ("dispersive", "repa", "repa-dispersive")
    assert all(surely(condition, "effective_rank") == -1 for condition in conditions)
    return (
        "The other metrics of the samples do not separate REPA from the baseline after 3,000 steps, and put the "
        "Dispersive Loss behind in pixels, in precision and in the share that is recognised as requested. All three "
        "lower the effective rank at block 1."
    )


def repa_at_equal_cost():
    atlas = Atlas.load()
    bands = {"repa": atlas.band("repa", "frechet", step=1000), "baseline": atlas.band("baseline", "frechet", step=1500)}
    table = pd.DataFrame(
        {"run": name, "seed": seed, "measure": "frechet", "value": value}
        for name, band in bands.items()
        for seed, value in band.values.items()
    )
    late = paired_differences(table, "baseline").iloc[0]
    return (
        f"REPA after 1,000 steps is behind the baseline after 1,500, by {late['difference']:.2f} "
        f"({late['low']:.2f} to {late['high']:.2f})"
    )


def headroom():
    excess = Atlas.load().band("baseline", "frechet", step=3000).mean - real()
    return f"the baseline is only {excess:.2f} above the distance of real digits to real digits ({real():.2f})"


SENTENCES = {
    "08": (
        slopes_before_and_across_a_bend,
        one_euler_step,
        few_steps_and_many,
        weight_of_the_dispersive_gradient,
        features_of_a_dispersive_meanflow,
        one_step_samples_with_dispersion,
        guidance_trades_recall,
    ),
    "09": (
        probes_of_the_teacher,
        loss_without_looking,
        repa_over_training,
        dispersion_over_training,
        other_metrics_after_3000_steps,
        repa_at_equal_cost,
        headroom,
    ),
}


@measured(SENTENCES)
def test_what_a_text_says_is_what_was_measured(text, sentence):
    assert_in_text(text, sentence)
