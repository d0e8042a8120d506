"""Exponential moving average of the weights, from which samples are drawn.

    θ̄ ← d·θ̄ + (1 − d)·θ,   d = min(decay, (1 + n) / (10 + n)) at update n

The warm-up forgets the random start quickly; without it a short run would sample its initial weights.
"""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """A frozen copy of ``network`` that follows its trained parameters."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        trained = [(average.data, live.data) for average, live in pairs if live.requires_grad]
        self._averages, self._live = map(list, zip(*trained, strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live weights after optimizer step number ``step``, counted from 0."""
        torch._foreach_lerp_(self._averages, self._live, 1 - self.decay_at(step))

    def decay_at(self, step: int) -> float:
        """d of the update after optimizer step number ``step``, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))
