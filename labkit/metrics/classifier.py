"""Classifiers with which samples are measured, one for digits and one for letters: small convolutional networks.

The Fréchet distance uses their 64 features and the agreement their decisions. They are not trained on held-out images,
and share no weights with any generator. They are trained again by

    python data/build_classifier.py
"""

import json
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labkit import datasets
from labkit.datasets.base import Images
from labkit.runtime import generator, machine, seeded, shipped_path


class Classifier(nn.Module):
    """Grey images → 64 features → classes. ``load()`` of a subclass gives the shipped one of its data set."""

    dataset: ClassVar[str]
    side: ClassVar[int]
    classes: ClassVar[int]
    widths: ClassVar[tuple[int, ...]]
    """Channels of the convolutions at half the side, at a quarter, …"""
    epochs: ClassVar[int]
    batch: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
        channels = 32
        for width in self.widths:
            layers += [nn.MaxPool2d(2), nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        self.body = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, self.classes)
        self.held_out_accuracy = float("nan")

    def forward(self, x: Float[Tensor, "n 1 side side"]) -> Float[Tensor, "n classes"]:
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n 1 side side"]) -> Float[Tensor, "n 64"]:
        """The 64 inputs of the last layer."""
        return self.body(x)

    @torch.no_grad()
    def predict(self, x: Float[Tensor, "n 1 side side"]) -> Int[Tensor, " n"]:
        return self(x).argmax(dim=1)

    def measure(self, images: Images) -> float:
        """Share of images that are recognised."""
        parts = zip(images.x.split(1000), images.y.split(1000), strict=True)
        return torch.cat([self.predict(x) == y for x, y in parts]).double().mean().item()

    @classmethod
    @cache
    def load(cls) -> Self:
        """The classifier in ``data/``, in evaluation mode, with its measured ``held_out_accuracy``."""
        path = shipped_path(cls.file(), f"build_classifier.py {cls.dataset}")
        with seeded(0):
            model = cls()
        model.load_state_dict(load_file(path))
        with safe_open(path, framework="pt") as file:
            model.held_out_accuracy = json.loads(file.metadata()["record"])["held_out_accuracy"]
        return model.eval().requires_grad_(False)

    @classmethod
    def file(cls) -> str:
        """Name of its file in ``data/``."""
        return f"{cls.dataset}_classifier.safetensors"


class DigitsClassifier(Classifier):
    """8×8 digits → 64 features → 10 classes."""

    dataset, side, classes, widths = "digits", 8, 10, (64,)
    epochs, batch = 40, 64


class LettersClassifier(Classifier):
    """16×16 letters → 64 features → 26 classes."""

    dataset, side, classes, widths = "letters", 16, 26, (64, 48)
    epochs, batch = 8, 128


CLASSIFIERS: dict[str, type[Classifier]] = {kind.dataset: kind for kind in (DigitsClassifier, LettersClassifier)}
"""Classifiers by the data set whose samples they measure."""


def fit(model: Classifier, images: Images, seed: int, epochs: int | None = None) -> None:
    """Train on images with shifts of up to one pixel, then set the evaluation mode.

    Args:
        epochs: by default the classifier's own.
    """
    batch, side, epochs = model.batch, model.side, epochs or model.epochs
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps)
    draw = generator(seed, 1)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=draw)
        for rows in order[: steps * batch].split(batch):
            down, right = torch.randint(-1, 2, (2,), generator=draw).tolist()
            padded = F.pad(images.x[rows], (1, 1, 1, 1), value=-1)
            shifted = padded[:, :, 1 + down : 1 + down + side, 1 + right : 1 + right + side]
            optimizer.zero_grad()
            F.cross_entropy(model(shifted), images.y[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    model.eval().requires_grad_(False)


def train(kind: type[Classifier], seed: int = 0) -> Classifier:
    """A classifier trained on the training images of its data set and measured on those held out."""
    train, held_out = (datasets.EMBEDDED[kind.dataset](split) for split in ("train", "held_out"))
    with seeded(seed):
        model = kind()
    fit(model, train, seed)
    model.held_out_accuracy = model.measure(held_out)
    return model


def save(model: Classifier, folder: Path, seed: int) -> Path:
    """Write the weights with a record of their training: accuracy, seed, machine."""
    record = {"held_out_accuracy": model.held_out_accuracy, "seed": seed, "machine": machine()}
    path = folder / model.file()
    save_file(model.state_dict(), path, metadata={"record": json.dumps(record)})
    path.chmod(0o644)
    return path
