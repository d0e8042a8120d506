"""What a trained network sees in fixed inputs: features on demand, kept beside the run that they belong to.

A ``Look`` says which inputs: so many images of a split, noised to a time t by a seeded draw in which image i has the
same noise whatever the count. Two runs that are given the same look see the same numbers.

features/step-00001500-<key>-block01.safetensors   one block's features; the key stands for all that made them
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from labkit import datasets
from labkit.checks import check_seed, choose, finite, require, whole
from labkit.config import Config
from labkit.models import Transformer
from labkit.process import process_of
from labkit.runtime import Purpose, generator
from labkit.training.checkpoint import CheckpointError, replace_file

Split = Literal["train", "held_out"]
FORMAT = "labkit-features-1"
AT_ONCE = 256  # images in one forward pass
MOST = 10_000  # images of a split that can be looked at


@dataclass(frozen=True)
class Look:
    """Which inputs a network is shown."""

    t: float | None = 0.5
    """The time of every image, 0 (noise) to 1 (data); None gives each image a time of its own, as in training."""
    count: int = 500
    """How many images, the first of the split; all, if there are fewer, and never more than 10,000."""
    labelled: bool = True
    """Whether the network is told each image's class, as in training, or the null class. What it is told can be read
    off its features, so that a probe for the class has to look without."""
    split: Split = "held_out"
    seed: int = 0
    """Of the noise: two seeds give two views of the same images."""

    def __post_init__(self) -> None:
        require(
            self.t is None or (finite(self.t) and 0 <= self.t <= 1),
            "t",
            self.t,
            "take a time from 0 (noise) to 1 (data), or None for a time of its own for each image",
        )
        require(whole(self.count, 1), "count", self.count, "look at 1 image or more")
        choose(self.split, Split, "split")
        check_seed(self.seed)


class FeatureSet(NamedTuple):
    """Fixed inputs, and what a network made of them."""

    x1: Float[Tensor, "n c h w"]
    """The images."""
    y: Int[Tensor, " n"]
    """Their classes, whether the network was told them or not."""
    t: Float[Tensor, " n"]
    x_t: Float[Tensor, "n c h w"]
    """What the network was shown."""
    features: dict[int, Float[Tensor, "n tokens width"]]
    """Block → features, on the CPU."""


def inputs(look: Look, config: Config) -> FeatureSet:
    """The inputs of a look, without features yet: of the config's data, noised by its model's process."""
    images = datasets.load(config.dataset, look.split)
    draw = generator(look.seed, Purpose.PROBE)
    most = min(len(images), MOST)
    noise, times = torch.randn(most, *images.shape, generator=draw), torch.rand(most, generator=draw)
    shown, t = images.batch(torch.arange(min(look.count, most))), times[: look.count]
    if look.t is not None:
        t = torch.full_like(t, look.t)
    return FeatureSet(shown.x, shown.y, t, process_of(config).noised(shown.x, noise[: look.count], t), {})


@torch.no_grad()
def extract_features(
    network: Transformer, look: Look, config: Config, blocks: Iterable[int] | None = None
) -> FeatureSet:
    """Run a network over the inputs of a look.

    Args:
        network: ready to evaluate.  look: which inputs.  config: of the run that it belongs to.
        blocks: numbers from 0; by default all.
    """
    blocks = sorted(range(len(network.blocks)) if blocks is None else blocks)
    shown, on, told_time = inputs(look, config), next(network.parameters()).device, process_of(config).model_time
    y = shown.y if look.labelled else torch.full_like(shown.y, network.num_classes)
    parts = [
        network.features(x_t.to(on), told_time(t).to(on), told.to(on), blocks)
        for x_t, t, told in zip(*(a.split(AT_ONCE) for a in (shown.x_t, shown.t, y)), strict=True)
    ]
    return shown._replace(features={b: torch.cat([part[b] for part in parts]).float().cpu() for b in blocks})


class Shelf:
    """The folder where a run keeps features of its checkpoints; what lies there can be deleted at any time.

    Args:
        folder: made when something is put there.  step: of the checkpoint.
        made_by: all that the features depend on, beside the block.
    """

    def __init__(self, folder: Path, step: int, made_by: Mapping[str, object]) -> None:
        self._made_by = json.dumps([FORMAT, made_by], sort_keys=True)
        key = hashlib.sha256(self._made_by.encode()).hexdigest()[:16]
        self._name = str(folder / f"step-{step:08d}-{key}-block")

    def _file(self, block: int) -> Path:
        return Path(f"{self._name}{block:02d}.safetensors")

    def get(self, block: int) -> Tensor | None:
        """A block's features; None where there are none, or they cannot be read."""
        try:
            return load_file(self._file(block))["features"] if self._file(block).exists() else None
        except (SafetensorError, OSError, KeyError):  # cut by a crash, or not ours: they are made again
            return None

    def put(self, block: int, features: Tensor) -> None:
        """Keep features; a full or read-only disk costs the reader time, not the features."""
        try:
            replace_file(self._file(block), save({"features": features.contiguous()}, {"made_by": self._made_by}))
        except CheckpointError as error:
            warnings.warn(f"Features are not kept: {error}", stacklevel=2)
