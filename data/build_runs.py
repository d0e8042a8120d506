"""Train the runs that ship, and export them: ``python data/build_runs.py`` (two hours; resumes).

They are conditions of the atlas, of seed 0, in ``runs/digits/`` and ``runs/letters/``: some with their weights at
several ages, the others at the last. The runs themselves stay in ``--out``.
"""

import argparse
import shutil
from pathlib import Path

from conditions import COMPARED_AT, CONDITIONS, TWICE

from labkit.config import Config
from labkit.training import Run, Trainer

FILM = ("baseline", "dispersive", "l2-independent")
"""Notebook 04 follows these through training."""
OTHERS = ("cosine", "hinge", "covariance", "l2-restricted", "repa", "meanflow-baseline", "meanflow-dispersive")
DIGITS_AGES = dict.fromkeys(FILM, (100, 400, 1500, TWICE)) | dict.fromkeys(OTHERS, (TWICE,))
"""Condition on digits → steps whose weights ship."""
LAST = COMPARED_AT["letters"]
LETTERS = ("baseline", "dispersive", "burst12")


def shipped() -> dict[str, tuple[Config, tuple[int, ...]]]:
    """Run → its config, and the steps whose weights ship."""
    digits = {
        f"digits/{name}": (CONDITIONS[name].replace(save_every=100, keep_every=100), ages)
        for name, ages in DIGITS_AGES.items()
    }
    return digits | {f"letters/{name}": (CONDITIONS[f"letters-{name}"], (3000, LAST)) for name in LETTERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/shipped"), help="of the runs (default: %(default)s)")
    out = parser.parse_args().out
    for name, (config, ages) in shipped().items():
        for _ in Trainer(config, out / name):
            pass
        exported = Path(__file__).parent / "runs" / name
        shutil.rmtree(exported, ignore_errors=True)
        Run.open(out / name).export(exported, ages)


if __name__ == "__main__":
    main()
