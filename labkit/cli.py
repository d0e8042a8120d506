"""The command line: the notebooks' experiments without a notebook.

labkit doctor                                      what this machine can do
labkit prepare photos --size 64 --out store         your images as a data set; --latents VAE encodes them
labkit train digits --dispersive.lam 0.5 --out runs/x
labkit train imagenet256 --preset paper --out runs/y      under torchrun on as many GPUs as it starts processes
labkit train --resume runs/x
labkit sample runs/x                               a sheet of images from a run
labkit evaluate runs/x                             samples measured against real images: FID and others
labkit compare digits                              baseline against dispersive: a table and one HTML page
labkit sweep digits --grid dispersive.lam=None,0.1,0.5 --grid seed=0..4 --out runs/sweep      one table of all
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro
from tqdm.auto import tqdm

from labkit import datasets
from labkit.asking import RECIPES, ask, axes_of, command, listed
from labkit.checks import ConfigError, require
from labkit.datasets import Preparation
from labkit.evaluation import EvaluationConfig, codec_of, evaluate_run
from labkit.experiments import Comparison, Measures, grid, sweep
from labkit.sampling import Sampler
from labkit.training import Report, Run, Trainer, write_sheet
from labkit.training.engine import saving_on_signals
from labkit.training.runs import Weights
from labkit.types import LabError


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest checkpoint."""

    resume: Path
    """Folder of the run."""
    steps: int | None = None
    """Train up to this many steps instead of the run's own number."""


@dataclass(frozen=True)
class Prepare:
    """Turn images into a store that training reads. After Ctrl-C or a crash the same command goes on."""

    source: tyro.conf.Positional[str]
    """A folder of images, whose sub-folders are classes; an .npz file; or a Hugging Face data set, by id or folder."""
    out: Path
    """Folder of the store."""
    settings: tyro.conf.OmitArgPrefixes[Preparation]


@dataclass(frozen=True)
class Verify:
    """Compare all of a store with its checksums."""

    verify: Path
    """Folder of the store."""


@dataclass(frozen=True)
class Sample:
    """Generate images from a run and write them as one PNG sheet."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    n: int = 100
    """How many."""
    sampler: tyro.conf.OmitArgPrefixes[Sampler] = field(default_factory=Sampler)
    seed: int = 0
    """Of all noise."""
    vae: str | None = None
    """What decodes latents: a hub id such as stabilityai/sd-vae-ft-ema, or a folder. None shows 3 of their channels."""
    out: Path | None = None
    """The PNG to write; by default in the samples folder of the run."""


@dataclass(frozen=True)
class Evaluate:
    """Measure samples of a run against real images. After Ctrl-C or a crash the same command goes on."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    settings: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
    weights: Weights = "ema"
    """Averaged or live weights."""
    step: int | None = None
    """Step of the checkpoint; by default the newest."""
    shard: int = 500
    """Samples of one file, which a job that was killed loses at most."""
    npz: Path | None = None
    """Also write the samples here, in ADM's format, which other evaluators read."""


@dataclass(frozen=True, kw_only=True)
class Sweeping:
    """How a sweep is done."""

    workers: int | None = None
    """Runs at a time, each with one thread; by default one a core."""
    count: int = 500
    """Samples of each run, on which it is judged."""
    batched: bool = False
    """Train runs that differ in seed and λ alone as one program: for a GPU, which a single small model leaves idle."""


