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
from itertools import count
from pathlib import Path
from typing import get_args

import numpy as np
from traitlets import Bool, Enum, Float, HasTraits, Int

from labkit.config import REGULARIZERS, Config
from labkit.experiments import Comparison
from labkit.losses.dispersive import KNOBS, Knobs, Variant, own_knobs
from labkit.objective import regularized_blocks
from labkit.plots import picture
from labkit.sampling import SampleError, Sampler
from labkit.time_sampling import Noise
from labkit.training import Report, few_steps, sample_network
from labkit.training.history import Curve
from labkit.widgets.runner import Runner, Status

REDRAW_EVERY = 0.3  # seconds between two redraws while training
PREVIEWS = 12  # sample sheets drawn in the course of a run
PREVIEW_SAMPLES = 20
PREVIEW_STEPS = 10
BLOCK_METRICS = ("dispersive", "feature_norm", "effective_rank")  # logged for each block; gradients, for a regularizer

Configs = Callable[["LiveTraining"], Mapping[str, Config]]


class LossSettings(Knobs):
    """A variant, and τ or ε where it has one."""

    variant: Variant


class TrainingState(HasTraits):
    """Runs as a panel shows them. A subclass has also

    - ``configs``: run → its config;
    - ``logged(run, name)``: the curve that a run has logged under a name of its metrics.csv;
    - ``describe()`` and ``share_done``: how training stands, in words and as a share of all steps;
    - ``describe_sheet(run)``: title of a run's sheet of samples;
    - ``actions``: name of a button → its function; ``unavailable()``: name → why it cannot be used now, or "";
    - ``close()``: what happens when the panel is closed.
    """

    over = Enum(("steps", "samples"), "steps")
    """Unit of the curves' horizontal axis."""
    log = Bool(False)
    """Whether the base loss is drawn on a log scale."""

    def __init__(self, **traits: float | str | bool) -> None:
        super().__init__(**traits)
        self.changed: Callable[[], None] = lambda: None  # the view puts its redraw here
        self.sheets: dict[str, tuple[int, str]] = {}
        """Run → step and data URI of its newest sheet of samples."""

    def curve(self, run: str, metric: str) -> Curve:
        """Values of a metric: of the metered block, or of the run's first regularizer; empty where it has none."""
        names = [metric]
        if metric in BLOCK_METRICS:
            names = [f"block{regularized_blocks(self.configs[run])[0]}.{metric}"]
        elif metric.startswith("gradient"):
            names = [f"{regularizer}.{metric}" for regularizer in REGULARIZERS]
        curves = [self.logged(run, name) for name in names]
        return next((curve for curve in curves if len(curve.steps)), curves[0])


class LiveTraining(TrainingState):
    """Sliders in, runs and their history out.

    Args:
        configs: from this state to the named configs of the runs.
        out: folder under which every start gets a numbered sub-folder; None keeps runs in memory.
        traits: initial values of the sliders.
    """

    lam = Float(0.5, min=0.0)
    tau = Float(0.5, min=1e-6)
    variant = Enum(list(KNOBS), default_value="infonce_l2")
    margin = Float(1.0, min=1e-6)
    alpha = Float(1.0, min=0.0)
    noise = Enum(list(get_args(Noise)), default_value="independent")
    max_gap = Float(0.1, min=0.0, max=1.0)
    block = Int(1, min=0)
    steps = Int(100, min=1)
    seed = Int(0, min=0)

    def __init__(self, configs: Configs, out: Path | None = None, **traits: float | str) -> None:
        super().__init__(**traits)
        self._configs, self.out = configs, out
        self.runner: Runner[Comparison] = Runner(on_report=self._record, on_status=lambda status: self.changed())
        self.unavailable, self.close = self.runner.unavailable, self.runner.stop
        self._clear()

    def _clear(self) -> None:
        self._curves: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
        self._recent: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.sheets = {}
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
        return {"start": self.start, "pause": runner.pause, "resume": runner.resume, "stop": runner.stop}

    @property
    def configs(self) -> Mapping[str, Config]:
        """Configs that the sliders give, or those of the runs once there are runs."""
        if self.runs is not None:
            return {name: trainer.config for name, trainer in self.runs.trainers.items()}
        return self._configs(self)

    def loss_settings(self) -> LossSettings:
        """``variant``, and τ or ε where it has one, as configs take them."""
        return {"variant": self.variant, **own_knobs(self.variant, self)}

    @property
    def metered_block(self) -> int:
        return regularized_blocks(next(iter(self.configs.values())))[0]

    def start(self) -> None:
        """Begin afresh with the sliders as they stand, in the background; nothing happens while a run is going on."""
        self.runner.begin(self._make)

    def wait(self) -> Comparison:
        """The runs: trained here and now if nobody pressed Start, else when the running training ends.

        Paused and stopped runs are returned as they are.
        """
        self.runner.wait(self._make)
        assert self.runs is not None  # ``wait`` has made them
        return self.runs

    def _make(self) -> Comparison:
        """New runs; if they are refused, what was recorded before stays."""
        folder = None if self.out is None else _new_folder(self.out)
        try:
            runs = Comparison(self._configs(self), folder)
        except Exception:
            if folder is not None:
                shutil.rmtree(folder)
            raise
        self._clear()
        return runs

    def _record(self, item: tuple[str, Report]) -> None:
        """Keep what a report holds: losses as means over the steps since the last point, meters as they are."""
        run, report = item
        self.progress[run] = report
        recent = self._recent[run]
        for term, value in report.terms.items():
            recent[term].append(value.item())
        assert self.runs is not None  # whose report this is
        trainer = self.runs.trainers[run]
        config = trainer.config
        if report.meters:
            means = {term: sum(values) / len(values) for term, values in recent.items()}
            for term, value in (means | report.meters).items():
                self._curves[run][term].append((report.step, value))
            recent.clear()
        if report.step % max(config.steps // PREVIEWS, 1) == 0 or report.step == config.steps:
            few = few_steps(config, PREVIEW_STEPS)
            with contextlib.suppress(SampleError):  # a preview in few steps overflowed: the one before stays
                samples = sample_network(trainer.ema.network, config, PREVIEW_SAMPLES, **few)
                self.sheets[run] = report.step, picture(samples.x, 5 if len(self.configs) == 1 else 10)
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
            return f"Training, {now}; about {left:.0f} s left."
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
