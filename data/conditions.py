"""Conditions of the atlas: name → config. ``build_atlas.py`` trains each with several seeds.

Conditions differ from their baseline in the named settings alone: runs of one seed share initial weights, order of the
data, noise and times, so that differences can be paired.

Questions that need many conditions use SiT-Nano/4 (names begin with ``coarse-``: 4 tokens an image, a quarter of the
time), the others SiT-Nano/2, which the notebooks train, and emoji. On letters SiT-Nano/4 trains ten times longer, so
that the start is a small part of it.
"""

from dataclasses import replace
from typing import Any

from labkit import recipes
from labkit.config import Config, Optimizer
from labkit.losses import Contrastive, Repa, burst, late, warm_up

STEPS, TWICE, LONG = 1500, 3000, 6000
COMPARED_AT = {"digits": STEPS, "emoji-16": STEPS, "letters": 20_000}
"""Data set → the step at which its conditions are compared."""
ON = {"lam": 0.5, "tau": 0.5}  # the paper's, at a quarter of the depth
LAMS, TAUS = (0.25, 0.5, 1.0), (0.25, 0.5, 1.0, 2.0)
ALPHAS = (0.25, 0.5, 0.75)
VARIANTS = {"l2": "infonce_l2", "cosine": "infonce_cosine", "hinge": "hinge", "covariance": "covariance"}
NOISES = ("independent", "restricted")
BLOCKS = {"block0": (0,), "block2": (2,), "block-last": "last", "blocks-all": "all"}
COARSE = {"model": "SiT-Nano/4"}
LARGER = {"model": "SiT-Micro/4", "optimizer": Optimizer(lr=1e-3)}
FEW, EMOJI = {"dataset": "digits-few"}, {"dataset": "emoji-16"}  # else as on digits


def digits(**changes: Any) -> Config:
    steps = changes.pop("steps", STEPS)
    return recipes.digits(steps=steps, log_every=100, save_every=STEPS, keep_last=1, **changes)


def watched(steps: int = STEPS, **changes: Any) -> Config:
    """With checkpoints on the way, which stay even if an interruption saves others between them."""
    return digits(steps=steps, **changes).replace(save_every=500, keep_every=500)


def letters(**changes: Any) -> Config:
    steps = COMPARED_AT["letters"]
    return recipes.letters(steps=steps, log_every=100, save_every=1000, keep_every=1000, **changes)


def longer(**changes: Any) -> Config:
    """Twice as long, and also measured half-way, where the others end."""
    return digits(steps=TWICE, **changes).replace(keep_every=STEPS)


def parent(variant: str, noise: str, alpha: float = 1.0, **changes: Any) -> Config:
    tau = {"tau": 0.5} if variant.startswith("infonce") else {}
    pairs = Contrastive(0.5, **tau, variant=variant, noise=noise, alignment_weight=alpha)
    return (digits if "model" in changes else longer)(contrastive=pairs, **changes)


def cell(lam: float, tau: float) -> str:
    """Name of a setting of λ and τ; that of the paper is ``dispersive``."""
    return "dispersive" if (lam, tau) == (0.5, 0.5) else f"lam{lam:g}-tau{tau:g}"


def coarse(name: str) -> str:
    return f"coarse-{name}"


GRID = {cell(lam, tau): {"lam": lam, "tau": tau} for lam in LAMS for tau in TAUS}
"""The cells of the paper's table of λ and τ."""
CROSS = {
    cell(lam, tau): {"lam": lam, "tau": tau}
    for lam, tau in ((0.1, 0.5), (0.25, 0.5), (1.0, 0.5), (0.5, 0.25), (0.5, 1.0), (0.5, 2.0))
}
"""Only λ or only τ differs from the paper's setting."""
USUAL = recipes.digits().optimizer
CAUSES: dict[str, dict[str, Any]] = {
    "burst12": {**ON, "schedule": burst(12)},
    "burst100": {**ON, "schedule": burst(100)},
    "late500": {**ON, "schedule": late(500)},
    "late2000": {**ON, "schedule": late(2000)},
    "warmed-up": {**ON, "schedule": warm_up(500)},
    "cosine-burst12": {"lam": 0.5, "variant": "infonce_cosine", "schedule": burst(12)},
    "covariance-burst12": {"lam": 0.5, "variant": "covariance", "schedule": burst(12)},
    "momentum0-baseline": {"optimizer": replace(USUAL, betas=(0.0, 0.95))},
    "momentum0-dispersive": {**ON, "optimizer": replace(USUAL, betas=(0.0, 0.95))},
    "big-init4": {"embedding_scale": 4.0},
    "big-init8": {"embedding_scale": 8.0},
    "half-lr": {"optimizer": replace(USUAL, lr=USUAL.lr / 2)},
    "weight-decay": {"optimizer": replace(USUAL, weight_decay=0.1)},
}
"""Rival explanations of what the loss does early in training: when it is on, and what there is in its place."""
STOPPING = {
    name: recipes.digits(steps=STEPS, save_every=100, keep_last=15, **FEW, **(COARSE | changes))
    for name, changes in (
        {"baseline": {}, "dispersive": ON}
        | {name: cause for name, cause in CAUSES.items() if name != "late2000"}
        | {"larger-baseline": LARGER, "larger-dispersive": LARGER | ON}
    ).items()
}
"""Runs on 200 digits that are measured every 100 steps, so that each can be judged at its own best step."""
TAUGHT = Repa(lam=0.5, hidden=256)