@dataclass(frozen=True, kw_only=True)
class SweepGrid(Sweeping):
    """Which combinations of values, and how many at a time."""

    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE,… as in dispersive.lam=None,0.1,0.5 or seed=0..4; once for each field."""


@dataclass(frozen=True, kw_only=True)
class SweepList(Sweeping):
    """Train and judge the runs of a file, several at a time. The same command goes on where it was stopped."""

    list: Path
    """A line for each run, as after labkit train: digits --dispersive.lam 0.5, or NAME: digits …"""
    out: Path = Path("runs/sweep")
    """Folder of the runs and of their table."""


def doctor(argv: Sequence[str]) -> int:
    """Print what the machine can do; 1 if something is not in order."""
    from labkit.runtime import doctor as look

    if argv:
        raise ConfigError(f"doctor takes no words, and got {' '.join(argv)!r}")

    findings = look()
    for finding in findings:
        print(f"{'ok ' if finding.ok else 'NO '} {finding.told}" + ("" if finding.ok else f"\n    → {finding.remedy}"))
    return 0 if all(finding.ok for finding in findings) else 1


def prepare(argv: Sequence[str]) -> int:
    """Make a store of images, or verify one."""
    if any(word == "--verify" or word.startswith("--verify=") for word in argv):
        folder = tyro.cli(Verify, args=argv, prog="labkit prepare").verify
        print(f"{datasets.verify(folder, progress=True)} images in {folder}, all as they were written.")
        return 0
    asked = tyro.cli(Prepare, args=argv, prog="labkit prepare")
    try:
        out = datasets.prepare(asked.source, asked.out, **asdict(asked.settings))
    except KeyboardInterrupt:
        print(f"\nStopped. Go on with the same command:  {command('prepare', *argv)}")
        return 130
    print(datasets.describe(out))
    return 0


def train(argv: Sequence[str]) -> int:
    """Start or resume one run."""
    resuming = any(word == "--resume" or word.startswith("--resume=") for word in argv)
    if resuming and argv[0] in RECIPES:
        raise ConfigError(f"train takes a recipe or --resume, not both; leave {argv[0]!r} out to resume")
    if resuming:
        asked = tyro.cli(Resume, args=argv, prog="labkit train")
        run = Run.open(asked.resume)
        trainer = run.trainer(**({} if asked.steps is None else {"steps": asked.steps}))
    else:
        trainer = Trainer(*ask(argv, "train", "runs/train")[:2])
    out, begun, config = trainer.folder.path, trainer.step, trainer.config
    tell = print if trainer.leads else _silent
    if not len(trainer):
        tell(f"{out} is finished: {trainer.step} of {config.steps} steps. Give --steps to train on.")
        return 0
    tell(f"Training {config.model} on {config.dataset} in {out}, from step {begun} to {config.steps}.")
    tell(trainer.told())
    with saving_on_signals(trainer.stop):
        stopped = _drive(trainer, len(trainer), _words, silent=not trainer.leads)
    if stopped:
        saved = ", saved" if trainer.step else ""
        tell(f"\nStopped at step {trainer.step}{saved}. Go on with:  {command('train', '--resume', out)}")
        return 130
    tell(f"Finished {trainer.step} steps. Look at it with:  {command('sample', out)}")
    return 0


def sample(argv: Sequence[str]) -> int:
    """Write a sheet of samples."""
    asked = tyro.cli(Sample, args=argv, prog="labkit sample")
    run = Run.open(asked.run)
    codec = codec_of(run.config, run.model().shape, asked.vae) if asked.vae else None
    samples = run.sample(asked.n, seed=asked.seed, progress=True, **asdict(asked.sampler))
    x, s = codec.decode(samples.x) if codec else samples.x, samples.settings
    name = f"step-{s['step']:08d}-{s['method']}{s['steps'] or ''}-guidance{s['guidance']:g}-seed{s['seed']}.png"
    path = write_sheet(x, asked.out or run.sheets / name)
    print(f"{asked.n} samples ({samples.told()}) written to {path}")
    return 0


def evaluate(argv: Sequence[str]) -> int:
    """Measure a run's samples; under torchrun all ranks draw, and the last one to be done measures."""
    wanted = tyro.cli(Evaluate, args=argv, prog="labkit evaluate")
    try:
        found = evaluate_run(
            Run.open(wanted.run),
            wanted.settings,
            weights=wanted.weights,
            step=wanted.step,
            shard=wanted.shard,
            progress=True,
        )
    except KeyboardInterrupt:
        print(f"\nStopped. Go on with the same command:  {command('evaluate', *argv)}")
        return 130
    if found is None:
        return 0
    print(found.summary())
    if wanted.npz is not None:
        found.samples.export(wanted.npz)
        print(f"The samples in ADM's format: {wanted.npz}")
    return 0


