"""The page "Where does it pay?": by data set, model, age and metric, is the Dispersive Loss better, worse, or neither?

Each line pairs runs with λ = τ = 0.5 at a quarter of the depth with their baseline, seed by seed. Holm's correction
counts all lines of the page, within one metric.
"""

from collections.abc import Sequence

import pandas as pd
from claims import SURE
from conditions import STEPS
from questions import SAMPLERS

from labkit.evaluation.evaluator import NEAR
from labkit.experiments.atlas import differences_at_best
from labkit.experiments.statistics import describe_interval, holm, paired_differences, side
from labkit.metrics import metric

MEASURES = (
    "loss_held_out",
    "frechet",
    "frechet_pixels",
    "likelihood_divergence",
    "agreement",
    "recall",
    "memorisation",
)
PAIRS = {
    "digits, SiT-Nano/4": ("coarse-dispersive", "coarse-baseline"),
    "digits, SiT-Nano/2": ("dispersive", "baseline"),
    "digits, SiT-Micro/4": ("larger-dispersive", "larger-baseline"),
    "200 digits, SiT-Nano/4": ("coarse-few-dispersive", "coarse-few-baseline"),
    "200 digits, SiT-Nano/2": ("few-dispersive", "few-baseline"),
    "200 digits, SiT-Micro/4": ("larger-few-dispersive", "larger-few-baseline"),
    "digits without labels, SiT-Nano/2": ("unlabelled-dispersive", "unlabelled-baseline"),
    "letters of 16×16, SiT-Nano/4": ("letters-dispersive", "letters-baseline"),
    "emoji of 16×16, SiT-Nano/4": ("emoji-dispersive", "emoji-baseline"),
    "digits, batches of 32, SiT-Nano/2": ("batch32-dispersive", "batch32-baseline"),
    "digits, DiT-Nano/2": ("dit-dispersive", "dit-baseline"),
    "digits in one step, MeanFlow-Nano/2": ("meanflow-dispersive", "meanflow-baseline"),
    "digits beside REPA, SiT-Nano/2": ("repa-dispersive", "repa"),
}
"""Data and model, in words → a condition with the loss, and one without."""
GAINS = {
    "loss_held_out": "a lower loss on held-out images",
    "agreement": "more samples recognised as requested",
    "recall": "a higher recall",
    "memorisation": "fewer samples near training images",
} | {name: f"a smaller {metric(name).title}" for name in ("frechet", "frechet_pixels", "likelihood_divergence")}
"""Metric → what it means that it is better."""
AT_BEST = {
    "dispersive": "200 digits, SiT-Nano/4, each at its own best step",
    "larger-dispersive": "200 digits, SiT-Micro/4, each at its own best step",
}
"""Conditions that are measured every 100 steps, in words."""
EMPTY = ["place", "step", "measure", "baseline", "difference", "n", "p"]
IMAGES = 80 * 1_281_167
"""Training images of the paper's 80 epochs of ImageNet."""
RATE = 2600
"""Images a second of SiT-B/2 that are expected of one H100; a goal, not a measurement."""


def rows(table: pd.DataFrame, stopping: pd.DataFrame) -> pd.DataFrame:
    """A row for each place, step and metric: the difference, its interval, and on which side of 0 it lies."""
    usual = table[table["block"].isna() & ~table["sampler"].isin(SAMPLERS) & table["measure"].isin(MEASURES)]
    parts = []
    for place, pair in PAIRS.items():
        own = usual[usual["condition"].isin(pair)]
        if own["condition"].nunique() == 2:
            parts.append(paired_differences(own, pair[1], column="condition").assign(place=place))
    if len(stopping):
        best = differences_at_best(stopping, MEASURES)
        best = best[best["condition"].isin(AT_BEST)]
        parts.append(best.assign(place=best["condition"].map(AT_BEST), step=0))
    every = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=EMPTY)
    most = every["baseline"] + every["difference"].clip(lower=0)  # of the two
    telling = (every["measure"] != "memorisation") | (most > NEAR)
    every = every[(every["n"] >= 3) & telling].copy()
    for _, group in every.groupby("measure"):
        every.loc[group.index, "p_holm"] = holm(group["p"])
    return every.assign(side=[side(row) for _, row in every.iterrows()])


