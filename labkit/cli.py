"""Train, sample and evaluate diffusion models with and without Dispersive Loss.

    labkit doctor
    labkit train digits --dispersive.lam 0.5 --out runs/x
    labkit train --resume runs/x
    labkit fork runs/x --at 400 --dispersive.lam 0 --out runs/y
    labkit sample runs/x
    labkit evaluate runs/x
    labkit export runs/x --out weights.safetensors
    labkit compare digits
    labkit explorer
    labkit sweep digits --grid dispersive.lam=None,0.1,0.5 --grid seed=0..4

On several GPUs: torchrun --nproc-per-node 8 -m labkit train imagenet256

labkit COMMAND --help explains a command; labkit --version prints the version.
"""

from __future__ import annotations  # tyro evaluates the annotations of the command that is typed, and no others

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm.auto import tqdm
from tyro.conf import OmitArgPrefixes, Positional, PositionalMetavarFromFieldName, UseAppendAction, arg
from tyro.extras import SubcommandApp

import labkit  # its modules are imported when they are used, so that help needs no torch
from labkit.arguments import (
    RECIPES,
    axes_of,
    check_word,
    command,
    later,
    read_list,
    refusals,
    with_config_of_run,
    with_recipes,
)
from labkit.checks import LabError, require
from labkit.disk import new_file, reason
from labkit.signals import interrupt, saving_on_signals
from labkit.terminal import lasting_output


def doctor() -> int:
    """Check what this machine can run, and how to mend what is missing."""
    findings = labkit.runtime.doctor()
    for finding in findings:
        print(f"{'ok ' if finding.ok else 'NO '} {finding.text}" + ("" if finding.ok else f"\n    → {finding.remedy}"))
    return 0 if all(finding.ok for finding in findings) else 1


def prepare(source: Positional[str], out: Path, settings: Annotated[labkit.datasets.Preparation, arg(name="")]) -> int:
    """Turn images into a store that training reads; with --verify STORE, check one.

    Args:
        source: Folder of images with a sub-folder for each class, .npz file, or Hugging Face data set (id or folder).
        out: Folder of the store. After Ctrl-C or a crash the same command goes on there.
    """
    store = labkit.datasets.prepare(source, out, **asdict(settings))
    print(labkit.datasets.describe(store))
    return 0


def verify(verify: Path) -> int:
    """Check all files of a store against its checksums.

    Args:
        verify: Folder of the store.
    """
    print(f"{labkit.datasets.verify(verify, progress=True)} images in {verify}, all as they were written.")
    return 0


def train(
    config: Annotated[labkit.Config, arg(name="")],
    out: Path = Path("runs/train"),
    logger: UseAppendAction[tuple[labkit.training.loggers.Name, ...]] = (),
) -> int:
    """Train a recipe, all of whose settings can be changed, or go on with a run.

    Args:
        out: Folder to train in. Training goes on there if the folder holds this very experiment.
        logger: Where the numbers of metrics.csv go as well: tensorboard or wandb. Once for each.
    """
    return _train(labkit.Trainer(config, out, logger), out)


def resume(
    resume: Path, steps: int | None = None, logger: UseAppendAction[tuple[labkit.training.loggers.Name, ...]] = ()
) -> int:
    """Go on from the newest checkpoint: labkit train --resume RUN

    Args:
        resume: Folder of the run.
        steps: Train up to this many steps; by default up to the run's own number.
        logger: Where the numbers of metrics.csv go as well: tensorboard or wandb. Once for each.
    """
    return _train(labkit.Run.open(resume).trainer(logger, **({} if steps is None else {"steps": steps})), resume)


def _train(trainer: labkit.Trainer, out: Path) -> int:
    begun, config = trainer.step, trainer.config
    tell = print if trainer.leads else _silent
    if not len(trainer):
        tell(f"{out} is finished: {trainer.step} of {config.steps} steps. Give --steps to train on.")
        return 0
    tell(f"Training {config.model} on {config.dataset} in {out}, from step {begun} to {config.steps}.")
    tell(trainer.describe())
    with saving_on_signals(trainer.stop):
        stopped = _drive(iter(trainer), len(trainer), _terms, silent=not trainer.leads)
    if stopped:
        saved = ", saved" if trainer.step else ""
        tell(f"\nStopped at step {trainer.step}{saved}. Go on with:  {command('train', '--resume', out)}")
        return 130
    tell(f"Finished {trainer.step} steps. Look at it with:  {command('sample', out)}")
    return 0


