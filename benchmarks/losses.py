"""What each loss costs, forward and backward: ``make bench``, or ``python benchmarks/losses.py --full`` (minutes).

Every variant against the same loss written around torch.pdist and torch.cdist, in one process and in turns; time is the
median, memory the peak beside z itself in units of z's float32 bytes, gradient included. Sizes run from a Nano model on
digits to SiT-XL/2 (P = 256 tokens × 1,152). With a GPU, also what share of a SiT-B/2 training step the loss takes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor, nn

from labkit import build_model
from labkit.config import Config
from labkit.losses import Dispersive, Variant, contrastive_loss, dispersive_loss
from labkit.objective import Objective
from labkit.runtime import device, machine
from labkit.types import Batch, Draws

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


def _wait(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize()


def seconds(loss: Loss, z: Tensor) -> float:
    _wait(z.device)
    began = time.perf_counter()
    loss(z).backward()
    _wait(z.device)
    z.grad = None
    return time.perf_counter() - began


def peak_memory(loss: Loss, z: Tensor) -> float:
    """Most bytes alive at once beside z, over the bytes of z."""
    size = z.numel() * 4
    if z.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(z).backward()
        torch.cuda.synchronize()
        z.grad = None
        return (torch.cuda.max_memory_allocated() - before) / size
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        loss(z).backward()
    z.grad = None
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / size


def measure(losses: dict[str, Loss], batch: int, features: int, turns: int) -> dict[str, tuple[float, float]]:
    """Loss → (median seconds, peak memory)."""
    z = (0.5 * torch.randn(batch, features, device=device())).requires_grad_()
    memory = {name: peak_memory(loss, z) for name, loss in losses.items()}  # this also warms up
    times = {name: [] for name in losses}
    for _ in range(turns):
        for name, loss in losses.items():
            times[name].append(seconds(loss, z))
    return {name: (statistics.median(times[name]), memory[name]) for name in losses}


def table(turns: int, full: bool) -> None:
    print(f"{'B':>4} {'P':>8}  " + "".join(f"{name:>22}" for name in [*get_args(Variant), "pdist", "cdist"]))
    for batch in BATCHES:
        for features in FEATURES:
            losses: dict[str, Loss] = {v: lambda z, v=v: dispersive_loss(z, v) for v in get_args(Variant)}
            if full or batch**2 * features <= PAIR_LIMIT or device().type == "cuda":
                losses |= {"pdist": by_pdist, "cdist": by_cdist}
            found = measure(losses, batch, features, turns)
            told = [f"{1e3 * s:10.2f} ms {m:5.2f}×z" for s, m in found.values()]
            print(f"{batch:4} {features:8}  " + "".join(f"{t:>22}" for t in told), flush=True)
            if "pdist" in found:
                own = found["infonce_l2"][0]
                ratios = ", ".join(f"{found[n][0] / own:.1f} times {n}'s" for n in ("pdist", "cdist"))
                print(f"{'':14}infonce_l2 runs at {ratios} rate", flush=True)


def parents(turns: int, batch: int = 64, features: int = 98_304) -> None:
    """The contrastive parents beside the Dispersive Loss; their memory counts both views."""
    print(f"Two views, B = {batch}, P = {features}:")
    second = 0.5 * torch.randn(batch, features, device=device())
    losses = {"infonce_l2 alone": lambda z: dispersive_loss(z)}
    losses |= {f"{v}, additive": lambda z, v=v: contrastive_loss(z, second, v) for v in get_args(Variant)}
    for name, (spent, memory) in measure(losses, batch, features, turns).items():
        print(f"  {name:26} {1e3 * spent:8.2f} ms  {memory:.2f}×z")


class Step:
    """A SiT-B/2 training step on latents in bfloat16: batch 256, AdamW."""

    def __init__(self, settings: Dispersive, batch: int) -> None:
        config = Config(model="SiT-B/2", batch_size=batch, dispersive=settings)
        network = build_model("SiT-B/2").to(device())
        self.objective: nn.Module = Objective(network, config)
        self.optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-4, fused=True)
        x = torch.randn(batch, 4, 32, 32, device=device())
        self.batch = Batch(x, torch.randint(1000, (batch,), device=device()))
        self.draws = Draws(torch.randn_like(x), torch.rand(batch, 2, device=device()), torch.tensor(0))

    def __call__(self) -> float:
        _wait(device())
        began = time.perf_counter()
        self.optimizer.zero_grad()
        with torch.autocast(device().type, dtype=torch.bfloat16):
            total = self.objective(self.batch, self.draws).total
        total.backward()
        self.optimizer.step()
        _wait(device())
        return time.perf_counter() - began


def share_of_a_step(turns: int, batch: int = 256) -> None:
    """How much longer a step takes with the loss, over the authors' chunks and over the whole batch."""
    settings = (
        {"off": Dispersive()}
        | {f"chunks of {chunk}": Dispersive(lam=0.5, chunk=chunk) for chunk in (16, 32)}
        | {"the whole batch": Dispersive(lam=0.5)}
    )
    steps = {name: Step(s, batch) for name, s in settings.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    times = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            times[name].append(step())
    base = statistics.median(times["off"])
    print(f"SiT-B/2, batch {batch}, bfloat16: {1e3 * base:.1f} ms a step without the loss")
    for name in list(steps)[1:]:
        ratio = statistics.median(a / b for a, b in zip(times[name], times["off"], strict=True))
        print(f"  infonce_l2 over {name:16} {ratio - 1:+.2%} of a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="measurements of each (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="pdist and cdist at every size, too: minutes on a CPU")
    args = parser.parse_args()
    about = machine()
    print(f"{about['processor']}; GPU {about['gpu']}; torch {about['torch']}; commit {about['commit']}")
    table(args.turns, args.full)
    parents(args.turns)
    if device().type == "cuda":
        share_of_a_step(max(args.turns, 20))


if __name__ == "__main__":
    main()
