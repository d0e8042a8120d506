"""Measurements of a run for a sweep's table.

    agreement … memorisation         metrics of samples, of ``labkit.evaluation``
    loss_train, loss_held_out        squared error per entry of what the network predicts, on fixed noise and times
    loss_gap                         how much larger it is on held-out images: over-fitting
    feature_norm, …                  ``labkit.metrics.geometry`` of each block, on held-out images at t = 0.5
    linear_probe                     held-out accuracy of a class read off each block, without the label as input

All are of the averaged weights. The noise of samples follows from the run's own seed, so that runs of one seed start
from the same noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit import datasets
from labkit.checks import check_whole, require
from labkit.config import Config
from labkit.evaluation import EvaluationConfig, block_geometry, block_probes, evaluate, evaluator_of, losses
from labkit.evaluation.settings import whole_set
from labkit.experiments.sweep import Row
from labkit.metrics.images import NEIGHBOURS
from labkit.models import Transformer
from labkit.sampling import Sampler
from labkit.training import Run


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
        check_whole("count", self.count, NEIGHBOURS + 1)
        require(len(self.samplers) > 0, "samplers", self.samplers, "name at least one")

    def __call__(self, run: Run, steps: Sequence[int]) -> list[Row]:
        rows: list[Row] = []
        config = run.config
        for step in (step for step in steps if self.steps is None or step in self.steps):
            network = run.model(step=step)
            rows += [*self.samples(network, config, step), *self.blocks(network, config, step)]
        return rows

    def samples(self, network: Transformer, config: Config, step: int) -> list[Row]:
        """Rows of a network's samples, by each sampler, and of its losses."""
        rows: list[Row] = []
        for sampler in self.samplers:
            values = evaluate(network, config, self._settings(config.dataset, sampler)).values
            rows += _rows(values, step=step, sampler=sampler.describe(config.family))
        return rows + _rows(losses(network, config, self.count), step=step)

    def blocks(self, network: Transformer, config: Config, step: int) -> list[Row]:
        """Rows of the geometry of each block's features, and of its probe."""
        rows: list[Row] = []
        probes = block_probes(network, config, 2 * self.count)
        for block, metrics in block_geometry(network, config, count=self.count).items():
            probe = {"linear_probe": probes[block]} if probes else {}
            rows += _rows(metrics | probe, step=step, block=block)
        return rows

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
        return _rows({name: real.mean for name, real in control.items()})


def _rows(values: Mapping[str, float], **place: Any) -> list[Row]:
    return [{**place, "measure": name, "value": value} for name, value in values.items()]
