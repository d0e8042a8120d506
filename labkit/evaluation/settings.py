"""The protocol of an evaluation: how samples are drawn, their reference, and the features that are compared."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from labkit import datasets
from labkit.checks import check_seed, choose, require, whole
from labkit.config import Config
from labkit.metrics.images import NEIGHBOURS
from labkit.models import Family
from labkit.sampling import Sampler

PUBLISHED, SMALL = 50_000, 500
"""Samples of every published FID; of the embedded data sets, which hold out about as many images."""
Features = Literal["inception", "digits", "pixels"]
Labels = Literal["in_turn", "uniform"]
WHOLE = {"digits-few": "digits", "digits-unlabelled": "digits"}
"""Data sets that are part of another, which is their reference."""


def whole_set(dataset: str) -> str:
    """The data set that this one is a part of, or itself: runs on either are compared by the same images."""
    return WHOLE.get(dataset, dataset)


@dataclass(frozen=True)
class EvaluationConfig:
    """One protocol for notebooks, command line, sweep and atlas; None is filled in for a run by ``filled``.

    Samples become bytes before anything is measured. They are compared with held-out images, which no model was
    trained on, so that copying the training images earns nothing.
    """

    count: int | None = None
    """Number of samples. None is 50,000, and 500 where the reference is an embedded data set."""
    sampler: Sampler = field(default_factory=Sampler)
    """How the samples are drawn from noise."""
    seed: int | None = None
    """Seed of the noise and of uniform labels. None is the run's own: runs of one seed start from the same noise."""
    labels: Labels = "in_turn"
    """Classes of the samples: 0, 1, 2, … in turn, or drawn uniformly."""
    reference: str | None = None
    """Real images: .npz in ADM's format (images, or mu and sigma), folder of images, store, or name of a data set.
    None is the held-out part of the run's own data set."""
    features: Features | None = None
    """Features that are compared: of Inception (FID; needs extra [fid]) or the lab's digits classifier, or pixels.
    None is digits for the data set digits, pixels for emoji, and otherwise inception, or pixels where that cannot be
    imported or downloaded, or the images are grey or smaller than 32 pixels."""
    vae: str | None = None
    """Decoder of latents: a hub id such as stabilityai/sd-vae-ft-ema, or a folder."""
    inception: Path | None = None
    """File of Inception's weights (.pth, .safetensors); None downloads them."""
    batch: int = 250
    """Number of images sampled and measured at a time."""

    def __post_init__(self) -> None:
        if self.features is not None:
            choose(self.features, Features, "features")
        choose(self.labels, Labels, "labels")
        least = NEIGHBOURS + 1
        allowed = f"take a whole number of at least {least}, since precision and recall need {NEIGHBOURS} neighbours"
        require(self.count is None or whole(self.count, least), "count", self.count, allowed)
        if self.seed is not None:
            check_seed(self.seed)
        require(whole(self.batch, 1), "batch", self.batch, "take a whole number of at least 1")
        unused = self.inception is None or self.features in (None, "inception")
        require(unused, "inception", str(self.inception), f"features are {self.features}; leave one of them out")

    def filled(self, config: Config) -> "FilledConfig":
        """The protocol with everything filled in for a run of this config."""
        reference = whole_set(config.dataset) if self.reference is None else self.reference
        embedded = reference in datasets.EMBEDDED
        digits = "digits" in (whole_set(reference), whole_set(config.dataset))
        usual: Features | None = "digits" if digits else "pixels" if embedded else None
        return FilledConfig(
            count=self.count or (SMALL if embedded else PUBLISHED),
            sampler=self.sampler.filled(config.family),
            seed=config.seed if self.seed is None else self.seed,
            labels=self.labels,
            reference=reference,
            features=self.features or (usual if self.inception is None else "inception"),
            vae=self.vae,
            inception=self.inception,
            batch=self.batch,
        )

    def describe(self, *families: Family) -> str:
        """The protocol in words, for models of these families."""
        samplers = dict.fromkeys(self.sampler.describe(family) for family in families or ("SiT",))
        seed = "each run's own seed" if self.seed is None else f"seed {self.seed}"
        return f"{self.count or SMALL} samples, {' or '.join(samplers)}, {seed}, averaged weights"


@dataclass(frozen=True, kw_only=True)
class FilledConfig(EvaluationConfig):
    """The protocol of one run, as ``EvaluationConfig.filled`` returns it: decoder, weights, features may be None."""

    count: int
    seed: int
    reference: str
