"""Kill -9 at random moments: what goes on afterwards must come to the same bits as what was never stopped.

    python benchmarks/kills.py --kills 50                       of each kind of work, a tally as JSON at the end
    python benchmarks/kills.py --kills 5 --kinds saving sweeping --out tally.json

Training, saving (a checkpoint at every step), preparing a store, evaluating a run, sweeping: each is done once without
a stop, and then again and again in processes that are killed with all their children, a random moment after they have
got further than the one before. When a folder is done, it is compared with the one that was never stopped: weights,
averages, moments, the table of metrics without its clock, sheets; files of a store; samples and metrics; the table of a
sweep without its clock and commit, which changes when somebody edits labkit meanwhile. Nothing may differ, and no file
that was half written may stay. The exit status is 1 if something does.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # labkit need not be installed
import numpy as np
import torch
from safetensors.torch import load_file

from labkit import Config, Run, Trainer, recipes
from labkit.datasets import prepare
from labkit.evaluation import EvaluationConfig, evaluate_run
from labkit.experiments import Measures, grid, sweep
from labkit.runtime import machine
from labkit.sampling import Sampler
from labkit.training import trainer

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["labkit.experiments", "labkit.evaluation", "lightning_fabric", "sklearn.datasets"])
QUICK = Sampler("euler", 2)
SLOW = 600.0  # seconds without any progress, after which something hangs


class Kind(NamedTuple):
    """A kind of work in a folder, which a killed process leaves for the next."""

    work: Callable[[Path], Any]
    progress: Callable[[Path], int]
    outcome: Callable[[Path], dict[str, str]]
    """Part of the result → its digest."""
    pause: float
    """Longest time in seconds between some progress and the kill."""


def config(**changes: Any) -> Config:
    return recipes.digits(model="SiT-Nano/4", batch_size=8, lam=0.5, log_every=1, keep_last=2, **changes)


def training(folder: Path, **changes: Any) -> None:
    for _ in Trainer(config(**changes), folder):
        pass


def preparing(folder: Path) -> None:
    source = folder.parents[1] / "images.npz"
    if not source.exists():  # made by the process that nothing stops
        images = np.random.default_rng(0).integers(0, 256, (480, 24, 24, 3), np.uint8)
        source.parent.mkdir(parents=True, exist_ok=True)
        np.savez(source, x=images, y=np.arange(480) % 3)
    prepare(source, folder, size=16, shard=4, held_out=30, progress=False)


def evaluating(folder: Path) -> None:
    training(folder, steps=2)
    settings = EvaluationConfig(240, QUICK, features="pixels", batch=4)
    evaluate_run(Run.open(folder), settings, shard=4)


def sweeping(folder: Path) -> None:
    configs = grid(config(steps=60, save_every=10), {"seed": range(2)})
    failures = sweep(configs, folder, Measures(20, (QUICK,), (60,)), workers=2, progress=False).failures
    assert not failures, failures


def count(*patterns: str) -> Callable[[Path], int]:
    return lambda folder: sum(len([*folder.glob(pattern)]) for pattern in patterns)


def newest(folder: Path) -> int:
    steps = [int(file.stem[5:]) for file in folder.glob("checkpoints/step-*.safetensors")]
    return max(steps, default=0)


def in_sweep(folder: Path) -> int:
    return sum(newest(run) for run in folder.glob("*/")) + count("*/judged-*.json")(folder)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def of_run(folder: Path) -> dict[str, str]:
    run = Run.open(folder)
    step, file = list(run.checkpoints.items())[-1]
    parts = {name: sha(tensor.numpy().tobytes()) for name, tensor in load_file(file).items()}
    table = run.metrics().drop(columns="seconds").to_csv(index=False)
    sheets = {f"sheet {sheet.stem}": sha(sheet.read_bytes()) for sheet in run.sheets.glob("*.png")}
    return {"step": str(step), **parts, "table of metrics": sha(table.encode()), **sheets}


def of_store(folder: Path) -> dict[str, str]:
    return {file.name: sha(file.read_bytes()) for file in folder.iterdir()}


def of_evaluation(folder: Path) -> dict[str, str]:
    [record] = [json.loads(file.read_text()) for file in (folder / "evaluations").glob("*.json")]
    samples = {file.name: sha(file.read_bytes()) for file in folder.glob("evaluations/*/samples-*.npy")}
    return {**samples, "metrics": json.dumps(record["metrics"], sort_keys=True)}


def of_sweep(folder: Path) -> dict[str, str]:
    import pandas as pd

    table = pd.read_parquet(folder / "table.parquet").drop(columns=["seconds", "commit"]).to_csv(index=False)
    runs = {run.name: of_run(run) for run in folder.glob("*/")}
    return {"table": sha(table.encode())} | {f"{n} {part}": v for n, parts in runs.items() for part, v in parts.items()}


KINDS = {
    "training": Kind(partial(training, steps=400, save_every=20), newest, of_run, 0.3),
    "saving": Kind(partial(training, steps=80, save_every=1), newest, of_run, 0.05),
    "preparing": Kind(preparing, count("shard-*.json"), of_store, 0.05),
    "evaluating": Kind(evaluating, count("evaluations/*/samples-*.npy", "checkpoints/*"), of_evaluation, 0.2),
    "sweeping": Kind(sweeping, in_sweep, of_sweep, 1.0),
}


def alone(name: str, folder: Path) -> None:
    """Main function of a process: the work of a kind, in a process group of its own and with one thread."""
    os.setsid()
    torch.set_num_threads(1)
    trainer.SHEET = trainer.SHEET_STEPS = 2
    KINDS[name].work(folder)


def killed(name: str, folder: Path, moment: float) -> bool:
    """Work on in a folder until a moment after some progress, then kill; False if the work was done before."""
    kind, process = KINDS[name], PROCESSES.Process(target=alone, args=(name, folder))
    before, limit = kind.progress(folder), time.monotonic() + SLOW
    process.start()
    while kind.progress(folder) <= before and process.is_alive():
        if time.monotonic() > limit:
            raise RuntimeError(f"{name} makes no progress in {folder}")
        time.sleep(0.002)
    process.join(moment * kind.pause)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return True
    if process.exitcode:
        raise RuntimeError(f"{name} in {folder} ended with status {process.exitcode}")
    return False


def finished(name: str, folder: Path) -> dict[str, str]:
    """The outcome of a kind of work that nothing stops any more."""
    process = PROCESSES.Process(target=alone, args=(name, folder))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{name} in {folder} ended with status {process.exitcode}")
    return KINDS[name].outcome(folder)


def tally(name: str, kills: int, draw: random.Random, place: Path) -> dict[str, Any]:
    """Kill a kind of work so many times, in as many folders as it takes, and compare each with the straight one."""
    began = time.monotonic()
    straight = finished(name, place / "straight" / "run")
    done, torn, folders, differences = 0, 0, 0, []
    while done < kills:
        folder = place / f"killed{folders}" / "run"
        folders += 1
        while done < kills and killed(name, folder, draw.random()):
            done += 1
            torn += any(folder.rglob("*.part"))
        outcome = finished(name, folder)
        parts = sorted(part for part in straight.keys() | outcome.keys() if straight.get(part) != outcome.get(part))
        left = [str(file.relative_to(folder)) for file in folder.rglob("*.part")]
        if parts or left:
            differences.append({"folder": folder.parent.name, "parts": parts, "half written": left})
        else:
            shutil.rmtree(folder.parent)
        print(f"{name}: {done} of {kills} kills, {len(differences)} of {folders} folders differ", flush=True)
    seconds = round(time.monotonic() - began, 1)
    return dict(
        kills=done, torn_files=torn, folders=folders, parts=len(straight), different=differences, seconds=seconds
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each kind (default: %(default)s)")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="(default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the tally; by default it is only printed")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    kinds = {name: tally(name, args.kills, random.Random(f"{args.seed} {name}"), place / name) for name in args.kinds}
    text = json.dumps({"seed": args.seed, "kinds": kinds, "machine": machine()}, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    if any(kind["different"] for kind in kinds.values()):
        print(f"What differs is kept in {place}", file=sys.stderr)
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
