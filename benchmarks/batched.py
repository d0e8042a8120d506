"""Many small models as one program against one after another: training samples a second of all, and their ratio.

    python benchmarks/batched.py                       8, 32 and 128 models of SiT-Nano/2 on this machine's device
    python benchmarks/batched.py --models 4 --steps 20

Both ways train the same runs, λ = 0.5, seeds 0, 1, …; the first steps, which warm up, are left out of the clock.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from labkit import Trainer, recipes
from labkit.experiments.batched import train_batched
from labkit.runtime import machine

WARM = 5


def synchronised() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def rate(steps: object, count: int, models: int, batch: int) -> float:
    """Samples a second over the steps after the warm-up."""
    for number, _ in enumerate(steps, 1):
        if number == WARM:
            began = synchronised()
        if number == count + WARM:
            return count * batch * models / (synchronised() - began)
    raise ValueError("the loop is shorter than the clock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    total = args.steps + WARM
    config = recipes.digits(lam=0.5, steps=total, log_every=10**6, save_every=10**6)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        alone = rate(Trainer(config, Path(folder) / "alone"), args.steps, 1, config.batch_size)
        print(f"one after another: {alone:12,.0f} samples/s")
        for models in args.models:
            runs = {Path(folder) / f"{models}-{seed}": config.replace(seed=seed) for seed in range(models)}
            together = rate(train_batched(runs), args.steps, models, config.batch_size)
            print(f"{models:4} as one program: {together:12,.0f} samples/s, {together / alone:5.2f} times as many")


if __name__ == "__main__":
    main()
