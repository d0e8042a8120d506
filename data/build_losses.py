"""Train every loss on digits for several seeds: ``python data/build_losses.py`` (hours on two cores; resumes).

Writes runs/digits_losses*.csv, .json and the weights of seed 0 beside this file. Notebooks 02, 03, 05 and 09 show them.
The runs themselves stay in the folder that is named, so more seeds or steps later cost only what is new.
"""

import argparse
from pathlib import Path

from labkit import recipes
from labkit.experiments import Protocol, over_seeds, ship, ship_weights
from labkit.regularizers import Contrastive, Repa

NAME = "digits_losses"
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
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME, help="of the runs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="of each run (default: %(default)s)")
    parser.add_argument("--only", nargs="*", default=list(RUNS), help="train just these, and ship nothing")
    args = parser.parse_args()

    configs = {run: recipes.digits(steps=args.steps, save_every=1500, log_every=100, **RUNS[run]) for run in args.only}
    outcome = over_seeds(configs, range(args.seeds), Protocol(), args.out)
    print(outcome.at().groupby(["measure", "run"])["value"].describe().to_string())
    if args.only == list(RUNS):
        folder = Path(__file__).parent / "runs"
        ship(NAME, outcome, folder)
        ship_weights(NAME, configs, 0, args.out, folder)
