"""Training that can be watched and steered: what the panel needs to know of it, and training in this kernel.

``LiveTraining`` trains one config or several side by side. In a notebook the buttons train in the background; ``wait``
trains right there when no button was pressed, so that "Run All" and tests get the same runs. ``Watch``, in
``labkit.widgets.watch``, follows a run that trains in another process.
"""

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import Tensor
from traitlets import Bool, Enum, Float, Int, List, Unicode

from labkit.config import REGULARIZERS, Config
from labkit.experiments import Comparison
from labkit.losses.dispersive import KNOBS, own_knobs
from labkit.losses.weight import paint, value_at
from labkit.objective import OwnFunctions, regularized_blocks
from labkit.plots import picture
from labkit.process import base_term
from labkit.sampling import SampleError, Sampler
from labkit.time_sampling import Noise
from labkit.training import Look, Report, Run, Trainer, extract_features, few_steps, sample_network
from labkit.training.folder import RunFolder
from labkit.training.history import Curve, duration
from labkit.training.runs import Parent
from labkit.widgets.panel import State
from labkit.widgets.runner import RunnerState, Status

REDRAW_EVERY = 0.3  # seconds between two redraws while training
PREVIEWS = 12  # sample sheets drawn in the course of a run
PREVIEW_SAMPLES = 20
PREVIEW_STEPS = 10
BRANCHES = 6  # runs in one panel, forks among them
CLOUD = Look(count=100)  # images whose features are drawn
BLOCK_METRICS = ("dispersive", "feature_norm", "effective_rank")  # logged for each block; gradients, for a regularizer

Configs = Callable[["LiveTraining"], Mapping[str, Config]]
OwnOfRuns = Callable[["LiveTraining"], Mapping[str, OwnFunctions]]


class TrainingState(State):
    """Runs as a panel shows them. A subclass has also

    - ``configs``: run → its config;
    - ``logged(run, name)``: the curve that a run has logged under a name of its metrics.csv;
    - ``describe()`` and ``share_done``: how training stands, in words and as a share of all steps;
    - ``describe_sheet(run)``: title of a run's sheet of samples;
    - ``actions`` and ``unavailable()``, for its buttons.
    """

    over = Enum(("steps", "samples"), "steps")
    """Unit of the curves' horizontal axis."""
    log = Bool(False)
    """Whether the base loss is drawn on a log scale."""

    def __init__(self, **traits: float | str | bool) -> None:
        super().__init__(**traits)
        self.sheets: dict[str, tuple[int, str]] = {}
        """Run → step and data URI of its newest sheet of samples."""
        self.clouds: dict[str, tuple[int, Tensor]] = {}
        """Run → step and features of a few held-out images at its metered block."""
        self.shows_features = False
        """Whether the panel has a pane for them; else they are not computed."""
        self.parents: dict[str, Parent] = {}
        """Fork → the run, and the step of it, from which it comes."""

    def curve(self, run: str, metric: str) -> Curve:
        """Values of a metric: of the metered block, or of the run's first regularizer; empty where it has none."""
        names = [metric]
        if metric in BLOCK_METRICS:
            names = [f"block{regularized_blocks(self.configs[run])[0]}.{metric}"]
        elif metric.startswith("gradient"):
            names = [f"{regularizer}.{metric}" for regularizer in REGULARIZERS]
        curves = [self.logged(run, name) for name in names]
        return next((curve for curve in curves if len(curve.steps)), curves[0])

    def last_step(self, run: str) -> int:
        """The last step that a run has logged a loss of."""
        steps = self.curve(run, base_term(self.configs[run])).steps
        return int(steps[-1]) if len(steps) else 0

    def lam_at(self, run: str) -> Curve:
        """λ of a run's first regularizer over its steps, of a fork first its parent's; empty without one."""
        config = self.configs[run]
        if not config.regularizers:
            return Curve(np.zeros(0, int), np.zeros(0))
        own = getattr(config, config.regularizers[0])
        knots = {step for step, _ in own.schedule if step < config.steps}
        fork = self.parents.get(run)
        parent, split = (Path(fork.run).name, fork.step) if fork else ("", 0)
        steps = np.array([step for step in sorted({split, config.steps - 1} | knots) if step >= split])
        values = own.lam * np.array([value_at(own.schedule, step) for step in steps])
        if parent in self.configs and split:
            before = self.lam_at(parent)
            until = np.array(sorted({0, split - 1, *before.steps[before.steps < split].tolist()}))
            own_before = np.interp(until, before.steps, before.values) if len(before.steps) else np.zeros(len(until))
            steps, values = np.append(until, steps), np.append(own_before, values)
        return Curve(steps, values)


