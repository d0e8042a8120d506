"""One condition of the atlas, trained again: does this machine get the values of the atlas?"""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.checks import check_whole
from labkit.experiments.atlas import Atlas, Band
from labkit.experiments.measures import Measures
from labkit.experiments.sweep import Row
from labkit.metrics import metric
from labkit.training import Report, Run, Trainer

SHOWN = (
    "frechet",
    "frechet_pixels",
    "agreement",
    "precision",
    "recall",
    "loss_held_out",
    "feature_norm",
    "effective_rank",
)


class Rerun:
    """Iterating trains, then measures as the atlas did. Left early, it saves; iterating again goes on.

    Args:
        atlas: the results to compare with.  condition: one of its conditions.  seed: of the run.
        out: folder of the run; a run that is there already goes on.
        steps: by default as many as the atlas compares after; fewer cannot be compared.
    """

    def __init__(self, atlas: Atlas, condition: str, seed: int, out: Path, steps: int | None = None) -> None:
        self.atlas, self.condition, self.seed, self.out = atlas, condition, seed, out
        self.whole = atlas.step(condition)
        steps = self.whole if steps is None else steps
        check_whole("steps", steps, 1, self.whole, why="at which the atlas compares")
        config = atlas.conditions[condition]
        self.trainer = Trainer(replace(config, seed=seed, steps=int(steps), save_every=int(steps)), out)
        self.rows: list[Row] = []

    def __len__(self) -> int:
        """Number of reports still to come."""
        return len(self.trainer)

    def __iter__(self) -> Generator[Report]:
        yield from self.trainer
        self.rows = Measures()(self.run, [self.trainer.config.steps])

    @property
    def run(self) -> Run:
        return Run.open(self.out)

    @property
    def comparable(self) -> bool:
        """Whether it was trained for as long as the atlas's runs."""
        return self.trainer.config.steps == self.whole

    def value(self, measure: str) -> float | None:
        """A measure of the run, at the regularized block if it is one of blocks; None before the run was measured."""
        block = self.atlas.block(self.condition)
        own = [row["value"] for row in self.rows if row["measure"] == measure and row.get("block", block) == block]
        return own[0] if own else None

    def verdicts(self) -> list[dict[str, Any]]:
        """Rows of measure, value, the band's n, mean, first and last, and whether the value lies inside."""
        rows = []
        for measure in SHOWN:
            value = self.value(measure)
            if value is not None and self.comparable:
                band: Band = self.atlas.band(self.condition, measure)
                limits = dict(n=band.n, mean=band.mean, first=band.first, last=band.last)
                rows.append({"measure": measure, "value": value, **limits, "inside": band.holds(value)})
        return rows

    def describe(self) -> str:
        """The verdicts as text."""
        config = self.trainer.config
        if not self.rows:
            return f"Step {self.trainer.step} of {config.steps}."
        main = "frechet" if self.value("frechet") is not None else "frechet_pixels"  # emoji have no classifier
        if not self.comparable:
            return (
                f"You trained {config.steps} of {self.whole:,} steps: too few to compare with the atlas's runs. Your "
                f"run's Fréchet distance is {self.value(main):.2f}; the mean of theirs is "
                f"{self.atlas.band(self.condition, main).mean:.2f}."
            )
        rows = self.verdicts()
        outside = [row for row in rows if not row["inside"]]
        first = next(row for row in rows if row["measure"] == main)
        text = (
            f"Your run of seed {self.seed} has a Fréchet distance of {first['value']:.2f}; from the {first['n']} seeds "
            f"of the atlas, one more is expected between {_least(first):.2f} and {first['last']:.2f}. "
            f"{len(rows) - len(outside)} of {len(rows)} metrics lie inside their bands"
        )
        cells = (
            f"{metric(row['measure']).title} {row['value']:.3g}, expected {_least(row):.3g} to {row['last']:.3g}"
            for row in outside
        )
        chance = " (one metric in twenty falls outside by chance)"
        return text + (f", outside: {'; '.join(cells)}{chance}." if outside else ".")


def _least(row: dict[str, Any]) -> float:
    """Lower end of a band: all metrics that are shown are 0 or more, and no reader should look for less."""
    return max(row["first"], 0.0)
