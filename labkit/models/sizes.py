"""Model names: ``SiT-B/2`` is the flow model of size B with 2×2 patches; DiT and MeanFlow are named alike."""

import re
from typing import Literal, NamedTuple, get_args

from labkit.checks import refuse, require
from labkit.models.transformer import Transformer

Family = Literal["SiT", "DiT", "MeanFlow"]
"""SiT predicts one number per channel, such as a velocity, at times in [0, 1]; DiT the noise and its variance, at steps
0 … 999; MeanFlow the average velocity over a span of time, for which it has a second time embedder."""
FAMILIES: dict[str, Family] = {family: family for family in get_args(Family)}


class Size(NamedTuple):
    depth: int
    width: int
    heads: int


class Name(NamedTuple):
    """A model's name, taken apart."""

    family: Family
    size: Size
    patch: int


SIZES = {
    "Nano": Size(4, 64, 4),  # ours: 0.3 M parameters, for 8×8 images on a laptop
    "Micro": Size(6, 128, 4),  # ours: 1.8 M, for 32×32 images on a laptop, slowly
    "Mini": Size(8, 192, 3),  # ours: 5.5 M, for 32×32 images and minutes of a GPU
    "S": Size(12, 384, 6),
    "B": Size(12, 768, 12),
    "L": Size(24, 1024, 16),
    "XL": Size(28, 1152, 16),
}


def parse_name(name: str) -> Name:
    """Family, size and patch of a name such as ``'SiT-XL/2'``.

    Raises:
        ConfigError: no such name.
    """
    match = re.fullmatch(r"(\w+)-(\w+)/([1-9]\d*)", name)
    if match is None or match[1] not in FAMILIES or match[2] not in SIZES:
        sizes = ", ".join(SIZES)
        remedy = f"write SiT-<size>/<patch>, DiT-… or MeanFlow-… with a size of {sizes}, for instance 'SiT-Nano/2'"
        refuse("model", name, remedy)
    return Name(FAMILIES[match[1]], SIZES[match[2]], int(match[3]))


def features_per_sample(name: str, input_size: int) -> int:
    """P = T·H, the number of features of a block's output for one image of this side."""
    _, size, patch = parse_name(name)
    return (input_size // patch) ** 2 * size.width


def build_model(
    name: str, input_size: int = 32, in_channels: int = 4, num_classes: int = 1000, learn_sigma: bool = True
) -> Transformer:
    """Build a freshly initialised model by name; the defaults are the published setting of ImageNet latents.

    Args:
        name: ``SiT-<size>/<patch>``, ``DiT-…`` or ``MeanFlow-…``, size one of ``SIZES``.
        input_size: side of the square input; the patch must divide it.
        in_channels: channels of the input (4 for latents, 1 for digits).
        num_classes: number of classes; one more label, the null class, is added.
        learn_sigma: twice the output channels in the last layer, as in the released checkpoints. DiT needs it and
            returns the second half, which predicts the variance; the other families drop it.

    Raises:
        ConfigError: an unknown name, a patch that does not divide the input, or a DiT without ``learn_sigma``.
    """
    family, size, patch = parse_name(name)
    require(learn_sigma or family != "DiT", "learn_sigma", learn_sigma, "a DiT learns its variance; leave it on")
    shape = patch, input_size, in_channels, num_classes
    return Transformer(*size, *shape, learn_sigma, keep_sigma=family == "DiT", spans=family == "MeanFlow")
