"""Metrics of images against a reference, and beside each the same metric of as many other real images.

    frechet, kernel_distance,   on the features of the lab's classifier of digits or letters; ``fid`` and ``kid`` are
    precision, recall           the same two on Inception's, ``frechet_pixels`` is the first on pixels
    frechet_pixels              on 32 principal axes of the pixels of other real images, which owe nothing to a network
    sfid                        ``fid`` on Inception's spatial features, which tell places apart
    inception_score             on Inception's decisions alone
    agreement                   share of samples that the classifier recognises as the requested digit or letter
    memorisation                share of samples nearer to a training image than 95 % of the held-out images are
    likelihood_divergence       how badly the samples describe held-out images, on a classifier's features

A Fréchet distance is biased by the number of images, so that even real images have one above 0. A model is judged by
its excess over that.
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
from labkit.checks import ConfigError, require
from labkit.distances import cross_sq_distances
from labkit.evaluation.references import Reference, Shape, open_reference
from labkit.evaluation.settings import SMALL, FilledConfig
from labkit.metrics import (
    CLASSIFIERS,
    ClassifierFeatures,
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
from labkit.metrics.extractors import PIXEL_IMAGES
from labkit.metrics.images import NEIGHBOURS, PART, SUBSETS, subset_size
from labkit.ops import to_floats
from labkit.runtime import Purpose, device, generator
from labkit.sampling import Sampler

Batches = Iterable[UInt8[Tensor, "_ c h w"]]
DISTANCES = {"inception": ("fid", "kid"), "pixels": ("frechet_pixels", "kernel_distance")}
"""Features other than a classifier's → names of the distances on them; FID and KID are defined on Inception's alone."""
DRAWS, FEW = 5, 40_000
"""Sets of other real images that are measured where at most ``FEW`` are there to draw from; else one set."""
NEAR = 0.05
SMALLEST = 32  # side of CIFAR-10's images, the smallest for which FIDs are published
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
    """One number about samples, and the numbers to compare it with."""

    value: float
    std: float | None = None
    """Standard deviation over parts of the images, where the metric is computed in parts."""
    real: Real | None = None
    """The metric of real images; None where there are none to measure, or it has no meaning."""
    constants: dict[str, int] = field(default_factory=dict)
    """Constants of the metric: neighbours, subsets, size of a part."""

    @property
    def excess(self) -> float | None:
        """The value minus that of real images."""
        return None if self.real is None else self.value - self.real.mean

    def record(self) -> dict[str, Any]:
        """Everything that is not None, by name, as it is stored."""
        values = {"value": self.value, "std": self.std, **self.constants}
        values |= {"real": self.real and self.real._asdict(), "excess": self.excess}
        return {name: value for name, value in values.items() if value is not None}


class Evaluator:
    """Metrics of images against one reference, whose features are computed once.

    Args:
        settings: a completed protocol: its reference, features and batch count.  shape: of the images.
        extractor: in place of the one that ``settings.features`` names.  progress: show bars.

    Raises:
        ConfigError: a reference, features or weights that do not fit.
    """

    def __init__(
        self, settings: FilledConfig, shape: Shape, extractor: Extractor | None = None, progress: bool = False
    ) -> None:
        self.settings, self.shape, self.progress = settings, shape, progress
        reference = open_reference(settings.reference, shape)
        self.without: dict[str, str] = {}
        """Metrics that the usual features would give and cannot here, and why."""
        extractor = extractor or self._extractor(reference)
        self.extractor, self.reference = extractor, _usable(reference, extractor, shape)
        self._frechet, self._kernel = DISTANCES.get(extractor.name, ("frechet", "kernel_distance"))
        beside = self.reference.read is not None and extractor.name != "pixels"
        self._extractors = [extractor, *([_pixels(self.reference)] if beside else [])]
        self._controls: dict[int, dict[str, Real]] = {}

    def _extractor(self, reference: Reference) -> Extractor:
        """Extractor that the settings name; else Inception where it suits the images and can be had, else pixels."""
        features, weights = self.settings.features, self.settings.inception
        if features in CLASSIFIERS:
            return ClassifierFeatures(features)
        if features == "inception" or (features is None and reference.read is None):
            return Inception(weights)
        if features is None:
            try:
                if self.shape[0] == 3 and min(self.shape[1:]) >= SMALLEST:
                    return Inception(weights)
                why = f"Inception is for colour images of at least {SMALLEST} pixels; --features inception takes it"
            except ConfigError as error:
                why = str(error).rstrip(".")
            self.without["fid, kid, inception_score"] = why
        return _pixels(reference)

    def metrics(self, extracted: list[Extracted], labels: Int[Tensor, " n"], seed: int = 0) -> dict[str, Metric]:
        """Metrics by name.

        Args:
            extracted: from n images, by ``extract``.  labels: their requested classes, all 0 for images of no class.
            seed: of the kernel distance's subsets.
        """
        metrics = self._compared(extracted, seed)
        logits = extracted[0].logits
        if self.extractor.name in CLASSIFIERS and logits is not None and bool((labels > 0).any()):
            metrics["agreement"] = Metric(class_agreement(logits.argmax(dim=1), labels))
        control = self.control(len(labels))
        return {name: replace(metric, real=control.get(name)) for name, metric in metrics.items()}

    def control(self, count: int) -> dict[str, Real]:
        """The same metrics of ``count`` other real images; empty where there are fewer."""
        second = self.reference.second
        if second is None or second.count < count:
            return {}
        if count not in self._controls:
            draws = DRAWS if second.count <= FEW else 1
            values: dict[str, list[float]] = {}
            for draw in range(draws):
                rows = torch.randperm(second.count, generator=generator(draw, Purpose.REAL, 2))[:count]
                extracted = self.extract(second.batches(self.settings.batch, rows), "other real images", count)
                for name, metric in self._compared(extracted, draw).items():
                    values.setdefault(name, []).append(metric.value)
            self._controls[count] = {n: Real(sum(v) / draws, min(v), max(v), draws) for n, v in values.items()}
        return self._controls[count]

    def left_out(self, count: int) -> dict[str, str]:
        """Metrics that cannot be computed with this reference, and why."""
        reference, second, reasons = self.reference, self.reference.second, dict(self.without)
        if reference.read is None:
            metrics = f"precision, recall, {self._kernel}, frechet_pixels"
            reasons[metrics] = "the reference holds statistics and no images"
        if reference.statistics is not None and reference.spatial is None and self.extractor.name == "inception":
            reasons["sfid"] = "the reference holds no mu_s and sigma_s of these features"
        if second is None:
            reasons[REAL] = "the reference has no second set of real images"
        elif second.count < count:
            reasons[REAL] = f"{second.name}, has {second.count} images, and {count} were sampled"
        return reasons

    def record(self) -> dict[str, Any]:
        """Everything that the metrics depend on beside the samples."""
        reference, second = self.reference, self.reference.second
        stated = {"name": reference.name, "digest": reference.digest, "count": reference.count}
        stated |= {"notes": list(reference.notes)} if reference.notes else {}
        return {
            "reference": {**stated, "statistics": reference.statistics is not None},
            "real_images": second and {"name": second.name, "digest": second.digest},
            "features": {"name": self.extractor.name, "digest": self.extractor.digest},
        }

    @cached_property
    def _real(self) -> list[Extracted] | None:
        """Features of the reference's images, if it has some."""
        if self.reference.read is None:
            return None
        return self.extract(self.reference.batches(self.settings.batch), "the reference", self.reference.count)

    def extract(self, batches: Batches, name: str, count: int) -> list[Extracted]:
        """Features of ``count`` images, by the extractor of the protocol and then by others beside it."""
        total = -(-count // self.settings.batch)
        bar = tqdm(batches, desc=f"features of {name}", unit="batch", total=total, disable=not self.progress)
        return extract(iter(bar), *self._extractors)  # a plain iterator: checks of types would take a bar's first item

    def _compared(self, extracted: list[Extracted], seed: int) -> dict[str, Metric]:
        """Metrics of features: the extractor's, then those of the pixels if they are extracted, too."""
        z, real, statistics = extracted[0].features, self._real, self.reference.statistics
        metrics = {}
        if statistics is not None:
            metrics[self._frechet] = Metric(frechet_of_moments(*moments(z), *statistics))
        if real is not None:
            if statistics is None:
                metrics[self._frechet] = Metric(frechet_distance(z, real[0].features))
            if len(extracted) > 1:
                metrics["frechet_pixels"] = Metric(frechet_distance(extracted[1].features, real[1].features))
            real_z, z = real[0].features.to(device()), z.to(device())
            for name, value in zip(("precision", "recall"), precision_recall(real_z, z), strict=True):
                metrics[name] = Metric(value, constants={"neighbours": NEIGHBOURS})
            subsets = {"subsets": SUBSETS, "subset": subset_size(len(real_z), len(z))}
            metrics[self._kernel] = Metric(*kernel_distance(real_z, z, seed=seed), constants=subsets)
        places, reference = extracted[0].spatial, self.reference.spatial
        if places is not None and reference is not None:
            metrics["sfid"] = Metric(frechet_of_moments(*moments(places), *reference))
        elif places is not None and statistics is None and real is not None and real[0].spatial is not None:
            metrics["sfid"] = Metric(frechet_distance(places, real[0].spatial))
        if self.extractor.name == "inception" and extracted[0].logits is not None:
            metrics["inception_score"] = Metric(*inception_score(extracted[0].logits), constants={"part": PART})
        return metrics


_kept = cache(Evaluator)


def evaluator_of(
    settings: FilledConfig, shape: Shape, extractor: Extractor | None = None, progress: bool = False
) -> Evaluator:
    """An evaluator for a completed protocol; those of the embedded data sets are kept and serve many runs."""
    if extractor is not None or settings.reference not in datasets.EMBEDDED:
        return Evaluator(settings, shape, extractor, progress)
    shared = replace(settings, count=SMALL, seed=0, sampler=Sampler(), labels="in_turn", vae=None, protocol="lab")
    return _kept(shared, shape, progress=progress)


def _pixels(reference: Reference) -> Pixels:
    """Pixel axes of the second set of real images if there is one, since they should owe nothing to the reference."""
    source = reference.second or reference
    require(source.read is not None, "features", "pixels", f"{reference.name} holds no images; choose inception")
    rows = torch.randperm(source.count, generator=generator(0, Purpose.REAL, 1))[:PIXEL_IMAGES].sort().values
    return Pixels(source.images(rows))


def _usable(reference: Reference, extractor: Extractor, shape: Shape) -> Reference:
    """The reference without statistics of other features than the extractor's, if images are left."""
    if reference.read is not None:
        remedy = f"it has {reference.count} images; give at least {NEIGHBOURS + 1}"
        require(reference.count > NEIGHBOURS, "reference", reference.name, remedy)
    if reference.statistics is None:
        return replace(reference, spatial=None)  # both or none, so that FID and sFID have one reference
    features, _, spatial = extractor(torch.zeros(1, 3, *shape[1:]))
    width, stored = features.shape[1], len(reference.statistics[0])
    if reference.spatial and (spatial is None or spatial.shape[1] != len(reference.spatial[0])):
        reference = replace(reference, spatial=None)
    remedy = f"it holds statistics of {stored} features and no images, and {extractor.name} has {width}; give images"
    require(width == stored or reference.read is not None, "reference", reference.name, remedy)
    return reference if width == stored else replace(reference, statistics=None, spatial=None)


def memorisation(
    samples: UInt8[Tensor, "n c h w"],
    train: UInt8[Tensor, "m c h w"],
    held_out: UInt8[Tensor, "k c h w"],
    near: float = NEAR,
) -> float:
    """Share of samples whose nearest training image is nearer than those of all but ``near`` of the held-out.

    By squared distance of pixels. About ``near`` for new images of the same kind, 1 for copies.
    """

    def nearest(images: Tensor) -> Tensor:
        parts = (to_floats(part).flatten(1) for part in images.split(250))
        return torch.cat([cross_sq_distances(part, others).amin(dim=1) for part in parts])

    others = to_floats(train).flatten(1)
    return (nearest(samples) < nearest(held_out).quantile(near)).double().mean().item()
