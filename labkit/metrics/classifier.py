"""The digits classifier, with which samples of digits are measured: a small convolutional network trained here.

The Fréchet distance on digits uses its 64 features and the class agreement its decisions. It is not trained on the 500
held-out digits, and shares no weights with any generator. It is trained again by

    python data/build_classifier.py
"""

import json
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labkit.datasets import digits
from labkit.runtime import data_dir, generator, machine, seeded

FILE = "digits_classifier.safetensors"


class DigitsClassifier(nn.Module):
    """8×8 digits → 64 features → 10 classes. ``DigitsClassifier.load()`` gives the shipped one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)
        self.held_out_accuracy = float("nan")

    def forward(self, x: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 10"]:
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 64"]:
        """The 64 inputs of the last layer."""
        return self.body(x)

    @torch.no_grad()
    def predict(self, x: Float[Tensor, "n 1 8 8"]) -> Int[Tensor, " n"]:
        return self(x).argmax(dim=1)

    @classmethod
    @cache
    def load(cls) -> "DigitsClassifier":
        """The classifier in ``data/``, in evaluation mode, with its measured ``held_out_accuracy``."""
        path = data_dir() / FILE
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing; restore it with `git checkout data/{FILE}`, or train it again with "
                "`python data/build_classifier.py`."
            )
        with seeded(0):
            model = cls()
        model.load_state_dict(load_file(path))
        with safe_open(path, framework="pt") as file:
            model.held_out_accuracy = json.loads(file.metadata()["record"])["held_out_accuracy"]
        return model.eval().requires_grad_(False)


def train(seed: int = 0, epochs: int = 40, batch: int = 64) -> DigitsClassifier:
    """Train on the 1,297 training digits with shifts of up to one pixel; measure on the 500 held out."""
    data, held_out = digits("train"), digits("held_out")
    with seeded(seed):
        model = DigitsClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * (len(data) // batch))
    draw = generator(seed, 1)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=draw)
        for rows in order[: len(data) // batch * batch].split(batch):
            down, right = torch.randint(-1, 2, (2,), generator=draw).tolist()
            padded = F.pad(data.x[rows], (1, 1, 1, 1), value=-1)
            shifted = padded[:, :, 1 + down : 9 + down, 1 + right : 9 + right]
            optimizer.zero_grad()
            F.cross_entropy(model(shifted), data.y[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    model.held_out_accuracy = (model.predict(held_out.x) == held_out.y).double().mean().item()
    return model.eval().requires_grad_(False)


def save(model: DigitsClassifier, folder: Path, seed: int) -> Path:
    """Write the weights with a record of their training: accuracy, seed, machine."""
    record = {"held_out_accuracy": model.held_out_accuracy, "seed": seed, "machine": machine()}
    path = folder / FILE
    save_file(model.state_dict(), path, metadata={"record": json.dumps(record)})
    path.chmod(0o644)
    return path
