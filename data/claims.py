"""The paper's claims and its reviewers' questions, each with the rule by which the atlas answers it."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pandas as pd
from conditions import CONDITIONS, GRID, NOISES, STEPS, STOPPING, VARIANTS, coarse
from questions import FORMS, SAMPLERS

from labkit.experiments.atlas import Band, band, describe_point, differences_at_best, point
from labkit.experiments.statistics import describe_interval, describe_row, paired_differences
from labkit.metrics import metric, minus

CONFIRMED, NOT_CONFIRMED, CONTRADICTED = "confirmed at this scale", "not confirmed", "contradicted"
ANSWERED, NOT_TESTED = "answered", "not tested"
SURE = 0.05
MAIN = "frechet"
USUAL = "heun with 50 steps, guidance 1"
WAYS = {"euler_maruyama": "Euler–Maruyama", "euler": "Euler", "heun": "Heun"}
"""Sampler → its name for people."""
ALWAYS = "at every step"
ALONE = {
    ALWAYS: "dispersive",
    "for 12 steps": "burst12",
    "for 100": "burst100",
    "from step 500 on": "late500",
    "from 2,000 on": "late2000",
    "warmed up over 500": "warmed-up",
    "cosine for 12": "cosine-burst12",
    "covariance for 12": "covariance-burst12",
    "at every step, without momentum in either": "momentum0-dispersive",
    "no loss, embeddings × 4": "big-init4",
    "× 8": "big-init8",
    "no loss, half the learning rate": "half-lr",
    "no loss, weight decay 0.1": "weight-decay",
}
"""What the loss does alone, in words → its condition."""
RULES = """Marks: [S] read in the authors' released source, [P] quoted from the paper, [2] quoted by others.
Differences are the condition minus its baseline, on the Fréchet distance (features of the lab's digits classifier; less
is better) unless something else is named: mean [95 % interval], paired by seed. A claim that something helps is
*confirmed at this scale* if every difference that it speaks of is better with p < 0.05 after Holm's correction,
*contradicted* if one is worse by that rule and none better, else *not confirmed*. That is no proof of the opposite: the
interval says how large an effect may still be. Holm's correction counts the conditions that one question compares on
one measure at one step, not the questions: of many questions, some show something by chance."""


class Missing(Exception):
    """A condition or measure that a claim needs was not measured; the message names it."""


class Answer(NamedTuple):
    verdict: str
    here: str
    why: str = ""


class Evidence(NamedTuple):
    """Results of the atlas, and the ways in which claims read them."""

    findings: pd.DataFrame
    table: pd.DataFrame
    stopping: pd.DataFrame

    def row(self, question: str, condition: str, measure: str = MAIN, **where: object) -> pd.Series:
        """One paired difference; where: step, block, sampler, against."""
        rows = matching(self.findings, condition=condition, measure=measure, question=question, **where)
        assert len(rows) == 1, f"{question} has several rows of {condition}, {measure}, {where}"
        return rows.iloc[0]

    def rows(
        self, question: str, conditions: Mapping[str, str], measure: str = MAIN, **where: object
    ) -> dict[str, pd.Series]:
        """Name → paired difference of its condition."""
        return {name: self.row(question, condition, measure, **where) for name, condition in conditions.items()}

    def there(
        self, question: str, conditions: Mapping[str, str], measure: str = MAIN, **where: object
    ) -> dict[str, pd.Series]:
        """The same of those conditions that were measured, of which there is at least one."""
        rows = {}
        for name, condition in conditions.items():
            with suppress(Missing):
                rows[name] = self.row(question, condition, measure, **where)
        if not rows:
            raise Missing(f"any of {', '.join(conditions.values())}, question {question}")
        return rows

    def values(self, condition: str, measure: str = MAIN, **where: object) -> pd.Series:
        """Values by seed at the step of comparison."""
        rows = matching(self.table, condition=condition, measure=measure, step=STEPS, **where)
        return rows.set_index("seed")["value"]

    def mean(self, condition: str, measure: str, **where: object) -> float:
        """Mean over seeds, each of which counts the same."""
        return float(self.values(condition, measure, **where).groupby(level="seed").mean().mean())

    def in_time(self, measure: str, condition: str = "dispersive") -> pd.Series:
        """A measure of training on few images, each run at its lowest held-out loss: a condition minus its baseline."""
        if not len(self.stopping):
            raise Missing("runs on few images, measured every 100 steps")
        return matching(differences_at_best(self.stopping, [measure]), condition=condition).iloc[0]

    def by_sampler(self, condition: str, sampler: str, baseline: str | None = None) -> pd.Series:
        """One sampler minus the usual one, of a condition or of its difference from a baseline.

        The networks are the same, so it is paired by seed.
        """
        parts = []
        for name, each in (("usual", USUAL), ("other", sampler)):
            values = self.values(condition, sampler=each)
            if baseline is not None:
                values = (values - self.values(baseline, sampler=each)).dropna()
            parts.append(values.reset_index().assign(run=name, measure=MAIN))
        return paired_differences(pd.concat(parts), "usual").iloc[0]


def coarsely(conditions: Mapping[str, str]) -> dict[str, str]:
    """The same conditions of SiT-Nano/4."""
    return {name: coarse(condition) for name, condition in conditions.items()}


def matching(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    """Rows with these values in these columns.

    Raises:
        Missing: there are none.
    """
    for name, value in where.items():
        table = table[table[name] == value]
    if not len(table):
        raise Missing(", ".join(f"{name} {value}" for name, value in where.items()))
    return table


def sign(row: pd.Series) -> int:
    """1 if a difference is better than the baseline by the rule above, −1 if worse, 0 if neither is shown."""
    if row["n"] < 3 or not row["p_holm"] < SURE:
        return 0
    return 1 if row["difference"] * metric(row["measure"]).direction > 0 else -1


def helps(rows: Iterable[pd.Series]) -> str:
    signs = {sign(row) for row in rows}
    if signs == {1}:
        return CONFIRMED
    return CONTRADICTED if -1 in signs and 1 not in signs else NOT_CONFIRMED


def describe_rows(rows: Mapping[str, pd.Series]) -> str:
    return "; ".join(f"{name} {describe_row(row)}" for name, row in rows.items())


def variant_title(variant: str) -> str:
    return "L2" if variant == "l2" else variant


def titled(rows: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """The same rows, by the titles of their metrics."""
    return {metric(name).title: row for name, row in rows.items()}


def cell_title(row: pd.Series) -> str:
    """λ and τ of a row's condition."""
    at = CONDITIONS[row["condition"]].dispersive
    return f"λ = {at.lam:g}, τ = {at.tau:g}"