def fork(
    config: Annotated[labkit.Config, arg(name="")], run: Positional[Path], at: int, out: Path = Path("runs/fork")
) -> int:
    """Train on from a state of a run with other settings, on the same data and noise.

    λ, its schedule, τ, variant, α, blocks, the optimizer's settings and the number of steps can change.

    Args:
        run: Folder of the run.
        at: Steps after which the fork leaves it; any number up to the run's newest checkpoint.
        out: A new folder for the fork.
    """
    branch = labkit.Run.open(run).fork(at, out, **vars(config))
    if branch.parent is not None:
        print(f"{out} is forked from {branch.parent.describe()}.")
    return _train(branch.trainer(), out)


def sample(
    run: Positional[Path],
    sampler: OmitArgPrefixes[labkit.sampling.Sampler],
    n: int = 100,
    seed: int = 0,
    vae: str | None = None,
    out: Path | None = None,
) -> int:
    """Draw images from a run and write them as one PNG sheet.

    Args:
        run: Folder of the run.
        sampler: How images are drawn from noise.
        n: Number of images.
        seed: Seed of the noise.
        vae: Decoder of latents: a hub id such as stabilityai/sd-vae-ft-ema, or a folder. None shows 3 latent channels.
        out: PNG file to write. None is a file in the samples folder of the run.
    """
    opened = labkit.Run.open(run)
    file = new_file(out or opened.sheets / "samples.png", "out", ".png")  # refused now, not after the sampling
    codec = labkit.evaluation.codec_of(opened.config, opened.model().shape, vae) if vae else None
    samples = opened.sample(n, seed=seed, progress=True, **asdict(sampler))
    x, s = codec.decode(samples.x) if codec else samples.x, samples.settings
    name = f"step-{s['step']:08d}-{s['method']}{s['steps'] or ''}-guidance{s['guidance']:g}-seed{s['seed']}.png"
    path = labkit.training.write_sheet(x, file if out else file.with_name(name))
    print(f"{n} samples ({samples.describe()}) written to {path}")
    return 0


def evaluate(
    run: Positional[Path],
    settings: Annotated[OmitArgPrefixes[labkit.evaluation.EvaluationConfig], arg(name="")],
    weights: labkit.training.runs.Weights = "ema",
    step: int | None = None,
    shard: int = 500,
    npz: Path | None = None,
) -> int:
    """Measure samples of a run against real images: FID and other metrics.

    Args:
        run: Folder of the run.
        weights: Averaged weights (ema) or the latest ones (model).
        step: Step of the checkpoint. None is the newest.
        shard: Samples in one file. After Ctrl-C or a crash the same command goes on, and one file at most is lost.
        npz: File to which the samples are also written, in ADM's .npz format, which other evaluators read.
    """
    opened = labkit.Run.open(run)
    file = None if npz is None else new_file(npz, "npz", ".npz")  # refused now, not after the sampling
    result = labkit.evaluation.evaluate_run(opened, settings, weights=weights, step=step, shard=shard, progress=True)
    if result is None:  # the last rank to be done measures
        return 0
    print(result.summary())
    if file is not None:
        result.samples.export(file)
        print(f"The samples in ADM's format: {file}")
    return 0


def export(
    run: Positional[Path],
    out: Path,
    format: Literal["official", "diffusers"] = "official",
    weights: labkit.training.runs.Weights = "ema",
    step: int | None = None,
) -> int:
    """Write the network of a run for other programs.

    Args:
        run: Folder of the run.
        out: File to write (official, ends in .safetensors), or new folder (diffusers).
        format: Names of the released SiT and DiT checkpoints, or a DiT as diffusers' DiTTransformer2DModel opens it.
        weights: Averaged weights (ema) or the latest ones (model).
        step: Step of the checkpoint. None is the newest.
    """
    network = labkit.Run.open(run).model(weights, step)
    save = {"official": labkit.models.save_official, "diffusers": labkit.models.save_diffusers}[format]
    path = save(network, out)
    opens = f"{path / 'README.md'} says how diffusers opens it" if path.is_dir() else "labkit.load_official reads it"
    print(f"The {weights} weights of {run} are in {path}; {opens}.")
    return 0


