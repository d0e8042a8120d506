"""All that a GPU can tell about labkit, in order of value, in the minutes that there are: make gpu, or

    python benchmarks/gpu.py --minutes 9 --out FOLDER     a card, from anywhere: no network, no JupyterLab
    python benchmarks/gpu.py --rehearse --out FOLDER      every part in miniature, on any machine, in two minutes

    ceilings      what the card reaches: matrix products, copies
    correctness   pytest -m gpu: losses, steps, samplers, resuming, compiled and batched training against the CPU
    steps         a training step of SiT-B/2 and SiT-XL/2: a textbook's, the recipe's, with each loss, MeanFlow's
    models        many small models as one program
    pair          with what time is left: baseline against dispersive of one seed, on emoji, judged by age

A part begins only if its seconds still fit. Each leaves FOLDER/PART.json, with the machine and the commit, as soon as
something is measured, or why it failed. What ``benchmarks/results`` holds of this card is not measured again without
``--again``; a pair goes on with the next seed. All figures are printed last. To keep them: copy FOLDER into
``benchmarks/results/CARD`` and run ``python benchmarks/results.py``, which writes README's table.
"""

import argparse
import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # labkit need not be installed
import batched
import step
import torch
from clock import FOREVER, seconds
from results import RESULTS, card_folder, figures_of_all, records

from labkit import Run, recipes
from labkit.config import Config, Engine
from labkit.experiments import Comparison, Measures
from labkit.runtime import device, machine
from labkit.sampling import Sampler
from labkit.scale import cost, measured_flops, memory
from labkit.training import write_sheet

ROOT = Path(__file__).resolve().parents[1]
Rows = list[dict[str, Any]]


@dataclasses.dataclass
class Task:
    """What a part is given."""

    until: float
    """When it has to be done, on the clock of ``time.monotonic``."""
    out: Path
    rehearsal: bool
    keep: Callable[[Any], None]
    """Writes what it has measured so far."""

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


def ceilings(task: Task) -> dict[str, Any]:
    """Operations a second of matrix products, bytes a second of a copy (read and written)."""
    on, gpu = device(), device().type == "cuda"
    side = 8192 if gpu else 512
    products = {"bfloat16": torch.bfloat16, "float32": torch.float32} if gpu else {"float32": torch.float32}
    figures = {f"{name} TFLOP/s": measured_flops(on, side=side, dtype=dtype) / 1e12 for name, dtype in products.items()}
    if gpu:
        with step.products_in_tf32():
            figures["TF32 TFLOP/s"] = measured_flops(on, side=side, dtype=torch.float32) / 1e12
    figures["copy GB/s"] = bandwidth() / 1e9
    return figures