def count(rows: Iterable[pd.Series]) -> str:
    signs = [sign(row) for row in rows]
    return f"{signs.count(1)} of {len(signs)} better, {signs.count(-1)} worse, {signs.count(0)} unclear"


Rule = Callable[[Evidence], Answer]


class Claim(NamedTuple):
    claim: str
    published: str
    answer: Rule


CLAIMS: list[Claim] = []
"""In the order of the table: that in which their rules stand below."""


def claim(text: str, published: str = "–") -> Callable[[Rule], Rule]:
    """Decorator of the rule that answers a claim."""

    def add(answer: Rule) -> Rule:
        CLAIMS.append(Claim(text, published, answer))
        return answer

    return add


def single(question: str, condition: str, name: str) -> Rule:
    """Rule of a claim that one difference answers, under this name."""

    def answer(e: Evidence) -> Answer:
        row = e.row(question, condition)
        return Answer(helps([row]), describe_rows({name: row}))

    return answer


@claim(
    "The Dispersive Loss improves samples (λ 0.5, τ 0.5, a quarter of the depth)",
    "SiT-B/2, 80 epochs: FID 36.49 → 32.35 [S]",
)
def works(e: Evidence) -> Answer:
    models = {"Nano/4": "coarse-dispersive", "Nano/2": "dispersive", "Micro/4": "larger-dispersive"}
    rows = e.there("works", models)
    other = e.there("data", {"emoji of 16×16": "emoji-dispersive", "200 digits": "few-dispersive"}, "frechet_pixels")
    return Answer(
        helps(rows.values()), describe_rows(rows), f"Fréchet distance of pixels on other data: {describe_rows(other)}"
    )


