"""Runs a generator of reports in one background thread, so that a notebook stays free while a model trains.

    ready     start → running
    running   pause → paused, stop → stopped; ends as finished, or as failed (``error`` says why)
    paused    resume → running: between two reports, everything kept in memory
    stopped   resume → running: the loop was left, which saved it, and is entered again

One training thread is alive at most: starting a runner stops any other. ``wait`` is for "Run All" and for machines
without a screen: it runs in the calling thread what nobody has started, or waits for what is running; Ctrl-C or the
kernel's interrupt stops it and saves.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

Status = Literal["ready", "running", "paused", "stopped", "finished", "failed"]


class Runner:
    """Drives ``loop``, an iterable that can be entered again after it was left (a Trainer or a Comparison).

    Args:
        loop: gives reports; None until ``restart`` brings one.
        on_report: called with every report, in the thread that runs.
        on_status: called after every change of ``status``, in whichever thread changed it.
    """

    _alive: ClassVar["Runner | None"] = None

    def __init__(
        self,
        loop: Iterable[Any] | None = None,
        on_report: Callable[[Any], None] = lambda report: None,
        on_status: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.loop, self.on_report, self.on_status = loop, on_report, on_status
        self.status: Status = "ready"
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._stop, self._go = threading.Event(), threading.Event()

    def restart(self, loop: Iterable[Any]) -> None:
        """Stop what runs and begin a new loop in the background."""
        self.stop()
        self.loop = loop
        self.start()

    def start(self) -> None:
        """Enter the loop in a background thread; nothing happens if it is running, here or in a thread."""
        if self.status in ("running", "paused"):
            return
        self._claim()
        self._thread = threading.Thread(target=self._run, name="labkit-training", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Hold between two reports."""
        if self.status == "running":
            self._go.clear()
            self._set("paused")

    def resume(self) -> None:
        """Go on after a pause, or enter the loop again after a stop."""
        if self.status == "paused":
            self._set("running")
            self._go.set()
        elif self.status in ("stopped", "failed"):
            self.start()

    def stop(self) -> None:
        """Leave the loop after the report in hand and wait until it has saved."""
        self._stop.set()
        self._go.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @property
    def busy(self) -> bool:
        """Whether a thread is inside the loop, paused or not."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> Status:
        """Run to the end in this thread if nobody started, or wait for the thread that runs; return the status.

        A paused or stopped run is left as it is. A failure is raised here; an interrupt stops the run, which saves, and
        is raised again.
        """
        try:
            if self.status == "ready":
                self._claim()
                self._run()
            while self.busy and self.status == "running":
                self._thread.join(timeout=0.2)
        except KeyboardInterrupt:
            self.stop()
            raise
        if self.status == "failed":
            raise self.error
        return self.status

    def _claim(self) -> None:
        """Become the one runner that is alive."""
        other = Runner._alive
        if other is not None and other is not self:
            other.stop()
        Runner._alive = self
        self._stop.clear()
        self._go.set()
        self.error = None
        self._set("running")

    def _run(self) -> None:
        steps = iter(self.loop)
        try:
            for report in steps:
                self.on_report(report)
                self._go.wait()
                if self._stop.is_set():
                    break
            else:
                return self._set("finished")
            steps.close()  # the loop saves as it is left
            self._set("stopped")
        except KeyboardInterrupt:
            steps.close()
            self._set("stopped")
            raise
        except Exception as error:
            self.error = error
            self._set("failed")

    def _set(self, status: Status) -> None:
        self.status = status
        self.on_status(status)
