"""Make data/atlas/: train and measure every condition with every seed.

    python data/build_atlas.py              everything; about 28 hours on two cores, less with more of them
    python data/build_atlas.py --missing    only what the atlas that ships lacks; the rest keeps its rows

Runs lie in ``--out`` and go on where they were stopped. ``conditions.py`` defines the conditions, ``questions.py`` the
comparisons, ``claims.py`` the paper's claims and the rules of their verdicts.
"""

import argparse
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pays
import torch
from claims import RULES, claims
from conditions import COMPARED_AT, CONDITIONS, FOLLOWED, STEPS, STOPPING, TWICE, coarse
from questions import QUESTIONS, SAMPLERS

from labkit import Run
from labkit.config import Config
from labkit.evaluation import REAL
from labkit.evaluation.settings import whole_set
from labkit.experiments import Measures, geometry_table, paired_differences, sweep
from labkit.experiments.atlas import SHEET, Atlas, baselines, write_atlas
from labkit.experiments.statistics import PLACE, holm
from labkit.experiments.sweep import MEASURED, parquet, trained
from labkit.metrics import linear_cka
from labkit.ops import to_bytes
from labkit.projection import Pca, UmapReference
from labkit.runtime import device
from labkit.sampling import Sampler
from labkit.training import Look, sample_network

SEEDS, LEAST = 5, 3
"""Seeds of each condition. One with fewer than the least is left out, since no finding may rest on one seed."""
AT = (500, 1000, STEPS, 3000, 6000, 10_000, COMPARED_AT["letters"])
"""Steps at which runs are measured, as far as they train and save there."""
OTHER_SAMPLERS = (Sampler("heun", 5), Sampler("heun", 50, 2.0), Sampler("euler", 10), Sampler("euler_maruyama", 250))
JUDGE = Measures(steps=AT)
MAPPED = tuple(
    map(coarse, ("baseline", "dispersive", "cosine", "hinge", "covariance", "l2-independent", "l2-restricted"))
)
"""Conditions whose features are drawn in one map."""
WATCHED = dict.fromkeys(MAPPED, coarse("baseline")) | dict.fromkeys(("baseline", "dispersive"), "baseline")
"""Condition → the baseline with whose features of the same seed its own are compared."""
SAMPLED = ("baseline", "dispersive", coarse("baseline"), coarse("dispersive"))
"""Conditions that are also sampled by the other samplers."""
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
CURVES = (
    *("velocity", "average_velocity", "dispersive", "contrastive", "alignment", "repa"),
    *("gradient_cosine", "gradient_ratio", "feature_norm", "effective_rank"),
)
"""What is kept of the logs of the conditions that notebooks follow."""
PER_RUN = ["condition", "seed", "step"]
LOGGED = ("dispersive", "gradient_cosine", "gradient_ratio")
COLUMNS = ["condition", "run", "seed", "dataset", *MEASURED]
Runs = dict[str, tuple[str, Config]]
"""Run → its condition and config."""


def run_name(condition: str, seed: int) -> str:
    return f"{condition}-seed{seed}"


def all_runs(seeds: Iterable[int], conditions: Mapping[str, Config] | None = None) -> Runs:
    """Every condition, by default of ``CONDITIONS``, with every seed; the first seeds of all come first."""
    return {
        run_name(condition, seed): (condition, config.replace(seed=seed))
        for seed in seeds
        for condition, config in (CONDITIONS if conditions is None else conditions).items()
    }


def kept_runs(shipped: Atlas) -> set[str]:
    """Runs of an atlas that need not be made again: of conditions as they are now, measured the same way."""
    if shipped.record["judge"] != described(JUDGE):
        return set()
    same = {
        name: CONDITIONS[name]
        for name, config in shipped.conditions.items()
        if name in CONDITIONS and not config.breaks(CONDITIONS[name])
    }
    rows = shipped.table[shipped.table["condition"].isin(same)]
    judged = rows.groupby(["run", "condition"])["step"].agg(set)
    return {run for (run, condition), steps in judged.items() if due(same[condition]) <= steps}


def described(judge: Measures) -> str:
    """How runs are measured, in words that stay when the judge's settings get new names."""
    samplers = ", ".join(sampler.describe("SiT") for sampler in judge.samplers)
    return f"{judge.count} samples by the usual sampler (of a SiT: {samplers})"


def due(config: Config) -> set[int]:
    """Steps at which a run is measured."""
    return {step for step in AT if step <= config.steps and step % config.save_every == 0} | {config.steps}


