"""The one way to judge a model: ``evaluate`` for a network at hand, ``evaluate_run`` for one in a folder.

Both complete the same ``EvaluationConfig``, draw samples in the same batches and hand them to the same ``Evaluator``,
so that the same weights have the same Fréchet distance everywhere. ``evaluate_run`` draws shard by shard, on several
ranks if need be, and keeps samples and results: samples in ``evaluations/<samples>/`` of the run, where they serve
every metric, a result in ``evaluations/<samples>-<metrics>.json``. Both names are digests of all that they depend on,
so that the same request finds them again. The path of a number:

    evaluate_run → Shards.make → sample_network              noise to images, on the disk
                 → Evaluator.extract                         features of the images; the reference's are computed once
                 → Evaluator.metrics → frechet_distance, …   of both, and of real images beside them
                 → memorisation, likelihood_divergence       where the training images are few
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from labkit.checks import ConfigError, check_whole, require
from labkit.config import Config
from labkit.datasets import Codec
from labkit.datasets.store import ABOUT, read_about
from labkit.disk import check_writable, remove_unfinished, replace_file, user_path
from labkit.distributed import local_rank, place
from labkit.evaluation.evaluator import FEW, REAL, Batches, Evaluator, Metric, evaluator_of, memorisation
from labkit.evaluation.references import Shape, open_reference
from labkit.evaluation.settings import EvaluationConfig, FilledConfig, whole_set
from labkit.evaluation.shards import Shards
from labkit.metrics import Extractor, FeatureLikelihood, extract, metric
from labkit.metrics.classifier import CLASSIFIERS
from labkit.models import Transformer
from labkit.ops import to_bytes
from labkit.runtime import Purpose, commit, device, generator, machine, memory_for, seconds_each
from labkit.sampling.sampler import describe_guidance
from labkit.training import Run, Samples, sample_network
from labkit.training.checkpoint import digest
from labkit.training.history import duration
from labkit.training.runs import Weights

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "labkit-evaluation-3"
LONG = 60.0  # seconds of sampling that are announced
MEANWHILE = (
    "by the time of one evaluation of the network. Ctrl-C keeps what is drawn, and the same command goes on with it; "
    "--count takes fewer (compare their metrics only with those of as many)"
)


class Evaluation(NamedTuple):
    """Metrics of a model's samples, and the samples."""

    metrics: dict[str, Metric]
    samples: Samples
    left_out: dict[str, str]
    """Metrics that could not be computed, and why."""

    @property
    def values(self) -> dict[str, float]:
        """Metric → value."""
        return {name: metric.value for name, metric in self.metrics.items()}


class StoredEvaluation(NamedTuple):
    """Metrics of a run's samples, as they are stored, and the file."""

    record: dict[str, Any]
    path: Path
    samples: Shards

    def table(self) -> "pd.DataFrame":
        """A row a metric, as text: of the samples, of real images, and the excess of the one over the other."""
        import pandas as pd

        rows = {}
        for name, record in self.record["metrics"].items():
            real = record.get("real")
            rows[name] = {
                "samples": f"{record['value']:.4g}" + (f" ± {record['std']:.2g}" if "std" in record else ""),
                REAL: "–" if real is None else f"{real['mean']:.4g}",
                "excess": "–" if real is None else f"{record['excess']:+.3g}",
            }
        return pd.DataFrame(rows).T

    def summary(self) -> str:
        """The table with the metrics' titles, and in words what it depends on."""
        sampling, reference, features = (self.record[part] for part in ("sampling", "reference", "features"))
        sampler = sampling["sampler"]
        steps = f" with {sampler['steps']} steps" if sampler["steps"] else ""
        lines = [
            f"{sampling['count']:,} samples by {sampler['method']}{steps}, {describe_guidance(sampler)}, "
            f"{sampling['nfe']:g} evaluations each, seed {sampling['seed']}, {sampling['weights']} weights of step "
            f"{sampling['checkpoint']['step']}; reference {reference['name']}, {reference['count']:,} images; "
            f"features {features['name']}",
            self.table().rename(index=lambda name: metric(name).title).to_string(),
            *(f"Of the reference, {note}." for note in reference.get("notes", ())),
            *(f"Left out: {metric(name).title} ({reason})." for name, reason in self.record["left_out"].items()),
            f"Stored with all it depends on: {self.path}",
        ]
        return "\n".join(lines)


