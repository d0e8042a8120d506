"""One condition of the atlas, trained once more: does this machine find what the atlas says?"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from labkit.checks import require, whole
from labkit.experiments.atlas import SHEET, Atlas, Band
from labkit.experiments.measures import Measures, Row
from labkit.training import Report, Run, Trainer, sample_network

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
    """Iterating trains, then judges as the atlas did; left early it saves, and goes on when it is entered again.

    Args:
        atlas: what it is compared with.  condition: which of its.  seed: of the run.
        out: folder of the run; what is there already goes on.
        steps: by default those of the comparison; with fewer there is nothing to compare with.
    """

    def __init__(self, atlas: Atlas, condition: str, seed: int, out: Path, steps: int | None = None) -> None:
        self.atlas, self.condition, self.seed = atlas, condition, seed
        self.whole = atlas.step(condition)
        steps = self.whole if steps is None else steps
        told = f"take 1 to {self.whole}, at which the atlas compares"
        require(whole(steps, 1) and steps <= self.whole, "steps", steps, told)
        config = atlas.conditions[condition]
        self.trainer = Trainer(replace(config, seed=seed, steps=int(steps), save_every=int(steps)), out)
        self.rows: list[Row] = []

    def __len__(self) -> int:
        """Reports that are left."""
        return len(self.trainer)

    def __iter__(self) -> Iterator[Report]:
        yield from self.trainer
        self.rows = Measures()(self.run, [self.trainer.config.steps])

    @property
    def run(self) -> Run:
        return Run.open(self.trainer.folder.path)

    @property
    def comparable(self) -> bool:
        """Whether it was trained for as long as the atlas's runs."""
        return self.trainer.config.steps == self.whole

    def value(self, measure: str) -> float | None:
        """One measure of the run, at the regularized block if it is of blocks; None before it is judged."""
        block = self.atlas.block(self.condition)
        own = [row["value"] for row in self.rows if row["measure"] == measure and row.get("block", block) == block]
        return own[0] if own else None

    def sheet(self) -> torch.Tensor:
        """The same images as the atlas's of this condition: same noise, same labels."""
        run = self.run
        return sample_network(run.model(), run.config, SHEET, seed=0).x

    def verdicts(self) -> list[dict[str, Any]]:
        """measure, value, the band's n, mean, first and last, and whether the value lies inside."""
        found = []
        for measure in SHOWN:
            value = self.value(measure)
            if value is not None and self.comparable:
                band: Band = self.atlas.band(self.condition, measure)
                about = dict(n=band.n, mean=band.mean, first=band.first, last=band.last)
                found.append({"measure": measure, "value": value, **about, "inside": band.holds(value)})
        return found

    def told(self) -> str:
        """The verdicts in words."""
        config = self.trainer.config
        if not self.rows:
            return f"Step {self.trainer.step} of {config.steps}."
        main = "frechet" if self.value("frechet") is not None else "frechet_pixels"  # no classifier but of digits
        if not self.comparable:
            return (
                f"You trained {config.steps} of {self.whole:,} steps: too few to be compared with the atlas's runs. "
                f"Its Fréchet distance is {self.value(main):.2f}; theirs, "
                f"{self.atlas.band(self.condition, main).mean:.2f} in the mean."
            )
        found = self.verdicts()
        out = [row for row in found if not row["inside"]]
        first = next(row for row in found if row["measure"] == main)
        lines = (
            f"Your run of seed {self.seed}: Fréchet distance {first['value']:.2f}; from the {first['n']} seeds of the "
            f"atlas one more is expected between {first['first']:.2f} and {first['last']:.2f}. "
            f"{len(found) - len(out)} of {len(found)} measures lie inside their bands"
        )
        outside = "; ".join(
            f"{r['measure']} {r['value']:.3g}, expected {r['first']:.3g} to {r['last']:.3g}" for r in out
        )
        chance = " (one measure in twenty falls outside by chance)" if out else ""
        return lines + (f", outside: {outside}{chance}." if out else ".")
