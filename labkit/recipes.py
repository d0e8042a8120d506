"""Named experiments. Each recipe is a function that returns a Config; its docstring says what to expect."""

from dataclasses import replace
from typing import Any, Literal

from labkit.checks import choose, require
from labkit.config import Config, Engine, Optimizer
from labkit.losses import Dispersive, MeanFlow, Repa
from labkit.models.sizes import SIZES, parse_name

Preset = Literal[
    "baseline", "paper", "release", "repa", "repa_dispersive", "meanflow", "meanflow_dispersive", "meanflow_unguided"
]
ON_GPU = Engine(precision="bfloat16", compile=True, resident=True)
EPOCHS_80 = 400_320


def digits(**changes: Any) -> Config:
    """SiT-Nano/2 on scikit-learn's 8×8 digits: the laptop's experiment.

        labkit train digits --out runs/baseline
        labkit train digits --dispersive.lam 0.5 --dispersive.tau 0.5 --out runs/dispersive

    Expect about 3,000 images/s on two cores, so a minute for 1,500 steps. By then 95 % of the baseline's samples are
    recognised as the requested digit (Heun, 50 steps, no guidance; five seeds, data/atlas).

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
    L/2 35 hours, XL/2 51 hours. XL/2 then needs ``--engine.accumulate 2`` or ``--engine.checkpointing``. The guided
    MeanFlow presets take three times the steps, and two more forward passes in each.

    Published FID-50K, no guidance, for SiT-B/2: baseline 36.49, paper 32.35, release 32.64 (read in the authors'
    released source; 250 Heun steps in the paper, dopri5 in the release). SiT-XL/2 with guidance 1.5: 6.02, 5.09, 4.74
    (same source). MeanFlow-XL/2 in one step, 240 epochs: 3.43, dispersive 3.21 (as quoted by others); MeanFlow-B/4
    unguided, 80 epochs: 61.06 (as quoted by others). REPA: none for this setting. ``labkit evaluate --protocol
    published`` measures what these figures are.

    Args:
        model: by default ``SiT-XL/2``, or ``MeanFlow-XL/2`` for the MeanFlow presets. A DiT takes β₂ = 0.999, as in its
            released code, which samples by 250 ancestral steps with guidance 1.5 on three channels.
        preset: ``baseline``; ``paper``: λ 0.5, τ 0.5 at a quarter of the depth, 16 samples repelling each other, β₂
            0.95, as in the paper's JAX runs; ``release``: λ 0.25, τ 1 at the last block, 32 samples, β₂ 0.999, as in
            the PyTorch code released since. Each repels in chunks of the batch, so the number of GPUs changes nothing.
            The paper calls SiT-B's block "Block 3" of 0, 3, 6 and 11, numbered from 0 as here; its authors' README
            counts the last of the 12 activations as "depth = num_layers", by which its "num_layers//4" would be block
            2. Its JAX code is not public: ``--dispersive.blocks 2`` is the other reading.
            ``repa`` aligns with DINOv2-B at weight 0.5 as REPA's code does: block 8 of XL and L, 4 of B (here 7 and
            3), β₂ 0.999, gradients clipped at 1, no mirrored images.
            ``meanflow`` is one-step, guided in its target: ω 1, κ 0.5, the released code's, and ω 0.2, κ 0.92 at
            t ≥ 0.25 for XL, as others quote the published one; 240 epochs. ``meanflow_unguided`` is without guidance,
            80 epochs, and no rival of 3.43. With ``_dispersive``, ``repa`` and ``meanflow`` add the paper's λ, τ and
            block (where the authors apply the loss in MeanFlow is not published).
        changes: as in ``digits``.
    """
    choose(preset, Preset, "preset")
    kind, paper = preset.removesuffix("_dispersive"), Dispersive(0.5, tau=0.5, chunk=16)
    dispersive = {"release": Dispersive(0.25, tau=1.0, blocks="last", chunk=32), "paper": paper}
    model = model or ("MeanFlow-XL/2" if kind.startswith("meanflow") else "SiT-XL/2")
    family, size, _ = parse_name(model)
    fits = family == "MeanFlow" or not kind.startswith("meanflow")
    require(fits, "model", model, f"preset {preset} is for MeanFlow models; take MeanFlow-XL/2, or another preset")
    base = Config(
        dataset="data/cache/imagenet256",
        model=model,
        dispersive=paper if preset.endswith("dispersive") else dispersive.get(preset, replace(paper, lam=None)),
        repa=Repa(teacher="facebook/dinov2-base"),
        optimizer=Optimizer(betas=(0.9, 0.999 if kind in ("release", "repa") or family == "DiT" else 0.95)),
        engine=ON_GPU,
        batch_size=256,
        steps=EPOCHS_80,
        log_every=100,
        save_every=10_000,
        keep_every=50_000,
    )
    if kind == "repa":
        repa = replace(base.repa, lam=0.5, block=7 if size.depth >= SIZES["L"].depth else None)
        base = replace(base, repa=repa, engine=replace(ON_GPU, clip=1.0), flips=False)
    if kind == "meanflow":
        xl = MeanFlow(guidance=0.2, mixing=0.92, guidance_interval=(0.25, 1.0))
        guided = xl if size == SIZES["XL"] else MeanFlow(guidance=1.0, mixing=0.5)
        base = replace(base, meanflow=guided, steps=3 * EPOCHS_80)
    return base.replace(**changes)
