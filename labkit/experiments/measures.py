"""Measurements of a run for a sweep's table.

    agreement … memorisation         metrics of samples, of ``labkit.evaluation``
    loss_train, loss_held_out        squared error per entry of what the network predicts, on fixed noise and times
    loss_gap                         how much larger it is on held-out images: over-fitting
    feature_norm, …                  ``labkit.metrics.geometry`` of each block, on held-out images at t = 0.5
    linear_probe                     held-out accuracy of a class read off each block, without the label as input

All are of the averaged weights. The noise of samples follows from the run's own seed, so that runs of one seed start
from the same noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit import datasets
from labkit.checks import require, whole
from labkit.config import Config
from labkit.evaluation import EvaluationConfig, block_geometry, block_probes, evaluate, evaluator_of, losses
from labkit.evaluation.settings import whole_set
from labkit.metrics.images import NEIGHBOURS
from labkit.models import Transformer
from labkit.sampling import Sampler
from labkit.training import Run

Row = dict[str, Any]


@dataclass(frozen=True)
class Measures:
    """Judge of a sweep: samples against real images, losses, and the geometry of each block."""

    count: int = 500
    """Number of samples; as many real images are measured the same way."""
    samplers: tuple[Sampler, ...] = (Sampler(),)
    """Each sampler has rows of its own. What does not depend on it is measured once."""
    steps: tuple[int, ...] | None = None
    """Checkpoints of a run to measure; None is all."""

    def __post_init__(self) -> None:
        least = NEIGHBOURS + 1
        require(whole(self.count, least), "count", self.count, f"take a whole number of at least {least}")
        require(len(self.samplers) > 0, "samplers", self.samplers, "name at least one")

    def __call__(self, run: Run, steps: Sequence[int]) -> list[Row]:
        rows: list[Row] = []
        for step in (step for step in steps if self.steps is None or step in self.steps):
            network = run.model(step=step)
            parts = [self._samples(network, run.config, sampler) for sampler in self.samplers]
            parts += [_losses(network, run.config, self.count), _blocks(network, run.config, self.count)]
            rows += [{"step": step, **row} for part in parts for row in part]
        return rows

    def _samples(self, network: Transformer, config: Config, sampler: Sampler) -> list[Row]:
        values = evaluate(network, config, self._settings(config.dataset, sampler)).values
        text = sampler.describe(config.family)
        return [{"sampler": text, "measure": name, "value": value} for name, value in values.items()]

    def _settings(self, dataset: str, sampler: Sampler) -> EvaluationConfig:
        """The usual protocol; a store is measured on pixels, for which nothing has to be fetched."""
        return EvaluationConfig(self.count, sampler, features=None if dataset in datasets.EMBEDDED else "pixels")

    def real(self, dataset: str) -> list[Row]:
        """Rows of real images in place of samples: means over several draws of ``count`` of them."""
        reference = whole_set(dataset)
        source = datasets.load(reference)
        datasets.load(reference, "held_out")  # refuses a store without: losses and features are measured on them
        require(self.count <= len(source), "count", self.count, f"{reference} has {len(source)} training images")
        settings = self._settings(reference, Sampler()).filled(Config(dataset=reference))
        control = evaluator_of(settings, source.shape).control(self.count)
        return [{"measure": name, "value": real.mean} for name, real in control.items()]


def _losses(network: Transformer, config: Config, count: int) -> list[Row]:
    return [{"measure": name, "value": value} for name, value in losses(network, config, count).items()]


def _blocks(network: Transformer, config: Config, count: int) -> list[Row]:
    """Geometry of each block's features, and the accuracy of a class read off them without the label as input."""
    blocks, probes = block_geometry(network, config, count=count), block_probes(network, config, 2 * count)
    return [
        {"block": block, "measure": name, "value": value}
        for block, metrics in blocks.items()
        for name, value in {**metrics, **({"linear_probe": probes[block]} if probes else {})}.items()
    ]
