"""What each loss costs, forward and backward: ``make bench``, or ``python benchmarks/losses.py --full`` (minutes).

Every variant against the same loss written around torch.pdist and torch.cdist, in one process and in turns; time is the
median, memory the peak beside z itself in units of z's float32 bytes, gradient included. Sizes run from a Nano model on
digits to SiT-XL/2 (P = 256 tokens × 1,152). What the losses add to a training step is in ``step.py``.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from clock import about, in_turns
from torch import Tensor

from labkit.losses import Variant, contrastive_loss, dispersive_loss
from labkit.runtime import device

BATCHES, FEATURES = (32, 64, 128, 256), (6_144, 98_304, 294_912)
PAIR_LIMIT = 5e8  # B²·P beyond which pdist and cdist take minutes: only with --full
Loss = Callable[[Tensor], Tensor]


def by_pdist(z: Tensor, tau: float = 0.5) -> Tensor:
    """InfoNCE-L2 from the B(B−1)/2 distances of torch.pdist."""
    z, batch = z.flatten(1), len(z)
    weights = (-torch.pdist(z).square() / (z.shape[1] * tau)).exp()
    return ((batch + 2 * weights.sum()) / batch**2).log()


def by_cdist(z: Tensor, tau: float = 0.5) -> Tensor:
    """InfoNCE-L2 from torch.cdist without its matrix product, which leaves non-zero distances on the diagonal."""
    z = z.flatten(1)
    distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()
    return (-distances / (z.shape[1] * tau)).exp().mean().log()


def back(loss: Loss, z: Tensor) -> None:
    """Forward and backward."""
    loss(z).backward()
    z.grad = None


def peak_memory(loss: Loss, z: Tensor) -> float:
    """Most bytes alive at once beside z, over the bytes of z."""
    size = z.numel() * 4
    if z.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        back(loss, z)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / size
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        back(loss, z)
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / size


def measure(losses: dict[str, Loss], batch: int, features: int, turns: int) -> dict[str, tuple[float, float]]:
    """Loss → (median seconds, peak memory)."""
    z = (0.5 * torch.randn(batch, features, device=device())).requires_grad_()
    memory = {name: peak_memory(loss, z) for name, loss in losses.items()}
    times = in_turns({name: partial(back, loss, z) for name, loss in losses.items()}, turns)
    return {name: (statistics.median(times[name]), memory[name]) for name in losses}


def table(turns: int, full: bool) -> None:
    print(f"{'B':>4} {'P':>8}  " + "".join(f"{name:>22}" for name in [*get_args(Variant), "pdist", "cdist"]))
    for batch in BATCHES:
        for features in FEATURES:
            losses: dict[str, Loss] = {v: lambda z, v=v: dispersive_loss(z, v) for v in get_args(Variant)}
            if full or batch**2 * features <= PAIR_LIMIT or device().type == "cuda":
                losses |= {"pdist": by_pdist, "cdist": by_cdist}
            costs = measure(losses, batch, features, turns)
            cells = [f"{1e3 * s:10.2f} ms {m:5.2f}×z" for s, m in costs.values()]
            print(f"{batch:4} {features:8}  " + "".join(f"{t:>22}" for t in cells), flush=True)
            if "pdist" in costs:
                own = costs["infonce_l2"][0]
                ratios = ", ".join(f"{costs[n][0] / own:.1f} times {n}'s" for n in ("pdist", "cdist"))
                print(f"{'':14}infonce_l2 runs at {ratios} rate", flush=True)


def parents(turns: int, batch: int = 64, features: int = 98_304) -> None:
    """The contrastive parents beside the Dispersive Loss; their memory counts both views."""
    print(f"Two views, B = {batch}, P = {features}:")
    second = 0.5 * torch.randn(batch, features, device=device())
    losses = {"infonce_l2 alone": lambda z: dispersive_loss(z)}
    losses |= {f"{v}, additive": lambda z, v=v: contrastive_loss(z, second, v) for v in get_args(Variant)}
    for name, (spent, memory) in measure(losses, batch, features, turns).items():
        print(f"  {name:26} {1e3 * spent:8.2f} ms  {memory:.2f}×z")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="measurements of each (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="pdist and cdist at every size, too: minutes on a CPU")
    args = parser.parse_args()
    print(about())
    table(args.turns, args.full)
    parents(args.turns)


if __name__ == "__main__":
    main()
