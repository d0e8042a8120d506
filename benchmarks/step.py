"""What a training step costs at full size, and what each part of the engine buys: python benchmarks/step.py

For each model, on latents that this script draws (their numbers do not matter to the clock), at one batch:

    plain float32   the loop of a textbook around the same network: AdamW as it comes, an average in a Python loop,
                    the loss printed each step; strict float32
    plain TF32      the same, with matrix products in TF32 (on a GPU alone)
    fused           labkit.Trainer: fused AdamW, averages in one call, no wait for the device; float32
    bfloat16        … and matrix products in bfloat16
    compile         … and compiled
    resident        … and all data on the device instead of in mapped files: labkit's recipe
    dispersive      the recipe with the Dispersive Loss, in chunks of 32
    covariance, contrastive, all negatives   and with others

Printed are images/s (median over turns), milliseconds of data, gradient, optimizer and average, peak memory, and the
share of the matrix products that this very device was just measured to make (model FLOPs utilisation; a step counts as
three forward passes, two operations a multiply-accumulate).

    python benchmarks/step.py --models SiT-B/2 --out step.json     a GPU, minutes a model
    python benchmarks/step.py --smoke                              any machine, seconds: does it run
"""

import argparse
import contextlib
import dataclasses
import gc
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labkit import Trainer, recipes
from labkit.config import Config, Engine
from labkit.datasets import Source, load
from labkit.datasets.store import ABOUT, FORMAT
from labkit.flops import training_flops
from labkit.losses import Contrastive, Dispersive
from labkit.runtime import device, machine
from labkit.scale import measured_flops
from labkit.training.trainer import build_network

FOREVER = 10**9


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
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


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


def rows(config: Config) -> dict[str, Callable[[], Iterator[Any]]]:
    """Name → what makes the loop of it."""
    gpu = device().type == "cuda"

    def trainer(engine: dict[str, Any], **changes: Any) -> Callable[[], Trainer]:
        e = dataclasses.replace(config.engine, **engine)
        return lambda: Trainer(config.replace(engine=e, log_every=FOREVER, **changes))

    recipe = dict(precision="bfloat16", compile=True) if gpu else {}
    resident = dict(recipe, resident=True)
    found = {
        "plain float32": lambda: plain_loop(config, load(config.dataset), tf32=False),
        "plain TF32": lambda: plain_loop(config, load(config.dataset), tf32=True),
        "fused": trainer({}),
        "bfloat16": trainer(dict(precision="bfloat16")),
        "compile": trainer(recipe),
        "resident": trainer(resident),
        "dispersive": trainer(resident, dispersive=Dispersive(0.5, chunk=config.dispersive.chunk)),
        "all negatives": trainer(resident, dispersive=Dispersive(0.5)),
        "covariance": trainer(resident, dispersive=Dispersive(0.5, variant="covariance")),
        "contrastive": trainer(resident, contrastive=Contrastive(0.5, noise="restricted")),
    }
    for name in () if gpu else ("plain TF32", "bfloat16", "compile"):  # what pays on a GPU alone
        del found[name]
    return found


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def measure(make: Callable[[], Iterator[Any]], turns: int, steps: int) -> tuple[list[float], float, dict[str, float]]:
    """Seconds a step in each turn, peak memory in GiB (NaN without a GPU), and milliseconds of each part of a step."""
    gc.collect()
    gpu = device().type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    made = make()
    loop, found = iter(made), []
    for turn in range(turns + 1):
        wait()
        began = time.perf_counter()
        for _ in itertools.islice(loop, steps):
            pass
        wait()
        if turn:  # the first one compiles and warms up
            found.append((time.perf_counter() - began) / steps)
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else float("nan")
    return found, peak, split(made, steps) if isinstance(made, Trainer) else {}


def split(trainer: Trainer, steps: int) -> dict[str, float]:
    """Milliseconds of each part, each waited for: together they are a little more than a step."""

    def gradient() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer._backward(False)

    parts = {
        "data": lambda: trainer.stream._at(trainer.samples),
        "gradient": gradient,
        "optimizer": trainer.optimizer.step,
        "average": lambda: trainer.ema.update(trainer.step),
    }
    found = {}
    for name, part in parts.items():
        wait()
        began = time.perf_counter()
        for _ in range(steps):
            part()
        wait()
        found[name] = (time.perf_counter() - began) / steps * 1e3
    return found


def report(model: str, config: Config, turns: int, steps: int) -> list[dict[str, Any]]:
    """Measure and print all rows of a model."""
    network = build_network(config, *load(config.dataset).dimensions)
    work = training_flops(network)
    print(f"{model}, batch {config.batch_size} in {config.engine.accumulate}; {work:,} FLOPs an image and step")
    del network
    table = []
    for name, make in rows(config).items():
        torch._dynamo.reset()
        try:
            seconds, peak, parts = measure(make, turns, steps)
        except torch.OutOfMemoryError:
            print(f"  {name:15} out of memory")
            continue
        rate = [config.batch_size / s for s in seconds]
        peak_flops = measured_flops(device())
        row = {
            "model": model,
            "row": name,
            "images/s": statistics.median(rate),
            "lowest": min(rate),
            "highest": max(rate),
            "utilisation": statistics.median(rate) * work / peak_flops,
            "matmul TFLOP/s": peak_flops / 1e12,
            "memory GiB": peak,
            "batch": config.batch_size,
            "accumulate": config.engine.accumulate,
            **parts,
        }
        table.append(row)
        told = ", ".join(f"{part} {ms:.1f}" for part, ms in parts.items())
        print(
            f"  {name:15} {row['images/s']:9,.1f} images/s ({min(rate):,.1f} to {max(rate):,.1f})  "
            f"{row['utilisation']:5.1%} of {peak_flops / 1e12:.1f} TFLOP/s  {peak:5.1f} GiB  ms: {told}",
            flush=True,
        )
    by_name = {row["row"]: row["images/s"] for row in table}
    base = by_name.get("resident")
    for name, rate in by_name.items():
        if base and name != "resident":
            plain = name in ("plain float32", "plain TF32", "fused", "bfloat16", "compile")
            print(
                f"    the recipe runs at {base / rate:.2f} times the rate of {name}"
                if plain
                else f"    {name} adds {base / rate - 1:+.1%} to a step"
            )
    return table


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

    table = []
    with tempfile.TemporaryDirectory() as folder:
        latents = write_latents(Path(folder), 64 if args.smoke else 4096)
        for model in args.models:
            config = recipes.imagenet256(
                model,
                "baseline",
                dataset=latents,
                batch_size=args.batch,
                steps=FOREVER,
                engine=Engine(accumulate=args.accumulate),
                dispersive=Dispersive(chunk=args.chunk),
            )
            table += report(model, config, args.turns, args.steps)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "rows": table}, indent=2))


if __name__ == "__main__":
    main()
