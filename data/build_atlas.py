"""Make data/atlas/: train and judge every condition with every seed, and write down what came out.

    python data/build_atlas.py              everything; about nine hours on two cores, less with more of them
    python data/build_atlas.py --trained    from what is trained already

Runs lie in ``--out`` and go on where they were stopped. What a condition is, is said in ``conditions.py``; what is
compared with what in ``questions.py``; what the paper claims in ``claims.py``.
"""

import argparse
import io
import json
from collections import Counter
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from claims import RULES, claims
from conditions import CONDITIONS, STEPS
from questions import QUESTIONS, WAYS

from labkit import Run
from labkit.config import Config
from labkit.experiments import Measures, geometry_table, paired_differences, sweep
from labkit.experiments.atlas import SHEET, parquet, write_atlas
from labkit.experiments.evaluate import REAL
from labkit.experiments.statistics import holm
from labkit.metrics import linear_cka
from labkit.metrics.extractors import to_bytes
from labkit.projection import Pca, UmapReference
from labkit.sampling import Sampler
from labkit.training import Look, sample_network

SEEDS = 5
AT = (500, 1000, STEPS, 3000, 6000)
OTHER_WAYS = (
    Sampler("heun", 5), Sampler("heun", 50, 2.0), Sampler("euler", 10), Sampler("euler_maruyama", 250),
)  # fmt: skip
WATCHED = ("baseline", "dispersive", "cosine", "hinge", "covariance", "l2-independent", "l2-restricted", "repa")
"""Conditions whose features are looked at more closely, beside the baseline's of the same seed."""
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
LOGGED = ("dispersive", "gradient_cosine", "gradient_ratio")
COLUMNS = ["condition", "run", "seed", "dataset", "step", "block", "sampler", "measure", "value", "commit", "machine",
           "seconds"]  # fmt: skip


def run_name(condition: str, seed: int) -> str:
    return f"{condition}-seed{seed}"


def wanted(out: Path, seeds: Iterable[int], trained: bool) -> dict[str, tuple[str, Config]]:
    """Run → its condition and config; of what is trained already, if that is asked for, as far as it got."""
    runs = {}
    for seed in seeds:
        for condition, config in CONDITIONS.items():
            own, folder = config.replace(seed=seed), out / run_name(condition, seed)
            if trained:
                there = Run.open(folder).checkpoints if (folder / "config.json").exists() else {}
                ready = [n for n in (config.steps, STEPS) if n in there]
                if not ready:
                    continue
                own = own.replace(steps=ready[0])
            runs[run_name(condition, seed)] = condition, own
    return runs


def judged(
    runs: dict[str, tuple[str, Config]], out: Path, judge: Measures, workers: int | None, batched: bool = False
) -> pd.DataFrame:
    """The rows of a sweep, with the name of each run's condition."""
    made = sweep({name: config for name, (_, config) in runs.items()}, out, judge, workers, batched=batched)
    for name, why in made.failures.items():
        print(f"Left out: {name}: {why}")
    table = made.table
    table["condition"] = [REAL if of == REAL else runs[of][0] for of in table["run"]]
    return table[COLUMNS]


def closer(runs: dict[str, tuple[str, Config]], out: Path) -> pd.DataFrame:
    """More about some conditions: what was logged, spread by time, and how far features and samples moved.

    ``cka_with_baseline`` and ``distance_from_baseline`` (root mean square of pixels, between samples of the same noise)
    are taken from the baseline of the same seed; the baseline's own, from that of the next one: what a seed alone does.
    """
    seeds = sorted({config.seed for condition, config in runs.values() if condition == "baseline"})
    rows = []
    for condition in WATCHED:
        for seed in seeds:
            name = run_name(condition, seed)
            if name not in runs:
                continue
            run, about = Run.open(out / name), {"condition": condition, "run": name, "seed": seed, "step": STEPS}
            rows += [{**about, **row} for row in logged(run)]
            rows += [{**about, **row} for row in by_time(run)]
            other = seeds[(seeds.index(seed) + 1) % len(seeds)] if condition == "baseline" else seed
            rows += [{**about, **row} for row in moved(run, Run.open(out / run_name("baseline", other)))]
    return pd.DataFrame(rows)


