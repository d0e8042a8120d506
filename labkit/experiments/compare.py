"""Runs side by side: the same seed, data, noise and number of steps; only what the configs name differs."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.checks import require
from labkit.config import Config
from labkit.experiments.evaluate import REAL, Evaluation, Protocol, evaluate, real_against_real
from labkit.objective import regularized_blocks
from labkit.training import Report, Trainer

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cost:
    """What a run took: optimizer steps, seconds inside them, training samples."""

    steps: int
    seconds: float
    samples: int

    @property
    def images_per_second(self) -> float:
        return self.samples / self.seconds if self.seconds else float("nan")


@dataclass(frozen=True)
class ComparisonResult:
    """Everything that a comparison's table and figures are drawn from."""

    protocol: Protocol
    configs: dict[str, Config]
    evaluations: dict[str, Evaluation]
    costs: dict[str, Cost]
    real: dict[str, tuple[float, float, float]]

    def table(self) -> "pd.DataFrame":
        """One row a run and one for real digits against real digits."""
        import pandas as pd

        block = {name: regularized_blocks(config)[0] for name, config in self.configs.items()}
        rows = {
            name: {
                **found.quality,
                **found.spread[block[name]],
                "steps": self.costs[name].steps,
                "images_per_second": self.costs[name].images_per_second,
            }
            for name, found in self.evaluations.items()
        }
        rows[REAL] = {name: mean for name, (mean, _, _) in self.real.items()}
        return pd.DataFrame(rows).T

    def told(self) -> str:
        """How the samples were drawn, in words."""
        return self.protocol.told(*(config.family for config in self.configs.values()))

    def finding(self) -> str:
        """What the figures say, in one sentence, better or worse (of the first two runs)."""
        (first, a), (second, b) = list(self.evaluations.items())[:2]
        block = regularized_blocks(self.configs[second])[0]
        growth = b.spread[block]["feature_norm"] / a.spread[block]["feature_norm"]
        return (
            f"After {self.costs[first].steps:,} steps, {a.quality['agreement']:.1%} of the {first} samples read as "
            f"the digit asked for and {b.quality['agreement']:.1%} of the {second} ones; the Fréchet distance to "
            f"held-out digits is {a.quality['frechet']:.2f} against {b.quality['frechet']:.2f} (real digits: "
            f"{self.real['frechet'][0]:.2f}), and the feature norm at block {block} is {growth:.1f} times as large."
        )

    def spread_told(self) -> str:
        """The spread figure in words: the second run's geometry over the first one's, block by block."""
        a, b = (found.spread for found in list(self.evaluations.values())[:2])
        ratios = {m: ", ".join(f"{b[n][m] / a[n][m]:.2f}" for n in a) for m in ("feature_norm", "effective_rank")}
        first, second = list(self.evaluations)[:2]
        return (
            f"{second} over {first}, blocks {min(a)} to {max(a)}: feature norm {ratios['feature_norm']}; "
            f"effective rank {ratios['effective_rank']}."
        )

    def cost_told(self) -> str:
        """The cost figure in words: the second run's training rate against the first one's."""
        (first, a), (second, b) = list(self.costs.items())[:2]
        slower = 1 - b.images_per_second / a.images_per_second
        return (
            f"The {second} run trained at {b.images_per_second:,.0f} images/s, the {first} at "
            f"{a.images_per_second:,.0f}: {abs(slower):.1%} {'slower' if slower > 0 else 'faster'}."
        )


class Comparison:
    """Trains several configs in turn, a step of each at a time, so that all can be watched at the same age.

    Iterating yields (name, Report) until every run has its steps. Left early, it saves, and iterating again goes on.

    Args:
        configs: name → config, for instance {"baseline": …, "dispersive": …}.
        out: folder for the runs, one sub-folder a name; None keeps them in memory.
    """

    def __init__(self, configs: Mapping[str, Config], out: str | Path | None = None) -> None:
        require(len(configs) > 0, "configs", dict(configs), "name at least one")
        self.out = None if out is None else Path(out)
        self.trainers = {
            name: Trainer(config, None if self.out is None else self.out / name) for name, config in configs.items()
        }

    @classmethod
    def with_and_without(cls, config: Config, out: str | Path | None = None) -> "Comparison":
        """The config, which has some regularizer on, beside itself with all of them off."""
        require(config.regularizers != (), "lam", None, "set the λ of a regularizer, else both runs are the baseline")
        return cls({"baseline": config.baseline(), " + ".join(config.regularizers): config}, out)

    def __len__(self) -> int:
        """Reports that are left."""
        return sum(len(trainer) for trainer in self.trainers.values())

    def __iter__(self) -> Iterator[tuple[str, Report]]:
        with ExitStack() as leaving:  # each run saves as it is left, even if another one cannot
            loops = {name: iter(trainer) for name, trainer in self.trainers.items()}
            for loop in loops.values():
                leaving.callback(loop.close)
            while loops:
                for name in list(loops):
                    report = next(loops[name], None)
                    if report is None:
                        del loops[name]
                    else:
                        yield name, report

    def evaluate(self, protocol: Protocol = Protocol()) -> "ComparisonResult":  # noqa: B008 (frozen)
        """Judge every run as it stands now, by one protocol."""
        return ComparisonResult(
            protocol,
            {name: trainer.config for name, trainer in self.trainers.items()},
            {name: evaluate(t.ema.network, t.config, protocol) for name, t in self.trainers.items()},
            {name: Cost(t.step, t.seconds, t.samples) for name, t in self.trainers.items()},
            real_against_real(protocol),
        )