claim("So does the released setting (λ 0.25, τ 1, last block)", "36.49 → 32.64 [S]")(
    single("works", "coarse-release", "Nano/4")
)


@claim("With guidance, at full size, too", "SiT-XL/2: 6.02 → 5.09, 4.74 [S]; 18.46 → 15.95 without [2]")
def full_size(e: Evidence) -> Answer:
    return Answer(NOT_TESTED, "–", "SiT-XL/2 takes a GPU for days: `labkit train imagenet256`; guidance: see below")


@claim("Every variant improves, InfoNCE-L2 most", "L2 32.35 [S], hinge 33.93, cosine 34.33, covariance 35.82 [2]")
def variants(e: Evidence) -> Answer:
    forms = {variant_title(variant): condition for variant, condition in FORMS.items()}
    finer, rows = e.rows("variants", forms), e.rows("variants", coarsely(forms))
    best = min(rows, key=lambda name: rows[name]["difference"])
    return Answer(
        helps([*rows.values(), *finer.values()]),
        f"Nano/4: {describe_rows(rows)}; smallest mean: {best}",
        f"Nano/2: {describe_rows(finer)}",
    )


@claim("Any block will do, all together best", "first 33.97, a quarter 32.35, half 33.79, last 33.86, all 32.05 [2]")
def blocks(e: Evidence) -> Answer:
    others = {"block 0": "block0", "block 2": "block2", "the last block": "block-last", "all blocks": "blocks-all"}
    first, *later = others.items()
    rows, among = e.rows("block", dict([first, ("block 1", "dispersive"), *later])), e.rows("which-block", others)
    return Answer(
        helps(rows.values()), describe_rows(rows), f"against block 1 instead of the baseline: {describe_rows(among)}"
    )


@claim("Every cell of λ ∈ {0.25, 0.5, 1} × τ ∈ {0.25, 0.5, 1, 2} is better than the baseline", "all below 36.49 [2]")
def every_cell(e: Evidence) -> Answer:
    rows = [e.row("lam-tau", coarse(name)) for name in GRID]
    low, high = min(rows, key=lambda r: r["difference"]), max(rows, key=lambda r: r["difference"])
    low, high = (f"{describe_row(row)} ({cell_title(row)})" for row in (low, high))
    here = f"{count(rows)}; from {low} to {high}"
    return Answer(helps(rows), here)


@claim("A regularized block makes the features of all other blocks larger", "stated, no figure [P]")
def carry_over(e: Evidence) -> Answer:
    rows, lines = [], []
    for name, block in {"dispersive": 1, "block0": 0, "block2": 2, "block-last": 3}.items():
        own = [e.row("carry-over", name, "feature_norm", block=b) for b in range(4)]
        rows += [row for b, row in enumerate(own) if b != block]
        ratios = ", ".join(f"{1 + row['difference'] / row['baseline']:.2f}" for row in own)
        lines.append(f"regularized at {block}: ×{ratios} in blocks 0 to 3")
    up = [row["difference"] > 0 and row["p_holm"] < SURE for row in rows]
    down = [row["difference"] < 0 and row["p_holm"] < SURE for row in rows]
    verdict = CONFIRMED if all(up) else CONTRADICTED if any(down) else NOT_CONFIRMED
    return Answer(verdict, "; ".join(lines), f"{sum(up)} of {len(up)} other blocks have a larger norm")


@claim("With independent noise the contrastive parent fails", "in all cases [P]")
def parents_fail(e: Evidence) -> Answer:
    parents = coarsely({variant_title(name): f"{name}-independent" for name in VARIANTS})
    rows, losses = (e.rows("parents", parents, measure) for measure in (MAIN, "loss_held_out"))
    signs = [sign(row) for row in rows.values()]
    return Answer(
        CONFIRMED if set(signs) == {-1} else CONTRADICTED if 1 in signs else NOT_CONFIRMED,
        describe_rows(rows),
        f"{signs.count(-1)} of {len(signs)} are worse than the baseline; by the loss on held-out images: "
        f"{count(losses.values())}",
    )


