"""Make data/playground.npz: ``python data/build_playground.py`` (40 minutes of one core; resumes).

Trains conditions of SiT-Nano/4 on digits with seed 0, one after another, and measures each at several ages: places on
two axes, pairwise distances, size and rank of features, L_disp and its floor, the held-out loss, and samples of the
same noise. Conditions of the atlas have its names and configs. The runs themselves stay in ``--out``.
"""

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conditions import ALPHAS, COARSE, LAMS, STEPS, TAUS, VARIANTS, cell, coarse, digits, parent

from labkit.config import Config
from labkit.distances import pairwise_sq_distances
from labkit.evaluation import losses
from labkit.experiments.atlas import SHEET
from labkit.experiments.playground import NUMBERS, write_playground
from labkit.experiments.sweep import origin
from labkit.experiments.sweep import trained as complete
from labkit.losses import dispersive_floor, dispersive_loss
from labkit.metrics import geometry
from labkit.objective import blocks_of
from labkit.ops import rows, to_bytes
from labkit.projection import Pca
from labkit.training import Look, Run, Trainer, sample_network

AGES = (0, 12, 50, 150, 500, 1000, STEPS)
"""Steps: dense at the start, where the loss acts; from 500 on the atlas was measured, too."""
LOOK, SHOWN, BINS = Look(), 100, 48
"""500 held-out images at t = 0.5, as in the atlas; the first of them are drawn."""
SMALLEST = 0.1  # λ; the grid of the atlas begins at 0.25

CONDITIONS = {
    "coarse-baseline": digits(**COARSE),
    **{coarse(cell(lam, tau)): digits(lam=lam, tau=tau, **COARSE) for lam in (SMALLEST, *LAMS) for tau in TAUS},
    **{coarse(name): digits(lam=0.5, variant=each, **COARSE) for name, each in VARIANTS.items() if name != "l2"},
    **{coarse(f"alpha{alpha:g}"): parent("infonce_l2", "independent", alpha, **COARSE) for alpha in ALPHAS},
    "coarse-l2-independent": parent("infonce_l2", "independent", **COARSE),
}


def trained(folder: Path, config: Config) -> Run:
    """The run of a condition, trained as far as it is not yet, with a checkpoint of each age."""
    trainer = Trainer(config.replace(keep_last=100), folder)
    for report in trainer:
        if report.step in AGES:
            trainer.save()
    return Run.open(folder)


def repulsion(z: torch.Tensor, config: Config) -> tuple[float, float]:
    """L_disp of a batch, of the size as in training, by a config's own variant and τ; and its floor."""
    batch, arguments = rows(z)[: config.batch_size], config.repelling.arguments
    floor = dispersive_floor(len(batch), **arguments, features=batch.shape[1])
    return dispersive_loss(batch, **arguments).item(), floor


def judged(run: Run, age: int) -> tuple[float, np.ndarray]:
    """Held-out loss and samples at an age, kept in the run's folder; noise and labels are those of the atlas."""
    kept = run.path / f"playground-{age:05d}.npz"
    if not kept.exists():
        network = run.model(step=age)
        loss = losses(network, run.config, LOOK.count)["loss_held_out"]
        samples = to_bytes(sample_network(network, run.config, SHEET, seed=0).x)[:, 0].numpy()
        np.savez(kept, loss=loss, samples=samples)
    with np.load(kept) as file:
        return file["loss"].item(), file["samples"]


def measured(run: Run, age: int, z: torch.Tensor, baseline: torch.Tensor) -> dict[str, float]:
    """``NUMBERS`` of a run at an age and more, from its features and those of the baseline."""
    own, floor = repulsion(z, run.config)
    repulsive = {"dispersive": own, "baseline_dispersive": repulsion(baseline, run.config)[0], "floor": floor}
    return geometry(z) | repulsive | {"loss_held_out": judged(run, age)[0]}


def equally_wide(z: torch.Tensor) -> torch.Tensor:
    """Features around their mean, of the same size for every condition: else the widest alone would choose the axes."""
    z = rows(z) - rows(z).mean(dim=0)
    return z / z.norm()


def distances(z: torch.Tensor) -> np.ndarray:
    """‖z_i − z_j‖/√P of all pairs i < j."""
    flat = rows(z)
    above = torch.triu_indices(len(flat), len(flat), 1)
    return pairwise_sq_distances(flat, per=float(flat.shape[1])).sqrt()[above[0], above[1]].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/playground"), help="of the runs (default: %(default)s)")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "playground.npz", help="the file to write")
    parser.add_argument("--trained", action="store_true", help="train nothing: take the runs that are there")
    args = parser.parse_args()
    wanted = [name for name, config in CONDITIONS.items() if not args.trained or complete(args.out / name, config)]
    runs = {}
    for name in wanted:
        runs[name] = trained(args.out / name, CONDITIONS[name])
        print(f"{len(runs)} of {len(wanted)}: {name}", flush=True)
    block = blocks_of(next(iter(CONDITIONS.values())).repelling, COARSE["model"])[0]
    views = {(name, age): run.features(LOOK, [block], age) for name, run in runs.items() for age in AGES}
    features = {at: view.features[block] for at, view in views.items()}
    axes = Pca.fit({at: equally_wide(z) for at, z in features.items()})
    apart = {at: distances(z) for at, z in features.items()}
    ends = np.quantile(np.concatenate([*apart.values()]), (0.0002, 0.9998))  # what lies beyond counts at the ends
    edges = np.geomspace(*ends, BINS + 1)

    def gathered(one: Callable[[str, int], Any]) -> np.ndarray:
        """An array of condition × age × what ``one`` gives of them."""
        return np.array([[one(name, age) for age in AGES] for name in runs])

    def numbers(name: str, age: int) -> list[float]:
        values = measured(runs[name], age, features[name, age], features["coarse-baseline", age])
        return [values[number] for number in NUMBERS]

    places = gathered(lambda *at: axes.transform(features[at][:SHOWN]).numpy())
    unit = float(np.abs(places).max() / 32767)
    arrays = {
        "places": (places / unit).round().astype(np.int16),
        "shares": gathered(lambda *at: axes.explained(features[at])).astype(np.float32),
        "classes": next(iter(views.values())).y[:SHOWN].numpy().astype(np.uint8),
        "counts": gathered(lambda *at: np.histogram(apart[at].clip(*ends), edges)[0]).astype(np.uint32),
        "edges": edges.astype(np.float32),
        "numbers": gathered(numbers).astype(np.float32),
        "samples": gathered(lambda name, age: judged(runs[name], age)[1]),
    }
    record = {
        "command": "python data/build_playground.py",
        "made": date.today().isoformat(),
        "model": COARSE["model"],
        "dataset": "digits",
        "seed": 0,
        "ages": AGES,
        "block": block,
        "images": LOOK.count,
        "t": LOOK.t,
        "unit": unit,
        "weights": "averaged",
        "runs": {name: origin(run.path) for name, run in runs.items()},
        "missing": [name for name in CONDITIONS if name not in runs],
        "conditions": {name: json.loads(CONDITIONS[name].to_json()) for name in runs},
    }
    write_playground(args.to, record, arrays)
    print(f"{args.to}: {args.to.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
