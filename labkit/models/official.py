"""Released SiT and DiT checkpoints: their tensors have our names, so each loads as it is, whole or not at all."""

import pickle
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from labkit.checks import LabError, choose
from labkit.disk import user_path
from labkit.models.layers import TimestepEmbedder
from labkit.models.sizes import SIZES
from labkit.models.transformer import Transformer
from labkit.runtime import seeded

Released = Literal["SiT", "DiT"]
WRAPPERS = ("ema", "model", "state_dict")  # keys of training checkpoints that hold weights, averaged ones first


class WeightsError(LabError, RuntimeError):
    """Weights that are not those of a released SiT or DiT; the message says which tensors do not fit."""


def load_official(path: str | Path, family: Released = "SiT") -> Transformer:
    """The network of a released checkpoint, of any published size, with any patch, input and number of classes.

    Args:
        path: a ``.safetensors`` file or one of torch's, from which only tensors are unpickled. A training checkpoint
            may hold several sets of weights; the averaged ones ("ema") are taken.
        family: SiT or DiT; both have the same tensors, so the file cannot tell.

    Returns:
        The network on the CPU, in float32, ready to evaluate.

    Raises:
        WeightsError: the file is missing, cut, holds more than tensors, or tensors of another model.
    """
    choose(family, Released, "family")
    path = user_path(path, "path")
    weights = _tensors(_read(path), path)
    network = _empty(weights, path, family)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:  # its first line names the class, the others the tensors
        faults = textwrap.shorten(str(error).partition("\n")[2], 500)
        raise WeightsError(f"{path} does not fit this model; give a released checkpoint. {faults}") from None
    network.pos_embed.requires_grad_(False)
    return network.eval()


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; download the checkpoint first and give its path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} is cut, or not a file of weights ({error}).") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} holds more than tensors, and loading it could run code: {error}") from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside, without the prefixes of wrapped modules ("module.", "_orig_mod.")."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise WeightsError(f"{path} holds no state dict, neither at the top nor under {', '.join(WRAPPERS)}.")
    return {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in content.items()}


def _empty(weights: Mapping[str, Tensor], path: Path, family: Released) -> Transformer:
    """A network without weights, of the size that the shapes of the tensors imply."""
    try:
        width, in_channels, patch, _ = weights["x_embedder.proj.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        side = round(weights["pos_embed"].shape[1] ** 0.5)
        num_classes = weights["y_embedder.embedding_table.weight"].shape[0] - 1
        out_channels = weights["final_layer.linear.bias"].numel() // patch**2
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{path} holds no SiT or DiT: {error} is missing or of another shape.") from error
    size = next((size for size in SIZES.values() if size[:2] == (depth, width)), None)
    if size is None:
        sizes = ", ".join(f"{name} {s.depth}×{s.width}" for name, s in SIZES.items())
        raise WeightsError(f"{path} has {depth} blocks of width {width}; the sizes are {sizes}.")
    with torch.device("meta"):
        shape = patch, side * patch, in_channels, num_classes
        network = Transformer(*size, *shape, out_channels == 2 * in_channels, keep_sigma=family == "DiT")
    with seeded(0):
        network.t_embedder = TimestepEmbedder(width)  # its frequencies are in no file
    return network