@claim("Restricted noise is better than independent", "stated [P]")
def restricted_better(e: Evidence) -> Answer:
    rows = e.rows("noise", coarsely({variant_title(name): f"{name}-restricted" for name in VARIANTS}))
    return Answer(helps(rows.values()), f"restricted minus independent: {describe_rows(rows)}")


@claim("Each variant is better without its positive pair", "each time [P]")
def beats_parent(e: Evidence) -> Answer:
    rows, losses = (
        {
            f"{variant_title(v)} against {noise}": e.row(
                "without-pair", coarse(form), measure, against=coarse(f"{v}-{noise}")
            )
            for v, form in FORMS.items()
            for noise in NOISES
        }
        for measure in (MAIN, "loss_held_out")
    )
    return Answer(
        helps(rows.values()),
        f"{count(rows.values())}: {describe_rows(rows)}",
        f"by the loss on held-out images: {count(losses.values())}",
    )


@claim("The gain lasts in long training", "SiT-XL/2: 80 epochs 18.46 → 15.95, 800 epochs 8.99 → 8.08 [2]")
def longer(e: Evidence) -> Answer:
    rows = {f"step {step:,}": e.row("age", "coarse-dispersive", step=step) for step in (500, 1000, STEPS, 3000, 6000)}
    return Answer(helps([rows["step 6,000"]]), describe_rows(rows), "the verdict is that of the longest training")


@claim("Larger models gain more", "stated; S and L [?]")
def sizes(e: Evidence) -> Answer:
    rows = e.rows("size", {"Nano": "coarse-dispersive", "Micro": "larger-dispersive"})
    gap = [e.mean(name, "loss_gap") for name in ("coarse-baseline", "larger-baseline")]
    shares = [row["difference"] / row["baseline"] for row in rows.values()]
    verdict = CONFIRMED if shares[1] < shares[0] and sign(rows["Micro"]) == 1 else NOT_CONFIRMED
    return Answer(
        verdict,
        f"{describe_rows(rows)}: {shares[0]:+.0%} and {shares[1]:+.0%} of the baseline",
        f"held-out minus training loss of the baselines {gap[0]:.3f} and {gap[1]:.3f}; Micro/4 learns at half the rate "
        "of Nano/4, so they differ in more than size; S and larger need a GPU",
    )


@claim("The reason is less over-fitting", "stated [P]")
def over_fitting(e: Evidence) -> Answer:
    few = {"Nano/4": "coarse-few-dispersive", "Micro/4": "larger-few-dispersive"}
    whole = {"Nano/4": "coarse-dispersive", "Micro/4": "larger-dispersive"}
    held_out, copied = (e.there("size", few, measure) for measure in ("loss_held_out", "memorisation"))
    on_all = e.there("size", whole, "loss_held_out")
    late = {name: e.row("age", few["Nano/4"], name, step=6000) for name in ("loss_held_out", "memorisation")}
    best = {name: e.in_time(name) for name in ("loss_held_out", "memorisation", MAIN)}
    larger, slower = (e.in_time("loss_held_out", name) for name in ("larger-dispersive", "half-lr"))
    every = [*held_out.values(), *copied.values(), best["loss_held_out"], larger]
    return Answer(
        helps(every),
        f"{count(every)}. 200 training images, at equal steps: loss on held-out ones {describe_rows(held_out)}; "
        f"share of near copies {describe_rows(copied)}. Each at its own best of 15 checkpoints: "
        f"{describe_rows(titled(best))}; loss on held-out ones with Micro/4 {describe_row(larger)}",
        f"with 200 after 6,000 steps: {describe_rows(titled(late))}; with all images the held-out loss is "
        f"{describe_rows(on_all)}. At equal steps whatever learns slowly gains (see PAYS); at its own best step half "
        f"the learning rate, without the loss, {describe_row(slower)}. The gap between the losses is no judge",
    )


claim("DiT gains, too", "at every size [P], figures [?]")(single("dit", "dit-dispersive", "DiT-Nano/2"))
claim("MeanFlow gains in one step", "MeanFlow-XL/2: 3.43 → 3.21 [2]")(
    single("meanflow", "meanflow-dispersive", "MeanFlow-Nano/2")
)


