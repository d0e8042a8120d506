"""``labkit evaluate``: samples of a run against a reference, every figure stored beside all that it depends on.

Samples lie in ``evaluations/<samples>/`` of the run and serve every figure; a result in
``evaluations/<samples>-<measure>.json``. Both names are digests of the request, so the same request finds them again.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from labkit import datasets
from labkit.checks import check_seed, choose, require, whole
from labkit.config import Config
from labkit.datasets import Codec
from labkit.datasets.layout import ABOUT, read_about
from labkit.disk import replace_file
from labkit.experiments.evaluate import REAL
from labkit.experiments.judging import fitting, judge, pixels_of
from labkit.experiments.references import Reference, Shape, open_reference
from labkit.experiments.shards import Shards
from labkit.metrics import DigitsFeatures, Extractor, Inception
from labkit.metrics.figures import NEIGHBOURS
from labkit.models import Transformer
from labkit.runtime import Purpose, commit, generator, machine
from labkit.sampling import Sampler
from labkit.training import Run, Samples, sample_network
from labkit.training.checkpoint import digest
from labkit.training.runs import Weights

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "labkit-evaluation-1"
COUNT = 50_000
"""Samples of every published FID."""
Features = Literal["inception", "digits", "pixels"]
Labels = Literal["in_turn", "uniform"]
USUAL: dict[str, Features] = dict.fromkeys(("digits", "digits-few", "digits-unlabelled"), "digits")
"""Features of an embedded data set, where it has better ones than pixels."""


@dataclass(frozen=True)
class Request:
    """What is to be measured; None is filled in for a run by ``of``."""

    reference: str | None = None
    """An .npz in ADM's format (images, or mu and sigma), a folder of images, a store, or a data set by name. None is
    the run's own data, of which the held-out images are taken."""
    features: Features | None = None
    """What images are measured on: inception (FID; extra [fid]), the lab's digits classifier, or pixels. None is
    inception, but for the embedded data sets: digits of digits, pixels of emoji."""
    count: int | None = None
    """Samples to draw. None is 50,000, and for the embedded data sets as many as they have to train on."""
    sampler: Sampler = field(default_factory=Sampler)
    seed: int = 0
    """Of all noise, of uniform labels and of the subsets of KID."""
    labels: Labels = "in_turn"
    """Classes asked for: 0, 1, 2, … in turn, or drawn uniformly."""
    weights: Weights = "ema"
    """Averaged or live ones."""
    step: int | None = None
    """Of the checkpoint; by default the newest."""
    vae: str | None = None
    """What decodes latents: a hub id such as stabilityai/sd-vae-ft-ema, or a folder."""
    inception: Path | None = None
    """File of Inception's weights (.pth, .safetensors); None downloads them."""
    batch: int = 250
    """Images at a time."""
    shard: int = 500
    """Samples of one file, which a job that was killed loses at most."""

    def __post_init__(self) -> None:
        if self.features is not None:
            choose(self.features, Features, "features")
        choose(self.labels, Labels, "labels")
        choose(self.weights, Weights, "weights")
        least = NEIGHBOURS + 1
        told = f"take a whole number of at least {least}: precision and recall look at {NEIGHBOURS} neighbours"
        require(self.count is None or whole(self.count, least), "count", self.count, told)
        check_seed(self.seed)
        for name in ("batch", "shard"):
            value = getattr(self, name)
            require(whole(value, 1), name, value, "take a whole number of at least 1")
        unused = self.inception is None or self.features in (None, "inception")
        require(unused, "inception", str(self.inception), f"features are {self.features}; leave one of them out")

    def of(self, config: Config) -> "Request":
        """The same with everything filled in for a run of this config."""
        reference = config.dataset if self.reference is None else self.reference
        embedded = reference in datasets.EMBEDDED
        usual = "inception" if self.inception or not embedded else USUAL.get(reference, "pixels")
        return replace(
            self, reference=reference, features=self.features or usual, sampler=self.sampler.of(config.family),
            count=self.count or (len(datasets.load(reference)) if embedded else COUNT),
        )  # fmt: skip


class Measured(NamedTuple):
    """A result and where it is stored."""

    record: dict[str, Any]
    path: Path
    samples: Shards

    def table(self) -> "pd.DataFrame":
        """A row a figure, as words: of the samples, and of real images measured the same way."""
        import pandas as pd

        real = (self.record["real_against_real"] or {"figures": {}})["figures"]
        columns = {"samples": self.record["figures"], REAL: real}
        words = {name: {of: _word(found) for of, found in column.items()} for name, column in columns.items()}
        return pd.DataFrame(words, index=list(columns["samples"])).fillna("–")

    def told(self) -> str:
        """The table, and in words what it was measured with."""
        drawn, against, seen = (self.record[part] for part in ("sampling", "reference", "features"))
        way = drawn["sampler"]
        steps = f" with {way['steps']} steps" if way["steps"] else ""
        lines = [
            f"{drawn['count']:,} samples by {way['method']}{steps}, guidance {way['guidance']:g}, "
            f"{drawn['nfe']:g} evaluations each, seed {drawn['seed']}, {drawn['weights']} weights of step "
            f"{drawn['checkpoint']['step']}; reference {against['name']}, {against['count']:,} images; "
            f"features {seen['name']}",
            self.table().to_string(),
            *(f"Left out: {what} ({why})." for what, why in self.record["left_out"].items()),
            f"Stored with all it depends on: {self.path}",
        ]  # fmt: skip
        return "\n".join(lines)


def _word(found: dict[str, float]) -> str:
    return f"{found['value']:.4g}" + (f" ± {found['std']:.2g}" if "std" in found else "")


