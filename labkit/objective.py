"""What is minimised: a network, its base loss and the regularizers at its blocks, as one module.

    L_total = L_velocity + λ · L_dispersive

The network runs once; the regularizer reads features of that same forward. This module is what gets wrapped for
precision, compilation or many GPUs, because a wrapper that is called past does nothing.
"""

import torch
from torch import nn

from labkit import paths
from labkit.config import Config
from labkit.losses import dispersive_loss, velocity_loss
from labkit.models import Transformer, parse_name
from labkit.types import Batch, Draws, Losses


def regularized_blocks(config: Config) -> tuple[int, ...]:
    """The blocks that the Dispersive Loss reads; by default the one at a quarter of the depth, as in the paper."""
    size, _ = parse_name(config.model)
    return config.dispersive.blocks or (size.depth // 4,)


class Objective(nn.Module):
    """Flow matching on the linear path with an optional Dispersive Loss.

    ``forward(batch, draws)`` is deterministic: time, noise and dropped labels come from ``draws``.
    """

    def __init__(self, network: Transformer, config: Config) -> None:
        super().__init__()
        self.network = network
        self.dispersive = config.dispersive
        self.label_drop = config.label_drop
        self.blocks = regularized_blocks(config)
        network.check_blocks(self.blocks, "dispersive.blocks")

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        t, drop = draws.uniforms.unbind(dim=1)
        labels = torch.where(drop < self.label_drop, self.network.num_classes, batch.y)
        point = paths.linear(batch.x, draws.noise, t)
        prediction = self.network(point.x_t, t, labels, taps=self.blocks)
        total = velocity_loss(prediction.output, point.velocity)
        terms = {"velocity": total.detach()}
        if self.dispersive.lam is not None:
            dispersion = torch.stack([
                dispersive_loss(z, self.dispersive.variant, self.dispersive.tau) for z in prediction.features.values()
            ]).mean()  # fmt: skip
            terms["dispersive"] = dispersion.detach()
            total = total + self.dispersive.lam * dispersion
        return Losses(total, terms, prediction.features)
