"""What the atlas asks: which conditions stand against which baseline, and on what they are compared."""

from typing import NamedTuple

from conditions import ALPHAS, BLOCKS, LAMS, NOISES, TAUS, VARIANTS

QUALITY = ("frechet", "frechet_pixels", "kernel_distance", "precision", "recall", "agreement", "memorisation")
FIT = ("loss_train", "loss_held_out", "loss_gap")
GEOMETRY = ("feature_norm", "mean_pairwise_distance", "effective_rank", "uniformity", "linear_probe")
WAYS = ("heun with 5 steps, guidance 1", "heun with 50 steps, guidance 2", "euler with 10 steps, guidance 1",
        "euler_maruyama with 250 steps, guidance 1")  # fmt: skip


class Question(NamedTuple):
    """One question, and the differences that answer it."""

    asked: str
    pairs: list[tuple[str, str]]
    """A condition and its baseline, seed by seed."""
    measures: tuple[str, ...] = (*QUALITY, *FIT)
    steps: tuple[int, ...] = ()
    """By default the one at which all are compared."""
    samplers: tuple[str, ...] = ()
    """By default the model's usual one."""


def against(baseline: str, *conditions: str) -> list[tuple[str, str]]:
    return [(condition, baseline) for condition in conditions]


def cell(lam: float, tau: float) -> str:
    return "dispersive" if (lam, tau) == (0.5, 0.5) else f"lam{lam:g}-tau{tau:g}"


ALL = (*QUALITY, *FIT, *GEOMETRY)
PARENTS = [f"{variant}-{noise}" for variant in VARIANTS for noise in NOISES]
GRID = [cell(lam, tau) for lam in LAMS for tau in TAUS]
OWN = {"l2": "dispersive"}  # the dispersive form of a variant has its name, but for this one

QUESTIONS = {
    "works": Question(
        "Does the Dispersive Loss improve samples, with either published setting?",
        against("baseline", "dispersive", "release"), ALL,
    ),
    "variants": Question(
        "Which variant of the loss?", against("baseline", *(OWN.get(v, v) for v in VARIANTS)), ALL,
    ),
    "parents": Question(
        "Does a positive pair help, with independent or with restricted noise?", against("baseline", *PARENTS),
    ),
    "without-pair": Question(
        "Is each variant better without its positive pair?",
        [(OWN.get(v, v), f"{v}-{noise}") for v in VARIANTS for noise in NOISES],
    ),
    "alpha": Question(
        "From contrastive (α = 1) to dispersive (α = 0)?",
        against(
            "baseline", "dispersive", *(f"alpha{a:g}" for a in ALPHAS), "l2-independent", "alpha0.5-restricted",
            "l2-restricted",
        ),
    ),
    "lam-tau": Question("Which λ, which τ?", against("baseline", *GRID), ALL),
    "block": Question("At which block?", against("baseline", "dispersive", *BLOCKS)),
    "carry-over": Question(
        "Does a regularized block change the others?", against("baseline", "dispersive", *BLOCKS), GEOMETRY,
    ),
    "age": Question(
        "Early or late in training?", against("baseline", "dispersive"), steps=(500, 1000, 1500, 3000, 6000),
    ),
    "sampling": Question(
        "With guidance, with few steps, with noise on the way?", against("baseline", "dispersive"), QUALITY,
        samplers=WAYS,
    ),
    "data": Question(
        "With 200 images instead of 1,297, or without labels?",
        [("few-dispersive", "few-baseline"), ("unlabelled-dispersive", "unlabelled-baseline")],
    ),
    "size": Question(
        "Does a larger model gain more, as over-fitting would have it?",
        [
            ("dispersive", "baseline"), ("larger-dispersive", "larger-baseline"), ("few-dispersive", "few-baseline"),
            ("larger-few-dispersive", "larger-few-baseline"),
        ],
    ),
    "dit": Question("In diffusion (DiT)?", against("dit-baseline", "dit-dispersive"), ALL),
    "meanflow": Question("In one step (MeanFlow)?", against("meanflow-baseline", "meanflow-dispersive"), ALL),
    "repa": Question(
        "Beside an external teacher (REPA)?", against("baseline", "dispersive", "repa", "repa-dispersive"),
    ),
    "both": Question("Does the Dispersive Loss add to REPA?", against("repa", "repa-dispersive")),
    "batch": Question(
        "How many samples repel each other?",
        [*against("baseline", "dispersive", "chunk32", "chunk16"), ("batch32-dispersive", "batch32-baseline")],
    ),
    "gentle": Question(
        "A gentler way: warm-up, small λ?", against("baseline", "warmup", "cosine-weak", cell(0.1, 0.5)),
    ),
}  # fmt: skip
