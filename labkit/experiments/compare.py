"""Runs side by side: the same seed, data, noise and number of steps; they differ only in what their configs say."""

from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.checks import refuse, require
from labkit.config import Config
from labkit.disk import user_path
from labkit.evaluation import REAL, Evaluation, EvaluationConfig, Real, block_geometry, evaluate
from labkit.objective import NO_OWN, OwnFunctions, regularized_blocks
from labkit.terminal import wrapped
from labkit.training import Report, Run, Trainer

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cost:
    """Cost of a run: optimizer steps, seconds inside them, training samples."""

    steps: int
    seconds: float
    samples: int

    @property
    def images_per_second(self) -> float:
        return self.samples / self.seconds if self.seconds else float("nan")


DISTANCES = ("frechet", "fid", "kernel_distance", "kid")
"""Metrics whose names begin so stand beside their excess over real images."""


@dataclass(frozen=True)
class ComparisonResult:
    """Measurements of a comparison, from which its table and figures are drawn."""

    settings: EvaluationConfig
    configs: dict[str, Config]
    evaluations: dict[str, Evaluation]
    geometry: dict[str, dict[int, dict[str, float]]]
    """Run → block → geometry of its features of held-out images at t = 0.5."""
    costs: dict[str, Cost]

    @property
    def real(self) -> dict[str, Real]:
        """Metric → its values for as many real images."""
        metrics = next(iter(self.evaluations.values())).metrics
        return {name: metric.real for name, metric in metrics.items() if metric.real is not None}

    @property
    def distance(self) -> str:
        """Name of the Fréchet distance on the features that the data set is measured by."""
        return next(name for name in next(iter(self.evaluations.values())).metrics if name.startswith(DISTANCES))

    def table(self) -> "pd.DataFrame":
        """A row for each run and one for real images; beside each distance its excess over that of real images."""
        import pandas as pd

        rows = {
            name: {
                **_with_excess(evaluation),
                **self.geometry[name][regularized_blocks(self.configs[name])[0]],
                "steps": self.costs[name].steps,
                "images_per_second": self.costs[name].images_per_second,
            }
            for name, evaluation in self.evaluations.items()
        }
        rows[REAL] = {name: real.mean for name, real in self.real.items()}
        return pd.DataFrame(rows).T

    def describe(self) -> str:
        """How the samples were drawn, as text."""
        return self.settings.describe(*(config.family for config in self.configs.values()))

    def finding(self) -> str:
        """Metrics of the first two runs in one sentence of several lines, better or worse."""
        (first, a), (second, b) = list(self.evaluations.items())[:2]
        block = regularized_blocks(self.configs[second])[0]
        growth = self.geometry[second][block]["feature_norm"] / self.geometry[first][block]["feature_norm"]
        read = ""
        if "agreement" in a.metrics:
            shares = (evaluation.values["agreement"] for evaluation in (a, b))
            words = "{:.1%} of the {} samples are recognised as the requested digit and {:.1%} of the {} ones; "
            read = words.format(next(shares), first, next(shares), second)
        distance, real = self.distance, self.real.get(self.distance)
        control = f" (real images: {real.mean:.2f})" if real else ""
        sentence = (
            f"After {self.costs[first].steps:,} steps, {read}the Fréchet distance to held-out images is "
            f"{a.values[distance]:.2f} against {b.values[distance]:.2f}{control}, and the feature norm at block "
            f"{block} is {growth:.1f} times as large."
        )
        return wrapped(sentence)


class Comparison:
    """Train several configs in turn, one step of each at a time, so that all can be watched at the same age.

    Iterating yields (name, Report) until every run has its steps. Left early, it saves, and iterating again goes on.

    Args:
        configs: name → config, for instance {"baseline": …, "dispersive": …}.
        out: folder for the runs, one sub-folder a name; None keeps them in memory.
        own: name → functions in place of the library's, of runs in memory.
    """

    def __init__(
        self,
        configs: Mapping[str, Config],
        out: str | Path | None = None,
        own: Mapping[str, OwnFunctions] | None = None,
    ) -> None:
        require(len(configs) > 0, "configs", dict(configs), "name at least one")
        self.out = None if out is None else user_path(out, "out")
        self.trainers = {
            name: Trainer(config, None if self.out is None else self.out / name, own=(own or {}).get(name, NO_OWN))
            for name, config in configs.items()
        }

    @classmethod
    def with_and_without(cls, config: Config, out: str | Path | None = None) -> "Comparison":
        """The config, which has some regularizer on, beside itself with all of them off."""
        require(config.regularizers != (), "lam", None, "set the λ of a regularizer, else both runs are the baseline")
        return cls({"baseline": config.baseline(), " + ".join(config.regularizers): config}, out)

    def __len__(self) -> int:
        """Number of reports still to come."""
        return sum(len(trainer) for trainer in self.trainers.values())

    @classmethod
    def reopen(cls, out: str | Path) -> "Comparison":
        """The runs in a folder, forks among them, each at its newest checkpoint.

        Raises:
            RunError: a folder holds no run that can go on.
        """
        runs = [Run.open(file.parent) for file in user_path(out, "out").glob("*/machine.json")]
        runs.sort(key=lambda run: (run.parent is not None, (run.path / "machine.json").stat().st_mtime_ns))
        return cls({run.path.name: run.config for run in runs}, out)

    def fork(self, parent: str, name: str, at: int | None = None, **changes: Any) -> Trainer:
        """Add a run that goes on from a state of another with other settings; see ``Run.fork``. Not inside the loop.

        Args:
            parent: name of the other.  name: of the new run.
            at: a step of the other, by default the one that it has reached.  changes: of the settings.
        """
        require(parent in self.trainers, "parent", parent, f"choose one of {', '.join(self.trainers)}")
        require(name not in self.trainers, "name", name, "there is a run of this name already")
        trainer = self.trainers[parent]
        if self.out is None:
            refuse("out", None, "forks need a folder, so give the comparison one")
        trainer.save()
        run = Run.open(self.out / parent)
        fork = run.fork(trainer.step if at is None else at, self.out / name, **changes)
        self.trainers[name] = fork.trainer()
        return self.trainers[name]

    def __iter__(self) -> Generator[tuple[str, Report]]:
        with ExitStack() as leaving:  # each run saves as it is left, even if another one cannot
            loops = {name: iter(trainer) for name, trainer in self.trainers.items()}
            for loop in loops.values():
                leaving.callback(loop.close)
            while loops:
                name = min(loops, key=lambda name: self.trainers[name].step)  # in turns; who is behind catches up
                report = next(loops[name], None)
                if report is None:
                    del loops[name]
                else:
                    yield name, report

    def evaluate(self, settings: EvaluationConfig = EvaluationConfig()) -> "ComparisonResult":
        """Measure every run as it stands now, by one protocol."""
        runs = self.trainers.items()
        return ComparisonResult(
            settings,
            {name: trainer.config for name, trainer in runs},
            {name: evaluate(trainer.ema.network, trainer.config, settings) for name, trainer in runs},
            {name: block_geometry(trainer.ema.network, trainer.config) for name, trainer in runs},
            {name: Cost(trainer.step, trainer.seconds, trainer.samples) for name, trainer in runs},
        )


def _with_excess(evaluation: Evaluation) -> dict[str, float]:
    row = {}
    for name, metric in evaluation.metrics.items():
        row[name] = metric.value
        if name.startswith(DISTANCES) and metric.excess is not None:
            row[f"{name}_excess"] = metric.excess
    return row
