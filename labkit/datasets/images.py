"""A set of labelled images that fits in memory."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images in about [-1, 1] with their labels."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    num_classes: int

    def to(self, device: torch.device) -> "Images":
        return Images(self.x.to(device), self.y.to(device), self.num_classes)

    @property
    def size(self) -> int:
        """Side of an image in pixels."""
        return self.x.shape[-1]

    @property
    def channels(self) -> int:
        return self.x.shape[1]

    def __len__(self) -> int:
        return self.x.shape[0]
