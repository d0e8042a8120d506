"""A training run as a process of its own, which outlives the notebook that started it.

    job = Job.launch(config, "runs/x")     one process, or one for each GPU
    job = Job.attach("runs/x")             later, from any notebook
    job.told(), job.running, job.stop(), job.wait(), job.log_tail()

The run's folder says all there is to know, in two files beside those that training itself writes:

    job.json   who trains, or trained last: process, machine, command
    job.log    what it said, launch after launch
"""

import shlex
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import torch

from labkit.checks import require, whole
from labkit.config import Config
from labkit.training.detached import Process
from labkit.training.engine import micro_batch
from labkit.training.folder import RunError, RunFolder
from labkit.training.history import History, lasting
from labkit.training.joblog import Ending, JobLog, Kind, killed

FRESH = 120.0  # seconds: what has not grown for as long, or for ten times the pause between two points, has ended
FALSE_START = {"config.json", "machine.json", "metrics.csv", "job.json", "job.log"}
_LAUNCHING = threading.Lock()  # two clicks may be handled at once

State = Literal["running"] | Kind


class Job:
    """A training run as it is seen from outside: ``launch`` one, or ``attach`` to any run's folder.

    A run that was started otherwise, by the command line or on another machine, can be watched but not stopped.
    """

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder.open(path.resolve())
        self.path, self.config = self.folder.path, self.folder.config()
        self.process = Process.read(self.path / "job.json")
        self.history, self.log = History(self.path / "metrics.csv"), JobLog(self.path / "job.log")

    @classmethod
    def attach(cls, out: str | Path) -> "Job":
        """The job of a run's folder, whether it goes on or has ended; a missing or foreign folder is refused."""
        return cls(Path(out))

    @classmethod
    def launch(cls, config: Config, out: str | Path, processes: int | None = None) -> "Job":
        """Start training in a process that goes on when this one ends; a stopped run of this config is resumed.

        Args:
            config: the experiment.  out: folder of the run.
            processes: how many train together, by default one for each GPU, or one.

        Raises:
            RunError: a job is training there already, or the folder holds something else.
            ConfigError: the batch cannot be shared out over so many processes.
        """
        out = Path(out).resolve()
        processes = max(torch.cuda.device_count(), 1) if processes is None else processes
        require(whole(processes, 1), "processes", processes, "take a whole number of at least 1")
        micro_batch(config, processes)
        ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        train = ["-m", "labkit", "train", "--resume", str(out)]
        command = [sys.executable, *(ranks if processes > 1 else []), *train]
        with _LAUNCHING:
            _make_room(out, config)
            RunFolder.create(out, config)
            with JobLog(out / "job.log").begin(f"{socket.gethostname()}: {shlex.join(command)}") as log:
                Process.start(command, processes, log, out / "job.json")
        return cls(out)

    @property
    def running(self) -> bool:
        """Whether it trains. Of another machine, or where no job was launched, that is judged by its files."""
        if self.process is not None and self.process.here:
            return self.process.alive
        sheet = self.folder.samples / f"step-{self.config.steps:08d}.png"  # what training does last
        over = self.log.ending() is not None or (sheet.exists() and self.config.steps in self.folder.checkpoints())
        self.history.refresh()
        return not over and self.silence < max(FRESH, 10 * self.history.pause)

    @property
    def silence(self) -> float:
        """Seconds since it last wrote to its table or its log."""
        files = [file for file in (self.history.table, self.log.path) if file.exists()]
        return max(time.time() - max((file.stat().st_mtime for file in files), default=0.0), 0.0)

    @property
    def state(self) -> State:
        """``running``, or how it ended; ``lost`` is without a word."""
        return "running" if self.running else self._end().kind

    @property
    def unstoppable(self) -> str:
        """Why ``stop`` is not to be had here and now; empty if it is."""
        if not self.running:
            return "it is not running"
        if self.process is None:
            return "it was not launched as a job; stop it where it was started"
        if not self.process.here:
            return f"it runs on {self.process.host}; stop it there"
        return "it was asked to already, and is saving" if self.log.asked else ""

    def stop(self) -> None:
        """Ask it to save and leave, and do not wait. It is asked once only: at a second signal it would leave unsaved.

        Raises:
            RunError: it is not to be reached from here, or another user's.
        """
        if not self.running or self.log.asked:
            return
        if self.unstoppable:
            raise RunError(f"{self.path} cannot be stopped from here: {self.unstoppable}.")
        self.process.end()
        self.log.ask()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False if it has not after so many seconds. An interrupt leaves it running."""
        limit = None if timeout is None else time.monotonic() + timeout
        while self.running:
            if limit is not None and time.monotonic() > limit:
                return False
            time.sleep(0.1)
        return True

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that it wrote."""
        return self.log.tail(lines)

    def told(self) -> str:
        """How it stands, in a sentence."""
        self.history.refresh()
        saved, of = max(self.folder.checkpoints(), default=0), f"of {self.config.steps:,}"
        if self.running:
            return self._progress(f"step {self.history.step:,} {of}")
        kind, why = self._end()
        now = f"step {max(self.history.step, saved):,} {of}"
        on = f"training can go on from step {saved:,}" if saved else "nothing was saved"
        return {
            "finished": f"Finished {self.config.steps:,} steps.",
            "stopped": f"Stopped at {now}; {on}.",
            "failed": f"Failed at {now}: {why}",
            "lost": f"Ended at {now}, {why}; {on}.",
        }[kind]

    def __repr__(self) -> str:
        return f"Job in {self.path}. {self.told()}"

    def _progress(self, now: str) -> str:
        """What is said of a job that runs."""
        where, rate = self._where(), self.history.rate
        if self.log.asked:
            return f"Asked to save and leave, {now}{where}."
        if self.history.step == 0 or self._resuming():
            return f"Starting{where}; nothing is logged yet."
        if rate is None:
            return f"Training, {now}{where}."
        left = lasting((self.config.steps - self.history.step) / rate)
        images = f"{rate * self.config.batch_size:,.0f} images/s"
        return f"Training, {now}: {rate:.3g} steps/s, {images}, about {left} left{where}."

    def _where(self) -> str:
        """Where it runs, or why that is believed."""
        if self.process is not None and self.process.here:
            ranks = "" if self.process.processes == 1 else f" with {self.process.processes} ranks"
            return f" (process {self.process.pid}{ranks})"
        place = "not launched as a job" if self.process is None else f"on {self.process.host}"
        return f" ({place}; its files last grew {lasting(self.silence)} ago)"

    def _resuming(self) -> bool:
        """Whether it has yet to read its checkpoint, after which it begins the table anew."""
        table = self.history.table
        return self.process is not None and (not table.exists() or table.stat().st_mtime < self.process.created)

    def _end(self) -> Ending:
        """How it ended, as far as that can be known."""
        said = self.log.ending()
        if said is not None:
            return said
        if self.config.steps in self.folder.checkpoints():
            return Ending("finished")
        signalled = "" if self.process is None else self.process.killed_by
        if signalled == "SIGTERM" or (self.log.asked and not signalled):  # before it listened
            return Ending("stopped")
        if signalled:
            return killed(signalled)
        last = self.log.last()
        return Ending("lost", "without saying why" + (f" (the last line of its log: {last})" if last else ""))


def _make_room(out: Path, config: Config) -> None:
    """Refuse a folder where a job is training; empty one whose job failed before its first step, so that a config put
    right can take its place."""
    if not (out / "job.json").exists():
        return
    job = Job.attach(out)
    job.history.refresh()
    if job.running:
        raise RunError(
            f"{out} is being trained by process {job.process.pid} on {job.process.host}; attach to it with "
            f"Job.attach({str(out)!r}), or stop it first."
        )
    untouched = job.history.step == 0 and {file.name for file in out.iterdir()} <= FALSE_START
    if untouched and job.config.breaks(config):
        for name in FALSE_START:
            (out / name).unlink(missing_ok=True)
