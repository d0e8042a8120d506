"""Named experiments. Each recipe is a function that returns a Config; its docstring says what to expect."""

from dataclasses import replace
from typing import Any, Literal

from labkit.checks import choose
from labkit.config import Config, Engine, Optimizer
from labkit.losses import Dispersive, Repa

Preset = Literal["baseline", "paper", "release", "repa", "repa_dispersive", "meanflow", "meanflow_dispersive"]
ON_GPU = Engine(precision="bfloat16", compile=True, resident=True)


def digits(**changes: Any) -> Config:
    """SiT-Nano/2 on scikit-learn's 8×8 digits: the laptop's experiment.

        labkit train digits --out runs/baseline
        labkit train digits --dispersive.lam 0.5 --dispersive.tau 0.5 --out runs/dispersive

    Expect about 3,000 images/s on two cores, so a minute for 1,500 steps. By then 95 % of the baseline's samples are
    recognised as the requested digit (Heun, 50 steps, no guidance; six seeds, data/runs/digits_compare.csv).

    Args:
        changes: any field of ``Config``, and ``lam``, ``tau``, ``variant``, ``blocks`` of its Dispersive Loss.
    """
    base = Config(dataset="digits", model="SiT-Nano/2", optimizer=Optimizer(lr=2e-3), ema_decay=0.995)
    return base.replace(**changes)


def letters(**changes: Any) -> Config:
    """SiT-Nano/4 on 26,208 capital letters at 16×16: as quick a step as on digits, and more to learn.

        labkit train letters --out runs/letters-baseline
        labkit train letters --dispersive.lam 0.5 --dispersive.tau 0.5 --out runs/letters-dispersive

    Expect about 27 steps/s on one core, so six minutes for 10,000 steps.

    Args:
        changes: as in ``digits``.
    """
    base = Config(
        dataset="letters",
        model="SiT-Nano/4",
        optimizer=Optimizer(lr=1e-3),
        batch_size=64,
        ema_decay=0.999,
        steps=10_000,
    )
    return base.replace(**changes)


def emoji(**changes: Any) -> Config:
    """SiT-Micro/4 on 3,056 emoji at 32×32 in colour: between the digits and experiments for a GPU.

        labkit train emoji --out runs/emoji-baseline
        labkit train emoji --dispersive.lam 0.5 --dispersive.tau 0.5 --out runs/emoji-dispersive

    Expect about 250 images/s on two cores, so that 600 steps take two to three minutes; the samples then are blobs of
    the right colours and outlines, not yet emoji. The time on a GPU until they are was not measured yet.

    Args:
        changes: as in ``digits``.
    """
    base = Config(dataset="emoji", model="SiT-Micro/4", optimizer=Optimizer(lr=1e-3), batch_size=64, ema_decay=0.999)
    return base.replace(**changes)


def cifar10(**changes: Any) -> Config:
    """SiT-S/2 on CIFAR-10's pixels: between the laptop and ImageNet.

        labkit prepare uoft-cs/cifar10 --size 32 --out data/cache/cifar10
        labkit train cifar10 --out runs/cifar-baseline
        labkit train cifar10 --dispersive.lam 0.5 --out runs/cifar-dispersive

    Expect an hour or two on one H100 (the operations would take 40 minutes at 40 % of the bfloat16 peak, which such a
    small model does not reach; not measured yet). No metric of this setting was published or measured here.

    Args:
        changes: as in ``digits``.
    """
    base = Config(
        dataset="data/cache/cifar10",
        model="SiT-S/2",
        optimizer=Optimizer(lr=2e-4),
        engine=ON_GPU,
        batch_size=128,
        steps=200_000,
        log_every=100,
        save_every=10_000,
    )
    return base.replace(**changes)


def imagenet256(model: str | None = None, preset: Preset = "paper", **changes: Any) -> Config:
    """The paper's experiment: ImageNet at 256×256 as latents of 32×32×4, 80 epochs of batches of 256.

        labkit prepare ILSVRC2012/train --size 256 --latents stabilityai/sd-vae-ft-ema --out data/cache/imagenet256
        labkit train imagenet256 --preset paper --out runs/xl-paper
        torchrun --nproc-per-node 8 -m labkit train imagenet256 --preset paper --out runs/xl-paper

    Expect on one H100, from the operations at 40 % of its bfloat16 peak (not measured yet): S/2 3 hours, B/2 10 hours,
    L/2 35 hours, XL/2 51 hours. XL/2 then needs ``--engine.accumulate 2`` or ``--engine.checkpointing``.

    Published FID-50K, 250 Heun steps, no guidance, for SiT-B/2: baseline 36.49, paper 32.35, release 32.64 (read in
    the authors' released source). SiT-XL/2 with guidance 1.5: 6.02, 5.09, 4.74 (same source). MeanFlow-XL/2 in one
    step: 3.43, dispersive 3.21 (as quoted by others). REPA: none for this setting.

    Args:
        model: by default ``SiT-XL/2``, or ``MeanFlow-XL/2`` for the MeanFlow presets.
        preset: ``baseline``; ``paper``: λ 0.5, τ 0.5 at a quarter of the depth, 16 samples repelling each other, as in
            the paper; ``release``: λ 0.25, τ 1 at the last block, 32 samples, as in the code released since. Each
            repels in chunks of the batch, so the number of GPUs changes nothing. ``repa`` aligns with DINOv2-B at
            weight 0.5; ``meanflow`` is one-step; with ``_dispersive``, both add the paper's λ, τ and block (where the
            authors apply the loss in MeanFlow is not published).
        changes: as in ``digits``.
    """
    choose(preset, Preset, "preset")
    paper = Dispersive(0.5, tau=0.5, chunk=16)
    dispersive = {"release": Dispersive(0.25, tau=1.0, blocks="last", chunk=32), "paper": paper}
    base = Config(
        dataset="data/cache/imagenet256",
        model="MeanFlow-XL/2" if preset.startswith("meanflow") else "SiT-XL/2",
        dispersive=paper if preset.endswith("dispersive") else dispersive.get(preset, replace(paper, lam=None)),
        repa=Repa(0.5 if preset.startswith("repa") else None, teacher="facebook/dinov2-base"),
        optimizer=Optimizer(betas=(0.9, 0.999) if preset == "release" else (0.9, 0.95)),
        engine=ON_GPU,
        batch_size=256,
        steps=400_320,
        log_every=100,
        save_every=10_000,
        keep_every=50_000,
    )
    return base.replace(**{**({} if model is None else {"model": model}), **changes})
