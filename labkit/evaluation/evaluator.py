"""Metrics of images against a reference, and beside each the same metric of as many other real images.

    frechet, kernel_distance,   on the features of the lab's digits classifier; ``fid`` and ``kid`` are the same two on
    precision, recall           Inception's, ``frechet_pixels`` is the first on pixels
    frechet_pixels              on 32 pixel-PCA axes of other real images, which share nothing with any network
    inception_score             of Inception alone
    agreement                   share of samples that the digits classifier reads as the digit asked for
    memorisation                share of samples nearer to a training image than 95 % of the held-out images are

A Fréchet distance is biased by the number of images, so that real images have one, too. What a model is charged with
is the excess over it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from labkit import datasets
from labkit.checks import require
from labkit.distances import cross_sq_distances
from labkit.evaluation.references import Reference, Shape, open_reference, pixels
from labkit.evaluation.settings import EvaluationConfig
from labkit.metrics import (
    DigitsFeatures,
    Extracted,
    Extractor,
    Inception,
    Pixels,
    class_agreement,
    extract,
    frechet_distance,
    frechet_of_moments,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
)
from labkit.metrics.extractors import PIXEL_IMAGES, to_floats
from labkit.metrics.figures import NEIGHBOURS, SPLITS, SUBSETS, subset_of
from labkit.runtime import Purpose, device, generator
from labkit.sampling import Sampler

Batches = Iterable[UInt8[Tensor, "_ c h w"]]
NAMES = {"inception": ("fid", "kid"), "pixels": ("frechet_pixels", "kernel_distance")}
"""Features → names of the two distances; they have the literature's on Inception's alone."""
PLAIN = ("frechet", "kernel_distance")
DRAWS, FEW = 5, 10_000
"""Sets of other real images that are measured, where there are at most so many to draw from; else one."""
NEAR = 0.05
REAL = "real against real"
"""Name of the real images among runs in a table."""


class Real(NamedTuple):
    """A metric of as many other real images, over several draws of them."""

    mean: float
    low: float
    high: float
    draws: int


@dataclass(frozen=True)
class Metric:
    """One number about samples, and what it can be compared with."""

    value: float
    std: float | None = None
    """Deviation over parts of the images, where the metric has such parts."""
    real: Real | None = None
    """The same of real images; None where there are none to measure, or it has no meaning."""
    about: dict[str, int] = field(default_factory=dict)
    """Constants of the metric: neighbours, subsets, splits."""

    @property
    def excess(self) -> float | None:
        """The value minus that of real images."""
        return None if self.real is None else self.value - self.real.mean

    def record(self) -> dict[str, Any]:
        """As it is stored, without what is None."""
        values = {"value": self.value, "std": self.std, **self.about}
        values |= {"real": self.real and self.real._asdict(), "excess": self.excess}
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if self.std is None else f" ± {self.std:.2g}")


class Evaluator:
    """Measures images against one reference, which is looked at once.

    Args:
        settings: a protocol that is filled in: its reference, features and batch.  shape: of the images.
        extractor: in place of the one that ``settings.features`` names.  progress: show bars.

    Raises:
        ConfigError: a reference, features or weights that do not fit.
    """

    def __init__(
        self, settings: EvaluationConfig, shape: Shape, extractor: Extractor | None = None, progress: bool = False
    ) -> None:
        reference = open_reference(settings.reference, shape)
        extractor = extractor or _extractor(settings, reference)
        self.reference, self.extractor = _fitting(reference, extractor, shape), extractor
        self.settings, self.progress = settings, progress
        beside = self.reference.read is not None and extractor.name != "pixels"
        self._extractors = [extractor, *([pixels_of(self.reference)] if beside else [])]
        self._controls: dict[int, dict[str, Real]] = {}

    def metrics(
        self, images: Batches, count: int, labels: Int[Tensor, " n"] | None = None, seed: int = 0
    ) -> dict[str, Metric]:
        """Metrics by name.

        Args:
            images: batches of what is measured, ``count`` in all.
            labels: the classes that were wanted; None for images of no class.
            seed: of the kernel distance's subsets.
        """
        extracted = self._extract(images, "samples", count)
        metrics = self._compared(extracted, seed)
        if self.extractor.name == "digits" and labels is not None:
            predicted = extracted[0].logits.argmax(dim=1)
            metrics["agreement"] = Metric(class_agreement(predicted, labels))
        control = self.control(count)
        return {name: replace(metric, real=control.get(name)) for name, metric in metrics.items()}

    def control(self, count: int) -> dict[str, Real]:
        """The same metrics of ``count`` other real images; none where there are not as many."""
        second = self.reference.second
        if second is None or second.count < count:
            return {}
        if count not in self._controls:
            draws = DRAWS if second.count <= FEW else 1
            values: dict[str, list[float]] = {}
            for draw in range(draws):
                rows = torch.randperm(second.count, generator=generator(draw, Purpose.REAL, 2))[:count]
                extracted = self._extract(second.batches(self.settings.batch, rows), "other real images", count)
                for name, metric in self._compared(extracted, draw).items():
                    values.setdefault(name, []).append(metric.value)
            self._controls[count] = {n: Real(sum(v) / draws, min(v), max(v), draws) for n, v in values.items()}
        return self._controls[count]

    def left_out(self, count: int) -> dict[str, str]:
        """Metrics that this reference cannot give, and why."""
        reasons, second = {}, self.reference.second
        if self.reference.read is None:
            kernel = NAMES.get(self.extractor.name, PLAIN)[1]
            reasons[f"precision, recall, {kernel}, frechet_pixels"] = "the reference holds statistics and no images"
        if second is None:
            reasons[REAL] = "the reference has no second set of real images"
        elif second.count < count:
            reasons[REAL] = f"{second.name}, has {second.count} images, and {count} were sampled"
        return reasons

    def record(self) -> dict[str, Any]:
        """Everything that the metrics depend on beside the samples."""
        reference, second = self.reference, self.reference.second
        about = {"name": reference.name, "digest": reference.digest, "count": reference.count}
        return {
            "reference": {**about, "statistics": reference.statistics is not None},
            "real_images": second and {"name": second.name, "digest": second.digest},
            "features": {"name": self.extractor.name, "digest": self.extractor.digest},
        }

    @cached_property
    def _real(self) -> list[Extracted] | None:
        """Features of the reference."""
        if self.reference.read is None:
            return None
        return self._extract(self.reference.batches(self.settings.batch), "the reference", self.reference.count)

    def _extract(self, batches: Batches, what: str, count: int) -> list[Extracted]:
        total = -(-count // self.settings.batch)
        bar = tqdm(batches, desc=f"looking at {what}", unit="batch", total=total, disable=not self.progress)
        return extract(iter(bar), *self._extractors)  # a plain iterator: checks of types would take a bar's first item

    def _compared(self, extracted: list[Extracted], seed: int) -> dict[str, Metric]:
        """Metrics of features; the first are the extractor's, the second those of the pixels beside it."""
        frechet, kernel = NAMES.get(self.extractor.name, PLAIN)
        z, real, statistics = extracted[0].features, self._real, self.reference.statistics
        if statistics is not None:
            metrics = {frechet: Metric(frechet_of_moments(*moments(z), *statistics))}
        else:
            metrics = {frechet: Metric(frechet_distance(z, real[0].features))}
        if real is not None:
            if len(extracted) > 1:
                metrics["frechet_pixels"] = Metric(frechet_distance(extracted[1].features, real[1].features))
            there, here = real[0].features.to(device()), z.to(device())
            precision, recall = precision_recall(there, here)
            neighbours = {"neighbours": NEIGHBOURS}
            metrics |= {"precision": Metric(precision, about=neighbours), "recall": Metric(recall, about=neighbours)}
            subsets = {"subsets": SUBSETS, "subset": subset_of(len(there), len(here))}
            metrics[kernel] = Metric(*kernel_distance(there, here, seed=seed), about=subsets)
        if self.extractor.name == "inception" and extracted[0].logits is not None:
            metrics["inception_score"] = Metric(*inception_score(extracted[0].logits), about={"splits": SPLITS})
        return metrics


