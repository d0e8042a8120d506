"""Features of a trained network on fixed inputs, computed on demand and cached beside the run.

A ``Look`` defines the inputs: a number of images of a split, noised to a time t. Image i has the same noise whatever
the count, so two runs that are given the same look are compared on the same inputs.

features/step-00001500-<key>-block01.safetensors   one block's features; the key is a digest of all that they depend on
"""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from labkit import datasets
from labkit.checks import check_number, check_seed, check_whole, choose
from labkit.config import Config
from labkit.datasets import Split
from labkit.disk import DiskError, replace_file, sha256
from labkit.models import Transformer
from labkit.process import process_of
from labkit.runtime import Purpose, generator

FORMAT = "labkit-features-1"
AT_ONCE = 256  # images in one forward pass
MOST = 10_000  # largest number of images


@dataclass(frozen=True)
class Look:
    """The inputs on which a network's features are read."""

    t: float | None = 0.5
    """The time of every image, from 0 (noise) to 1 (data); None draws a time for each image, as in training."""
    count: int = 500
    """Number of images, the first of the split; all of them if there are fewer, and at most 10,000."""
    labelled: bool = True
    """Whether the network receives each image's class, as in training, or the null class. A class that it receives can
    be read off its features, so a probe for the class needs False."""
    split: Split = "held_out"
    seed: int = 0
    """Seed of the noise: two seeds give two views of the same images."""

    def __post_init__(self) -> None:
        check_number("t", self.t, least=0, most=1, optional=True)
        check_whole("count", self.count)
        choose(self.split, Split, "split")
        check_seed(self.seed)


class FeatureSet(NamedTuple):
    """Fixed inputs, and a network's features of them."""

    x1: Float[Tensor, "n c h w"]
    """The images."""
    y: Int[Tensor, " n"]
    """Their classes, also if the network did not receive them."""
    t: Float[Tensor, " n"]
    x_t: Float[Tensor, "n c h w"]
    """The noised images, which are the network's input."""
    features: dict[int, Float[Tensor, "n tokens width"]]
    """Block → features, on the CPU."""


def inputs(look: Look, config: Config) -> FeatureSet:
    """The inputs of a look, without features yet: of the config's data, noised by its model's process."""
    images = datasets.load(config.dataset, look.split)
    draw = generator(look.seed, Purpose.PROBE)
    most = min(len(images), MOST)
    noise, times = torch.randn(most, *images.shape, generator=draw), torch.rand(most, generator=draw)
    batch, t = images.batch(torch.arange(min(look.count, most))), times[: look.count]
    if look.t is not None:
        t = torch.full_like(t, look.t)
    return FeatureSet(batch.x, batch.y, t, process_of(config).noised(batch.x, noise[: look.count], t), {})


@torch.no_grad()
def extract_features(
    network: Transformer, look: Look, config: Config, blocks: Iterable[int] | None = None
) -> FeatureSet:
    """Run a network on the inputs of a look.

    Args:
        network: in evaluation mode.  look: the inputs.  config: of the run that the network belongs to.
        blocks: numbers from 0; by default all.
    """
    blocks = sorted(range(len(network.blocks)) if blocks is None else blocks)
    fixed, on, model_time = inputs(look, config), next(network.parameters()).device, process_of(config).model_time
    labels = fixed.y if look.labelled else torch.full_like(fixed.y, network.num_classes)
    parts = [
        network.features(x_t.to(on), model_time(t).to(on), y.to(on), blocks)
        for x_t, t, y in zip(*(a.split(AT_ONCE) for a in (fixed.x_t, fixed.t, labels)), strict=True)
    ]
    return fixed._replace(features={b: torch.cat([part[b] for part in parts]).float().cpu() for b in blocks})


class FeatureCache:
    """The folder of a run's cached features; its files can be deleted at any time.

    Args:
        folder: created when the first features are stored.  step: of the checkpoint.
        made_by: all that the features depend on, beside the block.
    """

    def __init__(self, folder: Path, step: int, made_by: Mapping[str, object]) -> None:
        self._made_by = json.dumps([FORMAT, made_by], sort_keys=True)
        self._start = f"{folder}/step-{step:08d}-{sha256(self._made_by)[:16]}-block"

    def _file(self, block: int) -> Path:
        return Path(f"{self._start}{block:02d}.safetensors")

    def get(self, block: int) -> Tensor | None:
        """A block's features; None if they are not stored, or cannot be read."""
        try:
            return load_file(self._file(block))["features"]
        except (SafetensorError, OSError, KeyError):  # not there, cut by a crash, or not ours
            return None

    def put(self, block: int, features: Tensor) -> None:
        """Store features; if the disk is full or read-only, a warning says so."""
        try:
            replace_file(self._file(block), save({"features": features.contiguous()}, {"made_by": self._made_by}))
        except DiskError as error:
            warnings.warn(f"Features are not kept: {error}", stacklevel=2)
