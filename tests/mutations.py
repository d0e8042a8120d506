"""Does the suite notice? Breaks labkit in one place at a time, in a copy, and runs what `make test` would:

    python tests/mutations.py                  every mutation, two at a time
    python tests/mutations.py stream holm      those whose file or text has one of these words
    python tests/mutations.py --likely         only by the tests that should notice: minutes less for each survivor

A mutation is caught when a test fails. The tests that are likely to notice run first, then all that need no browser;
what survives both is printed at the end, with exit status 1. A mutation that no longer fits labkit is named first, here
and by `make test`: put it right.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    """In a file of labkit, one text replaced by another; ``likely`` are the tests that should notice."""

    file: str
    old: str
    new: str
    likely: str


FITS = "tests/test_contributing.py::test_every_mutation_still_fits_the_code"  # it would notice every one
LOSSES, PROCESS, OBJECTIVE = ("tests/losses", "tests/test_process.py", "tests/test_objective.py")
SAMPLING, DATASETS = ("tests/sampling", "tests/datasets")
TRAINING = " ".join(f"tests/training/test_{part}.py" for part in ("trainer", "stream", "resume", "engine"))
RESUME = " ".join(f"tests/training/test_{part}.py" for part in ("resume", "checkpoint", "regularized"))
EDITS = {  # (file, tests that should notice): {text: what it becomes}
    # losses: a sign, a factor, a missing division, a dropped detach
    ("losses/dispersive.py", LOSSES): {
        "per=features * tau": "per=tau",
        "return log_mean_exp(-pairs(": "return log_mean_exp(pairs(",
        "/ tau)\n        return (margin": "* tau)\n        return (margin",
        ".relu().square().mean()": ".square().mean()",
        "/ batch**2\n": "/ (batch - 1) ** 2\n",
        "return -math.log(batch) if with_self": "return -math.log(batch - 1) if with_self",
        "(pairs(pairwise_cosines(flat))": "(off_diagonal(pairwise_cosines(flat))",
    },
    ("ops.py", f"tests/test_ops.py {LOSSES}"): {
        "- math.log(x.numel())": "- math.log(len(x))",
        "[:, 1:].flatten()": "[:, :-1].flatten()",
        "+ SUBNORMAL_MARGIN": "+ 9 * SUBNORMAL_MARGIN",
    },
    ("distances.py", f"tests/test_gram.py {LOSSES}"): {
        "distances.masked_fill(_diagonal(z), 0.0)": "distances",
        "b - centre": "b",
        "distances + (-distances).clamp_min(0).detach()": "distances.clamp_min(0)",
        "weight=varies.to(z.dtype), ": "",
    },
    ("losses/contrastive.py", LOSSES): {
        "return alignment_weight * alignment + repelled": "return alignment + repelled",
        "log_sum_exp(logits, dim=1).mean()": "log_sum_exp(logits, dim=0).mean()",
        "repelled = repulsion(a,": "repelled = repulsion(b,",
    },
    ("losses/alignment.py", LOSSES): {"target.detach().flatten(0, 1)": "target.flatten(0, 1)"},
    ("losses/meanflow.py", f"{LOSSES} {PROCESS}"): {
        "torch.ones_like(t), -torch.ones_like(t)))": "torch.ones_like(t), torch.ones_like(t)))",
        "squared / (squared.detach() + constant)": "squared / (squared + constant)",
    },
    ("losses/diffusion.py", f"{LOSSES} {PROCESS}"): {
        "schedule.data(x_k, eps_pred.detach(), k)": "schedule.data(x_k, eps_pred, k)",
        "/ math.log(2)\n": "\n",
    },
    # objective: wrong view, wrong block, a warm-up off by one, chunks forgotten
    ("objective.py", OBJECTIVE): {
        "draws.uniforms[:, 1] < self": "draws.uniforms[:, 0] < self",
        "z.split(settings.chunk or len(z))": "z.split(len(z))",
        "(base.features, second)": "(second, base.features)",
        "None: (depth // 4,)": "None: (depth // 4 - 1,)",
    },
    ("objective.py", "tests/distributed/test_objective_on_ranks.py"): {
        "scope = [gather(z) for z in scope]": "scope = [gather(z.detach()) for z in scope]"
    },
    ("losses/weight.py", "tests/test_objective.py tests/training/test_regularized.py"): {
        "(step - self.steps[:-1])": "(step - 1 - self.steps[:-1])"
    },
    # processes, paths, times, schedule
    ("process.py", PROCESS): {
        "(t < first) | (t > last)": "(t < first)",
        "if not self.settings.guided:": "if True:",
        "return speed**2 if": "return speed if",
        ".clamp(-1, 1)": ".clamp(-2, 2)",
    },
    ("paths.py", "tests/test_paths.py"): {
        "half * sigma, -half * alpha)": "half * sigma, half * alpha)",
        "slope * alpha, -slope * alpha**2 / sigma": "slope * alpha, -slope * alpha / sigma",
        "-c.sigma * value\n": "c.sigma * value\n",
    },
    ("time_sampling.py", "tests/test_times.py"): {"return 1 - (1 - moved).abs()": "return moved.clamp_max(1)"},
    ("schedule.py", "tests/test_schedule.py"): {
        '"posterior_log_variance": torch.cat([variance[1:2]': '"posterior_log_variance": torch.cat([variance[2:3]'
    },
    # samplers
    ("sampling/solvers.py", SAMPLING): {
        '"velocity", "data", x, t)': '"velocity", "noise", x, t)',
        "velocity(x + (then - now) * slope, at(then, x))) / 2": "velocity(x + (then - now) * slope, at(now, x))) / 2",
        "return (2 * (then - now)": "return ((then - now)",
        "return v + self.w(t, x)": "return v + 0.5 * self.w(t, x)",
        "at(now, x), at(then - now, x))": "at(then, x), at(then - now, x))",
    },
    ("sampling/guidance.py", SAMPLING): {
        "without + scale * (with_label - without)": "with_label + scale * (with_label - without)"
    },
    ("sampling/diffusion.py", SAMPLING): {
        "(1 - before - std.square())": "(1 - before)",
        "if then > 0 and self.eta > 0": "if self.eta > 0",
    },
    # models
    ("models/teachers.py", "tests/models/test_teachers.py"): {"antialias=True)": "antialias=False)"},
    ("models/export.py", "tests/models/test_export.py"): {"norm_eps=1e-6": "norm_eps=1e-5"},
    # training and resuming
    ("training/stream.py", "tests/training/test_stores.py"): {"if self.flips else": "if True else"},
    ("training/stream.py", TRAINING): {
        "position // self.batch_size)": "position // self.batch_size + 1)",
        "Purpose.ORDER, epoch)": "Purpose.ORDER, 0)",
    },
    ("training/ema.py", TRAINING): {"(1 + step) / (10 + step)": "(2 + step) / (10 + step)"},
    ("training/trainer.py", RESUME): {
        "self.step = self.saved_step = state.step\n": "self.step = self.saved_step = state.step - 1\n",
        'ckpt.load_optimizer(self.optimizer, self._named(), state.part("optimizer."))\n': "pass\n",
        "module.load_state_dict(tensors)": 'module.load_state_dict(state.part("model."))',
        "self.folder.rewind(self.step)": "pass",
    },
    ("training/trainer.py", TRAINING): {
        "self.fabric.backward(losses.total / count)": "self.fabric.backward(losses.total)"
    },
    ("training/checkpoint.py", RESUME): {'if header.get("sha256") != _digest(tensors, header):': "if False:"},
    ("training/folder.py", "tests/training/test_data_identity.py"): {
        "if mine.digest == data.digest:": "if mine.dimensions == data.dimensions:"
    },
    ("training/folder.py", "tests/training/test_folder.py"): {"if keep_every is None or step": "if step"},
    ("disk.py", "tests/test_disk.py"): {"owner is not None and owner[2] == socket.gethostname()": "owner is not None"},
    # meters, features and configs
    ("training/meters.py", "tests/training/test_meters.py"): {
        "g - sum(gradient[i] for gradient in": "g + sum(gradient[i] for gradient in"
    },
    ("training/features.py", "tests/training/test_features.py"): {"look.seed, Purpose.PROBE": "0, Purpose.PROBE"},
    ("config.py", "tests/test_config.py"): {"self.batch_size % group.chunk == 0": "True"},
    ("checks.py", "tests/test_config.py"): {'("below", lt, below)': '("below", le, below)'},
    # statistics and listing
    ("experiments/statistics.py", "tests/experiments/test_statistics.py"): {
        "times = np.arange(len(ordered), 0, -1)": "times = len(ordered)",
        "better = d < 0 if metric(measure).direction < 0": "better = d < 0 if metric(measure).direction > 0",
        "d = (values - baseline).dropna()": "d = (baseline - values).dropna()",
        ".cummax().clip(upper=1)": ".clip(upper=1)",
    },
    ("datasets/sources.py", DATASETS): {
        'key=lambda name: (name.partition("/")[0], name)': 'key=lambda name: (name.partition("/")[0], name), reverse=True',
        "classes = sorted(name for": "classes = list(name for",
        'sha256("\\n".join(names), labels)': "sha256(labels)",
    },
    ("datasets/folder.py", DATASETS): {"name = entry.name.lower()": "name = entry.name"},
}
MUTATIONS = [Mutation(file, *edit, likely) for (file, likely), edits in EDITS.items() for edit in edits.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutations of which the file or a text has one of these")
    parser.add_argument("--repo", type=Path, default=REPO, help="the checkout to break copies of (default: this one)")
    parser.add_argument("--likely", action="store_true", help="run the tests that should notice and no others")
    parser.add_argument("--workers", type=int, default=2, help="mutations at a time (default: %(default)s)")
    args = parser.parse_args()
    if stale := outdated(args.repo):
        raise SystemExit("\n".join(stale))
    chosen = [m for m in MUTATIONS if not args.words or any(word in " ".join(m[:3]) for word in args.words)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.workers) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(args.workers):
            kept = shutil.ignore_patterns(
                ".venv", ".git", "__pycache__", "runs", "book", ".hypothesis", ".pytest_cache"
            )
            copies.put(shutil.copytree(args.repo, Path(folder) / str(number), ignore=kept))
        caught_by = list(pool.map(lambda mutation: tried(mutation, args.repo, copies, args.likely), chosen))
    survivors = [m for m, caught in zip(chosen, caught_by, strict=True) if not caught]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations were caught.")
    for m in survivors:
        print(f"  survived: {m.file}: {m.old.strip()!r} → {m.new.strip()!r}")
    return int(bool(survivors))


def outdated(repo: Path) -> list[str]:
    """Mutations that do not fit labkit any more, and why."""
    faults = []
    for m in MUTATIONS:
        source = (repo / "labkit" / m.file).read_text(encoding="utf-8")
        if source.count(m.old) != 1:
            faults.append(f"{m.file} has {m.old!r} {source.count(m.old)} times, not once.")
        try:
            ast.parse(source.replace(m.old, m.new))
        except SyntaxError as error:  # any test would notice that
            faults.append(f"{m.file} with {m.new!r} is no Python: {error}.")
        faults += [f"{m.file} names {test}, which is gone." for test in m.likely.split() if not (repo / test).exists()]
    return faults


def tried(mutation: Mutation, repo: Path, copies: "SimpleQueue[Path]", likely: bool) -> str | None:
    """The test that caught it; None if none did."""
    source = (repo / "labkit" / mutation.file).read_text()
    copy, began = copies.get(), time.monotonic()
    path = copy / "labkit" / mutation.file
    path.write_text(source.replace(mutation.old, mutation.new))
    try:
        caught = first_failure(copy, mutation.likely.split()) or (None if likely else first_failure(copy, []))
    finally:
        path.write_text(source)
        copies.put(copy)
    seconds = time.monotonic() - began
    print(f"{seconds:5.0f} s  {mutation.file}: {mutation.new.strip()[:60]!r}  {caught or 'SURVIVED'}", flush=True)
    return caught


def first_failure(copy: Path, tests: list[str]) -> str | None:
    """The first test that fails on a copy, of some or of all."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    words += ["-m", "not slow and not browser", "--deselect", FITS, *tests]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=copy, env=env, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0].split(" - ")[0] if failed else f"exit status {done.returncode}"


if __name__ == "__main__":
    sys.exit(main())