def evaluator_of(
    settings: EvaluationConfig, shape: Shape, extractor: Extractor | None = None, progress: bool = False
) -> Evaluator:
    """An evaluator; those of the embedded data sets are kept, so that many runs are measured by one."""
    if extractor is not None or settings.reference not in datasets.EMBEDDED:
        return Evaluator(settings, shape, extractor, progress)
    shared = replace(settings, count=None, seed=None, sampler=Sampler(), labels="in_turn", vae=None)
    return _kept(shared, shape, progress=progress)


_kept = cache(Evaluator)


def pixels_of(reference: Reference) -> Pixels:
    """Pixels' axes of the second set of real images if there is one, since they should owe the reference nothing."""
    source = reference.second or reference
    require(source.read is not None, "features", "pixels", f"{reference.name} holds no images; choose inception")
    rows = torch.randperm(source.count, generator=generator(0, Purpose.REAL, 1))[:PIXEL_IMAGES].sort().values
    return Pixels(torch.cat(list(source.batches(250, rows))))


def memorisation(
    samples: UInt8[Tensor, "n c h w"],
    train: UInt8[Tensor, "m c h w"],
    held_out: UInt8[Tensor, "k c h w"],
    near: float = NEAR,
) -> float:
    """Share of samples whose nearest training image is nearer than those of all but ``near`` of the held-out.

    Squared distance of pixels. About ``near`` for new images of the same kind, 1 for copies.
    """
    reach = _nearest(held_out, train).quantile(near)
    return (_nearest(samples, train) < reach).double().mean().item()


def _nearest(x: Tensor, among: Tensor) -> Tensor:
    others = to_floats(among).flatten(1)
    return torch.cat([cross_sq_distances(to_floats(part).flatten(1), others).amin(dim=1) for part in x.split(250)])


@cache
def images_of(dataset: str, split: datasets.Split) -> UInt8[Tensor, "n c h w"]:
    """All images of a split, of latents those that they were made from."""
    source = datasets.load(dataset, split)
    return pixels(source, torch.arange(len(source)))


def _fitting(reference: Reference, extractor: Extractor, shape: Shape) -> Reference:
    """The reference as this extractor can use it: statistics of other features than its own go, if images are left."""
    if reference.read is not None:
        remedy = f"it has {reference.count} images; give at least {NEIGHBOURS + 1}"
        require(reference.count > NEIGHBOURS, "reference", reference.name, remedy)
    if reference.statistics is None:
        return reference
    width = extractor(torch.zeros(1, 3, *shape[1:])).features.shape[1]
    theirs = len(reference.statistics[0])
    fault = (
        f"its statistics are of {theirs} features, {extractor.name} has {width}, and there are no images beside them"
    )
    require(width == theirs or reference.read is not None, "reference", reference.name, fault)
    return reference if width == theirs else replace(reference, statistics=None)


def _extractor(settings: EvaluationConfig, reference: Reference) -> Extractor:
    if settings.features == "inception":
        return Inception(settings.inception)
    return DigitsFeatures() if settings.features == "digits" else pixels_of(reference)