def logged(run: Run) -> list[dict]:
    """Means over training of what was logged: the loss of the regularizer late in it, and its gradient's angle."""
    table = run.metrics()
    table = table[table["step"] <= STEPS]
    last = table["name"].str.rsplit(".", n=1).str[-1]
    rows = []
    for name in LOGGED:
        own = table[last == name]
        own = own[own["step"] > 0.8 * STEPS] if name == "dispersive" else own
        if len(own):
            rows.append({"measure": f"logged_{name}", "value": own["value"].mean()})
    return rows


def by_time(run: Run) -> list[dict]:
    table = geometry_table({"run": run}, TIMES, steps=[STEPS])
    table = table[table["measure"].isin(("mean_pairwise_distance", "effective_rank"))]
    return [{"measure": f"{row.measure}_t{row.t:g}", "block": row.block, "value": row.value}
            for row in table.itertuples()]  # fmt: skip


def moved(run: Run, other: Run) -> list[dict]:
    views = [each.features(Look(), step=STEPS).features for each in (run, other)]
    rows = [{"measure": "cka_with_baseline", "block": block, "value": linear_cka(z, views[1][block])}
            for block, z in views[0].items()]  # fmt: skip
    made = [images(each) for each in (run, other)]
    return [*rows, {"measure": "distance_from_baseline", "value": (made[0] - made[1]).square().mean().sqrt().item()}]


def images(run: Run, n: int = 100) -> torch.Tensor:
    """Samples at the step of comparison, of the same noise and labels whatever the run's seed."""
    return sample_network(run.model(step=STEPS), run.config, n, seed=0).x


def sheets(runs: dict[str, tuple[str, Config]], out: Path) -> bytes:
    made = {condition: to_bytes(images(Run.open(out / name), SHEET)).numpy()
            for name, (condition, config) in runs.items() if config.seed == 0}  # fmt: skip
    file = io.BytesIO()
    np.savez_compressed(file, **made)
    return file.getvalue()


def maps(runs: dict[str, tuple[str, Config]], out: Path, block: int = 1) -> pd.DataFrame:
    """Where held-out images lie, by conditions of seed 0: axes and map are fitted on the union of them."""
    there = [condition for condition in WATCHED if run_name(condition, 0) in runs]
    seen = {of: Run.open(out / run_name(of, 0)).features(Look(count=300), [block], STEPS) for of in there}
    union = {of: views.features[block] for of, views in seen.items()}
    axes, reference = Pca.fit(union), UmapReference.fit(union)
    parts = []
    for of, z in union.items():
        plane, chart = axes.transform(z).numpy(), reference.transform(z).numpy()
        places = {"pca_1": plane[:, 0], "pca_2": plane[:, 1], "umap_1": chart[:, 0], "umap_2": chart[:, 1]}
        about = {"condition": of, "block": block, "image": range(len(z)), "label": seen[of].y.numpy()}
        parts.append(pd.DataFrame({**about, **places, "trustworthiness": reference.trustworthiness(z)}))
    return pd.concat(parts, ignore_index=True)


