"""What became of a run: the quality of its samples, what it learnt by heart, and the geometry of every block.

Everything is of the averaged weights, and compared with held-out images of the data set.

    agreement                        share of samples that the lab's classifier reads as the digit asked for
    frechet, kernel_distance,        on the features of ``labkit evaluate``: the classifier's of digits, else pixels
    precision, recall
    frechet_pixels                   on pixel-PCA axes of the training images
    memorisation                     share of samples that lie nearer to a training image than 95 % of the held-out
                                     images do: 5 % is what new images of the same kind would have
    loss_train, loss_held_out        squared error per entry of what the network predicts, on fixed noise and times
    loss_gap                         how much larger it is on held-out images: over-fitting
    feature_norm, …                  ``labkit.metrics.geometry`` of each block, on held-out images at t = 0.5
    linear_probe                     held-out accuracy of reading the class off each block, which is not told it

Noise of samples follows from the run's own seed, so runs of one seed start from the same noise.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from labkit import datasets
from labkit.checks import require, whole
from labkit.config import Config
from labkit.experiments.judging import figures_of, pixels_of
from labkit.experiments.quality import USUAL
from labkit.experiments.references import open_reference
from labkit.metrics import (
    DigitsClassifier,
    DigitsFeatures,
    Extracted,
    Extractor,
    class_agreement,
    extract,
    geometry,
    linear_probe_accuracy,
)
from labkit.metrics.extractors import to_bytes
from labkit.metrics.figures import NEIGHBOURS
from labkit.models import Transformer
from labkit.pairs import cross_sq_distances
from labkit.process import process_of
from labkit.runtime import Purpose, generator
from labkit.sampling import Sampler
from labkit.training import Look, Run, sample_network, see
from labkit.training.stream import Stream

Row = dict[str, Any]
WHOLE = {"digits-few": "digits", "digits-unlabelled": "digits"}
"""The data set whose images a set's own are some of: both are measured against the same."""
NAMES = {"kernel_distance_pixels": "kernel_distance"}
LEFT_OUT = ("class_score",)  # it grows with what the classifier is sure of, whatever was asked for
REAL_DRAWS, LOSS_DRAWS, NEAR, AT_ONCE = 5, 4, 0.05, 250


@dataclass(frozen=True)
class Measures:
    """The judge of a sweep."""

    count: int = 500
    """Samples; as many real images are measured the same way."""
    samplers: tuple[Sampler, ...] = (Sampler(),)
    """Each way of sampling is a row of its own. The rest is measured beside the first."""
    steps: tuple[int, ...] | None = None
    """Which of a run's checkpoints; None is all."""

    def __post_init__(self) -> None:
        least = NEIGHBOURS + 1
        require(whole(self.count, least), "count", self.count, f"take a whole number of at least {least}")
        require(len(self.samplers) > 0, "samplers", self.samplers, "name at least one")

    def __call__(self, run: Run, steps: Sequence[int]) -> list[Row]:
        rows: list[Row] = []
        for step in (step for step in steps if self.steps is None or step in self.steps):
            network = run.model(step=step)
            found = [self._sampled(network, run.config, sampler) for sampler in self.samplers]
            found += [_losses(network, run.config, self.count), _blocks(network, run.config, self.count)]
            rows += [{"step": step, **row} for part in found for row in part]
        return rows

    def _sampled(self, network: Transformer, config: Config, sampler: Sampler) -> list[Row]:
        filled = sampler.of(config.family)
        made = sample_network(
            network, config, self.count, seed=config.seed, batch_size=AT_ONCE, **asdict(sampler)
        )  # fmt: skip
        dataset = WHOLE.get(config.dataset, config.dataset)
        values = _figures(made.x, dataset, config.seed)
        values["memorisation"] = memorisation(
            made.x, _images(config.dataset, "train"), _images(config.dataset, "held_out")
        )
        if dataset == "digits" and network.num_classes > 1:
            values["agreement"] = class_agreement(DigitsClassifier.load().predict(made.x), made.y)
        return [{"sampler": filled.told(config.family), "measure": name, "value": v} for name, v in values.items()]

    def real(self, dataset: str) -> list[Row]:
        """The figures of other real images: the mean over five draws of ``count`` from the training set."""
        whole_set = WHOLE.get(dataset, dataset)
        images = _images(whole_set, "train")
        require(self.count <= len(images), "count", self.count, f"{whole_set} has {len(images)} training images")
        found: list[dict[str, float]] = []
        for draw in range(REAL_DRAWS):
            pick = torch.randperm(len(images), generator=generator(draw, Purpose.REAL, 2))[: self.count]
            found.append(_figures(images[pick], whole_set, draw))
        return [{"measure": name, "value": sum(row[name] for row in found) / len(found)} for name in found[0]]


