"""Training of the digits teacher without labels; like the trainer of generators, it is a generator of reports.

Two distorted views of each digit go through the encoder; the mean of the tokens, through a head that is discarded after
training, has to distinguish its own second view from those of the other digits of the batch (SimCLR, Chen et al. 2020):

    L = −mean_i log( exp(cos(h_i, h_i⁺)/τ) / Σ_j exp(cos(h_i, h_j⁺)/τ) )

    python data/build_teacher.py
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from labkit.checks import check_seed, check_whole
from labkit.datasets import digits
from labkit.losses import contrastive_loss
from labkit.metrics import linear_probe_accuracy
from labkit.models.encoder import DigitsEncoder
from labkit.models.teachers import FILE, DigitsTeacher
from labkit.runtime import Purpose, generator, machine, seeded

STEPS, BATCH, TAU, LR = 1600, 64, 0.1, 2e-3  # chosen by cross-validation of a probe on the training digits


class TeacherReport(NamedTuple):
    """Result of one step."""

    step: int
    """Steps finished, this one included."""
    loss: float
    """Contrastive loss of this step's batch; the log of the batch size for a guess."""
    seconds: float
    """Processor seconds of the steps so far, summed over the cores."""


class TeacherTraining:
    """Trains a digits teacher; iterating yields one ``TeacherReport`` a step, and ``teacher`` is the state so far.

    Args:
        seed: initial weights, order of the digits and their distortions all follow from it.
        steps: optimizer steps, of 64 digits in two views each. The learning rate rises and falls over these.

    Raises:
        ConfigError: a seed or number of steps that is not a whole number in range.
    """

    def __init__(self, seed: int = 0, steps: int = STEPS) -> None:
        check_seed(seed)
        check_whole("steps", steps, 2)
        self.steps, self.step, self.seconds = steps, 0, 0.0
        self.x = digits("train").x  # the images alone: no label enters this class
        with seeded(seed):
            self.encoder = DigitsEncoder()
            self.head = nn.Sequential(nn.Linear(self.encoder.width, 128), nn.ReLU(), nn.Linear(128, 64))
        weights = [*self.encoder.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=LR, weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, LR, total_steps=steps)
        self.draw = generator(seed, Purpose.TEACHER)
        self._order = torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        """Steps that are left."""
        return self.steps - self.step

    def __iter__(self) -> Iterator[TeacherReport]:
        while self.step < self.steps:
            yield self._advance()

    @property
    def teacher(self) -> DigitsTeacher:
        """A teacher with a copy of the encoder's weights, and the cost of training so far."""
        with seeded(0):  # the weights are replaced; the global generator must not notice
            encoder = DigitsEncoder()
        encoder.load_state_dict(self.encoder.state_dict())
        return DigitsTeacher(encoder, len(self.x), self.seconds, machine()["processor"])

    def _advance(self) -> TeacherReport:
        began = time.process_time()
        x = self.x[self._pick()]
        self.optimizer.zero_grad()
        tokens = self.encoder(torch.cat([distorted(x, self.draw), distorted(x, self.draw)]))
        first, second = self.head(tokens.mean(dim=1)).chunk(2)
        loss = contrastive_loss(first, second, variant="infonce_cosine", tau=TAU, form="original")
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.seconds += time.process_time() - began
        return TeacherReport(self.step, loss.item(), self.seconds)

    def _pick(self) -> Tensor:
        """The next digits of an order that is shuffled anew when less than a batch is left."""
        if len(self._order) < BATCH:
            self._order = torch.randperm(len(self.x), generator=self.draw)
        picked, self._order = self._order[:BATCH], self._order[BATCH:]
        return picked


def distorted(x: Float[Tensor, "n 1 8 8"], draw: torch.Generator) -> Float[Tensor, "n 1 8 8"]:
    """Each digit turned up to 20°, scaled by 15 %, sheared, shifted up to one pixel, bent, paler or darker, noisy.

    Nothing in here mirrors or turns so far that a 6 could become a 9.
    """
    n = len(x)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=draw) - 1

    angle, scale, shear = uniform(n) * torch.pi / 9, 1 + 0.15 * uniform(n, 2), 0.2 * uniform(n)
    shift = uniform(n, 2) / 4  # in units of half the side, four pixels
    rows = [
        torch.stack([angle.cos() * scale[:, 0], shear - angle.sin(), shift[:, 0]], dim=1),
        torch.stack([angle.sin(), angle.cos() * scale[:, 1], shift[:, 1]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False)
    bend = F.interpolate(0.2 * uniform(n, 2, 3, 3), size=x.shape[2:], mode="bicubic", align_corners=True)
    ink = F.grid_sample(x + 1, grid + bend.movedim(1, 3), align_corners=False)  # 0 outside, as a digit
    return ink * (1 + 0.3 * uniform(n, 1, 1, 1)) - 1 + 0.1 * torch.randn(x.shape, generator=draw)


@torch.no_grad()
def digits_probe(features: Callable[[Tensor], Float[Tensor, "n ..."]]) -> float:
    """Accuracy of a linear probe on features, fitted on the training digits and tested on the 500 held-out ones."""
    train, held_out = digits("train"), digits("held_out")
    return linear_probe_accuracy(features(train.x), train.y, features(held_out.x), held_out.y)


def probes(encoder: nn.Module) -> dict[str, float]:
    """Accuracy of the linear probe on the mean of the tokens, and on all of them."""
    pooled = digits_probe(lambda x: encoder(x).mean(dim=1))
    return {"pooled": pooled, "all_tokens": digits_probe(encoder)}


@torch.no_grad()
def cosine_by_place(tokens_of: Callable[[Tensor], Float[Tensor, "n t d"]]) -> float:
    """Mean cosine between the tokens of the training digits and the best constant token of each place.

    Its negative is the alignment loss of a generator that knows a token's place but nothing of the image there.
    """
    tokens = F.normalize(tokens_of(digits("train").x), dim=2)
    return (tokens * F.normalize(tokens.mean(dim=0), dim=1)).sum(dim=2).mean().item()


def save(teacher: DigitsTeacher, folder: Path, seed: int, measured: dict[str, Any]) -> Path:
    """Write the weights with a record of their training and of the ``measured`` metrics."""
    record = {"cost": teacher.cost._asdict(), "probes": measured, "seed": seed, "machine": machine()}
    path = folder / FILE
    save_file(teacher.encoder.state_dict(), path, metadata={"record": json.dumps(record)})
    path.chmod(0o644)
    return path