def found(table: pd.DataFrame) -> pd.DataFrame:
    """Every question's differences; p-values are corrected within a question, over the conditions it compares."""
    parts = []
    for name, question in QUESTIONS.items():
        rows = table[table["measure"].isin(question.measures) & (table["condition"] != REAL)]
        rows = rows[rows["step"].isin(question.steps or (STEPS,))]
        ways = rows["sampler"].isin(question.samplers) | rows["sampler"].isna() if question.samplers else (
            ~rows["sampler"].isin(WAYS))  # fmt: skip
        rows = rows[ways]
        there = set(rows["condition"])
        for condition, baseline in question.pairs:
            if {condition, baseline} <= there:
                pair = rows[rows["condition"].isin((condition, baseline))]
                found = paired_differences(pair, baseline, of="condition")
                parts.append(found.assign(question=name, against=baseline))
    every = pd.concat(parts, ignore_index=True)
    place = ["question", "measure", "step", "block", "sampler"]
    every["p_holm"] = every.groupby(place, dropna=False)["p"].transform(holm)
    return every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/atlas"), help="of the runs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each condition (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="runs at a time (default: one a core)")
    parser.add_argument("--trained", action="store_true", help="train nothing: take what is there")
    args = parser.parse_args()
    runs = wanted(args.out, range(args.seeds), args.trained)
    # What is looked at more closely is trained alone, with all meters; the rest as few programs, which is faster.
    apart = {name: run for name, run in runs.items() if run[0] in WATCHED}
    rest = {name: run for name, run in runs.items() if name not in apart}
    parts = [judged(some, args.out, Measures(steps=AT), args.workers, batched=some is rest) for some in (apart, rest)]
    table = pd.concat(parts, ignore_index=True).drop_duplicates(
        ["run", "dataset", "step", "block", "sampler", "measure"]
    )
    two = {name: run for name, run in runs.items() if run[0] in ("baseline", "dispersive")}
    ways = judged(two, args.out, Measures(samplers=OTHER_WAYS, steps=(STEPS,)), args.workers)
    ways = ways[ways["sampler"].notna()]
    runs = {name: run for name, run in runs.items() if name in set(table["run"])}
    table = pd.concat([table, ways, closer(runs, args.out)], ignore_index=True)
    table = table.astype({"seed": "Int64", "step": "Int64", "block": "Int64"})
    findings = found(table)
    said = claims(findings, table)
    conditions = {of: CONDITIONS[of] for of in dict.fromkeys(condition for condition, _ in runs.values())}
    every = pd.DataFrame([json.loads((args.out / name / "machine.json").read_text()) for name in runs])
    record = {
        "command": "make atlas",
        "made": date.today().isoformat(),
        "seeds_of_each": seeds_of(runs),
        "commits": sorted(every["commit"].unique()),
        "machines": sorted(every["processor"].unique()),
        "torch": sorted(every["torch"].unique()),
        "core_hours": round(table.groupby("run")["seconds"].max().sum() / 3600, 1),
        "missing": sorted(set(CONDITIONS) - set(conditions)),
        "judge": repr(Measures(steps=AT)),
        "compared_by": "Student's t of differences by seed, Holm within a question",
    }
    known = {"compared_at": {"digits": STEPS}, "questions": {name: asked.asked for name, asked in QUESTIONS.items()},
             "conditions": {of: json.loads(config.to_json()) for of, config in conditions.items()}}  # fmt: skip
    files = {
        "conditions.json": json.dumps(known, indent=1).encode(),
        "table.parquet": parquet(table),
        "samples.npz": sheets(runs, args.out),
        "findings.parquet": parquet(findings),
        "maps.parquet": parquet(maps(runs, args.out)),
        "CLAIMS.md": written(said, record).encode(),
    }
    write_atlas(Path(__file__).parent / "atlas", files, record)
    print(said[["claim", "verdict"]].to_string())


def seeds_of(runs: dict[str, tuple[str, Config]]) -> dict[str, int]:
    return dict(Counter(condition for condition, _ in runs.values()))


def written(said: pd.DataFrame, record: dict) -> str:
    """The table of claims as Markdown."""
    seeds = record["seeds_of_each"].values()
    cells = [[str(value).replace("|", "\\|") for value in row] for row in said.itertuples(index=False)]
    return "\n".join([
        "# The paper's claims, and what was measured here", "",
        f"Made by `{record['command']}` on {record['made']} from {min(seeds)} to {max(seeds)} seeds a condition "
        f"(commits {', '.join(record['commits'])}; {', '.join(record['machines'])}). Digits unless something else is "
        "named: SiT-Nano/2, 1,500 steps of 128, 500 samples by 50 Heun steps without guidance, averaged weights.", "",
        RULES, "", "| claim | published | measured here | verdict | remarks |", "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in cells), "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
