"""The conditions of the atlas: name → config. Each is trained with several seeds by ``build_atlas.py``.

All but the named settings are those of the baseline, so that seed by seed initial weights, order of the data, noise and
times are the same, and differences can be paired.
"""

from typing import Any

from labkit import recipes
from labkit.config import Config, Optimizer
from labkit.regularizers import Contrastive, Repa

STEPS, LONG = 1500, 6000
ON = {"lam": 0.5, "tau": 0.5}  # the paper's, at a quarter of the depth
LAMS, TAUS = (0.1, 0.25, 0.5, 1.0), (0.25, 0.5, 1.0, 2.0)
ALPHAS = (0.25, 0.5, 0.75)
VARIANTS = {"l2": "infonce_l2", "cosine": "infonce_cosine", "hinge": "hinge", "covariance": "covariance"}
NOISES = ("independent", "restricted")
BLOCKS = {"block0": (0,), "block2": (2,), "block-last": "last", "blocks-all": "all"}


def digits(**changes: Any) -> Config:
    steps = changes.pop("steps", STEPS)
    return recipes.digits(steps=steps, log_every=100, save_every=STEPS, keep_last=1, **changes)


def watched(**changes: Any) -> Config:
    """Longer, with checkpoints on the way."""
    return digits(steps=LONG).replace(save_every=500, keep_last=LONG // 500, **changes)


def parent(variant: str, noise: str, alpha: float = 1.0) -> Config:
    tau = {"tau": 0.5} if variant.startswith("infonce") else {}
    return digits(contrastive=Contrastive(0.5, **tau, variant=variant, noise=noise, alignment_weight=alpha))


TAUGHT = Repa(lam=0.5, hidden=256)
LARGER = {"model": "SiT-Micro/2", "optimizer": Optimizer(lr=1e-3)}

CONDITIONS = {
    "baseline": watched(),
    "dispersive": watched(**ON),
    **{f"lam{lam:g}-tau{tau:g}": digits(lam=lam, tau=tau) for lam in LAMS for tau in TAUS if (lam, tau) != (0.5, 0.5)},
    **{name: digits(lam=0.5, variant=of) for name, of in VARIANTS.items() if name != "l2"},
    **{f"{name}-{noise}": parent(of, noise) for name, of in VARIANTS.items() for noise in NOISES},
    **{f"alpha{alpha:g}": parent("infonce_l2", "independent", alpha) for alpha in ALPHAS},
    "alpha0.5-restricted": parent("infonce_l2", "restricted", 0.5),
    **{name: digits(blocks=of, **ON) for name, of in BLOCKS.items()},
    "release": digits(lam=0.25, tau=1.0, blocks="last"),
    "few-baseline": digits(dataset="digits-few"),
    "few-dispersive": digits(dataset="digits-few", **ON),
    "unlabelled-baseline": digits(dataset="digits-unlabelled"),
    "unlabelled-dispersive": digits(dataset="digits-unlabelled", **ON),
    "dit-baseline": digits(model="DiT-Nano/2"),
    "dit-dispersive": digits(model="DiT-Nano/2", **ON),
    "meanflow-baseline": digits(model="MeanFlow-Nano/2"),
    "meanflow-dispersive": digits(model="MeanFlow-Nano/2", **ON),
    "repa": digits(repa=TAUGHT).replace(save_every=500, keep_last=3),
    "repa-dispersive": digits(repa=TAUGHT, **ON).replace(save_every=500, keep_last=3),
    "chunk16": digits(chunk=16, **ON),
    "chunk32": digits(chunk=32, **ON),
    "batch32-baseline": digits(batch_size=32),
    "batch32-dispersive": digits(batch_size=32, **ON),
    "warmup": digits(warmup=1000, **ON),
    "cosine-weak": digits(lam=0.05, variant="infonce_cosine"),
    "larger-baseline": digits(**LARGER),
    "larger-dispersive": digits(**LARGER, **ON),
    "larger-few-baseline": digits(dataset="digits-few", **LARGER),
    "larger-few-dispersive": digits(dataset="digits-few", **LARGER, **ON),
}  # fmt: skip