def compare(argv: Sequence[str]) -> int:
    """Train with and without the regularizers, measure both, write the page."""
    from labkit.plots.page import write_page

    config, out, _ = ask(argv, "compare", "runs/compare", lam=0.5, steps=1500)
    comparison = Comparison.with_and_without(config, out)
    print(f"Training {' and '.join(comparison.trainers)} side by side in {out}, {config.steps} steps each.")
    if _drive(comparison, len(comparison), lambda item: f"{item[0]} {_words(item[1])}"):
        print(f"\nStopped and saved. Go on with the same command:  {command('compare', *argv)}")
        return 130
    result = comparison.evaluate()
    print(result.table().T.to_string(float_format=lambda value: f"{value:.3f}", na_rep="–"))
    print(f"({result.told()}; real against real: mean of several draws of as many training images)")
    page = write_page(out / "compare.html", result, {n: Run.open(out / n).metrics() for n in result.costs})
    print(f"Curves, samples, spread and cost: {page}")
    return 0


def run_sweep(argv: Sequence[str]) -> int:
    """Train and judge every combination of values, or a list of runs, several at a time."""
    if any(word == "--list" or word.startswith("--list=") for word in argv):
        asked = tyro.cli(SweepList, args=argv, prog="labkit sweep")
        configs, out = listed(asked.list), asked.out
    else:
        base, out, asked = ask(argv, "sweep", "runs/sweep", SweepGrid())
        require(len(asked.grid) > 0, "grid", None, "name fields and values, as in --grid seed=0..4; once for each")
        configs = grid(base, axes_of(asked.grid))
    for name in dict.fromkeys(config.dataset for config in configs.values()):
        latents = "it holds latents, and a sweep measures images; train each run, then labkit evaluate --vae"
        require(datasets.load(name).channels in (1, 3), "dataset", name, latents)
    print(f"{len(configs)} runs in {out}. What is there already is not done again; Ctrl-C saves.")
    try:
        made = sweep(configs, out, Measures(asked.count), asked.workers, batched=asked.batched)
    except KeyboardInterrupt:
        print(f"\nStopped and saved. Go on with the same command:  {command('sweep', *argv)}")
        return 130
    print(made.told())
    print(f"Every value with its config, seed, commit and machine: {out / 'table.parquet'}")
    return 1 if made.failures else 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "doctor": doctor,
    "prepare": prepare,
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "compare": compare,
    "sweep": run_sweep,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 good, 1 doctor's findings, 2 a mistake in the request, 130 stopped)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    if argv[0] not in COMMANDS:
        print(f"labkit: {argv[0]!r} is not a command; choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return COMMANDS[argv[0]](argv[1:])
    except (LabError, FileNotFoundError) as mistake:
        print(f"labkit: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def _silent(*_: object) -> None:
    """What ranks other than the first print."""


def _drive(loop: Iterable[Any], total: int, words: Callable[[Any], str], silent: bool = False) -> bool:
    """Run a loop of reports, under a progress bar if this is a terminal; True if Ctrl-C ended it."""
    with tqdm(total=total, unit="step", mininterval=0.5, disable=silent or None) as bar:
        steps = iter(loop)
        try:
            for number, report in enumerate(steps):
                bar.update()
                if number % 50 == 0 and not silent:
                    bar.set_postfix_str(words(report), refresh=False)
        except KeyboardInterrupt:
            steps.close()
            return True
    return False


def _words(report: Report) -> str:
    return ", ".join(f"{name} {value.item():.3f}" for name, value in report.terms.items() if name != "total")


if __name__ == "__main__":
    sys.exit(main())
