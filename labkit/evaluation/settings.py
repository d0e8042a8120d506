"""The protocol of an evaluation: how samples are drawn, their reference, and the features that are compared."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from labkit import datasets
from labkit.checks import check_seed, check_whole, choose, require
from labkit.config import Config
from labkit.metrics import CLASSIFIERS
from labkit.metrics.images import NEIGHBOURS
from labkit.models import Family
from labkit.sampling import Sampler, check_null_class

PUBLISHED, SMALL = 50_000, 500
"""Samples of every published FID; of the embedded data sets, which hold out about as many images."""
Features = Literal["inception", "digits", "letters", "pixels"]
Labels = Literal["in_turn", "uniform"]
Protocol = Literal["lab", "published"]
WHOLE = {"digits-few": "digits", "digits-unlabelled": "digits", "letters-few": "letters"}
"""Data sets that are part of another, which is their reference."""


def published_sampler(config: Config) -> Sampler:
    """The sampler of the released code that a run of this config follows, for what is left open of a sampler.

    SiT's and DispLoss's sample by dopri5, DiT's by 250 ancestral steps with guidance 1.5, both with three guided
    channels; REPA's by 250 evaluations of Euler–Maruyama, all channels guided; MeanFlow's in one step.
    """
    if config.family == "DiT":
        return Sampler("ancestral", 250, 1.5, "first_three")
    if config.family == "MeanFlow":
        return Sampler("meanflow", 1)
    if "repa" in config.regularizers:
        return Sampler("euler_maruyama", 249)
    return Sampler("dopri5", channels="first_three")


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
    """Number of samples. None is 50,000, and 500 where the reference is an embedded data set (protocol lab)."""
    sampler: Sampler = field(default_factory=Sampler)
    """How the samples are drawn from noise."""
    seed: int | None = None
    """Seed of the noise and of uniform labels. None is the run's own: runs of one seed start from the same noise."""
    labels: Labels | None = None
    """Classes of the samples: 0, 1, 2, … in turn, or drawn uniformly. None is in_turn, and uniform where published."""
    reference: str | None = None
    """Real images: .npz in ADM's format (images, or mu and sigma), folder of images, store, or name of a data set.
    None is the held-out part of the run's own data set."""
    features: Features | None = None
    """Features that are compared: of Inception (FID; needs extra [fid]), of the lab's classifier of digits or letters,
    or pixels. None is the classifier for digits and letters, pixels for emoji, and otherwise inception, or pixels where
    that cannot be imported or downloaded, or the images are grey or smaller than 32 pixels."""
    vae: str | None = None
    """Decoder of latents: a hub id such as stabilityai/sd-vae-ft-ema, or a folder. None is that of the run's store."""
    inception: Path | None = None
    """File of Inception's weights (.pth, .safetensors); None downloads them."""
    batch: int = 250
    """Number of images sampled and measured at a time."""
    protocol: Protocol = "lab"
    """What is left open above: the lab's own way, or that of published figures: 50,000 samples of labels drawn
    uniformly, by the sampler of the released code (SiT: dopri5, three guided channels). Give --reference ADM's file."""

    def __post_init__(self) -> None:
        choose(self.features, Features, "features", optional=True)
        choose(self.labels, Labels, "labels", optional=True)
        choose(self.protocol, Protocol, "protocol")
        why = f"since precision and recall need {NEIGHBOURS} neighbours"
        check_whole("count", self.count, NEIGHBOURS + 1, optional=True, why=why)
        check_seed(self.seed, optional=True)
        check_whole("batch", self.batch)
        unused = self.inception is None or self.features in (None, "inception")
        require(unused, "inception", str(self.inception), f"features are {self.features}; leave one of them out")

    def filled(self, config: Config) -> "FilledConfig":
        """The protocol with everything filled in for a run of this config."""
        published, sampler = self.protocol == "published", self.sampler
        if published:
            names = ("guidance", "channels") if sampler.method else ("method", "steps", "guidance", "channels")
            released = vars(published_sampler(config))
            sampler = replace(sampler, **{name: released[name] for name in names if getattr(sampler, name) is None})
        reference = whole_set(config.dataset) if self.reference is None else self.reference
        embedded = reference in datasets.EMBEDDED
        classified = [name for name in map(whole_set, (reference, config.dataset)) if name in CLASSIFIERS]
        usual: Features | None = "pixels" if embedded else "inception" if published else None
        if classified:
            usual = cast(Features, classified[0])
        completed: dict[str, Any] = dict(
            count=self.count or (SMALL if embedded and not published else PUBLISHED),
            sampler=sampler.filled(config.family),
            seed=config.seed if self.seed is None else self.seed,
            labels=self.labels or ("uniform" if published else "in_turn"),
            reference=reference,
            features=self.features or (usual if self.inception is None else "inception"),
        )
        filled = FilledConfig(**vars(self) | completed)
        check_null_class(config, filled.sampler.guidance)
        return filled

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
    labels: Labels
    reference: str