@claim("REPA, with its teacher, is further ahead", "SiT-XL/2, long: REPA 1.80, dispersive 1.97, SiT 2.06 [2]")
def repa_order(e: Evidence) -> Answer:
    repa, direct = e.row("repa", "repa"), e.row("teacher", "repa")
    return Answer(
        helps([repa, direct]),
        f"REPA minus dispersive {describe_row(direct)}; minus baseline {describe_row(repa)}",
        "the paper's order is baseline, dispersive, REPA",
    )


@claim(
    "REPA's price: a teacher, its parameters and its data",
    "1.1 B parameters, 142 M images [2]; runs DINOv2-B, about 86 M, distilled from that",
)
def repa_price(e: Evidence) -> Answer:
    rows = e.rows("repa", {"dispersive": "dispersive", "REPA, as many steps": "repa"})
    early = {"REPA after 1,000": "repa@1000", "after 500": "repa@500", "both after 1,000": "repa-dispersive@1000"}
    return Answer(
        ANSWERED,
        describe_rows(rows | e.rows("equal-cost", early)),
        "a step with REPA costs 1.4 plain ones, so 1,000 of them what 1,500 do, and 500 if the teacher's training is "
        "paid, too: here the teacher has 67,392 parameters, trained on the same 1,297 images without labels, "
        "52 s of one core, a price that the Dispersive Loss does not have; no outside data enter",
    )


@claim("The sampler matters: an SDE is better than an ODE", "SiT-B/2: 33.0 against 36.49 [S]")
def sde(e: Evidence) -> Answer:
    rows = {"Nano/2": e.by_sampler("baseline", SAMPLERS[3]), "Nano/4": e.by_sampler("coarse-baseline", SAMPLERS[3])}
    return Answer(
        helps(rows.values()),
        f"SDE minus ODE, baselines: {describe_rows(rows)}",
        "Euler–Maruyama with 250 evaluations of the network against Heun with about 100",
    )


@claim("16 or 32 samples that repel each other will do", "the batch per device of the two settings [S]")
def chunks(e: Evidence) -> Answer:
    rows = e.rows("which-block", {f"{n} instead of 128": f"chunk{n}" for n in (16, 32)})
    gains = e.rows("batch", {f"chunks of {n}": f"chunk{n}" for n in (16, 32)})
    return Answer(ANSWERED, describe_rows(rows), f"against the baseline, as with 128: {describe_rows(gains)}")


@claim("A later study: no gain above seed noise on a small task, norms ×9, worse rank", "quoted by others [2]")
def seed_noise(e: Evidence) -> Answer:
    row = e.row("works", "dispersive")
    norm, rank = (e.row("works", "dispersive", name, block=1) for name in ("feature_norm", "effective_rank"))
    moved = [each["p_holm"] < SURE and each["difference"] * way > 0 for each, way in ((norm, 1), (rank, -1))]
    shown = [sign(row) < 1, *moved]
    growth = 1 + norm["difference"] / norm["baseline"]
    parts = [f"Fréchet {describe_row(row)}", f"feature norm ×{growth:.1f}", f"effective rank {describe_row(rank)}"]
    return Answer(
        CONFIRMED if all(shown) else CONTRADICTED if sign(row) == 1 else NOT_CONFIRMED,
        "; ".join(f"{part}: {'also here' if so else 'not shown here'}" for part, so in zip(parts, shown, strict=True)),
        "digits, SiT-Nano/2, block 1; the later study's task was another small one",
    )


@claim("Reviewers: how does the loss develop?")
def dynamics(e: Evidence) -> Answer:
    value, base = (e.mean(coarse(name), "logged_dispersive") for name in ("dispersive", "baseline"))
    return Answer(
        ANSWERED,
        minus(f"over the last fifth of training L_disp is {value:.2f}, and {base:.2f} for the baseline, ")
        + "where it is only measured; the floor −log 128 is −4.85",
        "curves: notebooks 03 and 04",
    )


