"""Cost of a model before anything is trained: parameters, multiply-accumulates, memory of training, time.

The parameters (counted on the meta device) and the multiply-accumulates (``labkit.flops``) are exact. Memory, with N
parameters (which include the frozen position code, a small part), is that of the trainer:

    weights, gradients, EMA     4·N bytes each, in float32      bfloat16 multiplies with a copy: 2·N more
    AdamW's two moments         8·N bytes
    activations                 what a forward pass keeps for the backward one, for a whole batch: an estimate

For each block torch keeps 20 numbers a token and channel: input and output of the two norms (4), the inputs of the
linears (1, 1, 1, 4), q, k and v (3), the inputs of the gates and the GELU (1, 1, 4). Under autocast those of the norms
stay float32. Temporary buffers and the allocator's reserve come on top.

Time is floating-point operations over a rate, and over the share of that rate which training reaches. That share is not
known beforehand, so days are an estimate, too.
"""

import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch

from labkit.checks import check_number, check_whole, choose
from labkit.config import Precision
from labkit.flops import macs, training_flops
from labkit.losses import MeanFlow
from labkit.models import Transformer, build_model, parse_name

if TYPE_CHECKING:
    import pandas as pd

BATCH = 256
"""Batch size of the paper's training on ImageNet."""
PAPER_STEPS = 80 * (1_281_167 // BATCH)
"""Steps of its shorter training: 80 epochs without their incomplete last batch."""


class Gpu(NamedTuple):
    """Two numbers from a datasheet: promised, not measured."""

    tflops: float
    """Peak of dense matrix products in bfloat16, in 10¹² floating-point operations a second."""
    gigabytes: float
    """Memory."""


DATASHEET = {"RTX 4090": Gpu(165, 24), "A100 SXM": Gpu(312, 80), "H100 SXM": Gpu(989, 80)}


class Cost(NamedTuple):
    """A model's size and operations, which depend on no machine."""

    name: str
    tokens: int
    width: int
    depth: int
    heads: int
    parameters: dict[str, int]
    """Number of parameters by part: ``attention``, ``MLP``, ``modulation``, ``time and class`` (embedders), ``ends``
    (patches in and out, positions)."""
    macs: dict[str, int]
    """Multiply-accumulates of one image's forward pass, by part, as in ``labkit.flops``."""
    step_flops: float
    """Floating-point operations of training on one image."""


@cache
def cost(
    name: str, input_size: int = 32, in_channels: int = 4, num_classes: int = 1000, learn_sigma: bool = True
) -> Cost:
    """Parameters and operations of a model, counted without its weights; arguments as in ``build_model``."""
    with torch.device("meta"):
        network = build_model(name, input_size, in_channels, num_classes, learn_sigma)
    family, size, _ = parse_name(name)
    # MeanFlow's target is a Jacobian-vector product on a share of the batch: a forward pass and its tangent.
    factor = 1 + 2 * MeanFlow().share / 3 if family == "MeanFlow" else 1.0
    step_flops = training_flops(network) * factor
    return Cost(
        name, network.side**2, size.width, size.depth, size.heads, _parameters(network), macs(network), step_flops
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
        names: of the models.  setting: further arguments of ``build_model``, the same for all.
    """
    import pandas as pd

    rows = [
        {"model": c.name, "blocks": c.depth, "width": c.width, "heads": c.heads, "tokens": c.tokens}
        | {"parameters": sum(c.parameters.values()), "macs": sum(c.macs.values())}
        for c in (cost(name, **setting) for name in names)
    ]
    return pd.DataFrame(rows).set_index("model")


def memory(model: Cost, batch: int, precision: Precision = "float32") -> dict[str, int]:
    """Bytes of training by part, on one device with ``batch`` images at a time; activations are an estimate."""
    choose(precision, Precision, "precision")
    check_whole("batch", batch)
    parameters, copies = sum(model.parameters.values()), 2 if precision == "bfloat16" else 0
    return {
        "weights": (4 + copies) * parameters,
        "gradients": 4 * parameters,
        "AdamW": 8 * parameters,
        "EMA": 4 * parameters,
        "activations": batch * activations(model, precision),
    }


def activations(model: Cost, precision: Precision = "float32") -> int:
    """Bytes that one image's forward pass keeps for the backward one: an estimate, right to a tenth."""
    norms, rest = (16, 64) if precision == "float32" else (16, 32)  # bytes a token and channel
    tokens, width = model.tokens, model.width
    small = 4 * tokens * (model.heads + 4) + 36 * width  # sums of softmax and norms; shifts, scales and gates
    last = 12 * tokens * width
    return model.depth * ((norms + rest) * tokens * width + small) + last


def seconds(flops: float, rate: float, utilisation: float = 1.0) -> float:
    """Seconds that a number of operations takes.

    Args:
        flops: floating-point operations.  rate: operations a second at best.
        utilisation: share of the rate that is reached, in (0, 1].
    """
    check_number("flops", flops, least=0)
    check_number("rate", rate, above=0)
    check_number("utilisation", utilisation, above=0, most=1)
    return flops / (rate * utilisation)


def paper_days(model: Cost, rate: float, utilisation: float) -> float:
    """Days of the paper's training on one machine: an estimate for the network alone, on stored latents."""
    return seconds(PAPER_STEPS * BATCH * model.step_flops, rate, utilisation) / 86_400


def measured_flops(
    on: torch.device | str = "cpu", budget: float = 0.3, side: int | None = None, dtype: torch.dtype | None = None
) -> float:
    """Floating-point operations a second of square matrix products, the best rate of ``budget`` seconds.

    A processor that has other work to do, or that a long training has warmed, may reach less.

    Args:
        on: the device.  budget: seconds.  side: of the matrices, by default 1024 on a CPU and 4096 on a GPU.
        dtype: by default float32 on a CPU and bfloat16 on a GPU, which training there would use.
    """
    check_number("budget", budget, above=0)
    on = torch.device(on)
    default = (4096, torch.bfloat16) if on.type == "cuda" else (1024, torch.float32)
    side, dtype = side or default[0], dtype or default[1]
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