def bandwidth() -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(2**31 if device().type == "cuda" else 2**26, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    return 2 * source.numel() / min(seconds(lambda: target.copy_(source)) for _ in range(12))


def expected(config: Config, products: float, copied: float) -> float:
    """Images a second that a compiled step in bfloat16 should reach, from what the card reaches.

    Matrix products at four fifths of the largest one's rate. What stands between them moves what the forward pass
    keeps four times: it is written, read by the backward pass, and its gradients are both. AdamW and the average move
    ten numbers a weight, in float32.

    Args:
        config: of the step.  products: operations a second of a large product.  copied: bytes a second of a copy.
    """
    model, batch = cost(config.model), config.batch_size
    kept, weights = memory(model, batch, "bfloat16")["activations"], sum(model.parameters.values())
    return batch / (batch * model.step_flops / (0.8 * products) + 4 * kept / copied + 40 * weights / copied)


def correctness(task: Task) -> dict[str, Any]:
    """How many tests pass on this device, and which do not."""
    files = [str(f) for f in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in f.read_text(encoding="utf-8")]
    report = task.out.resolve() / "tests.xml"
    words = ["-m", "gpu and not slow", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
    words += ["-k", "infonce or euler"] if task.rehearsal else ["-n", "8"]
    done = subprocess.Popen(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    late: list[str] = []
    try:
        output, _ = done.communicate(timeout=max(task.left - (0 if task.rehearsal else 15), 1))
    except subprocess.TimeoutExpired:
        late = ["not done in time"]
        done.send_signal(signal.SIGINT)  # pytest reports what is done
        try:
            output, _ = done.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(done.pid, signal.SIGKILL)
            output, _ = done.communicate()
    if not report.exists():
        return {"passed": 0, "failed": late or ["pytest did not run"], "end": output[-2000:]}
    cases = list(ElementTree.parse(report).iter("testcase"))
    report.unlink()
    faults = [(case, fault) for case in cases for kind in ("failure", "error") for fault in case.findall(kind)]
    bad = {f"{case.get('classname')}::{case.get('name')}": fault.get("message", "")[:300] for case, fault in faults}
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(bad) - skipped,
        "skipped": skipped,
        "failed": [*late, *sorted(bad)],
        "messages": bad,
    }


def steps(task: Task) -> Rows:
    """Rows of ``step.py`` for two sizes, those that tell most first."""
    small, large = ("SiT-Nano/8",) * 2 if task.rehearsal else ("SiT-B/2", "SiT-XL/2")
    batch, chunk, count = (32, 16, 1) if task.rehearsal else (256, 32, 4)
    both, chunks = (small, large), f"dispersive, chunks of {chunk}"
    order = [(small, "TF32 loop"), (small, "recipe"), (large, "recipe"), (large, "TF32 loop")]
    order += [(model, chunks) for model in both]
    order += itertools.product(both, ("float32 loop", "MeanFlow", "dispersive, whole"))
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        latents = step.write_latents(Path(folder), 64 if task.rehearsal else 4096)
        for model, name in dict.fromkeys(order):  # the rehearsal has one size
            config, loop = step.kinds(model, latents, batch, chunk)[name], step.LOOPS.get(name)
            row = {"skipped": "no time was left"}
            compiling = 60 if model == small else 140
            if task.left > (1 if task.rehearsal else 30 if loop else compiling):
                config = config.replace(engine=dataclasses.replace(config.engine, accumulate=micro_batches(config)))
                row = step.measured(config, loop, 3, count)
                if loop is None and "skipped" not in row:
                    row["expected images/s"] = expected(config, 1e12 * row["matmul TFLOP/s"], bandwidth())
            rows.append({"model": model, "row": name, **row})
            task.keep(rows)
    return rows


def micro_batches(config: Config) -> int:
    """As few as fit into nine tenths of the memory by labkit's own estimate."""
    if device().type != "cuda":
        return 2
    held, count = torch.cuda.get_device_properties(0).total_memory, 1
    while sum(memory(cost(config.model), config.batch_size // count, config.engine.precision).values()) > 0.9 * held:
        count *= 2
    return count


def models(task: Task) -> Rows:
    """Samples a second of SiT-Nano/2 on digits, λ = 0.5, one after another and so many as one program."""
    counts, number = ((2,), 2) if task.rehearsal else ((1, 8, 32, 128), 20)
    ways: list[tuple[str, int | None, Engine]] = [("alone", None, Engine())]
    ways += [("as one", count, Engine()) for count in counts]
    if not task.rehearsal:  # compiling takes long, so these come last
        ways.append(("as one, compiled", counts[-1], Engine(compile=True)))
    if device().type == "cuda":
        ways.append(("alone, compiled, bfloat16", None, Engine(compile=True, precision="bfloat16")))
    rows: Rows = []
    for way, count, engine in ways:
        if task.left > (60 if engine.compile else 5):  # compiling all gradients takes about a minute
            rate = batched.rate(count, number, engine=engine)
            ratio = rate / rows[0]["samples/s"] if rows else 1.0
            rows.append({"models": count or 1, "way": way, "samples/s": rate, "ratio": ratio})
            task.keep(rows)
    return rows


def pair(task: Task) -> dict[str, Any]:
    """Both branches step by step until the time is over, then the judge; their weights lie beside the figures."""
    held = RESULTS / card_folder()
    seed = next(n for n in itertools.count() if not (held / f"pair-seed{n}.json").exists())
    judging = 5 if task.rehearsal else 75
    until, every = task.until - judging, 2 if task.rehearsal else 1000
    config = recipes.emoji(model="SiT-Nano/8" if task.rehearsal else "SiT-Mini/4", seed=seed, steps=FOREVER)
    long = task.left > 300  # else compiling both takes longer than it saves
    engine = Engine(precision="bfloat16", compile=long) if device().type == "cuda" else Engine()
    config = config.replace(
        batch_size=8 if task.rehearsal else 256, engine=engine, log_every=100, save_every=every, keep_last=FOREVER
    )
    judge = Measures(10 if task.rehearsal else 1000, (Sampler("heun", 2 if task.rehearsal else 50),))
    figures: dict[str, Any] = {"seed": seed, "judge": repr(judge), "rows": [], "blocks": [], "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison({"baseline": config, "dispersive": config.replace(lam=0.5)}, folder)
        began, number = time.monotonic(), 0
        for name, report in comparison:  # in turns; left early, it saves
            number = report.step
            if name == "dispersive" and (time.monotonic() > until or (task.rehearsal and number == 4)):
                break
        figures |= {"steps": number, "seconds of training": time.monotonic() - began}
        runs, sampled = {name: Run.open(Path(folder) / name) for name in comparison.trainers}, []
        for name, run in runs.items():  # before anything is judged, which may take too long
            exported = run.export(Path(folder) / f"{name}-export", [number])
            kept = f"pair-seed{seed}-{name}.safetensors"
            shutil.copy(exported.checkpoints[number], task.out / kept)
            sampled.append(run.sample(50, seed=seed, **({"steps": 2} if task.rehearsal else {})).x)
            write_sheet(torch.cat(sampled), task.out / f"pair-seed{seed}.png")  # baseline above, dispersive below
            curve = run.metrics()[["step", "name", "value"]]
            figures["runs"][name] = {
                "weights": kept,
                "config": json.loads(run.config.to_json()),
                "log": curve.iloc[:: max(1, len(curve) // 4000)].to_dict("list"),
            }
            task.keep(figures)
        ages = [number, *(every * 2**k for k in reversed(range(20)) if every * 2**k < number)]
        judge_by_age(task, figures, runs, ages, judge)
    return figures


def judge_by_age(task: Task, figures: dict[str, Any], runs: dict[str, Run], ages: list[int], judge: Measures) -> None:
    """The samples of all ages, the last one first, since time may run out; then the blocks of the last one."""
    figures["real"] = judge.real("emoji")
    parts = [(judge.samples, "rows", age, 15) for age in ages]
    parts.append((judge.blocks, "blocks", ages[0], 40))  # probes of eight blocks take half a minute
    for (measure, place, age, least), (name, run) in itertools.product(parts, runs.items()):
        if task.left > (2 if task.rehearsal else least):
            rows = measure(run.model(step=age), run.config, age)
            figures[place] += [{"condition": name, **row} for row in rows]
            task.keep(figures)


PARTS: dict[str, tuple[float, Callable[[Task], Any]]] = {
    "ceilings": (15, ceilings),
    "correctness": (90, correctness),
    "steps": (270, steps),  # compiling takes about a minute for SiT-B/2, two for SiT-XL/2
    "models": (60, models),
    "pair": (150, pair),
}
"""Name → seconds that it needs, and what does it; the last takes what is left."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="that there are in all (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--again", action="store_true", help="measure also what benchmarks/results holds of this card")
    parser.add_argument("--commit", help="hash of this code, where git cannot tell")
    parser.add_argument("--rehearse", action="store_true", help="every part in miniature, on any machine")
    args = parser.parse_args()
    if device().type != "cuda" and not args.rehearse:
        parser.exit(2, "No GPU that torch can use; python benchmarks/gpu.py --rehearse runs every part in miniature.\n")
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    about = {**machine(), **({"commit": args.commit} if args.commit else {}), "driver": _driver()}
    print(f"{about['gpu']}; torch {about['torch']}; commit {about['commit']}", flush=True)
    held = {} if args.again or args.rehearse else records(RESULTS / card_folder())
    known = {name for name, record in held.items() if "failed" not in record}
    for name in args.parts:
        seconds, measure = PARTS[name]
        if name in known:
            print(f"{name}: known, {RESULTS / card_folder()}", flush=True)
            continue
        seconds = min(seconds, 20) if args.rehearse else seconds
        if time.monotonic() + seconds > end:
            print(f"{name}: not begun, since {seconds:.0f} s for it are not left", flush=True)
            continue
        began, record = time.monotonic(), {"part": name, "machine": about}

        def keep(figures: Any, began: float = began, record: dict[str, Any] = record) -> None:
            record |= {"seconds": time.monotonic() - began, "figures": figures}
            write(record, args.out)

        try:
            keep(measure(Task(end if name == "pair" else began + seconds, args.out, args.rehearse, keep)))
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        except Exception:  # the parts to come have figures of their own
            record["failed"] = traceback.format_exc()
            write(record, args.out)
            print(f"{name}: failed\n{record['failed']}", flush=True)
    print("\n".join(figures_of_all(args.out)[:55]))


def write(record: dict[str, Any], out: Path) -> None:
    """What a part has measured so far, in one piece: the time may end at any moment."""
    seed = record["figures"]["seed"] if record["part"] == "pair" and "figures" in record else None
    file = out / (f"{record['part']}.json" if seed is None else f"pair-seed{seed}.json")
    file.with_suffix(".part").write_text(json.dumps(record, indent=1, default=float))
    os.replace(file.with_suffix(".part"), file)


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return re.sub(r"\s+", " ", subprocess.run(words, capture_output=True, text=True).stdout).strip() or "unknown"


if __name__ == "__main__":
    main()
