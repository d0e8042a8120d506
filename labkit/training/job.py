"""A training run as a process of its own, which outlives the notebook that started it.

    job = Job.launch(config, "runs/x")     one process, or one for each GPU
    job = Job.attach("runs/x")             later, from any notebook
    job.describe(), job.running, job.stop(), job.wait(), job.log_tail()

All state is in the run's folder: the trainer writes ``status.json``, and a launch writes two more files.

    job.json   the process that was launched last: number, machine, command
    job.log    its output, launch after launch
"""

import shlex
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import torch

from labkit.checks import check_whole
from labkit.config import Config
from labkit.datasets import identify
from labkit.disk import user_path
from labkit.training.detached import Process
from labkit.training.engine import check_compiler, micro_batch
from labkit.training.folder import RunError, RunFolder
from labkit.training.history import History, duration
from labkit.training.joblog import JobLog
from labkit.training.status import Status

STARTING = 120.0  # seconds within which a job on another machine has to write its first status
FALSE_START = {"config.json", "data.json", "machine.json", "metrics.csv", "status.json", "job.json", "job.log", ".lock"}
_LAUNCHING = threading.Lock()  # two clicks may be handled at once

State = Literal["running", "finished", "stopped", "failed", "lost"]


class Job:
    """A training run seen from outside: ``launch`` one, or ``attach`` to any run's folder.

    A run that was started by the command line or on another machine can be watched, but not stopped.
    """

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder.open(path.resolve())
        self.path, self.config = self.folder.path, self.folder.config
        self.process = Process.read(self.path / "job.json")
        self.history, self.log = History(self.path / "metrics.csv"), JobLog(self.path / "job.log")

    @classmethod
    def attach(cls, out: str | Path) -> "Job":
        """The job of a run's folder, running or ended; a missing or foreign folder is refused with a RunError."""
        return cls(user_path(out, "out"))

    @classmethod
    def launch(cls, config: Config, out: str | Path, processes: int | None = None) -> "Job":
        """Start training in a process that continues when this one ends; a stopped run of this config is resumed.

        Args:
            config: the experiment.  out: folder of the run.
            processes: number of ranks, by default one for each GPU, or one.

        Raises:
            RunError: the run is being trained already, or the folder holds something else.
            ConfigError: that many processes cannot share the batch equally.
        """
        out = user_path(out, "out").resolve()
        processes = max(torch.cuda.device_count(), 1) if processes is None else processes
        check_whole("processes", processes)
        micro_batch(config, processes)
        check_compiler(config)
        ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        train = ["-m", "labkit", "train", "--resume", str(out)]
        command = [sys.executable, *(ranks if processes > 1 else []), *train]
        with _LAUNCHING:
            _make_room(out, config)
            RunFolder(out).begin(config, identify(config.dataset))
            with JobLog(out / "job.log").begin(f"{socket.gethostname()}: {shlex.join(command)}") as log:
                Process.start(command, processes, log, out / "job.json")
        return cls(out)

    @property
    def status(self) -> Status | None:
        """Status that its trainer wrote last; None while a launched process has written none."""
        status, process = self.folder.status, self.process
        if status is None or process is None:
            return status
        same = (status.pid, status.host) == (process.pid, process.host)  # true even if the clock was set meanwhile
        return status if same or status.started >= process.created else None

    @property
    def _launched(self) -> Process | None:
        """The process that was launched last, if it runs on this machine."""
        process = self.process
        return process if process is not None and process.here and process.alive else None

    @property
    def stop_requested(self) -> bool:
        """Whether it was asked to stop, from any notebook, and still trains."""
        elsewhere = self.process is not None and not self.process.here
        return self.log.stop_requested and (self._launched is not None or (elsewhere and self.running))

    @property
    def running(self) -> bool:
        """Whether it trains, or is about to. On another machine, the age of its status decides."""
        process, status = self.process, self.status
        if self._launched:
            return True
        if status is not None:
            return status.alive
        if process is None or process.here or self.log.error():
            return False
        return time.time() - process.created < STARTING

    @property
    def state(self) -> State:
        """``running``, or how it ended; ``lost`` if its trainer could not write how."""
        return "running" if self.running else self._end()[0]

    @property
    def unstoppable(self) -> str:
        """Why ``stop`` is not possible here and now; empty if it is."""
        if not self.running:
            return "it is not running"
        if self._launched:
            return "it was already asked to stop, and is saving" if self.stop_requested else ""
        if self.process is not None and not self.process.here:
            return f"it runs on {self.process.host}; stop it there"
        return "it was not launched as a job; stop it where it was started"

    def stop(self) -> None:
        """Ask it to save and leave, without waiting. It is asked only once: at a second signal it would leave unsaved.

        Raises:
            RunError: it cannot be stopped from here, or is another user's process.
        """
        if not self.running or self.stop_requested:
            return
        process = self._launched
        if process is None:
            raise RunError(f"{self.path} cannot be stopped from here: {self.unstoppable}.")
        process.end()
        self.log.request_stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False if it has not after ``timeout`` seconds. An interrupt leaves it running."""
        limit = None if timeout is None else time.monotonic() + timeout
        while self.running:
            if limit is not None and time.monotonic() > limit:
                return False
            time.sleep(0.1)
        return True

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        return self.log.tail(lines)

    def describe(self) -> str:
        """Progress, or how it ended, in one sentence."""
        self.history.refresh()
        saved, total = max(self.folder.checkpoints, default=0), f"of {self.config.steps:,}"
        if self.running:
            return self._progress(f"step {self.history.step:,} {total}")
        state, reason = self._end()
        at = f"step {max(self.history.step, saved):,} {total}"
        rest = f"training can go on from step {saved:,}" if saved else "nothing was saved"
        return {
            "finished": f"Finished {self.config.steps:,} steps.",
            "stopped": f"Stopped at {at}; {rest}.",
            "failed": f"Failed at {at}: {reason}",
            "lost": f"Ended at {at}, {reason}; {rest}.",
        }[state]

    def __repr__(self) -> str:
        return f"Job in {self.path}. {self.describe()}"

    def _progress(self, at: str) -> str:
        """Summary of a job that runs."""
        where, rate = self._where(), self.history.rate
        if self.stop_requested:
            return f"Asked to save and leave, {at}{where}."
        if self.history.step == 0 or self.status is None:  # the table of a resumed run is still the earlier one
            return f"Starting{where}; nothing is logged yet."
        if rate is None:
            return f"Training, {at}{where}."
        left = duration((self.config.steps - self.history.step) / rate)
        images = f"{rate * self.config.batch_size:,.0f} images/s"
        return f"Training, {at}: {rate:.3g} steps/s, {images}, about {left} left{where}."

    def _where(self) -> str:
        """Process and machine, or the evidence for them."""
        status = self.status
        if process := self._launched:
            ranks = "" if process.processes == 1 else f" with {process.processes} ranks"
            return f" (process {process.pid}{ranks})"
        if status is None:
            return "" if self.process is None else f" (launched on {self.process.host})"
        age = "" if status.here else f", status of {duration(time.time() - status.updated)} ago"
        return f" (process {status.pid} on {status.host}{age})"

    def _end(self) -> tuple[State, str]:
        """State and cause of its end: as its trainer wrote, else as far as log and process show."""
        status, process, error = self.status, self.process, self.log.error()
        rank, signal = self.log.killed_rank(), "" if process is None else process.killed_by
        if status is not None and status.state in ("finished", "stopped"):
            return status.state, ""
        if rank:
            return "lost", _killed_by(rank)
        if status is not None and status.state == "failed":  # with several ranks, maybe because another one failed
            return "failed", (error if process is not None and process.processes > 1 else "") or status.error
        if error:
            return "failed", error
        if self.config.steps in self.folder.checkpoints:
            return "finished", ""
        if signal == "SIGTERM" or (self.log.stop_requested and not signal):  # before its trainer handled signals
            return "stopped", ""
        if signal:
            return "lost", _killed_by(signal)
        last = self.log.last()
        return "lost", "without saying why" + (f" (the last line of its log: {last})" if last else "")


def _killed_by(signal: str) -> str:
    return f"killed by {signal}" + (", as the system does when memory runs out" if signal == "SIGKILL" else "")


def _make_room(out: Path, config: Config) -> None:
    """Refuse a folder where a job is training; empty one whose job failed before its first step, for a new config."""
    if not (out / "job.json").exists():
        return
    job = Job.attach(out)
    job.history.refresh()
    if job.running and (owner := job.status or job.process):
        raise RunError(
            f"{out} is being trained by process {owner.pid} on {owner.host}; attach to it with "
            f"Job.attach({str(out)!r}), or stop it first."
        )
    untouched = job.history.step == 0 and {file.name for file in out.iterdir()} <= FALSE_START
    if untouched and job.config.breaks(config):
        for name in FALSE_START:
            (out / name).unlink(missing_ok=True)
