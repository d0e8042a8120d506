"""What a model takes, before anything is trained: parameters, multiply-accumulates, memory of training, time.

Exact are the parameters, counted on the meta device, and the multiply-accumulates of ``labkit.flops``. Memory, with N
parameters (which include the frozen position code, a small part), is the trainer's:

    weights, gradients, EMA     4·N bytes each, in float32      bfloat16 multiplies with a copy: 2·N more
    AdamW's two moments         8·N bytes
    activations                 what a forward pass keeps for the backward one, a batch of it: an estimate

Of each block torch keeps 20 numbers a token and channel: what the two norms take and give (4), what each linear takes
(1, 1, 1, 4), q, k and v (3), what the gates and the GELU take (1, 1, 4). Under autocast those of the norms stay
float32. Temporary buffers and what an allocator holds in reserve come on top.

Time is floating-point operations over a rate, and over the share of it that training reaches. Nobody knows that share
beforehand, so that days are an estimate too.
"""

import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from labkit.checks import choose, finite, require, whole
from labkit.flops import macs, training_flops
from labkit.losses import MeanFlow
from labkit.models import Transformer, build_model, parse_name

if TYPE_CHECKING:
    import pandas as pd

Precision = Literal["float32", "bfloat16"]
IMAGENET, EPOCHS, BATCH = 1_281_167, 80, 256
"""Training images of ImageNet, and the paper's shorter training."""


class Gpu(NamedTuple):
    """Two figures off a datasheet: they are promised, not measured."""

    tflops: float
    """Peak of dense matrix products in bfloat16, in 10¹² floating-point operations a second."""
    gigabytes: float


DATASHEET = {"RTX 4090": Gpu(165, 24), "A100 SXM": Gpu(312, 80), "H100 SXM": Gpu(989, 80)}


class Cost(NamedTuple):
    """One model's figures that need no machine."""

    name: str
    tokens: int
    width: int
    depth: int
    heads: int
    parameters: dict[str, int]
    """By part: ``attention``, ``MLP``, ``modulation``, ``time and class`` (embedders), ``ends`` (patches in and out,
    positions)."""
    macs: dict[str, int]
    """Of one image's forward pass, by part, as in ``labkit.flops``."""
    step_flops: float
    """Floating-point operations of training on one image."""


@cache
def cost(
    name: str, input_size: int = 32, in_channels: int = 4, num_classes: int = 1000, learn_sigma: bool = True
) -> Cost:
    """A model's parameters and operations, counted without its weights; arguments as in ``build_model``."""
    with torch.device("meta"):
        network = build_model(name, input_size, in_channels, num_classes, learn_sigma)
    family, size, _ = parse_name(name)
    # MeanFlow's target is a Jacobian-vector product on a share of the batch: a forward pass and its tangent.
    more = 1 + 2 * MeanFlow().share / 3 if family == "MeanFlow" else 1.0
    return Cost(
        name,
        network.side**2,
        size.width,
        size.depth,
        size.heads,
        _parameters(network),
        macs(network),
        training_flops(network) * more,
    )


def _parameters(network: Transformer) -> dict[str, int]:
    parts = dict.fromkeys(("attention", "MLP", "modulation", "time and class", "ends"), 0)
    places = {
        ".attn.": "attention",
        ".mlp.fc": "MLP",
        "adaLN_modulation": "modulation",
        "t_embedder": "time and class",
        "span_embedder": "time and class",
        "y_embedder": "time and class",
    }
    for name, parameter in network.named_parameters():
        parts[next((part for place, part in places.items() if place in name), "ends")] += parameter.numel()
    return parts


def models_table(names: Sequence[str], **setting: int | bool) -> "pd.DataFrame":
    """Depth, width, heads, tokens, parameters and multiply-accumulates of a forward pass, a row a model.

    Args:
        names: of models.  setting: further arguments of ``build_model``, the same for all.
    """
    import pandas as pd

    found = [cost(name, **setting) for name in names]
    rows = [
        dict(
            model=c.name,
            blocks=c.depth,
            width=c.width,
            heads=c.heads,
            tokens=c.tokens,
            parameters=sum(c.parameters.values()),
            macs=sum(c.macs.values()),
        )
        for c in found
    ]
    return pd.DataFrame(rows).set_index("model")


