"""A memory bank: a batch is repelled by detached features of earlier batches, as by its own.

With B samples in the batch and M in the bank, the mean of the loss goes over the B² pairs of the batch (or B² − B
without self-pairs) and the B·M pairs of a sample and a remembered one, all with the same weight. Only the batch gets a
gradient. So the number of negatives no longer hangs on the batch, and the floor of InfoNCE-L2 is −log(B + M). The
remembered features come from weights of up to M/B steps ago. (Repulsor, 2512.08648, draws negatives from a bank as
well, after a projection to few dimensions, which this one does without.)
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from labkit.ops import rows


class Bank(nn.Module):
    """A queue of features, the newest first. Its buffers are a part of the training state.

    Args:
        size: M, the number of samples that it holds once it is full.  features: P, numbers a sample.
    """

    features: Float[Tensor, "size features"]
    filled: Tensor

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, features))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def recall(self) -> tuple[Float[Tensor, "size features"], Bool[Tensor, " size"]]:
        """A copy of the features, and which of them are there by now."""
        there = torch.arange(len(self.features), device=self.features.device) < self.filled
        return self.features.clone(), there

    @torch.no_grad()
    def push(self, z: Float[Tensor, "batch ..."]) -> None:
        """Remember the features of a batch, and forget the oldest."""
        size, flat = len(self.features), rows(z.detach()).to(self.features.dtype)
        self.features.copy_(torch.cat([flat, self.features])[:size])
        self.filled.copy_((self.filled + len(flat)).clamp(max=size))