@claim("Reviewers: do the two gradients conflict?")
def conflict(e: Evidence) -> Answer:
    cosine, ratio = (e.mean("coarse-dispersive", f"logged_gradient_{name}") for name in ("cosine", "ratio"))
    verdict = "neither synergy nor conflict" if abs(cosine) < 0.1 else "synergy" if cosine > 0 else "conflict"
    here = (
        f"mean cosine of the two gradients {minus(f'{cosine:+.3f}')}, the regularizer's norm {ratio:.3f} of the other's"
    )
    return Answer(ANSWERED, here, f"{verdict} (below 0.1 in size counts as neither)")


@claim("Reviewers: does the time t matter?")
def times(e: Evidence) -> Answer:
    ratios = []
    for t in ("0.1", "0.5", "0.9"):
        meter = f"mean_pairwise_distance_t{t}"
        own, base = (e.mean(coarse(name), meter, block=1) for name in ("dispersive", "baseline"))
        ratios.append(f"×{own / base:.1f} at t = {t}")
    return Answer(ANSWERED, f"distance between features of block 1 over the baseline's: {', '.join(ratios)}")


@claim("Reviewers: linear probes, CKA?")
def probes(e: Evidence) -> Answer:
    rows = {f"block {b}": e.row("works", "coarse-dispersive", "linear_probe", block=b) for b in range(4)}
    same, seed = (
        ", ".join(f"{e.mean(coarse(name), 'cka_with_baseline', block=b):.2f}" for b in range(4))
        for name in ("dispersive", "baseline")
    )
    return Answer(
        ANSWERED,
        f"linear probe for the class, without labels as input: {describe_rows(rows)}",
        f"CKA with the baseline's features, blocks 0 to 3: {same}; between two seeds of it: {seed}",
    )


@claim("Reviewers: from contrastive to dispersive (α)?")
def alphas(e: Evidence) -> Answer:
    names = {"α = 0": "dispersive", "0.25": "alpha0.25", "0.5": "alpha0.5", "0.75": "alpha0.75", "1": "l2-independent"}
    return Answer(ANSWERED, describe_rows(e.rows("alpha", coarsely(names))), "independent noise")


@claim("Reviewers: other metrics beside FID?")
def other_metrics(e: Evidence) -> Answer:
    names = ("frechet_pixels", "kernel_distance", "precision", "recall", "agreement", "memorisation")
    rows = {name: e.row("works", "coarse-dispersive", name) for name in names}
    return Answer(ANSWERED, describe_rows(titled(rows)), count(rows.values()))


@claim("Reviewers: samples of the same seed side by side?")
def side_by_side(e: Evidence) -> Answer:
    own, seed = (e.mean(coarse(name), "distance_from_baseline") for name in ("dispersive", "baseline"))
    here = (
        f"samples of the same noise differ from the baseline's by {own:.3f} (root mean square of pixels in −1 … 1), "
        f"those of two baselines of other seeds by {seed:.3f}"
    )
    return Answer(ANSWERED, here, "shown in notebook 06")


@claim("Reviewers: Dispersive Loss and REPA together?")
def both(e: Evidence) -> Answer:
    return Answer(ANSWERED, f"both minus REPA alone {describe_row(e.row('both', 'repa-dispersive'))}")


def slopes(e: Evidence) -> tuple[Band, Band]:
    """Change of the difference when λ, or τ, is doubled: a plane through the cells of the table, seed by seed."""
    at = {coarse(name): [1.0, math.log2(cell["lam"]), math.log2(cell["tau"])] for name, cell in GRID.items()}
    cells = pd.DataFrame({name: e.values(name, sampler=USUAL) for name in at}).dropna()
    fits = np.linalg.lstsq(np.array([*at.values()]), cells.to_numpy(float).T, rcond=None)[0]
    lam, tau = (band(pd.Series(fit)) for fit in fits[1:])  # the first is the seed's own level
    return lam, tau


