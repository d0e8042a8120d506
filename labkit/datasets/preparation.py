"""The settings of ``labkit prepare``."""

from dataclasses import dataclass
from typing import Literal

from labkit.checks import check_seed, choose, require, whole

Layout = Literal["NHWC", "NCHW"]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What becomes of the images, and what their source may need to be told."""

    size: int
    """Side of the square that is cut out of each image, in pixels."""
    latents: str | None = None
    """Encode them by this VAE: a hub id such as stabilityai/sd-vae-ft-ema, or a folder. None keeps pixels."""
    channels: Literal[1, 3] = 3
    """1 makes them grey."""
    flips: bool = True
    """Whether training may show them mirrored; their latents are then encoded both ways. Not for digits and letters."""
    held_out: int = 0
    """So many images, of each class in its share, are put aside for measuring."""
    seed: int = 0
    """Of the draw of these."""
    shard: int = 4096
    """Images of one file."""
    batch: int = 32
    """Images encoded at a time."""
    layout: Layout = "NHWC"
    """Order of the axes of an .npz file's images: channels last, or NCHW."""
    split: str = "train"
    """Of a Hugging Face data set."""
    subset: str | None = None
    """Of a Hugging Face data set that has several."""
    image_column: str | None = None
    """Where a Hugging Face data set has more than one of images."""
    label_column: str | None = None
    """Where a Hugging Face data set has more than one of classes."""

    def __post_init__(self) -> None:
        for name, least in {"size": 1, "shard": 1, "batch": 1, "held_out": 0}.items():
            value = getattr(self, name)
            require(whole(value, least), name, value, f"take a whole number of at least {least}")
        require(self.channels in (1, 3), "channels", self.channels, "take 3 for colour or 1 for grey")
        require(isinstance(self.flips, bool), "flips", self.flips, "say True or False")
        check_seed(self.seed)
        choose(self.layout, Layout, "layout")
        grey = self.latents is not None and self.channels == 1
        require(not grey, "channels", self.channels, "a VAE encodes images of 3 channels")
