"""Training that can be watched and steered: a state that owns the runs, and the panel that shows it.

``LiveTraining`` trains one config or several side by side, keeps what the reports say, and knows nothing of widgets.
The panel adds sliders, four buttons and a figure that follows. In a notebook the buttons train in the background;
``wait`` trains right there when no button was pressed, so that "Run All" and tests get the same runs.
"""

import contextlib
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import get_args

from torch import Tensor
from traitlets import Enum, Float, HasTraits, Int

from labkit.config import Config
from labkit.experiments import Comparison
from labkit.losses.dispersive import KNOBS, own_knobs
from labkit.objective import regularized_blocks
from labkit.time_sampling import Noise
from labkit.training import Report, few_steps, sample_network
from labkit.widgets.runner import Runner, Status

PAINT_EVERY = 0.3  # seconds between two redraws while training
PREVIEWS = 12  # sample sheets drawn in the course of a run
PREVIEW_SAMPLES = 20
PREVIEW_STEPS = 10

Configs = Callable[["LiveTraining"], Mapping[str, Config]]
Curve = list[tuple[int, float]]


class LiveTraining(HasTraits):
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

    def __init__(self, configs: Configs, out: Path | None = None, **traits: float) -> None:
        super().__init__(**traits)
        self._configs, self.out = configs, out
        self.runner = Runner(on_report=self._take, on_status=lambda status: self.changed())
        self.runs: Comparison | None = None
        self._lock = threading.RLock()  # two clicks may be handled at once
        self.changed: Callable[[], None] = lambda: None  # the view puts its redraw here
        self._forget()

    def _forget(self) -> None:
        self.curves: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(list))
        self.previews: dict[str, Tensor] = {}
        self.progress: dict[str, Report] = {}
        self._window: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._painted = 0.0

    def curve(self, run: str, term: str) -> Curve:
        """(step, value) of a term so far; empty before its first point."""
        return self.curves[run][term] if run in self.curves and term in self.curves[run] else []

    @property
    def status(self) -> Status:
        return self.runner.status

    @property
    def configs(self) -> Mapping[str, Config]:
        """What the sliders ask for, or what is being trained once there are runs."""
        if self.runs is not None:
            return {name: trainer.config for name, trainer in self.runs.trainers.items()}
        return self._configs(self)

    def loss_settings(self) -> dict[str, float | str]:
        """``variant`` and those of τ and ε that it has, as configs take them."""
        return {"variant": self.variant, **own_knobs(self.variant, self)}

    @property
    def metered_block(self) -> int:
        return regularized_blocks(next(iter(self.configs.values())))[0]

    def start(self) -> None:
        """Begin afresh with the sliders as they stand, in the background; nothing happens while a run is going on."""
        with self._lock:
            if not self.runner.busy:
                self._prepare()
                self.runner.restart(self.runs)

    def wait(self) -> Comparison:
        """The runs: trained here and now if nobody pressed Start, else when the running training ends.

        Paused and stopped runs are returned as they are.
        """
        with self._lock:
            if self.runs is None:
                self._prepare()
                self.runner.loop = self.runs
        self.runner.wait()
        return self.runs

    def _prepare(self) -> None:
        """Make the runs first: if that is refused, what was shown before stays."""
        folder = None if self.out is None else _new_folder(self.out)
        try:
            runs = Comparison(self._configs(self), folder)
        except Exception:
            if folder is not None:
                shutil.rmtree(folder)
            raise
        self.runs = runs
        self._forget()

    def _take(self, item: tuple[str, Report]) -> None:
        """Keep what a report says: losses as means over the steps since the last point, meters as they are."""
        name, report = item
        self.progress[name] = report
        window = self._window[name]
        for term, value in report.terms.items():
            window[term].append(value.item())
        config = self.runs.trainers[name].config
        if report.meters:
            means = {term: sum(values) / len(values) for term, values in window.items()}
            for term, value in (means | report.meters).items():
                self.curves[name][term].append((report.step, value))
            window.clear()
        if report.step % max(config.steps // PREVIEWS, 1) == 0 or report.step == config.steps:
            network = self.runs.trainers[name].ema.network
            few = few_steps(config, PREVIEW_STEPS)
            self.previews[name] = sample_network(network, config, PREVIEW_SAMPLES, **few).x
        if time.monotonic() - self._painted > PAINT_EVERY:
            self._painted = time.monotonic()
            self.changed()

    def told(self) -> str:
        """Where training stands, in words."""
        if self.status == "failed":
            return f"Training failed: {self.runner.error}"
        if not self.progress:
            return "Press Start, or run the next cell, which trains straight through."
        done, total = self._steps_done()
        now = f"step {done:,} of {total:,}"
        if self.status == "running":
            left = sum(r.seconds / r.step for r in list(self.progress.values())) * (total - done)
            return f"Training, {now}; about {left:.0f} s left."
        if self.status == "finished":
            return f"Finished {total:,} steps.{self._where()}"
        return f"{self.status.capitalize()} at {now}; Resume goes on from there.{self._where()}"

    def _steps_done(self) -> tuple[int, int]:
        return min(r.step for r in list(self.progress.values())), next(iter(self.configs.values())).steps

    @property
    def share_done(self) -> float:
        done, total = self._steps_done() if self.progress else (0, 1)
        return done / total

    def _where(self) -> str:
        return f" Saved in {self.runs.out}." if self.runs is not None and self.runs.out is not None else ""


def _new_folder(out: Path) -> Path:
    """Make the first of out/001, out/002, … that does not exist."""
    for number in count(1):
        with contextlib.suppress(FileExistsError):
            (out / f"{number:03d}").mkdir(parents=True)
            return out / f"{number:03d}"
