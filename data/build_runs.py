"""Train the runs on digits that ship, and export them: ``python data/build_runs.py`` (an hour; resumes).

They are conditions of the atlas, of seed 0, in ``runs/digits/``: three with their weights at several ages, the others
at the last. The runs themselves stay in ``--out``.
"""

import argparse
import shutil
from pathlib import Path

from conditions import CONDITIONS, TWICE

from labkit.training import Run, Trainer

FRAMES = (100, 400, 1500, TWICE)
FILM = ("baseline", "dispersive", "l2-independent")
"""Notebook 04 follows these through training."""
OTHERS = ("cosine", "hinge", "covariance", "l2-restricted", "repa", "meanflow-baseline", "meanflow-dispersive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/shipped"), help="of the runs (default: %(default)s)")
    out = parser.parse_args().out
    for name in (*FILM, *OTHERS):
        for _ in Trainer(CONDITIONS[name].replace(save_every=100, keep_every=100), out / name):
            pass
        exported = Path(__file__).parent / "runs" / "digits" / name
        shutil.rmtree(exported, ignore_errors=True)
        Run.open(out / name).export(exported, FRAMES if name in FILM else (TWICE,))


if __name__ == "__main__":
    main()
