"""The same runs for several seeds, and the tables of them that ship with the lab.

Every (run, seed) trains in a folder of its own, so what was interrupted goes on where it stopped, and what is finished
is only judged. What ships lies in ``data/runs/``: a tidy table of the outcome (run, seed, step, measure, value), one of
the curves (run, seed, step, name, value), a record of configs, protocol, seeds, commits and machines, and exports of
one seed's runs. Notebooks show them as the range that a reader's own run should fall into.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.checks import require
from labkit.config import Config
from labkit.evaluation import REAL, EvaluationConfig, block_geometry, evaluate
from labkit.experiments.measures import Measures
from labkit.experiments.sweep import Row, sweep
from labkit.objective import regularized_blocks
from labkit.runtime import data_dir, runs_dir
from labkit.training import Run
from labkit.training.folder import RunError

if TYPE_CHECKING:
    import pandas as pd

CURVES = (
    "velocity",
    "noise",
    "average_velocity",
    "dispersive",
    "contrastive",
    "alignment",
    "repa",
    "gradient_cosine",
    "gradient_ratio",
    "feature_norm",
    "effective_rank",
)


class Outcome(NamedTuple):
    """What several runs over several seeds came to."""

    table: "pd.DataFrame"
    """run, seed, step, measure, value: every checkpoint judged by one protocol; *real against real* beside them."""
    curves: "pd.DataFrame"
    """run, seed, step, name, value: what was logged in training."""
    record: dict[str, Any]
    """Configs, protocol, seeds, and the machines and commits that the runs were trained with."""

    def at(self, step: int | None = None) -> "pd.DataFrame":
        """The rows of the table at one step, by default the last."""
        step = self.table["step"].max() if step is None else step
        known = sorted(self.table["step"].unique().tolist())
        require(step in known, "step", step, f"this outcome has {', '.join(map(str, known))}")
        return self.table[self.table["step"] == step]


def over_seeds(configs: Mapping[str, Config], seeds: Sequence[int], settings: EvaluationConfig, out: Path) -> Outcome:
    """Train every config with every seed, one process a core with one thread each, and judge all checkpoints.

    Args:
        configs: run → config; its seed is replaced.  seeds: at least one.
        settings: the protocol; its seed is each run's own.
        out: folder of the runs, one ``<run>-seed<seed>`` each. What is there already is not trained again.
    """
    import pandas as pd

    require(len(seeds) > 0, "seeds", list(seeds), "name at least one")
    require(len(configs) > 0, "configs", dict(configs), "name at least one")
    settings = replace(settings, seed=None)
    jobs = {f"{run}-seed{seed}": (run, config.replace(seed=seed)) for seed in seeds for run, config in configs.items()}
    made = sweep({name: config for name, (_, config) in jobs.items()}, out, Judged(settings))
    for name, why in made.failures.items():  # the others are trained and judged by now
        raise RunError(f"{name}: {why}")
    table = made.table[["run", "seed", "step", "measure", "value"]]
    of_runs = table[table["run"] != REAL]
    rows = of_runs.assign(run=[jobs[name][0] for name in of_runs["run"]]).to_dict("records")
    steps, reals = sorted(of_runs["step"].unique()), table[table["run"] == REAL].to_dict("records")
    rows += [{**row, "seed": seed, "step": step} for row in reals for seed in seeds for step in steps]
    logged = [
        _curves(out / name, config.steps).assign(run=run, seed=config.seed) for name, (run, config) in jobs.items()
    ]
    machines = [json.loads((out / name / "machine.json").read_text()) for name in jobs]
    record = {
        "configs": {run: json.loads(config.to_json()) for run, config in configs.items()},
        "protocol": settings.describe(*(config.family for config in configs.values())),
        "seeds": sorted(int(seed) for seed in seeds),
        "machines": [machine for i, machine in enumerate(machines) if machine not in machines[:i]],
    }
    return Outcome(pd.DataFrame(rows), pd.concat(logged, ignore_index=True), record)


@dataclass(frozen=True)
class Judged:
    """Judges runs by a protocol, with each run's own seed."""

    settings: EvaluationConfig

    def __call__(self, run: Run, steps: Sequence[int]) -> list[Row]:
        config, rows = run.config, []
        for step in steps:
            network = run.model(step=step)
            values = evaluate(network, config, self.settings).values
            values |= block_geometry(network, config)[regularized_blocks(config)[0]]
            rows += [dict(step=step, measure=measure, value=value) for measure, value in values.items()]
        return rows

    def real(self, dataset: str) -> list[Row]:
        return Measures(self.settings.count or 500).real(dataset)


def _curves(folder: Path, steps: int) -> "pd.DataFrame":
    logged = Run.open(folder).metrics()
    kept = logged["name"].str.rsplit(".", n=1).str[-1].isin(CURVES) & (logged["step"] <= steps)
    return logged.loc[kept, ["step", "name", "value"]]


def ship(name: str, outcome: Outcome, folder: Path) -> None:
    """Write an outcome as ``<name>.csv``, ``<name>_curves.csv`` and ``<name>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome.table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    outcome.curves.to_csv(folder / f"{name}_curves.csv", index=False, float_format="%.5g")
    text = json.dumps(outcome.record, indent=2, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def ship_run(name: str, run: Run, folder: Path, steps: Iterable[int] | None = None) -> None:
    """Export a run as ``<name>``, replacing what ships under that name; see ``Run.export``."""
    if (folder / name).exists():
        shutil.rmtree(folder / name)
    run.export(folder / name, steps)


def shipped(name: str) -> Outcome:
    """The outcome that ships under this name."""
    import pandas as pd

    path = _shipped(f"{name}.csv")
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return Outcome(pd.read_csv(path), pd.read_csv(path.with_name(f"{name}_curves.csv")), record)


def shipped_run(name: str) -> Run:
    """A run that ships, such as ``"digits_film/baseline"``: its averaged weights, log and config.

    Features of it are kept among the reader's runs, since the folder it ships in may be read-only.
    """
    return Run.open(_shipped(name), shelf=runs_dir() / "shipped" / name)


def _shipped(file: str) -> Path:
    path = data_dir() / "runs" / file
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; restore it with `git checkout data/runs/{file}`.")
    return path


def bands(table: "pd.DataFrame") -> "pd.DataFrame":
    """Measure × run: 'mean (lowest … highest)' over the seeds, of the rows of one step."""
    groups = table.groupby(["measure", "run"], sort=False)["value"]
    text = groups.agg(lambda v: f"{v.mean():.3g}  ({v.min():.3g} … {v.max():.3g})")
    return text.unstack("run").reindex(list(dict.fromkeys(table["measure"]))).fillna("–").rename_axis(None)