def memorisation(made: Tensor, train: Tensor, held_out: Tensor, near: float = NEAR) -> float:
    """Share of made images whose nearest training image is nearer than those of all but ``near`` of the held-out.

    Squared distance of pixels; all of shape (·, c, h, w). About ``near`` for new images of the same kind, 1 for copies.
    """
    reach = _nearest(held_out, train).quantile(near)
    return (_nearest(made, train) < reach).double().mean().item()


def _nearest(x: Tensor, among: Tensor) -> Tensor:
    parts = x.flatten(1).split(AT_ONCE)
    return torch.cat([cross_sq_distances(part, among.flatten(1)).amin(dim=1) for part in parts])


@cache
def _images(dataset: str, split: datasets.Split) -> Tensor:
    source = datasets.load(dataset, split)
    return source.batch(torch.arange(len(source))).x


@cache
def _against(dataset: str, shape: tuple[int, int, int]) -> tuple[list[Extractor], list[Extracted]]:
    """What images of a data set are measured on, and what that sees in the held-out ones."""
    reference = open_reference(dataset, shape)
    pixels = pixels_of(reference)
    seers = [DigitsFeatures(), pixels] if USUAL.get(dataset) == "digits" else [pixels]
    return seers, extract(reference.batches(AT_ONCE), *seers)


def _figures(x: Tensor, dataset: str, seed: int) -> dict[str, float]:
    """Figures as of ``labkit evaluate``."""
    seers, real = _against(dataset, tuple(x.shape[1:]))
    made = extract(to_bytes(x).split(AT_ONCE), *seers)
    figures = figures_of(seers[0].name, made, real, None, seed)
    return {NAMES.get(name, name): found["value"] for name, found in figures.items() if name not in LEFT_OUT}


@torch.no_grad()
def _losses(network: Transformer, config: Config, count: int) -> list[Row]:
    """Mean error of the network on both splits, at noise and times that are the same for every run.

    They are the same for both splits, too, unless one has fewer than ``count`` images, as digits-few has: the levels of
    the two losses, and so of the gap, then differ by what other times cost, which differences between runs leave out.
    """
    on, found = next(network.parameters()).device, {}
    process = process_of(config).to(on)
    for split in ("train", "held_out"):
        source = datasets.load(config.dataset, split)
        stream = Stream(source, min(count, len(source)), 0, on, pairs=config.family == "MeanFlow")
        drawn = [stream.at(draw * stream.batch_size) for draw in range(LOSS_DRAWS)]
        errors = [process.base(network, batch, draws, batch.y, ()).errors for batch, draws in drawn]
        found[f"loss_{split}"] = torch.cat(errors).double().mean().item()
    found["loss_gap"] = found["loss_held_out"] - found["loss_train"]
    return [{"measure": name, "value": value} for name, value in found.items()]


def _blocks(network: Transformer, config: Config, count: int) -> list[Row]:
    """Geometry of each block's features, and how well a class that was not told can be read off them."""
    rows: list[Row] = []
    told = see(network, Look(count=count), config)
    known, asked = (see(network, Look(count=2 * count, labelled=False, split=s), config) for s in ("train", "held_out"))
    for block, z in told.features.items():
        values = geometry(z)
        if len(known.y.unique()) > 1:
            values["linear_probe"] = linear_probe_accuracy(
                known.features[block], known.y, asked.features[block], asked.y
            )
        rows += [{"block": block, "measure": name, "value": value} for name, value in values.items()]
    return rows