def measure(
    run: Run, asked: Request, *, extractor: Extractor | None = None, rank: int | None = None, ranks: int | None = None,
    progress: bool = False,
) -> Measured | None:  # fmt: skip
    """Draw what samples are missing, measure them, store the result; a result that is stored is given back.

    Args:
        extractor: in place of the one that ``features`` names.
        rank, ranks: draw each ``ranks``-th shard from number ``rank`` on; by default as torchrun set them.

    Returns:
        None where other processes have not drawn their share yet: the last one to be done measures.

    Raises:
        ConfigError: a setting that cannot be, a reference or weights that do not fit.
    """
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    ranks = int(os.environ.get("WORLD_SIZE", 1)) if ranks is None else ranks
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    asked = asked.of(run.config)
    drawing = _Drawing(run, asked)
    reference = open_reference(asked.reference, drawing.shape)
    extractor = extractor or _extractor(asked, reference)
    reference = fitting(reference, extractor, drawing.shape)
    shards, begun = drawing.shards, {"sampling": drawing.record, **_compared(reference, extractor)}
    path = shards.folder.with_name(f"{shards.folder.name}-{_key(_measure(asked, begun))}.json")
    if path.exists():
        return Measured(json.loads(path.read_text(encoding="utf-8")), path, shards)
    drawing.draw(rank, ranks, progress)
    if shards.missing:
        return None
    begun["sampling"]["nfe"] = shards.evaluations()
    judged = judge(shards.batches(asked.batch), asked.count, reference, extractor, asked.seed, asked.batch, progress)
    record = {"format": FORMAT, "run": run.path.name, **judged, **begun}
    record |= {"commit": commit(), "machine": machine()}
    text = json.dumps(record, indent=1, ensure_ascii=False)
    replace_file(path, text.encode(), mark=f".{os.getpid()}")
    return Measured(record, path, shards)


def _extractor(asked: Request, reference: Reference) -> Extractor:
    if asked.features == "inception":
        return Inception(asked.inception)
    return DigitsFeatures() if asked.features == "digits" else pixels_of(reference)


class _Drawing:
    """The samples of a request: whose, of what shape, and where they lie."""

    def __init__(self, run: Run, asked: Request) -> None:
        self.config, self.asked = run.config, asked
        step = max(run.checkpoints, default=None) if asked.step is None else asked.step
        self.network: Transformer = run.model(asked.weights, step)
        self.codec = codec_of(self.config, self.network.shape, asked.vae)
        channels, height, width = self.network.shape
        by = 1 if self.codec is None else self.codec.factor
        self.shape: Shape = (3 if self.codec else channels, height * by, width * by)
        checkpoint = {"step": step, "digest": digest(run.checkpoints[step]) if step else self.config.to_json()}
        self.record = {
            "sampler": asked.sampler.record(), "count": asked.count, "seed": asked.seed, "labels": asked.labels,
            "checkpoint": checkpoint, "weights": asked.weights, "shard": asked.shard,
            "vae": self.codec and {"name": self.codec.source, "digest": self.codec.digest},
        }  # fmt: skip
        key = _key({**self.record, "vae": self.codec and self.codec.digest})
        self.shards = Shards(run.path / "evaluations" / key, self._labels(), asked.shard)

    def _labels(self) -> Int[Tensor, " n"]:
        count, classes = self.asked.count, self.network.num_classes
        if self.asked.labels == "in_turn":
            return torch.arange(count) % classes
        return torch.randint(classes, (count,), generator=generator(self.asked.seed, Purpose.LABELS))

    def draw(self, rank: int, ranks: int, progress: bool) -> None:
        settings = asdict(self.asked.sampler)

        def some(numbers: range, labels: Tensor) -> Samples:
            return sample_network(
                self.network, self.config, len(numbers), y=labels, first=numbers.start, seed=self.asked.seed,
                batch_size=self.asked.batch, **settings,
            )  # fmt: skip

        self.shards.make(some, self.codec.decode if self.codec else torch.Tensor.clone, rank, ranks, progress)


def codec_of(config: Config, shape: Shape, vae: str | None) -> Codec | None:
    """The VAE that decodes a run's samples of this shape, and None for a run on pixels.

    Raises:
        ConfigError: latents and no VAE, or one that their store was not made with; pixels and a VAE.
    """
    told = f"this run makes {{}} of {shape[0]} channels; {{}}"
    if shape[0] in (1, 3):
        require(vae is None, "vae", vae, told.format("images", "leave it out"))
        return None
    say = "name the VAE that its latents are of, such as --vae stabilityai/sd-vae-ft-ema"
    require(vae is not None, "vae", vae, told.format("latents", say))
    codec = Codec(vae)
    require(codec.channels == shape[0], "vae", vae, told.format("latents", f"its are of {codec.channels}"))
    if (Path(config.dataset) / ABOUT).is_file():
        trained = read_about(Path(config.dataset))["vae"]
        same = trained is None or trained["digest"] == codec.digest
        require(same, "vae", vae, f"the run's latents are of another: {trained and trained['name']}")
    return codec


def _compared(reference: Reference, extractor: Extractor) -> dict[str, Any]:
    known = {"name": reference.name, "digest": reference.digest, "count": reference.count}
    return {
        "reference": {**known, "statistics": reference.statistics is not None},
        "features": {"name": extractor.name, "digest": extractor.digest},
    }


def _measure(asked: Request, begun: dict[str, Any]) -> dict[str, Any]:
    """What figures depend on beside the samples."""
    reference = {name: value for name, value in begun["reference"].items() if name != "name"}
    return {"format": FORMAT, "reference": reference, "features": begun["features"], "seed": asked.seed}


def _key(of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]