def measured(runs: Runs, out: Path, workers: int | None) -> pd.DataFrame:
    """All rows of some runs."""
    # Runs whose logs are needed are trained alone, with all meters; on a GPU, the rest as few programs.
    alone = {name: run for name, run in runs.items() if run[0] in WATCHED or device().type == "cpu"}
    rest = {name: run for name, run in runs.items() if name not in alone}
    parts = [swept(some, out, JUDGE, workers, some is rest) for some in (alone, rest) if some]
    done = set(pd.concat(parts)["run"])
    there = {name: run for name, run in runs.items() if name in done}
    if again := {name: run for name, run in there.items() if run[0] in SAMPLED}:
        more_rows = swept(again, out, Measures(samplers=OTHER_SAMPLERS, steps=(STEPS,)), workers)
        parts.append(more_rows[more_rows["sampler"].notna()])
    if more := closer(there, out):  # an empty table would make the columns of all others of no type
        parts.append(pd.DataFrame(more, columns=COLUMNS))
    return pd.concat(parts, ignore_index=True)


def swept(runs: Runs, out: Path, judge: Measures, workers: int | None, batched: bool = False) -> pd.DataFrame:
    """The rows of a sweep, with the name of each run's condition."""
    result = sweep({name: config for name, (_, config) in runs.items()}, out, judge, workers, batched=batched)
    for name, why in result.failures.items():
        print(f"Left out: {name}: {why}")
    table = result.table
    table["condition"] = [REAL if run == REAL else runs[run][0] for run in table["run"]]
    return table[COLUMNS]


def closer(runs: Runs, out: Path) -> list[dict]:
    """Further rows of some conditions: their logs, spread by time, and how far features and samples moved.

    ``cka_with_baseline`` and ``distance_from_baseline`` (root mean square of pixels, between samples of the same noise)
    compare with the baseline of the same seed; the baseline's own, with that of the next seed, show what a seed does.
    """
    rows = []
    for name, (condition, config) in runs.items():
        if condition in WATCHED:
            seed, run, baseline = config.seed, Run.open(out / name), WATCHED[condition]
            about = {"condition": condition, "run": name, "seed": seed, "dataset": config.dataset, "step": STEPS}
            more = [*logged(run), *by_time(run)]
            seeds = sorted(config.seed for each, config in runs.values() if each == baseline)
            other = run_name(baseline, seeds[(seeds.index(seed) + 1) % len(seeds)] if condition == baseline else seed)
            if other in runs and other != name:
                more += moved(run, Run.open(out / other))
            rows += [{**about, **row} for row in more]
    return rows


def logged(run: Run) -> list[dict]:
    """Means over training: the regularizer's loss over the last fifth, and its gradient's angle and size."""
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


def curves(runs: Runs, out: Path, shipped: Atlas | None) -> pd.DataFrame:
    """Losses and meters of the conditions that notebooks follow, as they were logged; those of the kept runs stay."""
    parts = [shipped.curves] if shipped else []
    for name, (condition, config) in runs.items():
        if condition in FOLLOWED:
            table = Run.open(out / name).metrics()
            seldom = 1000 if config.steps > TWICE else 1
            chosen = (table["step"] <= config.steps) & (table["step"] % seldom == 0)
            chosen &= table["name"].str.rsplit(".", n=1).str[-1].isin(CURVES)
            table = table.loc[chosen, ["step", "name", "value"]]
            parts.append(table.assign(condition=condition, seed=config.seed))
    every = pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=[*PER_RUN, "name", "value"])])
    return every[[*PER_RUN, "name", "value"]].drop_duplicates([*PER_RUN, "name"], keep="last")


def by_time(run: Run) -> list[dict]:
    table = geometry_table({"run": run}, TIMES, steps=[STEPS])
    table = table[table["measure"].isin(("mean_pairwise_distance", "effective_rank"))]
    return [
        {"measure": f"{row.measure}_t{row.t:g}", "block": row.block, "value": row.value} for row in table.itertuples()
    ]


def moved(run: Run, other: Run) -> list[dict]:
    views = [each.features(Look(), step=STEPS).features for each in (run, other)]
    rows = [
        {"measure": "cka_with_baseline", "block": block, "value": linear_cka(z, views[1][block])}
        for block, z in views[0].items()
    ]
    own, others = images(run), images(other)
    return [*rows, {"measure": "distance_from_baseline", "value": (own - others).square().mean().sqrt().item()}]


def compared_at(config: Config) -> int:
    return COMPARED_AT[whole_set(config.dataset)]


def images(run: Run, n: int = 100) -> torch.Tensor:
    """Samples at the step of comparison, of the same noise and labels whatever the run's seed."""
    return sample_network(run.model(step=compared_at(run.config)), run.config, n, seed=0).x