def evaluate(network: Transformer, config: Config, settings: EvaluationConfig = EvaluationConfig()) -> Evaluation:
    """Sample a network and measure the samples.

    Args:
        network: with the weights to be judged.  config: its run's.
        settings: the protocol.

    Raises:
        ConfigError: a setting that cannot work, a reference or features that do not fit.
    """
    filled = settings.filled(config)
    codec = codec_of(config, network.shape, filled.vae)
    evaluator = evaluator_of(filled, _image_shape(network.shape, codec))
    labels = _labels(filled, network.num_classes)
    samples = _draw(network, config, filled, range(filled.count), labels)
    parts = samples.x.split(filled.batch)
    images = [to_bytes(codec.decode(part) if codec else part) for part in parts]
    metrics = _measure(evaluator, lambda: images, config, labels, filled.seed)
    return Evaluation(metrics, samples, evaluator.left_out(filled.count))


def evaluate_run(
    run: Run,
    settings: EvaluationConfig = EvaluationConfig(),
    *,
    weights: Weights = "ema",
    step: int | None = None,
    shard: int = 500,
    extractor: Extractor | None = None,
    progress: bool = False,
) -> StoredEvaluation | None:
    """Draw the samples of a run that are missing, measure all, store the result; a stored result is returned as it is.

    Started by torchrun, each rank draws its share of the shards.

    Args:
        weights: averaged or live ones.  step: of the checkpoint, by default the newest.
        shard: samples in one file; an interrupted job loses at most one file.
        extractor: in place of the one that ``features`` names.

    Returns:
        None where other ranks have not drawn their share yet: the last one to finish measures.

    Raises:
        ConfigError: a setting that cannot work, a reference or weights that do not fit.
    """
    check_whole("shard", shard)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    config, filled = run.config, settings.filled(run.config)
    step = max(run.checkpoints, default=None) if step is None else step
    network = run.model(weights, step)
    codec = codec_of(config, network.shape, filled.vae)
    evaluator = evaluator_of(filled, _image_shape(network.shape, codec), extractor, progress)
    labels = _labels(filled, network.num_classes)

    sampling = {
        "sampler": filled.sampler.record(),
        "count": filled.count,
        "seed": filled.seed,
        "labels": filled.labels,
        "checkpoint": {"step": step, "digest": digest(run.checkpoints[step]) if step else config.to_json()},
        "weights": weights,
        "shard": shard,
        "vae": codec and {"name": codec.source, "digest": codec.digest},
    }
    measuring = evaluator.record()
    key = _key({**sampling, "vae": codec and codec.digest})
    shards = Shards(run.path / "evaluations" / key, labels, shard)
    path = shards.folder.with_name(f"{key}-{_key(_without_names(measuring))}.json")
    remove_unfinished(path.parent)
    if path.exists():
        return StoredEvaluation(json.loads(path.read_text(encoding="utf-8")), path, shards)

    check_writable(path, "run", "copy the run to a folder of yours and evaluate it there")
    rank, ranks = place()
    draw, decode = partial(_draw, network, config, filled), codec.decode if codec else torch.Tensor.clone
    for name, why in evaluator.without.items() if progress and rank == 0 else ():
        tqdm.write(f"Without {name}: {why}.")
    if progress and rank == 0 and (count := shards.samples(shards.left(rank, ranks))):
        seconds = count * _seconds_a_sample(network, codec, filled)
        if seconds > LONG:
            tqdm.write(f"Drawing {count:,} samples takes about {duration(seconds)} here, {MEANWHILE}.")
    shards.make(draw, decode, rank, ranks, progress)
    if shards.missing:
        return None
    metrics = _measure(evaluator, lambda: shards.batches(filled.batch), config, labels, filled.seed)
    record = {
        "format": FORMAT,
        "run": run.path.name,
        "metrics": {name: metric.record() for name, metric in metrics.items()},
        "left_out": evaluator.left_out(filled.count),
        "sampling": {**sampling, "nfe": shards.evaluations()},
        **measuring,
        "commit": commit(),
        "machine": machine(),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    replace_file(path, text.encode())
    return StoredEvaluation(record, path, shards)


def _measure(
    evaluator: Evaluator, batches: Callable[[], Batches], config: Config, labels: Tensor, seed: int
) -> dict[str, Metric]:
    """The evaluator's metrics, and where the run was trained on few images how near it came to these.

    Args:
        batches: gives the images anew at each call, since 50,000 of 256×256 should not be in memory together.
    """
    extracted = evaluator.extract(batches(), "samples", len(labels))
    metrics = evaluator.metrics(extracted, labels, seed)
    own_data = evaluator.settings.reference == whole_set(config.dataset)
    second = evaluator.reference.second
    if own_data and second is not None and second.count <= FEW:
        own = open_reference(config.dataset, evaluator.shape)
        assert own.second is not None  # the training images: part of the evaluator's, which has some
        metrics["memorisation"] = Metric(memorisation(torch.cat(list(batches())), own.second.images(), own.images()))
        if evaluator.extractor.name in CLASSIFIERS:
            likelihood = _likelihood(evaluator, config.dataset)
            metrics["likelihood_divergence"] = Metric(likelihood(extracted[0].features))
    return metrics


@cache
def _likelihood(evaluator: Evaluator, dataset: str) -> FeatureLikelihood:
    """Feature likelihood of a data set's own training and held-out images."""
    held_out, batch = open_reference(dataset, evaluator.shape), evaluator.settings.batch
    assert held_out.second is not None
    train, other = (
        extract(split.batches(batch), evaluator.extractor)[0].features for split in (held_out.second, held_out)
    )
    return FeatureLikelihood(train, other)


def _draw(network: Transformer, config: Config, settings: FilledConfig, numbers: range, labels: Tensor) -> Samples:
    """The samples of these numbers, with their labels."""
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


def _seconds_a_sample(network: Transformer, codec: Codec | None, settings: FilledConfig) -> float:
    """Time that drawing one sample takes on this machine, by that of one evaluation of the network, and of the VAE."""
    sampler, most = settings.sampler, settings.batch

    def evaluation(n: int) -> Tensor:
        x = torch.zeros(n, *network.shape, device=device())
        return network(x, x.new_zeros(n), torch.zeros(n, dtype=torch.long, device=x.device)).output.cpu()

    with torch.inference_mode(), memory_for(f"sampling {most} images at a time", "take fewer, by --batch"):
        seconds = seconds_each(evaluation, most) * sampler.evaluations * (1 if sampler.guidance == 1 else 2)
        if codec is not None:
            seconds += seconds_each(lambda n: codec.decode(torch.zeros(n, *network.shape)), codec.batch)
    return seconds


def _labels(settings: FilledConfig, classes: int) -> Int[Tensor, " n"]:
    if settings.labels == "in_turn":
        return torch.arange(settings.count) % classes
    return torch.randint(classes, (settings.count,), generator=generator(settings.seed, Purpose.LABELS))


def _image_shape(shape: Shape, codec: Codec | None) -> Shape:
    """Shape of the images that samples of this shape are decoded to."""
    _, height, width = shape
    return shape if codec is None else (3, height * codec.factor, width * codec.factor)


def codec_of(config: Config, shape: Shape, vae: str | None) -> Codec | None:
    """The VAE that decodes a run's samples of this shape; None for a run on pixels.

    Raises:
        ConfigError: latents without a VAE, or with another than their store was made with; pixels with a VAE.
    """
    fault = f"this run makes {{}} of {shape[0]} channels; {{}}"
    if shape[0] in (1, 3):
        require(vae is None, "vae", vae, fault.format("images", "leave it out"))
        return None
    stored = _vae_of(config.dataset)
    vae = stored["name"] if vae is None and stored else vae
    remedy = "name the VAE of its latents, such as --vae stabilityai/sd-vae-ft-ema"
    if vae is None:
        raise ConfigError(f"vae = None cannot be used: {fault.format('latents', remedy)}.")
    codec = Codec(vae)
    require(
        codec.channels == shape[0],
        "vae",
        vae,
        fault.format("latents", f"this VAE has {codec.channels}; leave it out, or {remedy}"),
    )
    same = stored is None or stored["digest"] == codec.digest
    others = (
        f"the run's latents are those of another, {stored and stored['name']} with the weights that it had; give that"
    )
    require(same, "vae", vae, others)
    return codec


def _vae_of(dataset: str) -> dict[str, Any] | None:
    """Name and digest of the VAE that a store was made with; None if there is no store any more, or none of latents."""
    folder = user_path(dataset, "dataset")
    return read_about(folder)["vae"] if (folder / ABOUT).is_file() else None


def _without_names(measuring: dict[str, Any]) -> dict[str, Any]:
    """All that metrics depend on beside the samples; a reference may move, or lie beside other files."""
    reference = {name: value for name, value in measuring["reference"].items() if name not in ("name", "notes")}
    others = measuring["real_images"] and measuring["real_images"]["digest"]
    return {"format": FORMAT, "reference": reference, "real_images": others, "features": measuring["features"]}


def _key(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
