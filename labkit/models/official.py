"""Released SiT and DiT checkpoints: their names are ours, so a state dict loads as it is, every tensor or none."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from labkit.checks import choose
from labkit.models.layers import TimestepEmbedder
from labkit.models.sizes import SIZES
from labkit.models.transformer import Transformer
from labkit.runtime import seeded
from labkit.types import LabError

Released = Literal["SiT", "DiT"]
WRAPPERS = ("ema", "model", "state_dict")  # what a training checkpoint keeps weights under; averaged ones first
SHOWN = 5  # names of an error message


class WeightsError(LabError, RuntimeError):
    """Weights that are not a released SiT's or DiT's; the message says what does not fit."""


def load_official(path: str | Path, family: Released = "SiT") -> Transformer:
    """The model of a released checkpoint, of whatever size, patch, input and number of classes it was made for.

    Args:
        path: a ``.safetensors`` file or one of torch's. Nothing is unpickled but tensors. Of a training checkpoint with
            several sets of weights the averaged ones ("ema") are taken.
        family: SiT and DiT have the same tensors, so the file cannot tell.

    Returns:
        The network, on the CPU, in float32, ready to evaluate.

    Raises:
        WeightsError: the file is missing, cut, holds more than tensors, or tensors that are not such a model's.
    """
    choose(family, Released, "family")
    path = Path(path)
    weights = _tensors(_read(path), path)
    network = _empty(weights, path, family)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = [f"{name} is missing" for name in expected.keys() - found.keys()]
    faults += [f"{name} is not a tensor of this model" for name in found.keys() - expected.keys()]
    faults += [
        f"{name} has shape {found[name]} instead of {expected[name]}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    if faults:
        more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise WeightsError(f"{path} does not fit: {'; '.join(sorted(faults)[:SHOWN])}{more}.")
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
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
    """The state dict inside; prefixes that wrappers leave ("module.", "_orig_mod.") go."""
    if isinstance(content, Mapping) and (key := next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), "")):
        content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise WeightsError(f"{path} holds no state dict; looked at the top and under {', '.join(WRAPPERS)}.")
    return {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in content.items()}


def _empty(weights: Mapping[str, Tensor], path: Path, family: Released) -> Transformer:
    """A network on the meta device, of the size that the tensors' shapes tell."""
    try:
        width, in_channels, patch, _ = weights["x_embedder.proj.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        side = round(weights["pos_embed"].shape[1] ** 0.5)
        num_classes = weights["y_embedder.embedding_table.weight"].shape[0] - 1
        out_channels = weights["final_layer.linear.bias"].numel() // patch**2
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{path} holds no SiT or DiT: {error} was looked for.") from error
    size = next((size for size in SIZES.values() if size[:2] == (depth, width)), None)
    if size is None:
        known = ", ".join(f"{name} {s.depth}×{s.width}" for name, s in SIZES.items())
        raise WeightsError(f"{path} has {depth} blocks of width {width}, which no published size has ({known}).")
    with torch.device("meta"):
        network = Transformer(
            *size,
            patch,
            side * patch,
            in_channels,
            num_classes,
            learn_sigma=out_channels == 2 * in_channels,
            keep_sigma=family == "DiT",
        )
    with seeded(0):
        network.t_embedder = TimestepEmbedder(width)  # its frequencies are no weights, so no file brings them
    return network