def stopping(out: Path, seeds: int, workers: int | None, only_trained: bool, shipped: Atlas | None) -> pd.DataFrame:
    """A sweep of its own: runs on few images, measured at every checkpoint; those that ship keep their rows."""
    same = shipped is not None and shipped.record["judge"] == described(JUDGE)
    kept = shipped.stopping if same else pd.DataFrame(columns=COLUMNS)
    there = set(zip(kept["condition"], kept["seed"], strict=True))
    every = all_runs(range(seeds), STOPPING)
    runs = {name: run for name, run in every.items() if (run[0], run[1].seed) not in there}
    if only_trained:
        runs = {name: run for name, run in runs.items() if trained(out / name, run[1])}
    if not runs:
        return kept
    table = swept(runs, out, Measures(JUDGE.count, JUDGE.samplers), workers)
    new = table[(table["run"] != REAL) & table["block"].isna()].reset_index(drop=True)
    return pd.concat([kept, new], ignore_index=True) if len(kept) else new  # an empty table has no types


def sheets(runs: Runs, out: Path, shipped: dict[str, np.ndarray]) -> bytes:
    """A few samples of every condition, from its run of seed 0."""
    drawn = {
        condition: to_bytes(images(Run.open(out / name), SHEET)).numpy()
        for name, (condition, config) in runs.items()
        if config.seed == 0
    }
    file = io.BytesIO()
    np.savez_compressed(file, **{**shipped, **drawn})
    return file.getvalue()


def maps(runs: Runs, out: Path, block: int = 1) -> pd.DataFrame:
    """Places of held-out images by conditions of seed 0: axes and map are fitted on their union."""
    names = [condition for condition in MAPPED if run_name(condition, 0) in runs]
    views = {name: Run.open(out / run_name(name, 0)).features(Look(count=300), [block], STEPS) for name in names}
    union = {name: view.features[block] for name, view in views.items()}
    axes, reference = Pca.fit(union), UmapReference.fit(union)
    parts = []
    for name, z in union.items():
        plane, chart = axes.transform(z).numpy(), reference.transform(z).numpy()
        places = {"pca_1": plane[:, 0], "pca_2": plane[:, 1], "umap_1": chart[:, 0], "umap_2": chart[:, 1]}
        about = {"condition": name, "block": block, "image": range(len(z)), "label": views[name].y.numpy()}
        parts.append(pd.DataFrame({**about, **places, "trustworthiness": reference.trustworthiness(z)}))
    return pd.concat(parts, ignore_index=True)


def enough(table: pd.DataFrame) -> set[str]:
    """Conditions with seeds enough for an atlas, seed 0 among them, which is drawn, whose baseline has them, too.

    Prints which are left out.
    """
    seeds = table.groupby("condition")["seed"].agg(set)
    ready = {name for name in CONDITIONS if name in seeds and len(seeds[name]) >= LEAST and 0 in seeds[name]}
    against = baselines(CONDITIONS)
    complete = {name for name, baseline in against.items() if {name, baseline} <= ready}
    for name in CONDITIONS:
        if name in seeds and name not in complete:
            why = f"its baseline {against[name]} is" if name in ready else f"seeds {sorted(map(int, seeds[name]))} are"
            print(f"Left out: {name}: {why} not enough: {LEAST} seeds, and seed 0 among them.")
    return complete


