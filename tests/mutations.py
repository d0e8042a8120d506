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
LOSSES, OBJECTIVE, SAMPLING = ("tests/losses", "tests/test_objective.py", "tests/sampling")
TRAINING = "tests/training/test_trainer.py tests/training/test_stream.py tests/training/test_resume.py"
RESUME = "tests/training/test_resume.py tests/training/test_checkpoint.py tests/training/test_regularized.py"
EXPERIMENTS, DATASETS = "tests/experiments/test_statistics.py", "tests/datasets"
MUTATIONS = [
    Mutation(*mutation)
    for mutation in (
        # by the book: what the released code does and an eye would not miss
        ("process.py", "(t < first) | (t > last)", "(t < first)", "tests/test_process.py"),
        ("sampling/solvers.py", '"velocity", "data", x, t)', '"velocity", "noise", x, t)', SAMPLING),
        ("models/teachers.py", "antialias=True)", "antialias=False)", "tests/models/test_teachers.py"),
        ("models/export.py", "norm_eps=1e-6", "norm_eps=1e-5", "tests/models/test_export.py"),
        ("training/stream.py", "if self.flips else", "if True else", DATASETS),
        # losses: a sign, a factor, a missing division, a dropped detach
        ("losses/dispersive.py", "per=features * tau", "per=tau", LOSSES),
        ("losses/dispersive.py", "return log_mean_exp(-pairs(", "return log_mean_exp(pairs(", LOSSES),
        ("losses/dispersive.py", "/ tau)\n        return (margin", "* tau)\n        return (margin", LOSSES),
        ("losses/dispersive.py", ".relu().square().mean()", ".square().mean()", LOSSES),
        ("losses/dispersive.py", "/ batch**2\n", "/ (batch - 1) ** 2\n", LOSSES),
        (
            "losses/dispersive.py",
            "return -math.log(batch) if with_self",
            "return -math.log(batch - 1) if with_self",
            LOSSES,
        ),
        ("losses/dispersive.py", "(pairs(pairwise_cosines(flat))", "(off_diagonal(pairwise_cosines(flat))", LOSSES),
        ("ops.py", "- math.log(x.numel())", "- math.log(len(x))", LOSSES),
        ("ops.py", "[:, 1:].flatten()", "[:, :-1].flatten()", "tests/test_ops.py " + LOSSES),
        ("ops.py", "+ SUBNORMAL_MARGIN", "+ 9 * SUBNORMAL_MARGIN", "tests/test_ops.py " + LOSSES),
        ("distances.py", "distances.masked_fill(_diagonal(z), 0.0)", "distances", "tests/test_gram.py " + LOSSES),
        ("distances.py", "b - centre", "b", "tests/test_gram.py " + LOSSES),
        (
            "distances.py",
            "distances + (-distances).clamp_min(0).detach()",
            "distances.clamp_min(0)",
            "tests/test_gram.py " + LOSSES,
        ),
        ("distances.py", "weight=varies.to(z.dtype), ", "", "tests/test_gram.py " + LOSSES),
        (
            "losses/contrastive.py",
            "return alignment_weight * alignment + repulsion",
            "return alignment + repulsion",
            LOSSES,
        ),
        ("losses/contrastive.py", "log_sum_exp(logits, dim=1).mean()", "log_sum_exp(logits, dim=0).mean()", LOSSES),
        ("losses/contrastive.py", "repelled = repulsion(a,", "repelled = repulsion(b,", LOSSES),
        ("losses/alignment.py", "target.detach().flatten(0, 1)", "target.flatten(0, 1)", LOSSES),
        (
            "losses/meanflow.py",
            "torch.ones_like(t), -torch.ones_like(t)))",
            "torch.ones_like(t), torch.ones_like(t)))",
            LOSSES + " tests/test_process.py",
        ),
        (
            "losses/meanflow.py",
            "squared / (squared.detach() + constant)",
            "squared / (squared + constant)",
            LOSSES + " tests/test_process.py",
        ),
        (
            "losses/diffusion.py",
            "schedule.data(x_k, eps_pred.detach(), k)",
            "schedule.data(x_k, eps_pred, k)",
            LOSSES + " tests/test_process.py",
        ),
        ("losses/diffusion.py", "/ math.log(2)\n", "\n", LOSSES + " tests/test_process.py"),
        # objective: wrong view, wrong block, a warm-up off by one, chunks forgotten
        ("objective.py", "draws.uniforms[:, 1] < self", "draws.uniforms[:, 0] < self", OBJECTIVE),
        (
            "losses/weight.py",
            "(step - self.steps[:-1])",
            "(step - 1 - self.steps[:-1])",
            OBJECTIVE + " tests/training/test_regularized.py",
        ),
        ("objective.py", "z.split(settings.chunk or len(z))", "z.split(len(z))", OBJECTIVE),
        ("objective.py", "(base.features, second)", "(second, base.features)", OBJECTIVE),
        (
            "objective.py",
            "scope = [gather(z) for z in scope]",
            "scope = [gather(z.detach()) for z in scope]",
            "tests/distributed/test_objective_on_ranks.py",
        ),
        ("objective.py", "None: (depth // 4,)", "None: (depth // 4 - 1,)", OBJECTIVE),
        # paths, times, schedule
        ("paths.py", "half * sigma, -half * alpha)", "half * sigma, half * alpha)", "tests/test_paths.py"),
        (
            "paths.py",
            "slope * alpha, -slope * alpha**2 / sigma",
            "slope * alpha, -slope * alpha / sigma",
            "tests/test_paths.py",
        ),
        ("paths.py", "-c.sigma * value\n", "c.sigma * value\n", "tests/test_paths.py"),
        ("time_sampling.py", "return 1 - (1 - moved).abs()", "return moved.clamp_max(1)", "tests/test_times.py"),
        (
            "schedule.py",
            '"posterior_log_variance": torch.cat([variance[1:2]',
            '"posterior_log_variance": torch.cat([variance[2:3]',
            "tests/test_schedule.py",
        ),
        # samplers
        (
            "sampling/solvers.py",
            "velocity(x + (then - now) * slope, at(then, x))) / 2",
            "velocity(x + (then - now) * slope, at(now, x))) / 2",
            SAMPLING,
        ),
        ("sampling/solvers.py", "return (2 * (then - now)", "return ((then - now)", SAMPLING),
        ("sampling/solvers.py", "return v + self.w(t, x)", "return v + 0.5 * self.w(t, x)", SAMPLING),
        (
            "sampling/guidance.py",
            "without + scale * (with_label - without)",
            "with_label + scale * (with_label - without)",
            SAMPLING,
        ),
        ("sampling/diffusion.py", "(1 - before - std.square())", "(1 - before)", SAMPLING),
        ("sampling/diffusion.py", "if then > 0 and self.eta > 0", "if self.eta > 0", SAMPLING),
        (
            "sampling/solvers.py",
            "at(now, x), at(then - now, x))",
            "at(then, x), at(then - now, x))",
            SAMPLING + " tests/training/test_generate.py",
        ),
        # training and resuming
        ("training/stream.py", "position // self.batch_size)", "position // self.batch_size + 1)", TRAINING),
        ("training/stream.py", "Purpose.ORDER, epoch)", "Purpose.ORDER, 0)", TRAINING),
        (
            "training/ema.py",
            "(1 + step) / (10 + step)",
            "(2 + step) / (10 + step)",
            "tests/training/test_ema.py " + TRAINING,
        ),
        (
            "training/trainer.py",
            "self.step = self.saved_step = state.step\n",
            "self.step = self.saved_step = state.step - 1\n",
            RESUME,
        ),
        (
            "training/trainer.py",
            'ckpt.load_optimizer(self.optimizer, self._named(), state.part("optimizer."))\n',
            "pass\n",
            RESUME,
        ),
        (
            "training/trainer.py",
            "module.load_state_dict(tensors)",
            'module.load_state_dict(state.part("model."))',
            RESUME,
        ),
        (
            "training/trainer.py",
            "self.fabric.backward(losses.total / count)",
            "self.fabric.backward(losses.total)",
            TRAINING + " tests/training/test_engine.py",
        ),
        ("training/trainer.py", "self.folder.rewind(self.step)", "pass", RESUME),
        ("training/checkpoint.py", 'if header.get("sha256") != _digest(tensors, header):', "if False:", RESUME),
        (
            "disk.py",
            "owner is not None and owner[2] == socket.gethostname()",
            "owner is not None",
            "tests/test_disk.py",
        ),
        # meters, features, machine and configs
        (
            "training/meters.py",
            "g - sum(gradient[i] for gradient in",
            "g + sum(gradient[i] for gradient in",
            "tests/training/test_meters.py",
        ),
        ("training/features.py", "look.seed, Purpose.PROBE", "0, Purpose.PROBE", "tests/training/test_features.py"),
        (
            "training/folder.py",
            "if mine.digest == data.digest:",
            "if mine.dimensions == data.dimensions:",
            "tests/training/test_data_identity.py",
        ),
        ("training/folder.py", "if keep_every is None or step", "if step", "tests/training/test_folder.py"),
        ("process.py", "if not self.settings.guided:", "if True:", "tests/test_process.py"),
        ("process.py", "return speed**2 if", "return speed if", "tests/test_process.py"),
        ("process.py", ".clamp(-1, 1)", ".clamp(-2, 2)", "tests/test_process.py"),
        ("config.py", "self.batch_size % group.chunk == 0", "True", "tests/test_config.py"),
        ("checks.py", 'not (ends[1] == ")" and value == high)', "True", "tests/test_config.py"),
        # statistics and listing
        ("experiments/statistics.py", "times = np.arange(len(ordered), 0, -1)", "times = len(ordered)", EXPERIMENTS),
        (
            "experiments/statistics.py",
            "better = d < 0 if metric(measure).direction < 0",
            "better = d < 0 if metric(measure).direction > 0",
            EXPERIMENTS,
        ),
        (
            "experiments/statistics.py",
            "d = (values - baseline).dropna()",
            "d = (baseline - values).dropna()",
            EXPERIMENTS,
        ),
        ("experiments/statistics.py", ".cummax().clip(upper=1)", ".clip(upper=1)", EXPERIMENTS),
        (
            "datasets/sources.py",
            'key=lambda name: (name.partition("/")[0], name)',
            'key=lambda name: (name.partition("/")[0], name), reverse=True',
            DATASETS,
        ),
        ("datasets/folder.py", "name = entry.name.lower()", "name = entry.name", DATASETS),
        ("datasets/sources.py", "classes = sorted(name for", "classes = list(name for", DATASETS),
        ("datasets/sources.py", 'sha256("\\n".join(names), labels)', "sha256(labels)", DATASETS),
    )
]


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
