"""Questions of the atlas: which conditions are compared with which baseline, and by which measures.

The first are those that a reader asks first.
"""

from typing import NamedTuple

from conditions import ALPHAS, BLOCKS, CAUSES, CONDITIONS, CROSS, GRID, NOISES, VARIANTS, coarse

QUALITY = ("frechet", "frechet_pixels", "kernel_distance", "precision", "recall", "agreement", "memorisation")
FIT = ("loss_train", "loss_held_out", "loss_gap")
GEOMETRY = ("feature_norm", "mean_pairwise_distance", "effective_rank", "uniformity", "linear_probe")
SAMPLERS = (
    "heun with 5 steps, guidance 1",
    "heun with 50 steps, guidance 2",
    "euler with 10 steps, guidance 1",
    "euler_maruyama with 250 steps, guidance 1",
)


class Question(NamedTuple):
    """One question, and the differences that answer it."""

    text: str
    pairs: list[tuple[str, str]]
    """A condition and the one that it is compared with, seed by seed. ``name@500`` is a condition at step 500."""
    measures: tuple[str, ...] = (*QUALITY, *FIT)
    steps: tuple[int, ...] = ()
    """By default the step at which all are compared."""
    samplers: tuple[str, ...] = ()
    """By default the model's usual one."""


def against(baseline: str, *conditions: str) -> list[tuple[str, str]]:
    return [(condition, baseline) for condition in conditions]


def coarsely(*conditions: str) -> list[tuple[str, str]]:
    """Conditions of SiT-Nano/4 against their baseline."""
    return against("coarse-baseline", *map(coarse, conditions))


ALL = (*QUALITY, *FIT, *GEOMETRY)
LETTERS = [name for name in CONDITIONS if name.startswith("letters-") and name != "letters-baseline"]
FORMS = {variant: "dispersive" if variant == "l2" else variant for variant in VARIANTS}
"""Variant → the condition of its dispersive form."""
OTHERS = [*(cell for cell in GRID if cell != "dispersive"), "lam0.1-tau0.5", "cosine", "hinge", "covariance", "release"]
PARENTS = [f"{variant}-{noise}" for variant in VARIANTS for noise in NOISES]

