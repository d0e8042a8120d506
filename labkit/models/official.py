"""Released SiT and DiT checkpoints: their tensors have our names, so each loads as it is, whole or not at all.

What the train.py of SiT, DiT, REPA and DispLoss saves loads, too: {"model", "ema", "opt", "args"}, where ``args`` is an
``argparse.Namespace``, the only class beside tensors that is unpickled.
"""

import argparse
import pickle
import re
import textwrap
import warnings
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
CONTAINERS = ("ema", "model", "state_dict")  # keys of training checkpoints that hold weights, averaged ones first
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that data parallelism, torch.compile, sharding and checkpointing add, in any order and place."""
FIRST = "x_embedder.proj.weight"  # a name that every network has
TRAINING_ALONE = ("projector", "n_averaged")
"""Beginnings of names: REPA's projectors, and the count of torch's AveragedModel."""


class WeightsError(LabError, RuntimeError):
    """Weights that are not those of a released SiT or DiT; the message says which tensors do not fit."""


def load_official(path: str | Path, family: Released = "SiT") -> Transformer:
    """The network of a released checkpoint, of any published size, with any patch, input and number of classes.

    Args:
        path: a ``.safetensors`` file or one of torch's, from which only tensors and ``argparse.Namespace`` are
            unpickled. A training checkpoint may hold several sets of weights; the averaged ones ("ema") are taken.
            Tensors that serve training alone (REPA's projectors) are left out, and a warning names them.
        family: SiT or DiT; both have the same tensors, so the file cannot tell.

    Returns:
        The network on the CPU, in float32, ready to evaluate.

    Raises:
        WeightsError: the file is missing, cut, holds more than tensors, tensors of another model, or NaN.
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
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        count = f"{len(broken)} of its tensors" if len(broken) > 1 else "one of its tensors"
        raise WeightsError(
            f"{path} holds NaN or infinite weights in {count} ({broken[0]}); download it again, or take an earlier one."
        )
    network.pos_embed.requires_grad_(False)
    return network.eval()


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; download the checkpoint first and give its path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        why = textwrap.shorten(str(error), 200)
        raise WeightsError(f"{path} is cut, or not a file of weights ({why}); download it again.") from error
    except pickle.UnpicklingError as error:
        other = re.search(r"GLOBAL (\S+)", str(error))
        what = f"{other[1]}, which is neither a tensor nor" if other else "something else than tensors and"
        remedy = "where you trust the file, save its weights alone: torch.save(checkpoint['ema'], 'weights.pt')"
        raise WeightsError(
            f"{path} is cut, or holds {what} an argparse.Namespace, and loading that could run code; {remedy}."
        ) from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside, under its own names, without what serves training alone."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        alone = "save one alone: torch.save(model.state_dict(), 'weights.pt')"
        raise WeightsError(
            f"{path} holds no state dict, neither at the top nor under {', '.join(CONTAINERS)}; {alone}."
        )
    named = {".".join(part for part in name.split(".") if part not in WRAPPERS): t for name, t in content.items()}
    # A module that holds the network, and perhaps its average, as trainers' classes do: "model.…", "ema.…"
    holders = [name.removesuffix(FIRST) for name in named if name.endswith(f".{FIRST}")]
    holder = min(holders, key=lambda name: "ema" not in name) if holders and FIRST not in named else ""
    own = {name.removeprefix(holder): tensor for name, tensor in named.items() if name.startswith(holder)}
    left = [name for name in named if not name.startswith(holder)]
    left += [name for name in own if name.startswith(TRAINING_ALONE)]
    if left:
        names = textwrap.shorten(", ".join(left), 400)
        warnings.warn(f"{path}: left out what serves training alone: {names}.", stacklevel=3)
    return {name: tensor for name, tensor in own.items() if name not in left}


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
