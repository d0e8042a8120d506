"""The paper's claims and its reviewers' questions, each with the rule by which the atlas answers it."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pandas as pd
from conditions import GRID, NOISES, STEPS, VARIANTS, coarse
from questions import FORMS, SAMPLERS

from labkit.experiments.atlas import Band, at_best_step, band
from labkit.experiments.statistics import describe_row, paired_differences
from labkit.metrics import metric

CONFIRMED, NOT_CONFIRMED, CONTRADICTED = "confirmed at this scale", "not confirmed", "contradicted"
ANSWERED, NOT_TESTED = "answered", "not tested"
SURE = 0.05
MAIN = "frechet"
USUAL = "heun with 50 steps, guidance 1"
ALONE = {
    "at every step": "dispersive",
    "for 12 steps": "burst12",
    "for 100": "burst100",
    "from step 500 on": "late500",
    "from 2,000 on": "late2000",
    "warmed up over 500": "warmed-up",
    "cosine for 12": "cosine-burst12",
    "covariance for 12": "covariance-burst12",
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
        rows = self.findings
        rows = rows[(rows["question"] == question) & (rows["condition"] == condition) & (rows["measure"] == measure)]
        for name, value in where.items():
            rows = rows[rows[name] == value]
        if len(rows) != 1:
            raise Missing(f"{condition}, {measure}" + "".join(f", {k} {v}" for k, v in where.items()))
        return rows.iloc[0]

    def rows(
        self, question: str, conditions: dict[str, str], measure: str = MAIN, **where: object
    ) -> dict[str, pd.Series]:
        """Name → difference, of those conditions that were measured."""
        rows = {}
        for name, condition in conditions.items():
            with suppress(Missing):
                rows[name] = self.row(question, condition, measure, **where)
        if not rows:
            raise Missing(f"{', '.join(conditions.values())}, {measure}")
        return rows

    def values(self, condition: str, **where: object) -> pd.DataFrame:
        """seed, measure, value: the main measure at the step of comparison."""
        rows = self.table[(self.table["measure"] == MAIN) & (self.table["step"] == STEPS)]
        for name, value in {"condition": condition, **where}.items():
            rows = rows[rows[name] == value]
        if not len(rows):
            raise Missing(f"{condition}, {where}")
        return rows[["seed", "measure", "value"]]

    def in_time(self, measure: str, condition: str = "dispersive") -> pd.Series:
        """A measure of training on few images, each run at its lowest held-out loss: a condition minus the baseline."""
        rows = self.stopping
        if not len(rows) or not {condition, "baseline"} <= {*rows["condition"]}:
            raise Missing(f"{condition} on few images, measured every 100 steps")
        own = at_best_step(rows[rows["condition"].isin([condition, "baseline"])])
        return paired_differences(own[own["measure"] == measure], "baseline", of="condition").iloc[0]

    def by_sampler(self, condition: str, sampler: str) -> pd.Series:
        """One sampler minus the usual one: the same networks, so paired by seed."""
        parts = {"usual": self.values(condition, sampler=USUAL), "other": self.values(condition, sampler=sampler)}
        return paired_differences(pd.concat([rows.assign(run=name) for name, rows in parts.items()]), "usual").iloc[0]

    def shift(self, condition: str, baseline: str, sampler: str) -> pd.Series:
        """Change of a difference from a baseline between the usual sampler and another."""
        parts = []
        for name, each in (("usual", USUAL), ("other", sampler)):
            own, base = (self.values(of, sampler=each).set_index("seed")["value"] for of in (condition, baseline))
            parts.append((own - base).dropna().reset_index().assign(run=name, measure=MAIN))
        return paired_differences(pd.concat(parts), "usual").iloc[0]

    def mean(self, condition: str, measure: str, **where: object) -> float:
        rows = self.table
        rows = rows[(rows["condition"] == condition) & (rows["measure"] == measure) & (rows["step"] == STEPS)]
        for name, value in where.items():
            rows = rows[rows[name] == value]
        if not len(rows):
            raise Missing(f"{condition}, {measure}")
        return float(rows.groupby("seed")["value"].mean().mean())


def sign(row: pd.Series) -> int:
    """1 if a difference is better than the baseline by the rule above, −1 if worse, 0 if neither is shown."""
    if row["n"] < 3 or not row["p_holm"] < SURE:
        return 0
    return 1 if row["difference"] * metric(row["measure"]).direction > 0 else -1


def helps(rows: Sequence[pd.Series]) -> str:
    signs = [sign(row) for row in rows]
    if all(of == 1 for of in signs):
        return CONFIRMED
    return CONTRADICTED if -1 in signs and 1 not in signs else NOT_CONFIRMED


def describe_rows(rows: dict[str, pd.Series]) -> str:
    return "; ".join(f"{name} {describe_row(row)}" for name, row in rows.items())


def count(rows: Sequence[pd.Series]) -> str:
    signs = [sign(row) for row in rows]
    return f"{signs.count(1)} of {len(signs)} better, {signs.count(-1)} worse, {signs.count(0)} unclear"


def simple(question: str, *conditions: str, measure: str = MAIN, **where: object) -> Callable[[Evidence], Answer]:
    def answer(e: Evidence) -> Answer:
        rows = {name: e.row(question, name, measure, **where) for name in conditions}
        return Answer(helps(list(rows.values())), describe_rows(rows))

    return answer


def works(e: Evidence) -> Answer:
    models = {"Nano/4": "coarse-dispersive", "Nano/2": "dispersive", "Micro/4": "larger-dispersive"}
    rows = e.rows("works", models)
    other = e.rows("data", {"emoji of 16×16": "emoji-dispersive", "200 digits": "few-dispersive"}, "frechet_pixels")
    return Answer(
        helps(list(rows.values())),
        describe_rows(rows),
        f"Fréchet distance of pixels on other data: {describe_rows(other)}",
    )


def seed_noise(e: Evidence) -> Answer:
    row = e.row("works", "dispersive")
    norm, rank = (e.row("works", "dispersive", of, block=1) for of in ("feature_norm", "effective_rank"))
    moved = [of["p_holm"] < SURE and of["difference"] * way > 0 for of, way in ((norm, 1), (rank, -1))]
    shown = [sign(row) < 1, *moved]
    growth = 1 + norm["difference"] / norm["baseline"]
    parts = [f"Fréchet {describe_row(row)}", f"feature norm ×{growth:.1f}", f"effective rank {describe_row(rank)}"]
    return Answer(
        CONFIRMED if all(shown) else CONTRADICTED if sign(row) == 1 else NOT_CONFIRMED,
        "; ".join(f"{part}: {'so here' if so else 'not shown here'}" for part, so in zip(parts, shown, strict=True)),
        "digits, SiT-Nano/2, block 1; the later study's task was another small one",
    )


def variants(e: Evidence) -> Answer:
    rows = {name: e.row("variants", coarse(of)) for name, of in FORMS.items()}
    finer = {name: e.row("variants", of) for name, of in FORMS.items()}
    best = min(rows, key=lambda name: rows[name]["difference"])
    every = [*rows.values(), *finer.values()]
    return Answer(
        helps(every), f"Nano/4: {describe_rows(rows)}; smallest mean: {best}", f"Nano/2: {describe_rows(finer)}"
    )


def blocks(e: Evidence) -> Answer:
    rows = {name: e.row("block", name) for name in ("block0", "dispersive", "block2", "block-last", "blocks-all")}
    among = {name: e.row("which-block", name) for name in rows if name != "dispersive"}
    here = describe_rows({"block1" if k == "dispersive" else k: r for k, r in rows.items()})
    return Answer(helps(list(rows.values())), here, f"against block 1 instead of the baseline: {describe_rows(among)}")


def every_cell(e: Evidence) -> Answer:
    rows = [e.row("lam-tau", coarse(name)) for name in GRID]
    low, high = min(rows, key=lambda r: r["difference"]), max(rows, key=lambda r: r["difference"])
    here = f"{count(rows)}; from {low['condition']} {describe_row(low)} to {high['condition']} {describe_row(high)}"
    return Answer(helps(rows), here)


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


def parents_fail(e: Evidence) -> Answer:
    rows = {name: e.row("parents", coarse(f"{name}-independent")) for name in VARIANTS}
    worse = [sign(row) == -1 for row in rows.values()]
    losses = [e.row("parents", coarse(f"{name}-independent"), "loss_held_out") for name in VARIANTS]
    return Answer(
        CONFIRMED if all(worse) else NOT_CONFIRMED if not any(sign(r) == 1 for r in rows.values()) else CONTRADICTED,
        describe_rows(rows),
        f"{sum(worse)} of {len(worse)} are worse than the baseline; by the loss on held-out images: {count(losses)}",
    )


def restricted_better(e: Evidence) -> Answer:
    rows = {name: e.row("noise", coarse(f"{name}-restricted")) for name in VARIANTS}
    return Answer(helps(list(rows.values())), f"restricted minus independent: {describe_rows(rows)}")


def beats_parent(e: Evidence) -> Answer:
    rows = {
        f"{v} against {noise}": e.row("without-pair", coarse(form), against=coarse(f"{v}-{noise}"))
        for v, form in FORMS.items()
        for noise in NOISES
    }
    losses = [e.row("without-pair", row["condition"], "loss_held_out", against=row["against"]) for row in rows.values()]
    return Answer(
        helps(list(rows.values())),
        f"{count(list(rows.values()))}: {describe_rows(rows)}",
        f"by the loss on held-out images: {count(losses)}",
    )


def longer(e: Evidence) -> Answer:
    rows = {f"step {step}": e.row("age", "coarse-dispersive", step=step) for step in (500, 1000, STEPS, 3000, 6000)}
    return Answer(helps(list(rows.values())[-1:]), describe_rows(rows), "the verdict is that of the longest training")


def sizes(e: Evidence) -> Answer:
    rows = {"Nano": e.row("size", "coarse-dispersive"), "Micro": e.row("size", "larger-dispersive")}
    gap = [e.mean(name, "loss_gap") for name in ("coarse-baseline", "larger-baseline")]
    shares = [row["difference"] / row["baseline"] for row in rows.values()]
    verdict = CONFIRMED if shares[1] < shares[0] and sign(rows["Micro"]) == 1 else NOT_CONFIRMED
    return Answer(
        verdict,
        f"{describe_rows(rows)}: {shares[0]:+.0%} and {shares[1]:+.0%} of the baseline",
        f"held-out minus training loss of the baselines {gap[0]:.3f} and {gap[1]:.3f}; S and larger need a GPU",
    )


def over_fitting(e: Evidence) -> Answer:
    few, whole = (
        {size: f"{of}{data}-dispersive" for size, of in (("Nano/4", "coarse"), ("Micro/4", "larger"))}
        for data in ("-few", "")
    )
    held_out, copied = (e.rows("size", few, of) for of in ("loss_held_out", "memorisation"))
    on_all = e.rows("size", whole, "loss_held_out")
    late = {of: e.row("age", "coarse-few-dispersive", of, step=6000) for of in ("loss_held_out", "memorisation")}
    best = {of: e.in_time(of) for of in ("loss_held_out", "memorisation", MAIN)}
    every = [*held_out.values(), *copied.values(), best["loss_held_out"]]
    return Answer(
        helps(every),
        f"{count(every)}. 200 training images, at equal steps: loss on held-out ones {describe_rows(held_out)}; "
        f"share of near copies {describe_rows(copied)}. Each at its own best of 15 checkpoints: {describe_rows(best)}",
        f"with 200 after 6,000 steps: {describe_rows(late)}; with all images the held-out loss is "
        f"{describe_rows(on_all)}. The gap between the losses is no judge: it is small in whatever learns slowly",
    )


def guidance(e: Evidence) -> Answer:
    rows = {way: e.row("sampling", "coarse-dispersive", sampler=way) for way in SAMPLERS}
    finer = {way: e.row("sampling", "dispersive", sampler=way) for way in SAMPLERS}
    shifts = {
        of: e.shift(f"{name}dispersive", f"{name}baseline", SAMPLERS[1])
        for of, name in (("Nano/2", ""), ("Nano/4", "coarse-"))
    }
    pixels = e.row("sampling", "dispersive", "frechet_pixels", sampler=SAMPLERS[1])
    moved = "; ".join(
        f"{of} {row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]" for of, row in shifts.items()
    )
    return Answer(
        ANSWERED,
        f"Nano/2: {describe_rows(finer)}; Nano/4: {describe_rows(rows)}",
        f"from no guidance to guidance 2 the difference changes by {moved}; but of the Fréchet distance of pixels it "
        f"is {describe_row(pixels)} at guidance 2 (Nano/2)",
    )


def sde(e: Evidence) -> Answer:
    rows = {"Nano/2": e.by_sampler("baseline", SAMPLERS[3]), "Nano/4": e.by_sampler("coarse-baseline", SAMPLERS[3])}
    return Answer(
        helps(list(rows.values())),
        f"SDE minus ODE, baselines: {describe_rows(rows)}",
        "Euler–Maruyama with 250 evaluations of the network against Heun with about 100",
    )


def chunks(e: Evidence) -> Answer:
    rows = {f"{n} instead of 128": e.row("which-block", f"chunk{n}") for n in (16, 32)}
    gains = {f"chunks of {n}": e.row("batch", f"chunk{n}") for n in (16, 32)}
    return Answer(ANSWERED, describe_rows(rows), f"against the baseline, as with 128: {describe_rows(gains)}")


def repa_price(e: Evidence) -> Answer:
    conditions = {
        "dispersive": "dispersive",
        "REPA, as many steps": "repa",
        "REPA after 1,000": "repa@1000",
        "after 500": "repa@500",
        "both after 1,000": "repa-dispersive@1000",
    }
    rows = {name: e.row("repa" if of == "repa" else "equal-cost", of) for name, of in conditions.items()}
    return Answer(
        ANSWERED,
        describe_rows(rows),
        "a step with REPA costs 1.4 plain ones, so 1,000 of them what 1,500 do, and 500 if the teacher's training is "
        "paid, too: here the teacher has 67,392 parameters, trained on the same 1,297 images without labels, "
        "52 s of one core, a price that the Dispersive Loss does not have; no outside data enter",
    )


def repa_order(e: Evidence) -> Answer:
    repa, direct = e.row("repa", "repa"), e.row("teacher", "repa")
    return Answer(
        helps([repa, direct]),
        f"REPA minus dispersive {describe_row(direct)}; minus baseline {describe_row(repa)}",
        "the paper's order is baseline, dispersive, REPA",
    )


def dynamics(e: Evidence) -> Answer:
    value = e.mean("coarse-dispersive", "logged_dispersive")
    base = e.mean("coarse-baseline", "logged_dispersive")
    return Answer(
        ANSWERED,
        f"over the last fifth of training L_disp is {value:.2f}, and {base:.2f} for the baseline, "
        "where it is only measured; the floor −log 128 is −4.85",
        "curves: notebooks 03 and 04",
    )


def conflict(e: Evidence) -> Answer:
    cosine, ratio = (e.mean("coarse-dispersive", f"logged_gradient_{name}") for name in ("cosine", "ratio"))
    verdict = "neither synergy nor conflict" if abs(cosine) < 0.1 else "synergy" if cosine > 0 else "conflict"
    here = f"mean cosine of the two gradients {cosine:+.3f}, the regularizer's norm {ratio:.3f} of the other's"
    return Answer(ANSWERED, here, f"{verdict} (below 0.1 in size counts as neither)")


def times(e: Evidence) -> Answer:
    ratios = []
    for t in ("0.1", "0.5", "0.9"):
        own, base = (e.mean(coarse(of), f"mean_pairwise_distance_t{t}", block=1) for of in ("dispersive", "baseline"))
        ratios.append(f"×{own / base:.1f} at t = {t}")
    return Answer(ANSWERED, f"distance between features of block 1 over the baseline's: {', '.join(ratios)}")


def probes(e: Evidence) -> Answer:
    rows = {f"block {b}": e.row("works", "coarse-dispersive", "linear_probe", block=b) for b in range(4)}
    same = [e.mean("coarse-dispersive", "cka_with_baseline", block=b) for b in range(4)]
    seed = [e.mean("coarse-baseline", "cka_with_baseline", block=b) for b in range(4)]
    return Answer(
        ANSWERED,
        f"linear probe for the class, without labels as input: {describe_rows(rows)}",
        f"CKA with the baseline's features, blocks 0 to 3: {_numbers(same)}; between two seeds of it: {_numbers(seed)}",
    )


def slow_start(e: Evidence) -> Answer:
    names = {name: coarse(of) for name, of in ALONE.items()}
    early, late = (e.rows("causes", names, "loss_held_out", step=step) for step in (500, 3000))
    always = early["at every step"]["difference"]
    shares = [f"{name} {row['difference'] / always:.0%}" for name, row in early.items() if name != "at every step"]
    return Answer(
        ANSWERED,
        f"loss on held-out images after 500 steps: {describe_rows(early)}; after 3,000: {describe_rows(late)}",
        f"of the difference that the loss at every step makes after 500 steps, these make: {', '.join(shares)}",
    )


def few_images(e: Evidence) -> Answer:
    rows, sizes = {}, {}
    for name, of in ALONE.items():
        with suppress(Missing):
            rows[name] = e.in_time("loss_held_out", of)
            sizes[name] = e.in_time("memorisation", of)
    if set(rows) <= {"at every step"}:
        raise Missing("other conditions than the loss at every step, on 200 images")
    always = rows["at every step"]["difference"]
    shares = [f"{name} {row['difference'] / always:.0%}" for name, row in rows.items() if name != "at every step"]
    return Answer(
        ANSWERED,
        f"200 images, each run at its own best of 15 checkpoints, loss on held-out images: {describe_rows(rows)}",
        f"of the gain by the loss at every step: {', '.join(shares)}. Share of near copies there: "
        f"{describe_rows(sizes)}",
    )


def alphas(e: Evidence) -> Answer:
    names = {"α = 0": "dispersive", "0.25": "alpha0.25", "0.5": "alpha0.5", "0.75": "alpha0.75", "1": "l2-independent"}
    rows = {name: e.row("alpha", coarse(of)) for name, of in names.items()}
    return Answer(ANSWERED, describe_rows(rows), "independent noise")


def other_metrics(e: Evidence) -> Answer:
    names = ("frechet_pixels", "kernel_distance", "precision", "recall", "agreement", "memorisation")
    rows = {name: e.row("works", "coarse-dispersive", name) for name in names}
    return Answer(ANSWERED, describe_rows(rows), count(list(rows.values())))


def side_by_side(e: Evidence) -> Answer:
    own, seed = (e.mean(coarse(name), "distance_from_baseline") for name in ("dispersive", "baseline"))
    here = (
        f"samples of the same noise differ from the baseline's by {own:.3f} (root mean square of pixels in −1 … 1), "
        f"those of two baselines of other seeds by {seed:.3f}"
    )
    return Answer(ANSWERED, here, "shown in notebook 06")


def slopes(e: Evidence) -> tuple[Band, Band]:
    """Change of the difference when λ, or τ, is doubled: a plane through the cells of the table, seed by seed."""
    at = {coarse(name): [1.0, math.log2(cell["lam"]), math.log2(cell["tau"])] for name, cell in GRID.items()}
    cells = pd.DataFrame({name: e.values(name, sampler=USUAL).set_index("seed")["value"] for name in at}).dropna()
    fits = np.linalg.lstsq(np.array([*at.values()]), cells.to_numpy(float).T, rcond=None)[0]
    lam, tau = (band(pd.Series(fit)) for fit in fits[1:])  # the first is the seed's own level
    return lam, tau


def choosing(e: Evidence) -> Answer:
    rows = [e.row("lam-tau", coarse(name)) for name in (*GRID, "lam0.1-tau0.5")]
    best = min(rows, key=lambda row: row["difference"])
    others = e.findings[(e.findings["question"] == "instead") & (e.findings["measure"] == MAIN)]
    doubled = [f"{slope.mean:+.3f} [{slope.low:+.3f}, {slope.high:+.3f}]" for slope in slopes(e)]
    ahead = {row["condition"]: row for _, row in others.iterrows() if sign(row) == 1}
    return Answer(
        ANSWERED,
        f"λ × τ: {count(rows)}; smallest mean: {best['condition']} {describe_row(best)}; doubling λ adds {doubled[0]}, "
        f"doubling τ {doubled[1]}",
        "better than λ = τ = 0.5 with InfoNCE-L2, which is not to say than the baseline: "
        f"{describe_rows(ahead) or 'none is shown'}. The smallest of many means is partly luck; Holm's correction "
        "counts all",
    )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def untested(why: str) -> Callable[[Evidence], Answer]:
    return lambda e: Answer(NOT_TESTED, "–", why)


class Claim(NamedTuple):
    claim: str
    published: str
    answer: Callable[[Evidence], Answer]


CLAIMS = [
    Claim(
        "The Dispersive Loss improves samples (λ 0.5, τ 0.5, a quarter of the depth)",
        "SiT-B/2, 80 epochs: FID 36.49 → 32.35 [S]",
        works,
    ),
    Claim(
        "So does the released setting (λ 0.25, τ 1, last block)", "36.49 → 32.64 [S]", simple("works", "coarse-release")
    ),
    Claim(
        "With guidance, at full size, too",
        "SiT-XL/2: 6.02 → 5.09, 4.74 [S]; 18.46 → 15.95 without [2]",
        untested("SiT-XL/2 takes a GPU for days: `labkit train imagenet256`; guidance: see below"),
    ),
    Claim(
        "Every variant improves, InfoNCE-L2 most",
        "L2 32.35 [S], hinge 33.93, cosine 34.33, covariance 35.82 [2]",
        variants,
    ),
    Claim(
        "Any block will do, all together best",
        "first 33.97, a quarter 32.35, half 33.79, last 33.86, all 32.05 [2]",
        blocks,
    ),
    Claim(
        "Every cell of λ ∈ {0.25, 0.5, 1} × τ ∈ {0.25, 0.5, 1, 2} is better than the baseline",
        "all below 36.49 [2]",
        every_cell,
    ),
    Claim("A regularized block makes the features of all other blocks larger", "stated, no figure [P]", carry_over),
    Claim("With independent noise the contrastive parent fails", "in all cases [P]", parents_fail),
    Claim("Restricted noise is better than independent", "stated [P]", restricted_better),
    Claim("Each variant is better without its positive pair", "each time [P]", beats_parent),
    Claim("The gain lasts in long training", "SiT-XL/2: 80 epochs 18.46 → 15.95, 800 epochs 8.99 → 8.08 [2]", longer),
    Claim("Larger models gain more", "stated; S and L [?]", sizes),
    Claim("Because it works against over-fitting", "stated [P]", over_fitting),
    Claim("DiT gains, too", "at every size [P], figures [?]", simple("dit", "dit-dispersive")),
    Claim("MeanFlow gains in one step", "MeanFlow-XL/2: 3.43 → 3.21 [2]", simple("meanflow", "meanflow-dispersive")),
    Claim(
        "REPA, with its teacher, is further ahead",
        "SiT-XL/2, long: REPA 1.80, dispersive 1.97, SiT 2.06 [2]",
        repa_order,
    ),
    Claim(
        "REPA's price: a teacher, its parameters and its data",
        "1.1 B parameters, 142 M images [2]; runs DINOv2-B, about 86 M, distilled from that",
        repa_price,
    ),
    Claim("The sampler matters: an SDE is better than an ODE", "SiT-B/2: 33.0 against 36.49 [S]", sde),
    Claim("16 or 32 samples that repel each other will do", "the batch per device of the two settings [S]", chunks),
    Claim(
        "A later study: no gain above seed noise on a small task, norms ×9, worse rank",
        "quoted by others [2]",
        seed_noise,
    ),
    Claim("Reviewers: how does the loss develop?", "–", dynamics),
    Claim("Reviewers: do the two gradients conflict?", "–", conflict),
    Claim("Reviewers: does the time t matter?", "–", times),
    Claim("Reviewers: linear probes, CKA?", "–", probes),
    Claim("Reviewers: from contrastive to dispersive (α)?", "–", alphas),
    Claim("Reviewers: other metrics beside FID?", "–", other_metrics),
    Claim("Reviewers: samples of the same seed side by side?", "–", side_by_side),
    Claim("Reviewers: Dispersive Loss and REPA together?", "–", simple("both", "repa-dispersive")),
    Claim("Reviewers: how to choose λ, τ and the block?", "–", choosing),
    Claim("When does it act: what makes the slow start?", "–", slow_start),
    Claim("What makes the gain on few images?", "–", few_images),
    Claim(
        "Guidance, few steps, other samplers: does the difference depend on them?",
        "guidance 1.5 and none, above",
        guidance,
    ),
]


def claims(findings: pd.DataFrame, table: pd.DataFrame, stopping: pd.DataFrame) -> pd.DataFrame:
    """Table of claim, published, here, verdict and why."""
    evidence, rows = Evidence(findings, table, stopping), []
    for claim in CLAIMS:
        try:
            answer = claim.answer(evidence)
        except Missing as missing:
            answer = Answer(NOT_TESTED, "–", f"not in this atlas yet: {missing}")
        rows.append({"claim": claim.claim, "published": claim.published, **answer._asdict()})
    return pd.DataFrame(rows)[["claim", "published", "here", "verdict", "why"]]
