"""One file holds a checkpoint: tensors as safetensors, and in its header the step, the config, the identity of the data
and a checksum.

A save writes beside the target, flushes to the disk and renames, so a kill at any moment leaves either the old file or
the new one whole. The optimizer's state lies under parameter names, so the file can be read without torch's pickles.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from labkit import disk
from labkit.checks import LabError
from labkit.ops import raw

FORMAT = "labkit-checkpoint-1"
OTHER = "copy it again from where it is whole, or take another step"
HEADER = ("step", "samples", "seconds", "config", "data")  # fields in the file's header, beside the tensors


class CheckpointError(LabError, RuntimeError):
    """A checkpoint that cannot be written or read; the message names the file and the remedy."""


class Checkpoint(NamedTuple):
    """A training state: ``tensors`` as "model.…", "ema.…", "optimizer.<moment>.<parameter>"."""

    step: int
    samples: int
    config: str
    tensors: dict[str, Tensor]
    seconds: float = 0.0
    """Seconds of training so far."""
    data: str = ""
    """Identity of the data as JSON; empty in checkpoints of earlier versions, which do not have it."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, with the prefix removed."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    named = ((f"{name} {tensor.dtype} {tuple(tensor.shape)}", raw(tensor)) for name, tensor in sorted(tensors.items()))
    return disk.sha256(" ".join(header[name] for name in HEADER if name in header), *itertools.chain(*named))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Save atomically: the file appears whole or not at all.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    header = {name: text for name in HEADER if (text := str(getattr(checkpoint, name)))}
    replace_file(path, save(tensors, {"format": FORMAT, **header, "sha256": _digest(tensors, header)}))


def replace_file(path: Path, data: bytes) -> None:
    """Save a file of a run atomically, as ``labkit.disk`` does."""
    try:
        disk.replace_file(path, data)
    except disk.DiskError as error:
        raise unsaved(str(error)) from error


def unsaved(why: str) -> CheckpointError:
    """The error of a file that could not be saved, with the remedy."""
    return CheckpointError(f"{why} Earlier checkpoints are intact.")


def read(path: Path) -> Checkpoint:
    """Load and verify a checkpoint.

    Raises:
        CheckpointError: the file is missing, cut, altered, or not a checkpoint of this version.
    """
    with _opened(path) as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {header.get('format')!r} and this version of labkit reads {FORMAT!r}; take "
            "the one that wrote it."
        )
    if header.get("sha256") != _digest(tensors, header):
        raise CheckpointError(f"{path} is corrupted: its content does not match its checksum; {OTHER}.")
    step, samples, seconds = int(header["step"]), int(header["samples"]), float(header["seconds"])
    return Checkpoint(step, samples, header.get("config", ""), tensors, seconds, header.get("data", ""))


def digest(path: Path) -> str:
    """The checksum in a checkpoint's header, which identifies the weights that features or metrics come from."""
    with _opened(path) as file:
        return (file.metadata() or {}).get("sha256", "")


def dimensions(path: Path) -> tuple[int, int, int]:
    """Side and channels of the images that a checkpoint's network takes, and its number of classes; from the header.

    Raises:
        CheckpointError: the file cannot be read, or holds no network.
    """
    names = ["ema.x_embedder.proj.weight", "ema.pos_embed", "ema.y_embedder.embedding_table.weight"]
    with _opened(path) as file:
        if not {*names} <= {*file.keys()}:
            raise CheckpointError(f"{path} holds no network.")
        (_, channels, patch, _), (_, tokens, _), (labels, _) = (file.get_slice(name).get_shape() for name in names)
    return round(tokens**0.5) * patch, channels, labels - 1


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with disk.reading(path), open(path, "rb"):  # which tells a file that may not be read from one that is cut
            pass
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; list a run's checkpoints with `Run.open(...).checkpoints`."
        ) from None
    except (SafetensorError, ValueError, IsADirectoryError) as error:
        raise CheckpointError(f"{path} is cut or not a checkpoint ({error}); {OTHER}.") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's moments as {"<moment>.<parameter name>": tensor}."""
    names = {parameter: name for name, parameter in parameters.items()}
    return {
        f"{moment}.{names[parameter]}": tensor
        for parameter, state in optimizer.state.items()
        for moment, tensor in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Restore the moments that ``optimizer_tensors`` returned."""
    for key, tensor in tensors.items():
        moment, name = key.split(".", 1)
        parameter = parameters[name]
        on = torch.device("cpu") if moment == "step" and not parameter.is_cuda else parameter.device
        optimizer.state[parameter][moment] = tensor.clone().to(on)
