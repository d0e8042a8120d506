"""The dispersion playground: small trainings at several ages, which ship in ``data/playground.npz``.

    record     JSON: command, date, commits and machines of the runs, how they were measured, which are missing
    places     condition × age × image × 2: coordinates on two axes, as whole numbers; times ``unit`` they are lengths
    shares     condition × age: share of the features' variance that lies along these axes
    classes    image: its digit
    counts     condition × age × bin: pairwise distances of all images; ``edges`` are the bins' ends
    numbers    condition × age × number, named by ``NUMBERS``
    samples    condition × age × 20 images, in 0 … 255, all from the same noise and labels

``data/build_playground.py`` makes it, and ``labkit.plots.explorer_page`` shows it. Only what was measured can be looked
up: nothing is interpolated.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.checks import LabError
from labkit.config import Config
from labkit.experiments.atlas import describe_point, point
from labkit.metrics.table import METRICS, metric
from labkit.runtime import data_dir

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "labkit-playground-1"
ARRAYS = ("places", "shares", "classes", "counts", "edges", "numbers", "samples")
NUMBERS = (
    "feature_norm",
    "effective_rank",
    "mean_pairwise_distance",
    "dispersive",
    "baseline_dispersive",
    "floor",
    "loss_held_out",
)
"""``dispersive`` is by the condition's own variant and τ; ``baseline_dispersive``, of the baseline's features."""


@dataclass(frozen=True, eq=False)
class Playground:
    """Contents of ``data/playground.npz``; ``Playground.load()`` reads them."""

    record: dict[str, Any]
    conditions: dict[str, Config]
    """Condition → config; the first is the baseline."""
    ages: tuple[int, ...]
    """Training steps at which each was measured."""
    arrays: dict[str, np.ndarray]

    @classmethod
    @cache
    def load(cls, path: Path | None = None) -> "Playground":
        """Load the playground that ships, or another file.

        Raises:
            LabError: it is missing, or of another version.
        """
        path = data_dir() / "playground.npz" if path is None else path
        remedy = "what was shipped comes back with `git checkout data/playground.npz`"
        try:
            with np.load(path) as file:
                record = json.loads(str(file["record"]))
                arrays = {name: file[name] for name in ARRAYS}
        except (OSError, ValueError, KeyError) as error:
            raise LabError(f"There is no playground in {path} ({error}); {remedy}.") from error
        if record.get("format") != FORMAT:
            raise LabError(f"{path} holds {record.get('format')!r} instead of {FORMAT!r}; {remedy}.")
        conditions = {name: Config.from_json(json.dumps(tree)) for name, tree in record["conditions"].items()}
        return cls(record, conditions, tuple(record["ages"]), arrays)

    @property
    def points(self) -> dict[str, dict[str, Any]]:
        """Condition → its coordinates, as in the atlas."""
        return {name: point(config) for name, config in self.conditions.items()}

    def number(self, condition: str, step: int, name: str) -> float:
        """One of ``NUMBERS`` of a condition after a number of steps."""
        at = list(self.conditions).index(condition), self.ages.index(step), NUMBERS.index(name)
        return float(self.arrays["numbers"][at])

    def table(self, step: int) -> "pd.DataFrame":
        """Condition, by its name for people, × the title of each of ``NUMBERS`` that a metric has, after some steps."""
        import pandas as pd

        shown = {metric(name).title: NUMBERS.index(name) for name in NUMBERS if name in METRICS}
        values = self.arrays["numbers"][:, self.ages.index(step), list(shown.values())].astype(float)
        return pd.DataFrame(values, [describe_point(at) for at in self.points.values()], list(shown))

    def describe(self) -> str:
        """Conditions, steps, seed, commits and machines, as text."""
        runs = self.record["runs"].values()
        origin = ", ".join(sorted({f"commit {run['commit']}, {run['machine']}" for run in runs}))
        return (
            f"{len(self.conditions)} trainings of {self.record['model']} on {self.record['dataset']}, seed "
            f"{self.record['seed']}, {self.ages[-1]:,} steps each; {origin}."
        )


def write_playground(path: Path, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a playground's record and arrays as one file."""
    text = json.dumps({"format": FORMAT, **record}, ensure_ascii=False)
    named: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
    with open(path, "wb") as file:
        np.savez_compressed(file, record=np.array(text), **named)
    Playground.load.cache_clear()