@claim("Reviewers: how to choose λ, τ and the block?")
def choosing(e: Evidence) -> Answer:
    rows = [e.row("lam-tau", coarse(name)) for name in (*GRID, "lam0.1-tau0.5")]
    best = min(rows, key=lambda row: row["difference"])
    others = matching(e.findings, question="instead", measure=MAIN)
    doubled = [minus(f"{slope.mean:+.3f} [{slope.low:+.3f}, {slope.high:+.3f}]") for slope in slopes(e)]
    ahead = {describe_point(point(CONDITIONS[row["condition"]])): row for _, row in others.iterrows() if sign(row) == 1}
    return Answer(
        ANSWERED,
        f"λ × τ: {count(rows)}; smallest mean: {describe_row(best)} ({cell_title(best)}); doubling λ adds "
        f"{doubled[0]}, doubling τ {doubled[1]}",
        "better than λ = τ = 0.5 with InfoNCE-L2, which is not to say than the baseline: "
        f"{describe_rows(ahead) or 'none is shown'}. The smallest of many means is partly luck; Holm's correction "
        "counts all",
    )


def shares(rows: Mapping[str, pd.Series]) -> str:
    """Difference of each condition as a share of that of the loss at every step."""
    always = rows[ALWAYS]["difference"]
    others = {name: row["difference"] / always for name, row in rows.items() if name != ALWAYS}
    return ", ".join(f"{name} {minus(f'{share:.0%}')}" for name, share in others.items())


@claim("When does it act: what makes the slow start?")
def slow_start(e: Evidence) -> Answer:
    begun = {name: condition for name, condition in ALONE.items() if condition not in ("late500", "late2000")}
    early = e.there("causes", coarsely(begun), "loss_held_out", step=500)
    late = e.there("causes", coarsely(ALONE), "loss_held_out", step=3000)
    return Answer(
        ANSWERED,
        f"loss on held-out images after 500 steps: {describe_rows(early)}; after 3,000: {describe_rows(late)}",
        f"share of the difference that the loss at every step makes after 500 steps: {shares(early)}",
    )


@claim("What makes the gain on few images?")
def few_images(e: Evidence) -> Answer:
    rows, sizes = (
        {name: e.in_time(measure, condition) for name, condition in ALONE.items() if condition in STOPPING}
        for measure in ("loss_held_out", "memorisation")
    )
    return Answer(
        ANSWERED,
        f"200 images, each run at its own best of 15 checkpoints, loss on held-out images: {describe_rows(rows)}",
        f"share of the gain by the loss at every step: {shares(rows)}. Near copies there: {describe_rows(sizes)}",
    )


def _sampler_title(way: str) -> str:
    """A sampler for people; no guidance goes without saying."""
    method, _, rest = way.partition(" ")
    return f"{WAYS[method]} {rest.removesuffix(', guidance 1')}"


@claim("Guidance, few steps, other samplers: does the difference depend on them?", "guidance 1.5 and none, above")
def guidance(e: Evidence) -> Answer:
    finer, rows = (
        {_sampler_title(way): e.row("sampling", condition, sampler=way) for way in SAMPLERS}
        for condition in ("dispersive", "coarse-dispersive")
    )
    guided = SAMPLERS[1]
    changes = {
        "Nano/2": e.by_sampler("dispersive", guided, "baseline"),
        "Nano/4": e.by_sampler("coarse-dispersive", guided, "coarse-baseline"),
    }
    moved = "; ".join(f"{size} {describe_interval(row)}" for size, row in changes.items())
    pixels = e.row("sampling", "dispersive", "frechet_pixels", sampler=guided)
    return Answer(
        ANSWERED,
        f"Nano/2: {describe_rows(finer)}; Nano/4: {describe_rows(rows)}",
        f"from no guidance to guidance 2 the difference changes by {moved}; but of the Fréchet distance of pixels it "
        f"is {describe_row(pixels)} at guidance 2 (Nano/2)",
    )


def claims(findings: pd.DataFrame, table: pd.DataFrame, stopping: pd.DataFrame) -> pd.DataFrame:
    """Table of claim, published, here, verdict and why."""
    evidence, rows = Evidence(findings, table, stopping), []
    for text, published, rule in CLAIMS:
        try:
            answer = rule(evidence)
        except Missing as missing:
            answer = Answer(NOT_TESTED, "–", f"not in this atlas yet: {missing}")
        rows.append({"claim": text, "published": published, **answer._asdict()})
    return pd.DataFrame(rows)[["claim", "published", "here", "verdict", "why"]]