def memory(of: Cost, batch: int, precision: Precision = "float32") -> dict[str, int]:
    """Bytes of training by part, on one device with ``batch`` images at a time; activations are an estimate."""
    choose(precision, Precision, "precision")
    require(whole(batch, 1), "batch", batch, "take a whole number of at least 1")
    every, copies = sum(of.parameters.values()), 2 if precision == "bfloat16" else 0
    return {
        "weights": (4 + copies) * every,
        "gradients": 4 * every,
        "AdamW": 8 * every,
        "EMA": 4 * every,
        "activations": batch * activations(of, precision),
    }


def activations(of: Cost, precision: Precision = "float32") -> int:
    """Bytes that one image's forward pass keeps for the backward one: an estimate, right to a tenth."""
    norms, rest = (16, 64) if precision == "float32" else (16, 32)  # bytes a token and channel
    tokens, width = of.tokens, of.width
    small = 4 * tokens * (of.heads + 4) + 36 * width  # softmax's and the norms' sums; shifts, scales and gates
    last = 12 * tokens * width
    return of.depth * ((norms + rest) * tokens * width + small) + last


def seconds(flops: float, rate: float, utilisation: float = 1.0) -> float:
    """How long so many operations take.

    Args:
        flops: floating-point operations.  rate: those of a second, at best.
        utilisation: share of the rate that is reached, in (0, 1].
    """
    require(finite(flops) and flops >= 0, "flops", flops, "take a number of at least 0")
    require(finite(rate) and rate > 0, "rate", rate, "take a number above 0")
    require(finite(utilisation) and 0 < utilisation <= 1, "utilisation", utilisation, "take a share in (0, 1]")
    return flops / (rate * utilisation)


def paper_steps(epochs: int = EPOCHS, batch: int = BATCH) -> int:
    """Training steps on ImageNet, the incomplete last batch of an epoch left out."""
    require(whole(epochs, 1), "epochs", epochs, "take a whole number of at least 1")
    require(whole(batch, 1) and batch <= IMAGENET, "batch", batch, f"take a whole number from 1 to {IMAGENET:,}")
    return epochs * (IMAGENET // batch)


def paper_days(of: Cost, rate: float, utilisation: float, epochs: int = EPOCHS) -> float:
    """Days of the paper's training on one machine: an estimate of the network's share, on latents made before."""
    return seconds(paper_steps(epochs) * BATCH * of.step_flops, rate, utilisation) / 86_400


def measured_flops(
    on: torch.device | str = "cpu", budget: float = 0.3, side: int | None = None, dtype: torch.dtype | None = None
) -> float:
    """Floating-point operations a second of square matrix products, the best of those made in ``budget`` seconds.

    A processor that has other work to do shows less of it, and a long training, which warms it, may too.

    Args:
        on: the device.  budget: seconds.  side: of the matrices, 1024 on a CPU and 4096 on a GPU by default.
        dtype: by default float32 on a CPU and bfloat16 on a GPU, what training there would use.
    """
    require(finite(budget) and budget > 0, "budget", budget, "take seconds above 0")
    on = torch.device(on)
    usual = (4096, torch.bfloat16) if on.type == "cuda" else (1024, torch.float32)
    side, dtype = side or usual[0], dtype or usual[1]
    a = torch.randn(side, side, device=on, dtype=dtype)
    wait = torch.cuda.synchronize if on.type == "cuda" else lambda: None
    b, best, began = a @ a, float("inf"), time.perf_counter()  # the first warms up
    while True:
        wait()
        before = time.perf_counter()
        torch.matmul(a, a, out=b)
        wait()
        now = time.perf_counter()
        best = min(best, now - before)
        if now - began >= budget:
            return 2 * side**3 / best
