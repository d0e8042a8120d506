"""The teachers of REPA: frozen encoders that turn a clean image into tokens, each with its price.

None shares labels, weights or architecture with the network that measures (``labkit.metrics.classifier``): a generator
that was taught by its own examiner would only look better.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from labkit.checks import require, whole
from labkit.models.dinov2 import load_dinov2
from labkit.models.encoder import DigitsEncoder
from labkit.runtime import data_dir, seeded

FILE = "digits_teacher.safetensors"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}  # of red, green and blue in [0, 1]
DINOV2_IMAGES = 142_000_000  # LVD-142M, as published (Oquab et al. 2023)
GIANT = 1_000_000_000  # DINOv2's giant has 1.1 billion parameters
DISTILLED = (
    "It was distilled from an encoder of 1.1 billion parameters, and that is the price which the Dispersive Loss "
    "paper's table puts beside REPA (quoted second-hand)."
)


class TeacherCost(NamedTuple):
    """What a teacher brings into a comparison from outside; ``_asdict()`` goes into a record."""

    parameters: int
    """Parameters of the network that runs, all frozen."""
    images: int
    """Distinct images it was trained on."""
    seconds: float
    """Processor seconds of its training, those of all cores together; NaN if unknown."""
    source: str
    """What it is and where its weights come from."""
    machine: str = ""
    """Where the seconds were measured."""
    note: str = ""
    """One more sentence that belongs to the price."""

    def describe(self) -> str:
        """The price in words."""
        time = "for an unknown time" if self.seconds != self.seconds else f"for {self.seconds:.0f} core-seconds"
        where = f" ({self.machine})" if self.machine else ""
        told = f"{self.source}: {self.parameters:,} parameters, trained without labels on {self.images:,} images {time}"
        return f"{told}{where}. {self.note}".strip()


class Teacher(nn.Module):
    """A frozen encoder: it stays in evaluation mode whatever its parent does, and no gradient passes through it."""

    width: int
    """Numbers a token, d."""
    tokens: int
    """Tokens an image, t."""
    cost: TeacherCost

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """Clean images in [-1, 1] → tokens, row by row of the grid of patches.

        Raises:
            ValueError: images that this teacher cannot see.
        """
        with torch.no_grad():
            return self.encode(x)

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """What a teacher is made of; ``forward`` calls it without gradients."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    def freeze(self) -> "Teacher":
        return self.requires_grad_(False).eval()


class DigitsTeacher(Teacher):
    """The lab's own, trained without labels by ``labkit.training.teacher``; ``load()`` gives the shipped one.

    It sees digits, (B, 1, 8, 8), and gives 16 tokens of 64 numbers.

    Args:
        encoder: what was trained; it is frozen from here on.
        images, seconds, machine: its price, as in ``TeacherCost``.
    """

    width, tokens = DigitsEncoder.width, DigitsEncoder.tokens

    def __init__(self, encoder: DigitsEncoder, images: int, seconds: float, machine: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.cost = TeacherCost(_count(self), images, seconds, "the lab's digits teacher", machine)
        self.freeze()

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 16 64"]:
        return self.encoder(x)

    @classmethod
    def load(cls) -> "DigitsTeacher":
        """The teacher in ``data/``. The file is read once; each call gives a module of its own, free to be moved.

        Raises:
            FileNotFoundError: the file is missing; the message has two remedies.
        """
        weights, record = _read(data_dir() / FILE)
        with seeded(0):
            encoder = DigitsEncoder()
        encoder.load_state_dict(weights)
        cost = record["cost"]
        return cls(encoder, cost["images"], cost["seconds"], cost["machine"])


@cache
def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; restore it with `git checkout data`, or train it again with "
            "`python data/build_teacher.py`."
        )
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
    return load_file(path), record


class DinoTeacher(Teacher):
    """DINOv2 (Oquab et al. 2023): the patch tokens after its last LayerNorm, grid² of them.

    Images of 1 or 3 channels and any size are normalised by ImageNet's colours and resized, bicubic and
    without antialiasing, as REPA's authors do; transformers interpolates the position embeddings to that grid.

    Args:
        source: a hub id such as ``facebook/dinov2-base``, or a folder with its config.json and model.safetensors.
        grid: tokens a side; images are resized to grid times the model's patch, 16·14 = 224 as REPA's authors do.
        images: distinct images these weights were trained on; by default those of the published DINOv2.

    Raises:
        ConfigError: a grid that is no whole number, or as ``load_dinov2``.
    """

    def __init__(self, source: str, grid: int = 16, images: int = DINOV2_IMAGES) -> None:
        super().__init__()
        with seeded(0):
            self.model = load_dinov2(source)
        config = self.model.config
        patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
        require(whole(grid, 1), "grid", grid, "take a whole number of tokens a side")
        self.size, self.width, self.tokens = grid * patch, config.hidden_size, grid**2
        self.others = 1 + getattr(config, "num_register_tokens", 0)  # class token and registers stand first
        for name, colours in IMAGENET.items():
            self.register_buffer(name, torch.tensor(colours)[:, None, None], persistent=False)
        parameters = _count(self)
        note = "" if parameters > GIANT else DISTILLED
        self.cost = TeacherCost(parameters, images, float("nan"), f"DINOv2 from {source}", note=note)
        self.freeze()

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"x has {x.shape[1]} channels; this teacher sees images of 1 or 3, not latents.")
        colours = (x.to(self.mean.dtype).expand(-1, 3, -1, -1) + 1) / 2
        prepared = F.interpolate((colours - self.mean) / self.deviation, (self.size, self.size), mode="bicubic")
        return self.model(pixel_values=prepared).last_hidden_state[:, self.others :]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def load_teacher(source: str, grid: int = 16) -> Teacher:
    """``digits``: the lab's own; anything else: the DINOv2 of that hub id or folder.

    Args:
        grid: tokens a side that are wanted. The digits teacher has 4.

    Raises:
        FileNotFoundError, ConfigError: as ``DigitsTeacher.load`` and ``DinoTeacher``.
    """
    return DigitsTeacher.load() if source == "digits" else DinoTeacher(source, grid)
