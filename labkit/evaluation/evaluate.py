"""The one way to judge a model: ``evaluate`` for a network at hand, ``evaluate_run`` for one in a folder.

Both fill in the same ``EvaluationConfig``, draw samples in the same batches and hand them to the same ``Evaluator``, so
that the same weights have the same Fréchet distance wherever it is asked for. ``evaluate_run`` draws shard by shard, on
several ranks if need be, and keeps samples and results: samples in ``evaluations/<samples>/`` of the run, where they
serve every metric, a result in ``evaluations/<samples>-<metrics>.json``. Both names are digests of all that they depend
on, so that the same question finds them again.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from labkit.checks import require, whole
from labkit.config import Config
from labkit.datasets import Codec
from labkit.datasets.store import ABOUT, read_about
from labkit.disk import replace_file
from labkit.evaluation.evaluator import FEW, REAL, Batches, Evaluator, Metric, evaluator_of, images_of, memorisation
from labkit.evaluation.references import Shape
from labkit.evaluation.settings import WHOLE, EvaluationConfig
from labkit.evaluation.shards import Shards
from labkit.metrics import Extractor
from labkit.metrics.extractors import to_bytes
from labkit.runtime import Purpose, commit, generator, machine
from labkit.training import Run, Samples, sample_network
from labkit.training.checkpoint import digest
from labkit.training.runs import Weights

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "labkit-evaluation-2"


class Evaluation(NamedTuple):
    """Metrics of a model's samples, and the samples."""

    metrics: dict[str, Metric]
    samples: Samples
    left_out: dict[str, str]
    """Metrics that could not be taken, and why."""

    @property
    def values(self) -> dict[str, float]:
        """Metric → value."""
        return {name: metric.value for name, metric in self.metrics.items()}

    def table(self) -> "pd.DataFrame":
        """A row a metric, in words."""
        return metrics_table({name: metric.record() for name, metric in self.metrics.items()})


class StoredEvaluation(NamedTuple):
    """Metrics of a run's samples, and where they are kept."""

    record: dict[str, Any]
    path: Path
    samples: Shards

    def table(self) -> "pd.DataFrame":
        """A row a metric, in words."""
        return metrics_table(self.record["metrics"])

    def summary(self) -> str:
        """The table, and in words what it depends on."""
        drawn, reference, features = (self.record[part] for part in ("sampling", "reference", "features"))
        way = drawn["sampler"]
        steps = f" with {way['steps']} steps" if way["steps"] else ""
        lines = [
            f"{drawn['count']:,} samples by {way['method']}{steps}, guidance {way['guidance']:g}, "
            f"{drawn['nfe']:g} evaluations each, seed {drawn['seed']}, {drawn['weights']} weights of step "
            f"{drawn['checkpoint']['step']}; reference {reference['name']}, {reference['count']:,} images; "
            f"features {features['name']}",
            self.table().to_string(),
            *(f"Left out: {what} ({why})." for what, why in self.record["left_out"].items()),
            f"Stored with all it depends on: {self.path}",
        ]
        return "\n".join(lines)


def metrics_table(records: dict[str, dict[str, Any]]) -> "pd.DataFrame":
    """A row a metric: of the samples, of real images, and the excess of the one over the other."""
    import pandas as pd

    def words(record: dict[str, Any]) -> dict[str, str]:
        real = record.get("real")
        return {
            "samples": str(Metric(record["value"], record.get("std"))),
            REAL: "–" if real is None else f"{real['mean']:.4g}",
            "excess": "–" if real is None else f"{record['excess']:+.3g}",
        }

    return pd.DataFrame({name: words(record) for name, record in records.items()}).T


def evaluate(
    network: nn.Module, config: Config, settings: EvaluationConfig = EvaluationConfig(), progress: bool = False
) -> Evaluation:
    """Sample a network and measure the samples.

    Args:
        network: a Transformer with the weights to be judged.  config: the run's.
        settings: the protocol.  progress: show bars.

    Raises:
        ConfigError: a setting that cannot be, a reference or features that do not fit.
    """
    settings = settings.filled(config)
    codec = codec_of(config, network.shape, settings.vae)
    evaluator = evaluator_of(settings, _shape(network.shape, codec), progress=progress)
    labels = _labels(settings, network.num_classes)
    samples = _draw(network, config, settings, range(settings.count), labels)
    parts = samples.x.split(settings.batch)
    images = [to_bytes(codec.decode(part) if codec else part) for part in parts]
    return Evaluation(
        _measured(evaluator, lambda: images, config, labels, settings), samples, evaluator.left_out(settings.count)
    )


