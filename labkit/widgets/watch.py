"""A run that trains in another process: a background thread reads its folder about once a second."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from labkit.config import Config
from labkit.plots.digits import data_uri
from labkit.training import Job
from labkit.training.history import Curve
from labkit.widgets.live import TrainingState

EVERY = 1.0  # seconds between two readings
SHEET = (900, 450)  # pixels of the sheet of samples at most


class Watch(TrainingState):
    """A run's folder in; its curves, newest samples and progress out.

    Args:
        run: a job, which can be stopped and resumed, or the folder of any run.
    """

    def __init__(self, run: Job | str | Path) -> None:
        super().__init__()
        self._closed = threading.Event()
        self._open(run if isinstance(run, Job) else Job.attach(run))

    def _open(self, job: Job) -> None:
        self.job, self.name, self._version = job, job.path.name, None
        self.sheets = {}
        self.refresh()

    @property
    def configs(self) -> dict[str, Config]:
        return {self.name: self.job.config}

    def logged(self, run: str, name: str) -> Curve:
        return self.job.history.curve(name)

    def refresh(self) -> bool:
        """Read the folder once; whether anything is new."""
        self.state = self.job.state  # first: once a run has ended, what is read after that is final
        self._progress, self._unstoppable = self.job.describe(), self.job.unstoppable
        self._read_sheet()
        version = (self.job.history.version, self.sheets, self.state, self._progress)
        new, self._version = version != self._version, version
        return new

    def describe(self) -> str:
        running = self.state == "running" and self._unstoppable and not self.job.stop_requested
        return self._progress + (f" Stop is off: {self._unstoppable}." if running else "")

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        return {"stop": self.stop, "resume": self.resume}

    def unavailable(self) -> dict[str, str]:
        resume = {"running": "it is running", "finished": "it has finished"}.get(self.state, "")
        return {"stop": self._unstoppable, "resume": resume}

    @property
    def share_done(self) -> float:
        return min(self.job.history.step / self.job.config.steps, 1.0)

    def describe_sheet(self, run: str) -> str:
        return "samples of the averaged weights" if run in self.sheets else "no samples drawn yet"

    def stop(self) -> None:
        """Have the job save and leave."""
        try:
            self.job.stop()
        finally:
            self.refresh()

    def resume(self) -> None:
        """Launch the run again, with as many processes as before if it was trained on this machine."""
        before = self.job.process
        processes = before.processes if before is not None and before.here else None
        self._open(Job.launch(self.job.config, self.job.path, processes))
        self.start()

    def start(self) -> None:
        """Read about once a second in the background, until the run has ended or ``close``."""
        self.close()
        self._closed = threading.Event()
        threading.Thread(target=self._follow, args=(self._closed,), name="labkit-watch", daemon=True).start()

    def close(self) -> None:
        """End the background thread; the run goes on."""
        self._closed.set()

    def _follow(self, closed: threading.Event) -> None:
        while not closed.wait(EVERY):
            try:
                new = self.refresh()
            except Exception:  # a disk that is away for a moment: the next reading may succeed
                logging.getLogger(__name__).exception("%s could not be read", self.job.path)
                continue
            if new and not closed.is_set():
                self.changed()
            if self.state != "running":
                return

    def _read_sheet(self) -> None:
        """Load the newest of the sheets that go with checkpoints, made smaller if it is large."""
        files = {file.stem.removeprefix("step-"): file for file in self.job.folder.sheets.glob("step-*.png")}
        step = max((step for step in files if step.isdecimal()), key=int, default=None)
        if step is not None and (int(step),) != self.sheets.get(self.name, ())[:1]:
            with Image.open(files[step]) as image:
                image.thumbnail(SHEET)
                self.sheets = {self.name: (int(step), data_uri(image))}
