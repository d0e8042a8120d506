"""Train the runs on digits that ship, for several seeds: ``python data/build_runs.py`` (three hours; resumes).

Writes runs/<set>.csv, _curves.csv and .json beside this file, and exports of seed 0 in runs/digits/: of three runs at
several ages, of the others at the last. The runs themselves stay in the folder that is named, and sets share them: more
seeds or steps later cost only what is new.
"""

import argparse
from pathlib import Path

from labkit import recipes
from labkit.evaluation import EvaluationConfig
from labkit.experiments import over_seeds, ship, ship_run
from labkit.losses import Contrastive, Repa
from labkit.training import Run, Trainer

LAM = 0.5
RUNS = {
    "baseline": {},
    "dispersive": {"lam": LAM},
    "contrastive_independent": {"contrastive": Contrastive(lam=LAM)},
    "contrastive_restricted": {"contrastive": Contrastive(lam=LAM, noise="restricted")},
    "halfway": {"contrastive": Contrastive(lam=LAM, alignment_weight=0.5)},
    "cosine": {"lam": LAM, "variant": "infonce_cosine"},
    "hinge": {"lam": LAM, "variant": "hinge"},
    "covariance": {"lam": LAM, "variant": "covariance"},
    "repa": {"repa": Repa(lam=LAM, hidden=256)},
    "repa_dispersive": {"lam": LAM, "repa": Repa(lam=LAM, hidden=256)},
    "meanflow": {"model": "MeanFlow-Nano/2"},
    "meanflow_dispersive": {"model": "MeanFlow-Nano/2", "lam": LAM},
}

SETS = {  # name → runs, seeds, steps
    "digits_losses": ([run for run in RUNS if "model" not in RUNS[run]], 3, 3000),  # notebooks 05 and 09
    "digits_meanflow": (["meanflow", "meanflow_dispersive"], 3, 3000),  # notebook 08, samples in one step
    "digits_compare": (["baseline", "dispersive"], 6, 1500),  # notebook 03
}

FILM = ["baseline", "dispersive", "contrastive_independent"]  # notebook 04 follows these through training
FRAMES = [100, 400, 1500, 3000]
TABLES_ONLY = ["halfway", "repa_dispersive"]  # their weights stay at home, for room


def filmed(run: str, out: Path) -> Run:
    """A run of seed 0 with a checkpoint every 100 steps."""
    for _ in Trainer(recipes.digits(steps=FRAMES[-1], save_every=100, keep_last=100, **RUNS[run]), out / run):
        pass
    return Run.open(out / run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/shipped"), help="of the runs (default: %(default)s)")
    parser.add_argument("--only", choices=[*SETS, "exports"], help="this set alone, or the exports alone")
    args = parser.parse_args()

    folder = Path(__file__).parent / "runs"
    for name, (runs, seeds, steps) in SETS.items():
        if args.only in (None, name):
            configs = {run: recipes.digits(steps=steps, save_every=1500, log_every=100, **RUNS[run]) for run in runs}
            outcome = over_seeds(configs, range(seeds), EvaluationConfig(), args.out)
            print(outcome.at().groupby(["measure", "run"])["value"].describe().to_string())
            ship(name, outcome, folder)
    if args.only in (None, "exports"):
        for run in (run for run in RUNS if run not in TABLES_ONLY):
            if run in FILM:
                ship_run(f"digits/{run}", filmed(run, args.out / "film"), folder, FRAMES)
            else:
                ship_run(f"digits/{run}", Run.open(args.out / f"{run}-seed0"), folder, FRAMES[-1:])