class LiveTraining(RunnerState[Comparison], TrainingState):
    """Sliders in, runs and their history out.

    Args:
        configs: from this state to the named configs of the runs.
        out: folder under which every start gets a numbered sub-folder; None keeps runs in memory.
        own: from this state to the functions that runs in memory use in place of the library's.
        traits: initial values of the sliders.
    """

    images = Enum(("digits", "letters"), "digits")
    """Data set to train on, which is also the name of its recipe."""
    lam = Float(0.5, min=0.0)
    painted = List()
    """Pairs of a step and λ there, with straight lines between them: λ as it was painted. Empty: that of the slider."""
    tau = Float(0.5, min=1e-6)
    variant = Enum(list(KNOBS), default_value="infonce_l2")
    margin = Float(1.0, min=1e-6)
    alpha = Float(1.0, min=0.0)
    noise = Enum(list(get_args(Noise)), default_value="independent")
    max_gap = Float(0.1, min=0.0, max=1.0)
    block = Int(1, min=0)
    steps = Int(100, min=1)
    seed = Int(0, min=0)
    branch = Unicode("")
    """Run that Fork splits."""
    at = Int(0, min=0)
    """Step at which Fork splits it; 0 is the one that it has reached."""

    def __init__(
        self, configs: Configs, out: Path | None = None, own: OwnOfRuns = lambda state: {}, **traits: float | str
    ) -> None:
        super().__init__(**traits)
        self._configs, self.out, self._own = configs, out, own
        self._clear()
        self.observe(lambda change: setattr(self, "painted", []), "lam")

    def _clear(self) -> None:
        self._curves: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
        self.sheets, self.clouds, self.parents = {}, {}, {}
        self.progress: dict[str, Report] = {}
        self._redrawn = 0.0

    def logged(self, run: str, name: str) -> Curve:
        points = np.array(self._curves[run][name]).reshape(-1, 2)
        return Curve(points[:, 0].astype(int), points[:, 1])

    @property
    def status(self) -> Status:
        return self.runner.status

    @property
    def runs(self) -> Comparison | None:
        """The runs that were started last."""
        return self.runner.loop

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        runner = self.runner
        return {
            "start": self.start,
            "pause": runner.pause,
            "fork": self.fork,
            "resume": self.resume,
            "stop": runner.stop,
        }

    def unavailable(self) -> dict[str, str]:
        reasons = self.runner.unavailable() | {"fork": ""}
        if self.runs is None:
            reasons["fork"] = "there is no run yet: press Start"
            reasons["resume"] = "" if self._left() else reasons["resume"]
        elif self.out is None or len(self.runs.trainers) >= BRANCHES:
            reasons["fork"] = "these runs have no folder" if self.out is None else f"{BRANCHES} runs are enough"
        return reasons

    @property
    def configs(self) -> Mapping[str, Config]:
        """Configs that the sliders give, or those of the runs once there are runs."""
        if self.runs is not None:
            return {name: trainer.config for name, trainer in self.runs.trainers.items()}
        return self._configs(self)

    def unused(self) -> set[str]:
        unused = {"tau", "margin"} - KNOBS[self.variant].keys()  # the variant would refuse them
        return unused if self.noise == "restricted" else unused | {"max_gap"}

    def weight(self) -> dict[str, Any]:
        """``lam`` and ``schedule``, as configs take them: the slider's λ at all steps, or λ as it was painted."""
        if not self.painted:
            return {"lam": self.lam, "schedule": ()}
        peak = max(value for _, value in self.painted)
        return {"lam": peak, "schedule": tuple((step, value / (peak or 1)) for step, value in self.painted)}

    def paint(self, first: int, last: int, lam: float) -> None:
        """Set λ at the steps first … last − 1."""
        self.painted = list(paint(tuple(self.painted) or ((0, self.lam),), first, last, lam))

    def loss_settings(self) -> dict[str, Any]:
        """``variant``, and τ or ε where it has one, as configs take them."""
        return {"variant": self.variant, **own_knobs(self.variant, self)}

    @property
    def metered_block(self) -> int:
        return regularized_blocks(next(iter(self.configs.values())))[0]

    def fork(self) -> None:
        """Split a run: a copy of its state goes on with the regularizers and the optimizer that the controls give."""
        runs = self.runs
        assert runs is not None, "the button is off until there are runs"
        wanted, parent = list(self._configs(self).values())[-1], self.branch
        name = next(name for number in count(1) if (name := f"fork {number}") not in runs.trainers)
        was = self.status
        self.runner.stop()  # which saves
        try:
            changes = {group: getattr(wanted, group) for group in ("dispersive", "contrastive", "optimizer")}
            repa = runs.trainers[parent].config.repa
            if repa.lam is not None:  # the projector that it trains stays
                changes["repa"] = replace(repa, lam=wanted.repa.lam, schedule=wanted.repa.schedule)
            self._inherit(parent, name, runs.fork(parent, name, self.at or None, **changes))
        finally:
            if was not in ("paused", "stopped"):
                self.runner.start()

    def _inherit(self, parent: str, name: str, trainer: Trainer) -> None:
        """Begin a fork's history with its parent's, up to the step at which it split."""
        at = trainer.step
        for term, points in self._curves[parent].items():
            self._curves[name][term] = [(step, value) for step, value in points if step <= at]
        self.progress[name] = replace(self.progress[parent], step=at)
        self._adopt(name, trainer)

    def _adopt(self, name: str, trainer: Trainer) -> None:
        """Note where a run was forked from, if it was."""
        if trainer.folder and (parent := Run(trainer.folder.path).parent):
            self.parents[name] = parent

    def resume(self) -> None:
        """Go on after a pause or a stop, or with the runs that an earlier kernel left unfinished."""
        if self.runs is not None:
            self.runner.resume()
        elif folder := self._left():
            self.runner.begin(lambda: self._reopen(folder))

    def _left(self) -> Path | None:
        """The folder of the last Start, if it holds runs that are not finished."""
        folders = sorted(self.out.glob("[0-9][0-9][0-9]")) if self.out is not None else []
        runs = [RunFolder.open(file.parent) for file in folders[-1].glob("*/config.json")] if folders else []
        return folders[-1] if any(max(run.checkpoints, default=0) < run.config.steps for run in runs) else None

    def _reopen(self, folder: Path) -> Comparison:
        runs = Comparison.reopen(folder)
        self._clear()
        for name, trainer in runs.trainers.items():
            rows = RunFolder(folder / name).metrics()
            for term, part in rows[rows["step"] <= trainer.step].groupby("name"):
                self._curves[name][term] = list(zip(part["step"], part["value"], strict=True))
            self.progress[name] = Report(trainer.step, trainer.samples, trainer.seconds, {})
            self._adopt(name, trainer)
        return runs

    def _make(self) -> Comparison:
        """New runs; if they are refused, what was recorded before stays."""
        folder = None if self.out is None else _new_folder(self.out)
        try:
            runs = Comparison(self._configs(self), folder, self._own(self))
        except Exception:
            if folder is not None:
                shutil.rmtree(folder)
            raise
        self._clear()
        return runs

    def _record(self, item: tuple[str, Report]) -> None:
        """Keep what a report of a logged step holds, as metrics.csv does, and draw samples now and then."""
        run, report = item
        self.progress[run] = report
        assert self.runs is not None  # whose report this is
        trainer = self.runs.trainers[run]
        config = trainer.config
        if report.meters:
            for term, value in report.values().items():
                self._curves[run][term].append((report.step, value))
        if report.step % max(config.steps // PREVIEWS, 1) == 0 or report.step == config.steps:
            few = few_steps(config, PREVIEW_STEPS)
            with contextlib.suppress(SampleError):  # a preview in few steps overflowed: the one before stays
                samples = sample_network(trainer.ema.network, config, PREVIEW_SAMPLES, **few)
                self.sheets[run] = report.step, picture(samples.x, 10)
            if self.shows_features:
                block = regularized_blocks(config)[0]
                features = extract_features(trainer.ema.network, CLOUD, config, [block]).features
                self.clouds[run] = report.step, features[block]
        if time.monotonic() - self._redrawn > REDRAW_EVERY:
            self._redrawn = time.monotonic()
            self.changed()

    def describe_sheet(self, run: str) -> str:
        if len(self.configs) > 1:
            return f"{run}, same noise"
        config = self.configs[run]
        return f"samples ({Sampler(**few_steps(config, PREVIEW_STEPS)).describe(config.family)})"

    def describe(self) -> str:
        if self.status == "failed":
            return f"Training failed: {self.runner.error}"
        if self.runs is None or not self.progress:
            return "Press Start, or run the next cell, which trains straight through."
        done, total = self._steps_done()
        now = f"step {done:,} of {total:,}"
        if self.status == "running":
            left = sum(r.seconds / r.step for r in list(self.progress.values())) * (total - done)
            return f"Training, {now}; about {duration(left)} left."
        saved = f" Saved in {self.runs.out}." if self.runs.out is not None else ""
        if self.status == "finished":
            return f"Finished {total:,} steps.{saved}"
        return f"{self.status.capitalize()} at {now}; Resume goes on from there.{saved}"

    def _steps_done(self) -> tuple[int, int]:
        return min(r.step for r in list(self.progress.values())), next(iter(self.configs.values())).steps

    @property
    def share_done(self) -> float:
        done, total = self._steps_done() if self.progress else (0, 1)
        return done / total


def _new_folder(out: Path) -> Path:
    """Make the first of out/001, out/002, … that does not exist."""
    numbers = count(1)
    while True:
        with contextlib.suppress(FileExistsError):
            folder = out / f"{next(numbers):03d}"
            folder.mkdir(parents=True)
            return folder