CONDITIONS = {
    "coarse-baseline": watched(LONG, **COARSE),
    "coarse-dispersive": watched(LONG, **COARSE, **ON),
    **{coarse(name): digits(lam=0.5, variant=variant, **COARSE) for name, variant in VARIANTS.items() if name != "l2"},
    **{
        coarse(f"{name}-{noise}"): parent(variant, noise, **COARSE)
        for name, variant in VARIANTS.items()
        for noise in NOISES
    },
    **{coarse(f"alpha{alpha:g}"): parent("infonce_l2", "independent", alpha, **COARSE) for alpha in ALPHAS},
    "coarse-alpha0.5-restricted": parent("infonce_l2", "restricted", 0.5, **COARSE),
    **{coarse(name): digits(**at, **COARSE) for name, at in GRID.items() if name != "dispersive"},
    "coarse-lam0.1-tau0.5": digits(lam=0.1, tau=0.5, **COARSE),
    "coarse-release": digits(lam=0.25, tau=1.0, blocks="last", **COARSE),
    "coarse-few-baseline": watched(LONG, **FEW, **COARSE),
    "coarse-few-dispersive": watched(LONG, **FEW, **COARSE, **ON),
    **{coarse(name): watched(TWICE, **COARSE, **changes) for name, changes in CAUSES.items()},
    "coarse-bank": digits(negatives="bank", **ON, **COARSE),
    "larger-baseline": digits(**LARGER),
    "larger-dispersive": digits(**LARGER, **ON),
    "larger-few-baseline": digits(**FEW, **LARGER),
    "larger-few-dispersive": digits(**FEW, **LARGER, **ON),
    "emoji-baseline": digits(**EMOJI, **COARSE),
    "emoji-dispersive": digits(**EMOJI, **COARSE, **ON),
    "letters-baseline": letters(),
    "letters-dispersive": letters(**ON),
    "letters-burst12": letters(**ON, schedule=burst(12)),
    "letters-late2000": letters(**ON, schedule=late(2000)),
    "letters-bank": letters(negatives="bank", **ON),
    **{f"letters-{name}": letters(lam=0.5, variant=variant) for name, variant in VARIANTS.items() if name != "l2"},
    "letters-cosine-burst10000": letters(lam=0.5, variant="infonce_cosine", schedule=burst(10_000)),
    "baseline": watched(TWICE),
    "dispersive": watched(TWICE, **ON),
    **{name: digits(**at) for name, at in CROSS.items()},
    **{name: longer(lam=0.5, variant=variant) for name, variant in VARIANTS.items() if name != "l2"},
    **{f"l2-{noise}": parent("infonce_l2", noise) for noise in NOISES},
    "alpha0.5": parent("infonce_l2", "independent", 0.5),
    **{name: digits(blocks=blocks, **ON) for name, blocks in BLOCKS.items()},
    "few-baseline": digits(**FEW),
    "few-dispersive": digits(**FEW, **ON),
    "unlabelled-baseline": digits(dataset="digits-unlabelled"),
    "unlabelled-dispersive": digits(dataset="digits-unlabelled", **ON),
    "unlabelled-l2-independent": parent("infonce_l2", "independent", dataset="digits-unlabelled"),
    "dit-baseline": digits(model="DiT-Nano/2"),
    "dit-dispersive": digits(model="DiT-Nano/2", **ON),
    "meanflow-baseline": longer(model="MeanFlow-Nano/2"),
    "meanflow-dispersive": longer(model="MeanFlow-Nano/2", **ON),
    "repa": watched(TWICE, repa=TAUGHT),
    "repa-dispersive": watched(TWICE, repa=TAUGHT, **ON),
    "chunk16": digits(chunk=16, **ON),
    "chunk32": digits(chunk=32, **ON),
    "batch32-baseline": digits(batch_size=32),
    "batch32-dispersive": digits(batch_size=32, **ON),
    "warmup": digits(schedule=warm_up(1000), **ON),
    "cosine-weak": digits(lam=0.05, variant="infonce_cosine"),
}
FOLLOWED = [name for name, config in CONDITIONS.items() if config.steps == TWICE or config.dataset == "letters"]
"""Conditions whose curves notebooks show, or name numbers of."""