QUESTIONS = {
    "works": Question(
        "Does the Dispersive Loss improve samples, with either published setting?",
        [*coarsely("dispersive", "release"), ("dispersive", "baseline"), ("larger-dispersive", "larger-baseline")],
        ALL,
    ),
    "parents": Question(
        "Contrastive: does a positive pair help, with independent or with restricted noise?",
        [
            *coarsely(*PARENTS),
            *against("baseline", "alpha0.5", *(f"l2-{noise}" for noise in NOISES)),
            ("unlabelled-l2-independent", "unlabelled-baseline"),
        ],
    ),
    "noise": Question(
        "Is restricted noise better than independent?",
        [(coarse(f"{variant}-restricted"), coarse(f"{variant}-independent")) for variant in VARIANTS],
    ),
    "without-pair": Question(
        "Is each variant better without its positive pair?",
        [(coarse(form), coarse(f"{v}-{noise}")) for v, form in FORMS.items() for noise in NOISES],
    ),
    "alpha": Question(
        "From contrastive (α = 1) to dispersive (α = 0)?",
        coarsely(
            "dispersive", *(f"alpha{a:g}" for a in ALPHAS), "l2-independent", "alpha0.5-restricted", "l2-restricted"
        ),
    ),
    "variants": Question(
        "Which variant of the loss?", [*coarsely(*FORMS.values()), *against("baseline", *FORMS.values())], ALL
    ),
    "lam-tau": Question("Which λ, which τ?", [*coarsely(*GRID, "lam0.1-tau0.5"), *against("baseline", *CROSS)], ALL),
    "age": Question(
        "Early or late in training, with all digits and with 200?",
        [*coarsely("dispersive"), ("dispersive", "baseline"), ("coarse-few-dispersive", "coarse-few-baseline")],
        steps=(500, 1000, 1500, 3000, 6000),
    ),
    "causes": Question(
        "When does the loss act, and which other changes have the same effect?",
        [
            *coarsely("dispersive", *(name for name in CAUSES if not name.startswith("momentum0"))),
            (coarse("momentum0-dispersive"), coarse("momentum0-baseline")),
        ],
        ALL,
        steps=(500, 1000, 1500, 3000),
    ),
    "enough": Question(
        "Is something else as good as the loss at every step?",
        against("coarse-dispersive", *(coarse(name) for name in CAUSES if not name.startswith("momentum0"))),
        ALL,
        steps=(500, 1000, 1500, 3000),
    ),
    "size": Question(
        "Does a larger model gain more, as over-fitting would have it?",
        [
            *coarsely("dispersive"),
            ("larger-dispersive", "larger-baseline"),
            ("coarse-few-dispersive", "coarse-few-baseline"),
            ("larger-few-dispersive", "larger-few-baseline"),
        ],
    ),
    "data": Question(
        "On other images, with 200 digits instead of 1,297, or without labels?",
        [
            ("letters-dispersive", "letters-baseline"),
            ("emoji-dispersive", "emoji-baseline"),
            ("few-dispersive", "few-baseline"),
            ("coarse-few-dispersive", "coarse-few-baseline"),
            ("unlabelled-dispersive", "unlabelled-baseline"),
        ],
    ),
    "letters": Question(
        "On letters, from the start to ten times as many steps?",
        against("letters-baseline", *LETTERS),
        (*QUALITY, "likelihood_divergence", *FIT, *GEOMETRY),
        steps=(1000, 3000, 6000, 10_000, 20_000),
    ),
    "sampling": Question(
        "With guidance, with few steps, with noise on the way?",
        [*coarsely("dispersive"), ("dispersive", "baseline")],
        QUALITY,
        samplers=SAMPLERS,
    ),
    "block": Question("At which block?", against("baseline", "dispersive", *BLOCKS)),
    "which-block": Question(
        "Does it matter which block, or how many samples repel each other?",
        against("dispersive", *BLOCKS, "chunk32", "chunk16"),
    ),
    "carry-over": Question(
        "Does a regularized block change the others?", against("baseline", "dispersive", *BLOCKS), GEOMETRY
    ),
    "dit": Question("In diffusion (DiT)?", against("dit-baseline", "dit-dispersive"), ALL),
    "meanflow": Question("In one step (MeanFlow)?", against("meanflow-baseline", "meanflow-dispersive"), ALL),
    "repa": Question(
        "Beside an external teacher (REPA)?", against("baseline", "dispersive", "repa", "repa-dispersive")
    ),
    "equal-cost": Question(
        "At equal cost? REPA after 1,000 steps of 1.4 times the price, or after 500, its teacher's training paid, too",
        against("baseline", "dispersive", "repa@1000", "repa@500", "repa-dispersive@1000"),
    ),
    "both": Question("Does the Dispersive Loss add to REPA?", against("repa", "repa-dispersive")),
    "teacher": Question("Is REPA ahead of the Dispersive Loss?", against("dispersive", "repa")),
    "batch": Question(
        "How many samples repel each other?",
        [
            *against("baseline", "dispersive", "chunk32", "chunk16"),
            ("batch32-dispersive", "batch32-baseline"),
            *coarsely("dispersive", "bank"),
            ("coarse-bank", "coarse-dispersive"),
            ("letters-bank", "letters-dispersive"),
        ],
    ),
    "gentle": Question(
        "A gentler way: warm-up, small λ?", against("baseline", "warmup", "cosine-weak", "lam0.1-tau0.5")
    ),
    "instead": Question(
        "What is better than λ = τ = 0.5 with InfoNCE-L2?",
        [
            *against("dispersive", *CROSS, "cosine", "hinge", "covariance", "cosine-weak", "warmup"),
            *against("coarse-dispersive", *map(coarse, OTHERS)),
        ],
    ),
}
