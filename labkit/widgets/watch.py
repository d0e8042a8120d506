"""A training run that goes on elsewhere, watched: a state that looks into its folder and knows nothing of widgets.

``refresh`` looks once, ``start`` has a background thread look about once a second. The run may be a job
(``labkit.Job``), which can then be stopped and resumed, or any run's folder.
"""

import logging
import math
import threading
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from traitlets import Bool, Enum, HasTraits

from labkit import datasets
from labkit.config import Config
from labkit.losses import dispersive_floor
from labkit.objective import metered_floor, regularized_blocks
from labkit.plots.digits import data_uri
from labkit.process import base_term
from labkit.training import Job
from labkit.training.history import Curve
from labkit.types import LabError

EVERY = 1.0  # seconds between two looks
POINTS = 2000  # of a curve at most
SHEET = (900, 450)  # pixels of the sheet of samples at most


class Watch(HasTraits):
    """A run's folder in; its curves, newest samples and state in words out.

    Args:
        run: a job, or the folder of a run.
        traits: initial values of the controls.
    """

    over = Enum(("steps", "samples"), "steps")
    """What the curves are drawn against."""
    log = Bool(False)

    def __init__(self, run: Job | str | Path, **traits: str | bool) -> None:
        super().__init__(**traits)
        self.changed: Callable[[], None] = lambda: None  # the view puts its redraw here
        self.fault = ""
        self._closed, self._seen = threading.Event(), None
        self._open(run if isinstance(run, Job) else Job.attach(run))

    def _open(self, job: Job) -> None:
        self.job, config = job, job.config
        block = regularized_blocks(config)[0]
        self.names = {
            "base": base_term(config),
            "dispersive": f"block{block}.dispersive",
            "norm": f"block{block}.feature_norm",
        }
        self.block, self.floor = block, _floor(config)
        self.sheet_step, self.sheet = 0, ""
        self.refresh()

    def refresh(self) -> bool:
        """Look once; whether anything is new."""
        self.state = self.job.state  # first: of what has ended, all that follows is the last of it
        self.told = self.job.describe()
        self.unstoppable = self.job.unstoppable
        self._find_sheet()
        seen = (self.job.history.version, self.sheet_step, self.state, self.told, self.fault)
        new, self._seen = seen != self._seen, seen
        return new

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """What to draw of one of ``names``: at most POINTS of its points, against ``over``."""
        points: Curve = self.job.history.curve(self.names[name]).thinned(POINTS)
        scale = self.job.config.batch_size if self.over == "samples" else 1
        return (points.steps * scale).tolist(), points.values.tolist()

    @property
    def unresumable(self) -> str:
        """Why ``resume`` is not to be had; empty if it is."""
        return {"running": "it is running", "finished": "it has finished"}.get(self.state, "")

    @property
    def share_done(self) -> float:
        return min(self.job.history.step / self.job.config.steps, 1.0)

    def stop(self) -> None:
        """Ask the job to save and leave."""
        self._do(self.job.stop)

    def resume(self) -> None:
        """Launch the run again, with as many processes as before if it was trained here."""

        def launch() -> None:
            before = self.job.process
            processes = before.processes if before is not None and before.here else None
            self._open(Job.launch(self.job.config, self.job.path, processes))
            self.start()

        self._do(launch)

    def _do(self, action: Callable[[], None]) -> None:
        """Do what a button asks for; what stands in its way is told."""
        self.fault = ""
        try:
            action()
        except (LabError, OSError) as refused:
            self.fault = str(refused)
        self.refresh()
        self.changed()

    def start(self) -> None:
        """Look about once a second in the background, until the run has ended or ``close``."""
        self.close()
        self._closed = threading.Event()
        threading.Thread(target=self._look, args=(self._closed,), name="labkit-watch", daemon=True).start()

    def close(self) -> None:
        """End the background thread; the run goes on."""
        self._closed.set()

    def _look(self, closed: threading.Event) -> None:
        while not closed.wait(EVERY):
            try:
                new = self.refresh()
            except Exception:  # a disk that is away for a moment; the next look may see it again
                logging.getLogger(__name__).exception("%s could not be looked at", self.job.path)
                continue
            if new and not closed.is_set():
                self.changed()
            if self.state != "running":
                return

    def _find_sheet(self) -> None:
        """The newest of the sheets that go with checkpoints, made smaller if it is large."""
        found = {file.stem.removeprefix("step-"): file for file in self.job.folder.sheets.glob("step-*.png")}
        newest = max((int(step) for step in found if step.isdecimal()), default=0)
        if newest != self.sheet_step:
            with Image.open(
                next(file for step, file in found.items() if step.isdecimal() and int(step) == newest)
            ) as i:
                i.thumbnail(SHEET)
                self.sheet = data_uri(i)
            self.sheet_step = newest


def _floor(config: Config) -> float:
    """The least value of the Dispersive Loss as it is metered, over a whole batch; −inf if there is none."""
    if config.repelling.variant != "covariance":
        return dispersive_floor(config.batch_size, **config.repelling.arguments)
    try:
        return metered_floor(config, datasets.load(config.dataset).dimensions[0])
    except (LabError, OSError):  # the data are on another machine
        return -math.inf


BLANK = data_uri(Image.new("L", (400, 200), 255))
