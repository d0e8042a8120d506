"""Many small models as one program against one after another: training samples a second of all, and their ratio.

    python benchmarks/batched.py                       8, 32 and 128 models of SiT-Nano/2 on this machine's device
    python benchmarks/batched.py --models 4 --steps 20

Both ways train the same runs, λ = 0.5, seeds 0, 1, …; the first steps, which warm up, are left out of the clock.
"""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from clock import FOREVER, about, seconds

from labkit import Trainer, recipes
from labkit.experiments.batched import train_batched

WARM = 5


def rate(models: int | None, steps: int, **changes: Any) -> float:
    """Samples a second of so many models as one program, or of a single one by its trainer (None)."""
    # never at its end while the clock runs: there a run saves, and draws its samples
    config = recipes.digits(lam=0.5, steps=FOREVER, log_every=FOREVER, save_every=FOREVER, **changes)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as leaving:
        runs = {Path(folder) / str(seed): config.replace(seed=seed) for seed in range(models or 1)}
        loop = iter(Trainer(config, Path(folder))) if models is None else train_batched(runs)
        leaving.callback(loop.close)  # which saves, while there is a folder
        for _ in range(WARM):
            next(loop)
        return config.batch_size * len(runs) / seconds(lambda: next(loop), steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    print(about())
    alone = rate(None, args.steps)
    print(f"one after another: {alone:12,.0f} samples/s")
    for models in args.models:
        together = rate(models, args.steps)
        print(f"{models:4} as one program: {together:12,.0f} samples/s, {together / alone:5.2f} times as many")


if __name__ == "__main__":
    main()
