"""What a training step costs at full size, and what each part of the engine buys: python benchmarks/step.py

For each model, on latents that this script draws (their numbers do not matter to the clock), at one batch:

    float32 loop    the loop of a textbook around the same network: AdamW as it comes, an average in a Python loop,
                    the loss printed each step; strict float32
    TF32 loop       the same, with matrix products in TF32 (on a GPU alone)
    fused           labkit.Trainer: fused AdamW, averages in one call, no wait for the device; float32
    bfloat16        … and matrix products in bfloat16
    compile         … and compiled
    recipe          … and all data on the device instead of in mapped files: labkit's recipe
    dispersive, chunks of 32   the recipe with the Dispersive Loss
    dispersive, whole, covariance, contrastive, MeanFlow   and with others

Printed are images/s (median over turns), peak memory, milliseconds of data, gradient, optimizer and average, and the
share of the matrix products that this very device was just measured to make in the same precision (model FLOPs
utilisation; a step counts as three forward passes, two operations a multiply-accumulate).

    python benchmarks/step.py --models SiT-B/2 --out step.json     a GPU, minutes a model
    python benchmarks/step.py --smoke                              any machine, seconds: does it run
"""

import argparse
import contextlib
import gc
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import FOREVER, in_turns, seconds
from results import describe_step

from labkit import Trainer, recipes
from labkit.config import Config, Engine
from labkit.datasets import Source, load
from labkit.datasets.store import ABOUT, FORMAT
from labkit.flops import training_flops
from labkit.losses import Contrastive, Dispersive
from labkit.runtime import device, machine
from labkit.scale import measured_flops
from labkit.training.trainer import build_network

LOOPS = {"float32 loop": "float32", "TF32 loop": "TF32"}
"""Rows of the textbook's loop → the precision of its matrix products."""
ENGINE = ("fused", "bfloat16", "compile")
"""Rows of the trainer on the way to the recipe."""


def write_latents(folder: Path, count: int) -> str:
    """A store of random latents, as ``labkit prepare`` lays one out."""
    draw = np.random.default_rng(0)
    np.save(folder / "shard-00000.npy", draw.standard_normal((count, 2, 2, 4, 32, 32), np.float32).astype(np.float16))
    np.save(folder / "labels.npy", draw.integers(0, 1000, count))
    names = ("shard-00000.npy", "labels.npy")
    shard, labels = ({"file": name, "bytes": (folder / name).stat().st_size} for name in names)
    about = {
        "format": FORMAT,
        "complete": True,
        "kind": "latents",
        "shape": [4, 32, 32],
        "num_classes": 1000,
        "flips": True,
        "scale": 0.18215,
        "count": count,
        "size": 256,
        "held_out": [],
        "root": None,
        "shards": [{**shard, "count": count}],
        "tables": [labels],
    }
    (folder / ABOUT).write_text(json.dumps(about))
    return str(folder)


@contextlib.contextmanager
def products_in_tf32(on: bool = True) -> Iterator[None]:
    """Matrix products in TF32, on a GPU, while it is entered."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def plain_loop(config: Config, images: Source, tf32: bool) -> Iterator[None]:
    """What one writes first."""
    on = device()
    network = build_network(config, *images.dimensions).to(on)
    average = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0)
    b = config.batch_size // config.engine.accumulate
    while True:
        with products_in_tf32(tf32):
            optimizer.zero_grad()
            for _ in range(config.engine.accumulate):
                x1, y, _ = images.batch(torch.randint(len(images), (b,)))
                x1, y = x1.to(on), y.to(on)
                x0, t = torch.randn_like(x1), torch.rand(b, device=on)
                at = t.view(-1, 1, 1, 1)
                loss = (network(at * x1 + (1 - at) * x0, t, y).output - (x1 - x0)).pow(2).mean()
                (loss / config.engine.accumulate).backward()
            optimizer.step()
            with torch.no_grad():
                for name, p in network.named_parameters():
                    average[name].mul_(0.9999).add_(p, alpha=1e-4)
            _ = loss.item()
        yield


def kinds(model: str, latents: str, batch: int, chunk: int) -> dict[str, Config]:
    """Row → its config, of which the textbook's loops take network and batch."""
    fast = dict(precision="bfloat16", compile=True) if device().type == "cuda" else {}
    settings = dict(dataset=latents, batch_size=batch, steps=FOREVER, log_every=FOREVER)
    plain = recipes.imagenet256(model, "baseline", **settings, engine=Engine(), dispersive=Dispersive(chunk=chunk))
    recipe = plain.replace(engine=Engine(**fast, resident=True))
    return {
        **dict.fromkeys((*LOOPS, "fused"), plain),
        "bfloat16": plain.replace(engine=Engine(precision="bfloat16")),
        "compile": plain.replace(engine=Engine(**fast)),
        "recipe": recipe,
        f"dispersive, chunks of {chunk}": recipe.replace(dispersive=Dispersive(0.5, chunk=chunk)),
        "dispersive, whole": recipe.replace(dispersive=Dispersive(0.5)),
        "covariance": recipe.replace(dispersive=Dispersive(0.5, variant="covariance")),
        "contrastive": recipe.replace(contrastive=Contrastive(0.5, noise="restricted")),
        "MeanFlow": recipe.replace(model=model.replace("SiT", "MeanFlow")),
    }