def evaluate_run(
    run: Run,
    settings: EvaluationConfig = EvaluationConfig(),
    *,
    weights: Weights = "ema",
    step: int | None = None,
    shard: int = 500,
    extractor: Extractor | None = None,
    rank: int | None = None,
    ranks: int | None = None,
    progress: bool = False,
) -> StoredEvaluation | None:
    """Draw what samples of a run are missing, measure them, store the result; a result that is stored is given back.

    Args:
        weights: averaged or live ones.  step: of the checkpoint, by default the newest.
        shard: samples of one file, which a job that was killed loses at most.
        extractor: in place of the one that ``features`` names.
        rank, ranks: draw each ``ranks``-th shard from number ``rank`` on; by default as torchrun set them.

    Returns:
        None where other processes have not drawn their share yet: the last one to be done measures.

    Raises:
        ConfigError: a setting that cannot be, a reference or weights that do not fit.
    """
    require(whole(shard, 1), "shard", shard, "take a whole number of at least 1")
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    ranks = int(os.environ.get("WORLD_SIZE", 1)) if ranks is None else ranks
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    config, settings = run.config, settings.filled(run.config)
    step = max(run.checkpoints, default=None) if step is None else step
    network = run.model(weights, step)
    codec = codec_of(config, network.shape, settings.vae)
    checkpoint = {"step": step, "digest": digest(run.checkpoints[step]) if step else config.to_json()}
    sampling = {
        "sampler": settings.sampler.record(),
        "count": settings.count,
        "seed": settings.seed,
        "labels": settings.labels,
        "checkpoint": checkpoint,
        "weights": weights,
        "shard": shard,
        "vae": codec and {"name": codec.source, "digest": codec.digest},
    }
    evaluator = evaluator_of(settings, _shape(network.shape, codec), extractor, progress)
    labels = _labels(settings, network.num_classes)
    key = _key({**sampling, "vae": codec and codec.digest})
    shards = Shards(run.path / "evaluations" / key, labels, shard)
    begun = {"sampling": sampling, **evaluator.record()}
    path = shards.folder.with_name(f"{key}-{_key(_dependence(begun))}.json")
    if path.exists():
        return StoredEvaluation(json.loads(path.read_text(encoding="utf-8")), path, shards)

    def draw(numbers: range, labels: Tensor) -> Samples:
        return _draw(network, config, settings, numbers, labels)

    shards.make(draw, codec.decode if codec else torch.Tensor.clone, rank, ranks, progress)
    if shards.missing:
        return None
    sampling["nfe"] = shards.evaluations()
    measured = _measured(evaluator, lambda: shards.batches(settings.batch), config, labels, settings)
    record = {
        "format": FORMAT,
        "run": run.path.name,
        "metrics": {name: metric.record() for name, metric in measured.items()},
        "left_out": evaluator.left_out(settings.count),
        **begun,
        "commit": commit(),
        "machine": machine(),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    replace_file(path, text.encode(), mark=f".{os.getpid()}")
    return StoredEvaluation(record, path, shards)


def _measured(
    evaluator: Evaluator, batches: Callable[[], Batches], config: Config, labels: Tensor, settings: EvaluationConfig
) -> dict[str, Metric]:
    """The evaluator's metrics, and memorisation, which is of the run's own training images if they are few.

    Args:
        batches: gives the images anew at each call: 50,000 of 256×256 are not to be in memory together.
    """
    labelled = labels if bool((labels > 0).any()) else None
    metrics = evaluator.metrics(batches(), len(labels), labelled, settings.seed)
    own = settings.reference == WHOLE.get(config.dataset, config.dataset)
    second = evaluator.reference.second
    if own and second is not None and second.count <= FEW:
        train, held_out = (images_of(config.dataset, split) for split in ("train", "held_out"))
        metrics["memorisation"] = Metric(memorisation(torch.cat(list(batches())), train, held_out))
    return metrics


def _draw(network: nn.Module, config: Config, settings: EvaluationConfig, numbers: range, labels: Tensor) -> Samples:
    return sample_network(
        network,
        config,
        len(numbers),
        y=labels,
        first=numbers.start,
        seed=settings.seed,
        batch_size=settings.batch,
        **asdict(settings.sampler),
    )


def _labels(settings: EvaluationConfig, classes: int) -> Int[Tensor, " n"]:
    if settings.labels == "in_turn":
        return torch.arange(settings.count) % classes
    return torch.randint(classes, (settings.count,), generator=generator(settings.seed, Purpose.LABELS))


def _shape(shape: Shape, codec: Codec | None) -> Shape:
    """Shape of the images that samples of this shape are decoded to."""
    _, height, width = shape
    return shape if codec is None else (3, height * codec.factor, width * codec.factor)


def codec_of(config: Config, shape: Shape, vae: str | None) -> Codec | None:
    """The VAE that decodes a run's samples of this shape, and None for a run on pixels.

    Raises:
        ConfigError: latents and no VAE, or one that their store was not made with; pixels and a VAE.
    """
    fault = f"this run makes {{}} of {shape[0]} channels; {{}}"
    if shape[0] in (1, 3):
        require(vae is None, "vae", vae, fault.format("images", "leave it out"))
        return None
    remedy = "name the VAE that its latents are of, such as --vae stabilityai/sd-vae-ft-ema"
    require(vae is not None, "vae", vae, fault.format("latents", remedy))
    codec = Codec(vae)
    require(codec.channels == shape[0], "vae", vae, fault.format("latents", f"its are of {codec.channels}"))
    if (Path(config.dataset) / ABOUT).is_file():
        stored = read_about(Path(config.dataset))["vae"]
        same = stored is None or stored["digest"] == codec.digest
        require(same, "vae", vae, f"the run's latents are of another: {stored and stored['name']}")
    return codec


def _dependence(begun: dict[str, Any]) -> dict[str, Any]:
    """Everything that metrics depend on beside the samples."""
    reference = {name: value for name, value in begun["reference"].items() if name != "name"}
    other = begun["real_images"] and begun["real_images"]["digest"]
    return {"format": FORMAT, "reference": reference, "real_images": other, "features": begun["features"]}


def _key(of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]
