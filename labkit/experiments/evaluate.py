"""One protocol for judging a trained digits model, so that every figure of the lab means the same.

Samples are drawn from the averaged weights, the classes in turn. They are compared with the 500 held-out digits, which
no network here was trained on, so copying the training set earns no more than *real against real*: 500 training digits
against the same 500, the best that a perfect generator could expect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labkit import datasets
from labkit.checks import check_seed, finite, require, whole
from labkit.config import Config
from labkit.metrics import DigitsClassifier, PixelPca, class_agreement, frechet_distance, geometry
from labkit.models import Family
from labkit.runtime import Purpose, generator
from labkit.sampling import Method, Sampler
from labkit.training import Look, Samples, sample_network, see

REAL, REAL_DRAWS = "real against real", 5
MOST = 1297
"""Training digits; to count them would load them when this module is imported."""


@dataclass(frozen=True)
class Protocol:
    """How samples are drawn and counted."""

    count: int = 500
    steps: int | None = None
    """By default those that are usual for the model: 50 of Heun for SiT."""
    method: Method | None = None
    guidance: float = 1.0
    seed: int = 0
    probe_time: float = 0.5
    """The time t at which features are looked at."""

    def __post_init__(self) -> None:
        require(
            whole(self.count, 2) and self.count <= MOST, "count", self.count,
            f"take 2 to {MOST}: real against real needs as many training digits",
        )  # fmt: skip
        check_seed(self.seed)
        _ = self.sampler  # refuses what cannot be
        require(finite(self.probe_time) and 0 <= self.probe_time <= 1, "probe_time", self.probe_time, "take 0 to 1")

    @property
    def sampler(self) -> Sampler:
        return Sampler(self.method, self.steps, self.guidance)

    def told(self, *families: Family) -> str:
        """In words, for models of these kinds."""
        ways = dict.fromkeys(self.sampler.told(f) for f in families or ("SiT",))
        return f"{self.count} samples, {' or '.join(ways)}, seed {self.seed}, averaged weights"


class Evaluation(NamedTuple):
    """What the protocol found for one model."""

    quality: dict[str, float]
    """``agreement`` (share of samples seen as the class asked for), ``frechet`` (on classifier features) and
    ``frechet_pixels`` (on 32 pixel-PCA components), both against the held-out digits."""
    spread: dict[int, dict[str, float]]
    """Block → geometry of its features on ``count`` (at most 500) held-out digits at ``probe_time``."""
    samples: Samples


@cache
def _references() -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Each distance's features, as a function, and those of the held-out digits."""
    held_out = datasets.digits("held_out").x
    features = {
        "frechet": DigitsClassifier.load().features,
        "frechet_pixels": PixelPca(datasets.digits("train").x).features,
    }
    return {name: (of, of(held_out)) for name, of in features.items()}


def _quality(x: Tensor) -> dict[str, float]:
    return {name: frechet_distance(of(x), real) for name, (of, real) in _references().items()}


@torch.no_grad()
def evaluate(network: nn.Module, config: Config, protocol: Protocol = Protocol()) -> Evaluation:
    """Sample, compare with real digits, and look at the features of every block."""
    p = protocol
    samples = sample_network(network, config, p.count, steps=p.steps, method=p.method, guidance=p.guidance, seed=p.seed)
    agreement = class_agreement(DigitsClassifier.load().predict(samples.x), samples.y)
    quality: dict[str, Any] = {"agreement": agreement, **_quality(samples.x)}
    return Evaluation(quality, probe(network, config, p), samples)


def probe(network: nn.Module, config: Config, protocol: Protocol) -> dict[int, dict[str, float]]:
    """Geometry of every block's features on held-out digits, noised to ``probe_time`` by a fixed draw."""
    look = Look(protocol.probe_time, protocol.count, seed=protocol.seed)
    return {block: geometry(z) for block, z in see(network, look, config).features.items()}


def real_against_real(protocol: Protocol = Protocol()) -> dict[str, tuple[float, float, float]]:
    """The floor of each distance: (mean, lowest, highest) over five draws of ``count`` training digits."""
    train = datasets.digits("train")
    found = []
    for draw in range(REAL_DRAWS):
        pick = torch.randperm(len(train), generator=generator(protocol.seed, Purpose.REAL, draw))[: protocol.count]
        found.append(_quality(train.x[pick]))
    columns = {name: [row[name] for row in found] for name in found[0]}
    return {name: (sum(v) / len(v), min(v), max(v)) for name, v in columns.items()}