def at_step(rows: pd.DataFrame, condition: str, steps: Sequence[int]) -> pd.DataFrame:
    """Rows of a condition at some steps, by default that of comparison; ``name@500`` has those of step 500."""
    name, _, early = condition.partition("@")
    own = rows[rows["condition"] == name]
    if own.empty:  # also of a condition that an atlas of few conditions does not have
        return own
    usual = compared_at(CONDITIONS[name])
    own = own[own["step"].isin([int(early)] if early else steps or [usual])]
    return own.assign(condition=condition, step=usual) if early else own


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Differences of every question; p-values are corrected within a question, over the conditions it compares."""
    parts = []
    for name, question in QUESTIONS.items():
        rows = table[table["measure"].isin(question.measures) & (table["condition"] != REAL)]
        named = rows["sampler"].isin(question.samplers or SAMPLERS)
        rows = rows[named | rows["sampler"].isna() if question.samplers else ~named]
        for condition, baseline in question.pairs:
            own, other = at_step(rows, condition, question.steps), at_step(rows, baseline, question.steps)
            if len(own) and len(other):
                pair = paired_differences(pd.concat([own, other]), baseline, column="condition")
                parts.append(pair.assign(question=name, against=baseline))
    every = pd.concat(parts, ignore_index=True)
    every["p_holm"] = every.groupby(["question", *PLACE], dropna=False)["p"].transform(holm)
    return every


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/atlas"), help="of the runs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each condition (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="runs at a time (default: one a core)")
    parser.add_argument("--missing", action="store_true", help="keep what the atlas that ships has, train the rest")
    parser.add_argument("--trained", action="store_true", help="train nothing: take what is there")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "atlas", help="folder of the atlas")
    args = parser.parse_args(words)
    shipped = Atlas.load(args.to) if args.missing else None
    kept = kept_runs(shipped) if shipped else set()
    runs = {name: run for name, run in all_runs(range(args.seeds)).items() if name not in kept}
    if args.trained:
        runs = {name: run for name, run in runs.items() if trained(args.out / name, run[1])}
    parts = [measured(runs, args.out, args.workers)] if runs else []
    if shipped:
        parts.append(shipped.table[shipped.table["run"].isin({*kept, REAL})])
    if not parts:
        parser.error(f"out = {args.out} holds no finished run; leave --trained away to train them")
    table = pd.concat(parts, ignore_index=True).drop_duplicates(["run", "dataset", *PLACE])
    table = table[table["condition"].isin({REAL, *enough(table)})]
    runs = {name: run for name, run in runs.items() if name in set(table["run"])}
    table = table.astype({"seed": "Int64", "step": "Int64", "block": "Int64"})
    table = table.sort_values("condition", key=lambda names: names.map([*CONDITIONS, REAL].index), kind="stable")
    findings = differences(table)
    in_time = stopping(args.out.with_name(f"{args.out.name}-stopping"), args.seeds, args.workers, args.trained, shipped)
    verdicts = claims(findings, table, in_time)
    conditions = [name for name in CONDITIONS if name in set(table["condition"])]
    record = recorded(table, conditions, shipped.record["torch"] if kept else ())
    about = {
        "compared_at": COMPARED_AT,
        "questions": {name: question.text for name, question in QUESTIONS.items()},
        "conditions": {name: json.loads(CONDITIONS[name].to_json()) for name in conditions},
    }
    pictures = {name: x for name, x in shipped.samples.items() if name in conditions} if shipped else {}
    whole = all(run_name(name, 0) in runs for name in MAPPED)  # the map is of all of them together
    mapped = maps(runs, args.out) if whole or not kept else shipped.maps
    files = {
        "conditions.json": json.dumps(about, indent=1).encode(),
        "table.parquet": parquet(table),
        "samples.npz": sheets(runs, args.out, pictures),
        "findings.parquet": parquet(findings),
        "maps.parquet": parquet(mapped),
        "stopping.parquet": parquet(in_time),
        "curves.parquet": parquet(curves(runs, args.out, shipped)),
        "CLAIMS.md": as_markdown(verdicts, record).encode(),
        "PAYS.md": pays.page(table, in_time).encode(),
    }
    write_atlas(args.to, files, record)
    print(verdicts[["claim", "verdict"]].to_string())


def recorded(table: pd.DataFrame, conditions: list[str], torches: Iterable[str]) -> dict[str, object]:
    """Record of how the atlas was made."""
    rows = table[table["run"] != REAL]
    return {
        "command": "make atlas",
        "made": date.today().isoformat(),
        "seeds_of_each": {name: int(rows.loc[rows["condition"] == name, "seed"].nunique()) for name in conditions},
        "commits": sorted(rows["commit"].dropna().unique()),
        "machines": sorted(rows["machine"].dropna().unique()),
        "torch": sorted({torch.__version__, *torches}),
        "core_hours": round(rows.groupby("run")["seconds"].max().sum() / 3600, 1),
        "missing": [name for name in CONDITIONS if name not in conditions],
        "judge": described(JUDGE),
        "compared_by": "Student's t of differences by seed, Holm within a question",
    }


def as_markdown(verdicts: pd.DataFrame, record: dict) -> str:
    """The table of claims as Markdown."""
    seeds = record["seeds_of_each"].values()
    cells = [[str(value).replace("|", "\\|") for value in row] for row in verdicts.itertuples(index=False)]
    return "\n".join(
        [
            "# The paper's claims, and what was measured here",
            "",
            f"Made by `{record['command']}` on {record['made']} from {min(seeds)} to {max(seeds)} seeds a condition "
            f"(commits {', '.join(record['commits'])}; {', '.join(record['machines'])}). Digits unless something "
            "else is named; 1,500 steps of 128, 500 samples by 50 Heun steps without guidance, averaged weights. Block "
            "1 of 4, a quarter of the depth, unless another is named.",
            "",
            RULES,
            "",
            "| claim | published | measured here | verdict | remarks |",
            "|---|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in cells),
            "",
        ]
    )


if __name__ == "__main__":
    main()
