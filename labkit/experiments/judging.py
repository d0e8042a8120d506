"""All figures of one set of images against a reference, and beside them the same of other real images."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm.auto import tqdm

from labkit.checks import require
from labkit.experiments.references import Reference, Shape
from labkit.metrics import (
    Extracted,
    Extractor,
    Pixels,
    extract,
    frechet_distance,
    frechet_of_moments,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
)
from labkit.metrics.extractors import PIXEL_IMAGES
from labkit.metrics.figures import NEIGHBOURS, SPLITS, SUBSETS, subset_of
from labkit.runtime import Purpose, device, generator

Batches = Iterable[UInt8[Tensor, "_ c h w"]]
NAMES = {
    "inception": ("fid", "kid", "inception_score"),
    "pixels": ("frechet_pixels", "kernel_distance_pixels", "class_score"),
}  # fmt: skip
"""What distances and score are called: by the names of the literature on Inception's features alone."""
PLAIN = ("frechet", "kernel_distance", "class_score")


def pixels_of(reference: Reference) -> Pixels:
    """Of the second set of real images if there is one, as the axes should know nothing of the reference."""
    of = reference.second or reference
    require(of.read is not None, "features", "pixels", f"{reference.name} holds no images; choose inception")
    rows = torch.randperm(of.count, generator=generator(0, Purpose.REAL, 1))[:PIXEL_IMAGES].sort().values
    return Pixels(torch.cat(list(of.batches(250, rows))))


def fitting(reference: Reference, extractor: Extractor, shape: Shape) -> Reference:
    """The reference as this extractor can use it: statistics of other features than its own go, if images are left."""
    if reference.read is not None:
        least, told = NEIGHBOURS + 1, f"it has {reference.count} images; give at least {NEIGHBOURS + 1}"
        require(reference.count >= least, "reference", reference.name, told)
    if reference.statistics is None:
        return reference
    width = extractor(torch.zeros(1, 3, *shape[1:])).features.shape[1]
    known = len(reference.statistics[0])
    told = f"its statistics are of {known} features, {extractor.name} has {width}, and there are no images beside them"
    require(width == known or reference.read is not None, "reference", reference.name, told)
    if width == known:
        return reference
    return Reference(reference.name, reference.digest, reference.count, reference.read, None, reference.second)


def judge(
    images: Batches, count: int, reference: Reference, extractor: Extractor, seed: int, size: int, progress: bool
) -> dict[str, Any]:  # fmt: skip
    """Figures of the images, of real ones against the reference, and what was left out, and why.

    Args:
        images: to be measured, ``count`` of them.  seed: of what is drawn.  size: images at a time.
    """
    at_hand, second, control, left_out = reference.read is not None, reference.second, None, {}
    seers = [extractor, *([pixels_of(reference)] if at_hand and extractor.name != "pixels" else [])]

    def seen(batches: Batches, what: str, count: int) -> list[Extracted]:
        parts = tqdm(batches, desc=what, unit="batch", total=-(-count // size), disable=not progress)
        return extract(iter(parts), *seers)  # a plain iterator: tests that check types would take the first of a bar

    made = seen(images, "looking at the samples", count)
    real = seen(reference.batches(size), "looking at the reference", reference.count) if at_hand else None
    figures = figures_of(extractor.name, made, real, reference.statistics, seed)
    if not at_hand:
        kernel = NAMES.get(extractor.name, PLAIN)[1]
        left_out[f"precision, recall, {kernel}, frechet_pixels"] = "the reference holds statistics and no images"
    if second is None:
        left_out["real_against_real"] = "the reference has no second set of real images"
    elif second.count < count:
        left_out["real_against_real"] = f"{second.name}, has {second.count} images, and {count} were sampled"
    else:
        rows = torch.randperm(second.count, generator=generator(seed, Purpose.REAL, 0))[:count]
        other = seen(second.batches(size, rows), "looking at other real images", count)
        found = figures_of(extractor.name, other, real, reference.statistics, seed)
        control = {"name": second.name, "digest": second.digest, "count": count, "figures": found}
    return {"figures": figures, "real_against_real": control, "left_out": left_out}


def figures_of(
    name: str, made: list[Extracted], real: list[Extracted] | None,
    statistics: tuple[Tensor, Tensor] | None, seed: int,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Figures by name; of lists, the first is of the extractor, the second of the pixels beside it."""
    frechet, kernel, score = NAMES.get(name, PLAIN)
    z = made[0].features
    if statistics is not None:
        figures = {frechet: {"value": frechet_of_moments(*moments(z), *statistics)}}
    else:
        figures = {frechet: {"value": frechet_distance(z, real[0].features)}}
    if real is not None:
        if len(made) > 1:
            figures["frechet_pixels"] = {"value": frechet_distance(made[1].features, real[1].features)}
        there, here = real[0].features.to(device()), z.to(device())
        precision, recall = precision_recall(there, here)
        figures["precision"] = {"value": precision, "neighbours": NEIGHBOURS}
        figures["recall"] = {"value": recall, "neighbours": NEIGHBOURS}
        mean, deviation = kernel_distance(there, here, seed=seed)
        subset = subset_of(len(there), len(here))
        figures[kernel] = {"value": mean, "std": deviation, "subsets": SUBSETS, "subset": subset}
    if made[0].logits is not None:
        mean, deviation = inception_score(made[0].logits)
        figures[score] = {"value": mean, "std": deviation, "splits": SPLITS}
    return figures