def compare(config: Annotated[labkit.Config, arg(name="")], out: Path = Path("runs/compare")) -> int:
    """Train a recipe with and without its regularizers, into a table and an HTML page.

    Args:
        out: Folder of both runs and the page. Training goes on there if the folder holds this very experiment.
    """
    with _drawing("compare"):
        from labkit.plots import metrics_table
        from labkit.plots.page import write_page

    _check_measurable(config.dataset)
    comparison = labkit.experiments.Comparison.with_and_without(config, out)
    print(f"Training {' and '.join(comparison.trainers)} side by side in {out}, {config.steps} steps each.")
    if _drive(iter(comparison), len(comparison), lambda item: f"{item[0]} {_terms(item[1])}"):
        raise KeyboardInterrupt
    result = comparison.evaluate()
    print(metrics_table(result.table()).T.to_string())
    print(f"({result.describe()}; real against real: mean of several draws of as many training images)")
    logs = {name: labkit.Run.open(out / name).metrics() for name in result.costs}
    page = write_page(out / "compare.html", result, logs)
    print(f"Curves, samples, spread and cost: {page}")
    return 0


def explorer(out: Path = Path("runs/explorer.html")) -> int:
    """Write the explorer of the atlas as one HTML page, which opens from a file and needs no Python.

    Args:
        out: File to write.
    """
    with _drawing("explorer"):
        from labkit.plots.explorer_page import write_explorer

    page = write_explorer(new_file(out, "out", ".html"))
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB. Open it in a browser; it needs no network.")
    return 0


@contextmanager
def _drawing(command: str) -> Iterator[None]:
    """Say what is missing where the packages of figures are not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        lacks = f'{command} draws its page with {missing.name}, which is not installed: `pip install "labkit[lab]"`; '
        raise LabError(f"{lacks}labkit train and labkit evaluate do without.") from None


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep."""

    workers: int | None = None
    """Runs at a time, each with one thread and one GPU if there are any. None is one for each GPU, or else core."""
    count: int = 500
    """Samples of each run, on which it is measured."""
    batched: bool = False
    """Train runs that differ only in seed and λ as one program, for a GPU that one small model leaves idle."""


def sweep(
    config: Annotated[labkit.Config, arg(name="")],
    options: Annotated[SweepOptions, arg(name="")],
    grid: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FIELD=VALUE,VALUE,…")] = (),
    out: Path = Path("runs/sweep"),
) -> int:
    """Train and measure every combination of values, or a list of runs, into one table.

    Args:
        grid: Values of a setting, as in dispersive.lam=None,0.1,0.5 or seed=0..4. Give it once for each setting.
        out: Folder of the runs and their table. The same command goes on there.
    """
    require(len(grid) > 0, "grid", None, "name fields and values, as in --grid seed=0..4; once for each")
    return _sweep(labkit.experiments.grid(config, axes_of(grid)), options, out)


def sweep_list(list: Path, options: Annotated[SweepOptions, arg(name="")], out: Path = Path("runs/sweep")) -> int:
    """Train and measure the runs that a file lists: labkit sweep --list FILE

    Args:
        list: File with a line for each run, as after labkit train: digits --dispersive.lam 0.5, or NAME: digits …
        out: Folder of the runs and their table. The same command goes on there.
    """
    return _sweep(read_list(list), options, out)


def _sweep(configs: dict[str, labkit.Config], options: SweepOptions, out: Path) -> int:
    for name in dict.fromkeys(config.dataset for config in configs.values()):
        _check_measurable(name)
    print(f"{len(configs)} runs in {out}. What is there already is not done again; Ctrl-C saves.")
    measures = labkit.experiments.Measures(options.count)
    result = labkit.experiments.sweep(configs, out, measures, options.workers, batched=options.batched)
    print(result.describe())
    print(f"Every value with its config, seed, commit and machine: {out / 'table.parquet'}")
    return 1 if result.failures else 0