def measured(config: Config, loop: str | None, turns: int, steps: int) -> dict[str, Any]:
    """Images a second of a row and what belongs to it, or why it was skipped.

    Args:
        config: of the row.  loop: precision of the textbook's loop; None is the trainer.
        turns: that are measured.  steps: in a turn, fewer of a textbook's loop that takes more than three seconds.
    """
    gpu = device().type == "cuda"
    torch._dynamo.reset()
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer = plain_loop(config, load(config.dataset), loop == "TF32") if loop else Trainer(config)
        advance = partial(next, iter(trainer))
        first = seconds(advance)
        if gpu:
            torch.cuda.reset_peak_memory_stats()  # the first step is logged, which keeps more
        steps = max(1, min(steps, int(3 / first))) if loop else steps  # of a compiled loop the first says nothing
        times = in_turns({"step": advance}, turns, steps)["step"]
        peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else None
        parts = split(trainer, steps) if isinstance(trainer, Trainer) else {}
    except Exception as error:  # memory is full, above all; the rows to come have figures of their own
        return {"skipped": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    with torch.device("meta"):  # only to count its operations
        network = build_network(config, *load(config.dataset).dimensions)
    exact = gpu and (loop or config.engine.precision == "float32")
    with products_in_tf32(loop == "TF32"):
        ceiling = measured_flops(device(), side=8192 if gpu else None, dtype=torch.float32 if exact else None)
    rate = config.batch_size / statistics.median(times)
    return {
        "images/s": rate,
        "lowest": config.batch_size / max(times),
        "highest": config.batch_size / min(times),
        "seconds a step": statistics.median(times),
        "share of the matmul": rate * training_flops(network) / ceiling,
        "matmul TFLOP/s": ceiling / 1e12,
        "memory GiB": peak,
        "seconds to the first step": first,
        "batch": config.batch_size,
        "micro-batches": config.engine.accumulate,
        "ms": parts,
    }


def split(trainer: Trainer, steps: int) -> dict[str, float]:
    """Milliseconds of each part, each waited for; the gradient's hold those of the data."""

    def gradient() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer._backward(False)

    parts = {
        "data": lambda: trainer.stream._at(trainer.samples),
        "data and gradient": gradient,
        "optimizer": trainer.optimizer.step,
        "average": lambda: trainer.ema.update(trainer.step),
    }
    return {name: 1e3 * seconds(part, steps) for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["SiT-S/2", "SiT-B/2", "SiT-L/2", "SiT-XL/2"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=32, help="samples that repel each other (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="the smallest model, a few steps")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    if args.smoke:
        args.models, args.batch, args.chunk, args.turns, args.steps = ["SiT-Nano/8"], 8, 4, 1, 1
    left_out = () if device().type == "cuda" else ("TF32 loop", "bfloat16", "compile")  # they pay on a GPU alone

    table = []
    with tempfile.TemporaryDirectory() as folder:
        latents = write_latents(Path(folder), 64 if args.smoke else 4096)
        for model in args.models:
            rates: dict[str, float] = {}
            for name, config in kinds(model, latents, args.batch, args.chunk).items():
                if name in left_out:
                    continue
                config = config.replace(engine=replace(config.engine, accumulate=args.accumulate))
                if not rates:
                    work = training_flops(build_network(config, *load(latents).dimensions))
                    print(f"{model}, batch {args.batch} in {args.accumulate}; {work:,} FLOPs an image and step")
                row = {"model": model, "row": name, **measured(config, LOOPS.get(name), args.turns, args.steps)}
                table.append(row)
                print(describe_step(row), flush=True)
                rates |= {name: row["images/s"]} if "skipped" not in row else {}
            recipe = rates.pop("recipe", None)
            for name, rate in rates.items() if recipe else ():
                if name in (*LOOPS, *ENGINE):
                    print(f"  the recipe runs at {recipe / rate:.2f} times the rate of {name}")
                else:
                    print(f"  {name} adds {recipe / rate - 1:+.1%} to a step")
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "rows": table}, indent=2))


if __name__ == "__main__":
    main()
