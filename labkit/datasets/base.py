"""Labelled images, or their latents, by row number: training reads them from a ``Source``."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.types import Batch

Split = Literal["train", "held_out"]


class AugmentationDraws(NamedTuple):
    """Random numbers for the augmentation of a batch, drawn by the caller of ``Source.batch``."""

    noise: Float[Tensor, "batch channels height width"]
    """Normal, of the data's shape."""
    uniforms: Float[Tensor, " batch"]
    """In [0, 1)."""


class Files:
    """Paths below a folder, built one by one, since a million of them would fill the memory."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Path:
        return self.root / self.names[row]


class Source(ABC):
    """Labelled images or latents of one size, in about [-1, 1]."""

    shape: tuple[int, int, int]
    """Channels, height and width of the network's input."""
    num_classes: int
    augments: bool = False
    """Whether a batch depends on random numbers: a flip, a sample of a latent's posterior."""
    resident: bool = False
    """Whether all rows lie on the device."""

    @property
    def size(self) -> int:
        """Side of an image in pixels."""
        return self.shape[-1]

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Side, channels and number of classes: the arguments of a network for these images."""
        return self.size, self.channels, self.num_classes

    @property
    def files(self) -> Files | None:
        """Image file of each row, if there are files."""
        return None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, rows: Int[Tensor, " batch"], draws: AugmentationDraws | None = None) -> Batch:
        """Images and labels of these rows, in this order, on the source's device.

        Args:
            rows: row numbers on the CPU; for a ``resident`` source better on its device, to which they are copied.
            draws: random numbers for a source that ``augments``, on its device. None gives the plain image: not
                flipped, the posterior's mean.
        """

    def pixels(
        self, rows: Int[Tensor, " batch"], draws: AugmentationDraws | None = None
    ) -> Float[Tensor, "batch 3 side side"]:
        """The images whose latents ``batch`` returns, for a source of latents that has their ``files``."""
        raise NotImplementedError

    @abstractmethod
    def to(self, device: torch.device) -> "Source":
        """The same rows, with batches on another device."""


@dataclass(eq=False)  # tensors do not compare as a whole
class Images(Source):
    """Images in memory, which batches hold as they are."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    num_classes: int
    resident = True

    def __post_init__(self) -> None:
        _, channels, height, width = self.x.shape
        self.shape = channels, height, width

    def to(self, device: torch.device) -> "Images":
        return Images(self.x.to(device), self.y.to(device), self.num_classes)

    def batch(self, rows: Int[Tensor, " batch"], draws: AugmentationDraws | None = None) -> Batch:
        rows = rows.to(self.x.device)
        return Batch(self.x[rows], self.y[rows])

    def __len__(self) -> int:
        return self.x.shape[0]