def _check_measurable(dataset: str) -> None:
    """Refuse before the training what could not be measured after it."""
    channels = labkit.datasets.load(dataset, "held_out").channels
    latents = "it holds latents, and images are measured here; train each run, then labkit evaluate"
    require(channels in (1, 3), "dataset", dataset, latents)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 good, 1 doctor's findings, 2 a mistake in the request, 130 stopped)."""
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    stopped = []

    def stop() -> None:
        stopped.append(True)
        interrupt()

    with lasting_output():
        try:
            run = _parsed(words)
            with saving_on_signals(stop):
                return run()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 2
        except BaseException as error:
            if stopped or isinstance(error, KeyboardInterrupt):  # amid an import, an interrupt may become another error
                return _stopped(words)
            if isinstance(error, OSError) and error.errno and error.filename and not isinstance(error, LabError):
                error = LabError(f"{error.filename}: {reason(Path(error.filename), error)}.")
            if not isinstance(error, (LabError, FileNotFoundError)):
                raise
            print(f"labkit: {error}", file=sys.stderr)
            return 2


def _parsed(words: Sequence[str]) -> Callable[[], int]:
    """The command that was typed, ready to run."""
    if words[0] == "--version":
        return _version
    if words[0] == "help":  # labkit help train
        words = [*words[1:], "--help"]
    for before, word in pairwise(["labkit", *words]):
        empty, flag = word == "" or (word.startswith("--") and word.endswith("=")), (word or before).strip("-=")
        require(not empty, flag, "", "it is empty (a variable of the shell that is not set?); write a value")
    verifying = any(word.partition("=")[0] == "--verify" for word in words)
    commands = {
        "doctor": doctor,
        "prepare": verify if verifying else prepare,
        "train": with_recipes(train, words[1:], {"resume": resume}),
        "fork": with_config_of_run(fork, words[1:]),
        "sample": sample,
        "evaluate": evaluate,
        "export": export,
        "compare": with_recipes(compare, words[1:], lam=0.5, steps=1500),
        "explorer": explorer,
        "sweep": with_recipes(sweep, words[1:], {"list": sweep_list}),
    }
    app = SubcommandApp()
    for name, function in commands.items():
        if name == words[0] or words[0] not in commands:  # alone, so that tyro looks for a misspelt flag among its own
            app.command(name=name)(later(function))
    check_word(words, "command", list(commands), f"labkit with one of {', '.join(commands)}")
    if words[0] in ("train", "compare", "sweep"):
        other = {"train": " or --resume RUN", "sweep": " or --list FILE"}.get(words[0], "")
        remedy = f"labkit {words[0]} with one of {', '.join(RECIPES)}{other}"
        check_word(words[1:], "recipe", (*RECIPES, "resume", "list"), remedy)
    with refusals(words):
        return app.cli(prog="labkit", description=__doc__, args=words, config=(PositionalMetavarFromFieldName,))


def _version() -> int:
    print(f"labkit {labkit.__version__}")
    return 0


def _stopped(words: Sequence[str]) -> int:
    """Say how to go on after a signal."""
    if words[0] in ("prepare", "evaluate", "compare", "sweep"):
        saved = " and saved" if words[0] in ("compare", "sweep") else ""
        print(f"\nStopped{saved}. Go on with the same command:  {command(*words)}")
    else:
        print("\nStopped.", file=sys.stderr)
    return 130


def _silent(*_: object) -> None:
    """Print nothing, on ranks other than the first."""


def _drive(loop: Generator[Any], total: int, describe: Callable[[Any], str], silent: bool = False) -> bool:
    """Run a loop of reports, under a progress bar if this is a terminal; True if Ctrl-C ended it."""
    with tqdm(total=total, unit="step", mininterval=0.5, disable=silent or None) as bar:
        try:
            for number, report in enumerate(loop):
                bar.update()
                if number % 50 == 0 and not silent:
                    bar.set_postfix_str(describe(report), refresh=False)
        except KeyboardInterrupt:
            loop.close()
            return True
    return False


def _terms(report: labkit.training.Report) -> str:
    return ", ".join(f"{name} {value.item():.3f}" for name, value in report.terms.items() if name != "total")


if __name__ == "__main__":
    sys.exit(main())
