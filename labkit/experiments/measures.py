"""The judge of a sweep: what became of a run, as rows of its table.

    agreement … memorisation         metrics of samples, of ``labkit.evaluation``
    loss_train, loss_held_out        squared error per entry of what the network predicts, on fixed noise and times
    loss_gap                         how much larger it is on held-out images: over-fitting
    feature_norm, …                  ``labkit.metrics.geometry`` of each block, on held-out images at t = 0.5
    linear_probe                     held-out accuracy of reading the class off each block, which is not told it

Everything is of the averaged weights. Noise of samples follows from the run's own seed, so that runs of one seed start
from the same noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit import datasets
from labkit.checks import require, whole
from labkit.config import Config
from labkit.evaluation import EvaluationConfig, block_geometry, block_probes, evaluate, evaluator_of, losses
from labkit.evaluation.settings import WHOLE
from labkit.metrics.images import NEIGHBOURS
from labkit.models import Transformer
from labkit.sampling import Sampler
from labkit.training import Run

Row = dict[str, Any]


@dataclass(frozen=True)
class Measures:
    """The judge of a sweep."""

    count: int = 500
    """Samples; as many real images are measured the same way."""
    samplers: tuple[Sampler, ...] = (Sampler(),)
    """Each way of sampling is a row of its own. The rest is measured beside the first."""
    steps: tuple[int, ...] | None = None
    """Which of a run's checkpoints; None is all."""

    def __post_init__(self) -> None:
        least = NEIGHBOURS + 1
        require(whole(self.count, least), "count", self.count, f"take a whole number of at least {least}")
        require(len(self.samplers) > 0, "samplers", self.samplers, "name at least one")

    def __call__(self, run: Run, steps: Sequence[int]) -> list[Row]:
        rows: list[Row] = []
        for step in (step for step in steps if self.steps is None or step in self.steps):
            network = run.model(step=step)
            found = [self._sampled(network, run.config, sampler) for sampler in self.samplers]
            found += [_losses(network, run.config, self.count), _blocks(network, run.config, self.count)]
            rows += [{"step": step, **row} for part in found for row in part]
        return rows

    def _sampled(self, network: Transformer, config: Config, sampler: Sampler) -> list[Row]:
        way = sampler.describe(config.family)
        found = evaluate(network, config, self._settings(config.dataset, sampler))
        return [{"sampler": way, "measure": name, "value": value} for name, value in found.values.items()]

    def _settings(self, dataset: str, sampler: Sampler) -> EvaluationConfig:
        """The usual protocol; a store is measured on pixels, for which nothing has to be fetched."""
        return EvaluationConfig(self.count, sampler, features=None if dataset in datasets.EMBEDDED else "pixels")

    def real(self, dataset: str) -> list[Row]:
        """The same of other real images of the data set: the mean over several draws of ``count`` of them."""
        whole_set = WHOLE.get(dataset, dataset)
        source = datasets.load(whole_set)
        require(self.count <= len(source), "count", self.count, f"{whole_set} has {len(source)} training images")
        settings = self._settings(whole_set, Sampler()).filled(Config(dataset=whole_set))
        control = evaluator_of(settings, source.shape).control(self.count)
        return [{"measure": name, "value": real.mean} for name, real in control.items()]


def _losses(network: Transformer, config: Config, count: int) -> list[Row]:
    return [{"measure": name, "value": value} for name, value in losses(network, config, count).items()]


def _blocks(network: Transformer, config: Config, count: int) -> list[Row]:
    """Geometry of each block's features, and how well a class that was not told can be read off them."""
    found, probes = block_geometry(network, config, count=count), block_probes(network, config, 2 * count)
    return [
        {"block": block, "measure": name, "value": value}
        for block, metrics in found.items()
        for name, value in {**metrics, **({"linear_probe": probes[block]} if probes else {})}.items()
    ]
