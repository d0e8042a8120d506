"""The same comparison for several seeds, and the tables of it that ship with the lab.

A shipped table is a tidy CSV (seed, run, measure, value) beside a JSON record of its configs, protocol, seeds, commit
and machine, both in ``data/runs/``. Notebooks show them as the range that a reader's own run should fall into.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from labkit.config import Config
from labkit.experiments.compare import Comparison
from labkit.experiments.evaluate import Protocol
from labkit.runtime import cores, data_dir, machine

if TYPE_CHECKING:
    import pandas as pd

MEASURES = (
    "agreement",
    "frechet",
    "frechet_pixels",
    "feature_norm",
    "mean_pairwise_distance",
    "effective_rank",
    "uniformity",
)


def _one_seed(config: Config, protocol: Protocol) -> list[dict[str, Any]]:
    torch.set_num_threads(1)  # the seeds share the machine: a thread each is faster than all threads for all
    comparison = Comparison.with_and_without(config)
    for _ in comparison:
        pass
    table = comparison.evaluate(replace(protocol, seed=config.seed)).table()  # a seed changes everything that is drawn
    return [
        {"seed": config.seed, "run": run, "measure": measure, "value": table.loc[run, measure]}
        for run in table.index
        for measure in MEASURES
    ]


def over_seeds(config: Config, seeds: Sequence[int], protocol: Protocol) -> "pd.DataFrame":
    """Train with and without the Dispersive Loss for each seed, in parallel, one thread each: a tidy table."""
    import pandas as pd

    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_one_seed, config.replace(seed=seed), protocol) for seed in seeds]
        rows = [row for job in jobs for row in job.result()]
    return pd.DataFrame(rows).dropna()


def ship(name: str, table: "pd.DataFrame", config: Config, protocol: Protocol, folder: Path) -> None:
    """Write a table and its record."""
    record = {
        "config": json.loads(config.to_json()),
        "protocol": protocol.told().replace(f"seed {protocol.seed}", "each run's own seed"),
        "seeds": sorted(int(seed) for seed in table["seed"].unique()),
        "machine": machine(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def shipped(name: str) -> tuple["pd.DataFrame", dict[str, Any]]:
    """The table and the record that ship under this name."""
    import pandas as pd

    path = data_dir() / "runs" / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; restore the folder with `git checkout data`.")
    return pd.read_csv(path), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def bands(table: "pd.DataFrame") -> "pd.DataFrame":
    """Measure × run: 'mean (lowest … highest)' over the seeds."""
    groups = table.groupby(["measure", "run"], sort=False)["value"]
    text = groups.agg(lambda v: f"{v.mean():.3g}  ({v.min():.3g} … {v.max():.3g})")
    return text.unstack("run").reindex(list(dict.fromkeys(table["measure"]))).fillna("–").rename_axis(None)
