"""The conditions of the atlas: name → config. Each is trained with several seeds by ``build_atlas.py``.

All but the named settings are those of the baseline, so that seed by seed initial weights, order of the data, noise and
times are the same, and differences can be paired.

What takes many conditions is asked of SiT-Nano/4 (names begin with ``coarse-``: 4 tokens an image, a quarter of the
time), the rest of SiT-Nano/2, which the notebooks train, and of emoji.
"""

from typing import Any

from labkit import recipes
from labkit.config import Config, Optimizer
from labkit.losses import Contrastive, Repa, warm_up

STEPS, LONG = 1500, 6000
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


def parent(variant: str, noise: str, alpha: float = 1.0, **changes: Any) -> Config:
    tau = {"tau": 0.5} if variant.startswith("infonce") else {}
    pairs = Contrastive(0.5, **tau, variant=variant, noise=noise, alignment_weight=alpha)
    return digits(contrastive=pairs, **changes)


def cell(lam: float, tau: float) -> str:
    """The name of a setting of λ and τ; that of the paper is ``dispersive``."""
    return "dispersive" if (lam, tau) == (0.5, 0.5) else f"lam{lam:g}-tau{tau:g}"


def coarse(name: str) -> str:
    return f"coarse-{name}"


GRID = {cell(lam, tau): {"lam": lam, "tau": tau} for lam in LAMS for tau in TAUS}
"""The paper's table."""
CROSS = {
    cell(lam, tau): {"lam": lam, "tau": tau}
    for lam, tau in ((0.1, 0.5), (0.25, 0.5), (1.0, 0.5), (0.5, 0.25), (0.5, 1.0), (0.5, 2.0))
}
"""Only λ or only τ is another."""
STOPPING = recipes.digits(steps=STEPS, save_every=100, keep_last=15, **FEW, **COARSE)
"""Judged every 100 steps, without and with the loss: over-fitting against a baseline that stops in time."""
TAUGHT = Repa(lam=0.5, hidden=256)

CONDITIONS = {
    "coarse-baseline": watched(LONG, **COARSE),
    "coarse-dispersive": watched(LONG, **COARSE, **ON),
    **{coarse(name): digits(lam=0.5, variant=of, **COARSE) for name, of in VARIANTS.items() if name != "l2"},
    **{coarse(f"{name}-{noise}"): parent(of, noise, **COARSE) for name, of in VARIANTS.items() for noise in NOISES},
    **{coarse(f"alpha{alpha:g}"): parent("infonce_l2", "independent", alpha, **COARSE) for alpha in ALPHAS},
    "coarse-alpha0.5-restricted": parent("infonce_l2", "restricted", 0.5, **COARSE),
    **{coarse(name): digits(**at, **COARSE) for name, at in GRID.items() if name != "dispersive"},
    "coarse-lam0.1-tau0.5": digits(lam=0.1, tau=0.5, **COARSE),
    "coarse-release": digits(lam=0.25, tau=1.0, blocks="last", **COARSE),
    "coarse-few-baseline": watched(LONG, **FEW, **COARSE),
    "coarse-few-dispersive": watched(LONG, **FEW, **COARSE, **ON),
    "larger-baseline": digits(**LARGER),
    "larger-dispersive": digits(**LARGER, **ON),
    "larger-few-baseline": digits(**FEW, **LARGER),
    "larger-few-dispersive": digits(**FEW, **LARGER, **ON),
    "emoji-baseline": digits(**EMOJI, **COARSE),
    "emoji-dispersive": digits(**EMOJI, **COARSE, **ON),
    "baseline": watched(),
    "dispersive": watched(**ON),
    **{name: digits(**at) for name, at in CROSS.items()},
    **{name: digits(lam=0.5, variant=of) for name, of in VARIANTS.items() if name != "l2"},
    **{f"l2-{noise}": parent("infonce_l2", noise) for noise in NOISES},
    **{name: digits(blocks=of, **ON) for name, of in BLOCKS.items()},
    "few-baseline": digits(**FEW),
    "few-dispersive": digits(**FEW, **ON),
    "unlabelled-baseline": digits(dataset="digits-unlabelled"),
    "unlabelled-dispersive": digits(dataset="digits-unlabelled", **ON),
    "dit-baseline": digits(model="DiT-Nano/2"),
    "dit-dispersive": digits(model="DiT-Nano/2", **ON),
    "meanflow-baseline": digits(model="MeanFlow-Nano/2"),
    "meanflow-dispersive": digits(model="MeanFlow-Nano/2", **ON),
    "repa": watched(repa=TAUGHT),
    "repa-dispersive": watched(repa=TAUGHT, **ON),
    "chunk16": digits(chunk=16, **ON),
    "chunk32": digits(chunk=32, **ON),
    "batch32-baseline": digits(batch_size=32),
    "batch32-dispersive": digits(batch_size=32, **ON),
    "warmup": digits(schedule=warm_up(1000), **ON),
    "cosine-weak": digits(lam=0.05, variant="infonce_cosine"),
}