def page(table: pd.DataFrame, stopping: pd.DataFrame) -> str:
    """The page as Markdown."""
    every = rows(table, stopping)
    measures = [name for name in MEASURES if name in set(every["measure"])]
    lines = [f"| data, model | steps | {' | '.join(metric(name).title for name in measures)} |"]
    lines.append("|---|---|" + "---|" * len(measures))
    for (place, step), group in every.groupby(["place", "step"], sort=False):
        cells = [_cell(group[group["measure"] == name]) for name in measures]
        lines.append(f"| {place} | {f'{int(step):,}' if step else 'its best'} | {' | '.join(cells)} |")
    return "\n".join(
        [
            "# Where does it pay?",
            "",
            "The Dispersive Loss (λ = τ = 0.5, InfoNCE-L2, a quarter of the depth) minus its baseline, paired by seed: "
            "the mean difference and its 95 % interval. **Bold** marks what is still shown after Holm's correction for "
            "all lines of this page; `·` means that the seeds do not tell the two apart. Samples near training images "
            f"are compared where one of the two shares is above {100 * NEAR:.0f} %, which is that of new images.",
            "",
            *lines,
            "",
            "## What to conclude",
            "",
            conclusion(every, stopping),
            "",
        ]
    )


def conclusion(every: pd.DataFrame, stopping: pd.DataFrame) -> str:
    """What the table comes to, counted."""
    sure = every[every["p_holm"] < SURE]
    better, worse = (every[every["side"] == name] for name in ("better", "worse"))
    kept = sure[sure["side"] == "better"]
    pays = "; ".join(
        f"{GAINS[name]}: {', '.join(_places(group))}" for name, group in kept.groupby("measure", sort=False)
    )
    hours = IMAGES / RATE / 3600
    return (
        f"Of {len(every)} comparisons {len(better)} are better with the loss, {len(worse)} worse, and "
        f"{len(every) - len(better) - len(worse)} are not told apart; after Holm's correction {len(kept)} and "
        f"{len(sure) - len(kept)}.\n\n"
        + (f"**Where it pays**, after the correction: {pays}.\n\n" if pays else "**It is shown to pay nowhere.**\n\n")
        + slower(stopping)
        + "All of this is small: models of 0.3 to 2 million parameters, images of 8×8 and 16×16 pixels, minutes of "
        "training. The paper's claim is about ImageNet at 80 epochs and more, and nothing here contradicts it *there*. "
        f"The smallest fair test at scale would be SiT-B/2 for 80 epochs with three seeds of each: 6 runs of "
        f"{IMAGES / 1e6:.0f} million images, {hours:.0f} hours of one H100 each if it trains {RATE:,} images a second, "
        f"as is expected and was not measured, so {6 * hours:.0f} GPU hours, and half a day more for the samples."
    )


def slower(stopping: pd.DataFrame) -> str:
    """What learning slowly, without the loss, gains on few images at equal steps."""
    at_end = stopping[(stopping["step"] == STEPS) & (stopping["measure"] == "loss_held_out")]
    if not {"baseline", "half-lr"} <= {*at_end["condition"]}:
        return ""
    every = paired_differences(at_end, "baseline", column="condition").set_index("condition", drop=False)
    return (
        "At *equal steps* on 200 images a comparison favours whatever learns slowly: half the learning rate, without "
        f"the loss, changes the loss on held-out images after {STEPS:,} steps of SiT-Nano/4 by "
        f"{describe_interval(every.loc['half-lr'])}. Only where each run is taken at its own best step is this ruled "
        "out.\n\n"
    )


def _places(group: pd.DataFrame) -> Sequence[str]:
    steps = group.groupby("place", sort=False)["step"].agg(list)
    return [
        place + (f" ({', '.join(f'{int(step):,}' for step in at)} steps)" if any(at) else "")
        for place, at in steps.items()
    ]


def _cell(group: pd.DataFrame) -> str:
    if not len(group):
        return ""
    row = group.iloc[0]
    if row["side"] not in ("better", "worse"):
        return "·"
    text = f"{row['side']} {describe_interval(row)}"
    return f"**{text}**" if row["p_holm"] < SURE else text
