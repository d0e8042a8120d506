"""What a training step on digits costs: ``make bench`` (2 minutes on two cores).

Six loops take turns in one process, so that a machine whose speed drifts is unfair to none of them:

    bare       the same network, batch and AdamW in eight plain lines: no averaging, no log, no run
    diffusers  those eight lines around DiTTransformer2DModel of the same size
    baseline   labkit.Trainer
    dispersive labkit.Trainer with the Dispersive Loss
    meanflow   labkit.Trainer on MeanFlow, a quarter of the batch over a span
    all spans  the same with the whole batch over a span

Then 64 digits are sampled with 250 Heun steps, unguided: 500 evaluations. Printed are
images/s (median over the turns) and, which is what counts, the median of the ratios turn by turn.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from clock import FOREVER, in_turns, seconds
from torch import Tensor, nn

from labkit import Trainer, recipes
from labkit.config import Config
from labkit.datasets import Images, digits
from labkit.losses import MeanFlow
from labkit.models import parse_name
from labkit.runtime import machine
from labkit.training import sample_network
from labkit.training.trainer import build_network


def plain_loop(network: nn.Module, predict: Callable[..., Tensor], config: Config, data: Images) -> Iterator[None]:
    """The step and nothing else."""
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], config.optimizer.lr, fused=True)
    while True:
        pick = torch.randint(len(data), (config.batch_size,))
        x1, x0, t = data.x[pick], torch.randn(config.batch_size, *data.x.shape[1:]), torch.rand(config.batch_size)
        x_t = torch.lerp(x0, x1, t[:, None, None, None])
        loss = (predict(x_t, t, data.y[pick]) - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def diffusers_model(config: Config, data: Images) -> nn.Module:
    """diffusers' DiT of the same depth, width, heads and patch."""
    from diffusers import DiTTransformer2DModel

    _, size, patch = parse_name(config.model)
    return DiTTransformer2DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.width // size.heads,
        num_layers=size.depth,
        sample_size=data.size,
        in_channels=data.channels,
        out_channels=data.channels,
        patch_size=patch,
        num_embeds_ada_norm=data.num_classes,
        norm_num_groups=1,
        dropout=0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9, help="turns of each loop (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="steps in a turn (default: %(default)s)")
    parser.add_argument("--heun", type=int, default=250, help="steps of sampling (default: %(default)s)")
    args = parser.parse_args()

    config = recipes.digits(steps=FOREVER)
    data = digits("train")
    bare, other = build_network(config, *data.dimensions), diffusers_model(config, data)
    loops = {
        "bare": plain_loop(bare, lambda x, t, y: bare(x, t, y).output, config, data),
        "diffusers": plain_loop(other, lambda x, t, y: other(x, t, y).sample, config, data),
        "baseline": iter(Trainer(config)),
        "dispersive": iter(Trainer(config.replace(lam=0.5))),
        "meanflow": iter(Trainer(config.replace(model="MeanFlow-Nano/2"))),
        "all spans": iter(Trainer(config.replace(model="MeanFlow-Nano/2", meanflow=MeanFlow(share=1.0)))),
    }
    seconds_of = in_turns({name: partial(next, loop) for name, loop in loops.items()}, args.turns, args.steps)
    images = config.batch_size
    print(f"{config.model}, batch {images}, {args.turns} turns of {args.steps} steps; {machine()['processor']}")
    for name, times in seconds_of.items():
        rates = [images / t for t in times]
        print(f"  {name:10} {statistics.median(rates):7,.0f} images/s   ({min(rates):,.0f} to {max(rates):,.0f})")

    def ratio(a: str, b: str) -> float:
        """Median over the turns of the rate of a over the rate of b."""
        return statistics.median(tb / ta for ta, tb in zip(seconds_of[a], seconds_of[b], strict=True))

    print(f"labkit's trainer runs at {ratio('baseline', 'bare'):.2f} times the rate of the bare loop,")
    print(f"and at {ratio('baseline', 'diffusers'):.2f} times that of the same step around diffusers' DiT;")
    print(f"the Dispersive Loss adds {ratio('baseline', 'dispersive') - 1:+.1%} to a step;")
    print(f"a MeanFlow step takes {ratio('baseline', 'meanflow'):.2f} times a flow-matching step,")
    print(f"and {ratio('baseline', 'all spans'):.2f} times with the whole batch over a span.")
    times = [
        seconds(lambda seed=seed: sample_network(bare, config, 64, steps=args.heun, seed=seed)) for seed in range(3)
    ]
    spread = f"{min(times):.1f} to {max(times):.1f}"
    print(f"64 digits with {args.heun} Heun steps: {statistics.median(times):.1f} s ({spread})")


if __name__ == "__main__":
    main()
