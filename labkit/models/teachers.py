"""The teachers of REPA: frozen encoders that turn a clean image into tokens, each with the cost of its training.

No teacher shares labels, weights or architecture with the classifier that judges samples (``labkit.metrics``): a
generator that learnt from its own judge would only look better.
"""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from labkit.checks import check_whole, require
from labkit.models.encoder import DigitsEncoder
from labkit.models.pretrained import load_pretrained
from labkit.runtime import seeded, shipped_path

if TYPE_CHECKING:
    from transformers import Dinov2Model

FILE = "digits_teacher.safetensors"
KINDS = ("dinov2", "dinov2_with_registers")  # model types of transformers
IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}  # of red, green and blue in [0, 1]
DINOV2_IMAGES = 142_000_000  # LVD-142M, as published (Oquab et al. 2023)
GIANT = 1_000_000_000  # DINOv2's giant has 1.1 billion parameters
DISTILLED = (
    "It was distilled from an encoder of 1.1 billion parameters, which is the cost that the Dispersive Loss "
    "paper's table puts beside REPA (quoted second-hand)."
)


class TeacherCost(NamedTuple):
    """Cost that a teacher brings into a comparison from outside."""

    parameters: int
    """Parameters of the network that runs, all frozen."""
    images: int
    """Distinct images it was trained on."""
    seconds: float
    """Processor seconds of its training, summed over cores; NaN if unknown."""
    source: str
    """Name of the teacher and where its weights come from."""
    machine: str = ""
    """Machine on which the seconds were measured."""
    note: str = ""
    """One more sentence that belongs to the cost."""

    def describe(self) -> str:
        """The cost in words."""
        time = "for an unknown time" if self.seconds != self.seconds else f"for {self.seconds:.0f} core-seconds"
        where = f" ({self.machine})" if self.machine else ""
        training = f"trained without labels on {self.images:,} images {time}{where}"
        return f"{self.source}: {self.parameters:,} parameters, {training}. {self.note}".strip()


class Teacher(nn.Module):
    """A frozen encoder: always in evaluation mode, and without gradients."""

    width: int
    """Numbers in a token, d."""
    tokens: int
    """Tokens of an image, t."""
    cost: TeacherCost

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """Tokens of clean images in [-1, 1], row by row of the grid of patches.

        Raises:
            ValueError: images of a shape that this teacher does not take.
        """
        with torch.no_grad():
            return self.encode(x)

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """Tokens of images; ``forward`` calls it without gradients."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode when the module that holds the teacher trains."""
        return super().train(False)

    def freeze(self) -> int:
        """Freeze all parameters and return how many there are."""
        self.requires_grad_(False).eval()
        return sum(p.numel() for p in self.parameters())


class DigitsTeacher(Teacher):
    """The lab's own teacher of digits, (B, 1, 8, 8) → 16 tokens of 64 numbers; ``load()`` gives the shipped one.

    Args:
        encoder: an encoder that ``labkit.training.teacher`` has trained without labels; it is frozen here.
        images, seconds, machine: as in ``TeacherCost``.
    """

    width, tokens = DigitsEncoder.width, DigitsEncoder.tokens

    def __init__(self, encoder: DigitsEncoder, images: int, seconds: float, machine: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.cost = TeacherCost(self.freeze(), images, seconds, "the lab's digits teacher", machine)

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 16 64"]:
        return self.encoder(x)

    @classmethod
    def load(cls) -> "DigitsTeacher":
        """The teacher in ``data/``; each call gives a module of its own.

        Raises:
            FileNotFoundError: the file is missing; the message has two remedies.
        """
        weights, cost = _read(shipped_path(FILE, "build_teacher.py"))
        with seeded(0):
            encoder = DigitsEncoder()
        encoder.load_state_dict(weights)
        return cls(encoder, cost["images"], cost["seconds"], cost["machine"])


@cache
def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and cost in the file, read once."""
    with safe_open(path, framework="pt") as file:
        return load_file(path), json.loads(file.metadata()["record"])["cost"]


class DinoTeacher(Teacher):
    """DINOv2 (Oquab et al. 2023): the patch tokens after its last LayerNorm, grid² of them.

    Images of 1 or 3 channels and any size are normalised by ImageNet's colours and resized, bicubic and without
    antialiasing; the position embedding is resampled to that grid, bicubic and with antialiasing: as REPA's authors do.

    Args:
        source: a hub id such as ``facebook/dinov2-base``, or a folder with its config.json and model.safetensors.
        grid: tokens per side; images are resized to grid times the model's patch, 16·14 = 224 as REPA's authors do.
        antialias: False leaves the resampling to transformers, without antialiasing, as the first runs of the lab did.

    Raises:
        ConfigError: a grid that is no whole number, or as ``load_pretrained``.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, source: str, grid: int = 16, antialias: bool = True) -> None:
        super().__init__()
        check_whole("grid", grid)

        def load(transformers: Any, source: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            local = options["local_files_only"]
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
            require(config.model_type in KINDS, "teacher", source, f"it holds a {config.model_type}; name a DINOv2")
            return transformers.AutoModel.from_pretrained(source, config=config, **options)

        with seeded(0):
            self.model: Dinov2Model = load_pretrained(
                "teacher", source, "transformers", "facebook/dinov2-base", "model.safetensors", load
            )
        parameters = self.freeze()  # as they are in the file
        if antialias:
            positions = self.model.embeddings.position_embeddings
            positions.data = resampled(positions.data, grid)
        config = self.model.config
        patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
        self.size, self.width, self.tokens = grid * patch, config.hidden_size, grid**2
        self.others = 1 + getattr(config, "num_register_tokens", 0)  # class token and registers stand first
        for name, colours in IMAGENET.items():
            self.register_buffer(name, torch.tensor(colours)[:, None, None], persistent=False)
        note = "" if parameters > GIANT else DISTILLED
        self.cost = TeacherCost(parameters, DINOV2_IMAGES, float("nan"), f"DINOv2 from {source}", note=note)

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"x has {x.shape[1]} channels; give images of 1 or 3, not latents.")
        colours = (x.to(self.mean.dtype).expand(-1, 3, -1, -1) + 1) / 2
        prepared = F.interpolate((colours - self.mean) / self.deviation, (self.size, self.size), mode="bicubic")
        return self.model(pixel_values=prepared).last_hidden_state[:, self.others :]


def resampled(positions: Float[Tensor, "1 n d"], grid: int) -> Float[Tensor, "1 m d"]:
    """A position embedding, the class token's first, for another grid; transformers then takes it as it is."""
    first, rest = positions[:, :1], positions[:, 1:]
    side = round(rest.shape[1] ** 0.5)
    if side == grid:
        return positions
    image = rest.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    image = F.interpolate(image, (grid, grid), mode="bicubic", antialias=True)
    return torch.cat([first, image.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)], dim=1)


def load_teacher(source: str, grid: int = 16, antialias: bool = True) -> Teacher:
    """The lab's own teacher for ``digits``, else the DINOv2 of a hub id or folder.

    Args:
        grid: DINOv2's tokens per side; the digits teacher has 4.  antialias: as in ``DinoTeacher``.

    Raises:
        FileNotFoundError, ConfigError: as ``DigitsTeacher.load`` and ``DinoTeacher``.
    """
    return DigitsTeacher.load() if source == "digits" else DinoTeacher(source, grid, antialias)
