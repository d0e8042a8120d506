"""Runs a generator of reports in one background thread, so that a notebook stays free while a model trains.

    ready     start → running
    running   pause → paused, stop → stopped; ends as finished, or as failed (``error`` says why)
    paused    resume → running: between two reports, everything kept in memory
    stopped   resume → running: the loop was left, which saved it, and is entered again

At most one training is alive: starting a runner stops any other. ``wait`` is for "Run All" and for machines without a
screen: it runs the loop in the calling thread if nobody has started it, else it waits; Ctrl-C or the kernel's interrupt
stops the loop, which saves. Buttons may be handled in several threads at once, so every change goes through a lock.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Generator
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

from labkit.widgets.panel import State

Status = Literal["ready", "running", "paused", "stopped", "finished", "failed"]


@runtime_checkable
class Loop(Protocol):
    """Reports one by one; leaving its generator saves, and it can be entered again."""

    def __iter__(self) -> Generator[Any]: ...


AnyLoop = TypeVar("AnyLoop", bound=Loop)


class Interrupted(KeyboardInterrupt):
    """An interrupt of a cell that waits for a training; a notebook shows its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Runner(Generic[AnyLoop]):
    """Drives a ``loop`` such as a Trainer or a Comparison.

    Args:
        loop: None until ``begin`` or ``wait`` makes one.
        on_report: called with every report, in the thread that runs. An error in it ends the run as failed.
        on_status: called after every change of ``status``, in the thread that changed it. An error in it is logged.
    """

    _alive: ClassVar["Runner[Any] | None"] = None
    _control: ClassVar[threading.RLock] = threading.RLock()  # one start or stop at a time, over all runners

    def __init__(
        self,
        loop: AnyLoop | None = None,
        on_report: Callable[[Any], None] = lambda report: None,
        on_status: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.loop, self.on_report, self.on_status = loop, on_report, on_status
        self.status: Status = "ready"
        self.error: BaseException | None = None
        self._inside: threading.Thread | None = None
        self._change = threading.Lock()  # guards status; held for moments only, unlike _control
        self._stop, self._go, self._left = threading.Event(), threading.Event(), threading.Event()
        self._left.set()

    @property
    def busy(self) -> bool:
        """Whether some thread is inside the loop, paused or not."""
        return not self._left.is_set()

    def unavailable(self) -> dict[str, str]:
        """Method → why it would do nothing now; empty if it would."""
        idle = "" if self.status in ("running", "paused") else "nothing is running"
        return {
            "start": "" if idle else "a training is under way: stop it first",
            "pause": "" if self.status == "running" else "nothing is running",
            "resume": "" if self.status in ("paused", "stopped", "failed") else "nothing was paused or stopped",
            "stop": idle,
        }

    def begin(self, make: Callable[[], AnyLoop]) -> None:
        """Make a new loop and start it, unless one is running; if ``make`` fails, the earlier loop stays."""
        with Runner._control:
            if not self.busy:
                self.loop = make()
                self.start()

    def start(self) -> None:
        """Enter the loop in a background thread; nothing happens if it is running, here or in a thread."""
        with Runner._control:
            if self._enter():
                threading.Thread(target=self._run, name="labkit-training", daemon=True).start()

    def pause(self) -> None:
        """Hold between two reports."""
        with self._change:
            if self.status != "running" or self._stop.is_set():  # a run that is stopping must not be held
                return
            self.status = "paused"
            self._go.clear()
        self._announce()

    def resume(self) -> None:
        """Go on after a pause, or enter the loop again after a stop."""
        with Runner._control:
            if self._move({"paused"}, "running", self._go.set):
                self._announce()
            elif self.status in ("stopped", "failed"):
                self.start()

    def stop(self) -> None:
        """Leave the loop after the report in hand and wait until it has saved."""
        with Runner._control:
            with self._change:
                self._stop.set()
                self._go.set()
            if self._inside is not threading.current_thread():
                self._left.wait()

    def wait(self, make: Callable[[], AnyLoop] | None = None) -> Status:
        """Run to the end in this thread if nobody started, or wait for the thread that runs; return the status.

        Without a loop, ``make`` makes one.

        A paused or stopped run stays as it is. A failure is raised here; an interrupt stops the run, which saves, and
        is raised again.
        """
        with Runner._control:
            if self.loop is None and make is not None:
                self.loop = make()
            mine = self.status == "ready" and self._enter()
        try:
            if mine:
                self._run()
            while not self._left.wait(0.2) and self.status != "paused":
                pass
        except KeyboardInterrupt:
            self.stop()
            raise Interrupted("Interrupted. The training has stopped and is saved: Resume goes on with it.") from None
        if self.error is not None:
            raise self.error
        return self.status

    def _enter(self) -> bool:
        """Become the one runner that is alive; False if this one runs already. Needs ``_control``."""
        if self.busy:
            return False
        other = Runner._alive
        if other is not None and other is not self:
            other.stop()
        Runner._alive = self
        self._stop.clear()
        self._go.set()
        self._left.clear()
        self.error = None
        self._move({"ready", "stopped", "finished", "failed"}, "running")
        self._announce()
        return True

    def _run(self) -> None:
        self._inside = threading.current_thread()
        ended: Status = "stopped"
        try:
            assert self.loop is not None, "there is no loop: begin() and wait() take a function that makes it"
            with contextlib.closing(iter(self.loop)) as reports:  # leaving the loop in any way saves
                for report in reports:
                    self.on_report(report)
                    self._go.wait()
                    if self._stop.is_set():
                        break
                else:
                    ended = "finished"
        except Exception as error:
            self.error, ended = error, "failed"
        finally:
            self._inside = None
            self._move({"running", "paused"}, ended)
            self._left.set()
            self._announce()

    def _move(self, before: set[Status], after: Status, also: Callable[[], None] = lambda: None) -> bool:
        """Change the status if it is one of ``before``; whether it was."""
        with self._change:
            if self.status not in before:
                return False
            self.status = after
            also()
            return True

    def _announce(self) -> None:
        try:
            self.on_status(self.status)
        except Exception:
            logging.getLogger(__name__).exception("A listener to the runner's status failed")


class RunnerState(State, Generic[AnyLoop]):
    """A state whose Start and Stop drive a ``Runner``.

    A subclass has ``_make()``, which makes a loop with the controls as they stand, and ``_record(report)``.
    """

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.runner: Runner[AnyLoop] = Runner(on_report=self._record, on_status=lambda status: self.changed())

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        return {"start": self.start, "stop": self.runner.stop}

    def unavailable(self) -> dict[str, str]:
        return self.runner.unavailable()

    def start(self) -> None:
        """Begin afresh with the controls as they stand, in the background; nothing happens while a run is going on."""
        self.runner.begin(self._make)

    def wait(self) -> AnyLoop:
        """The loop: run here and now if nobody pressed Start, else when the one that is running ends.

        A paused or stopped one is returned as it is.
        """
        self.runner.wait(self._make)
        assert self.runner.loop is not None  # ``wait`` has made it
        return self.runner.loop

    def close(self) -> None:
        self.runner.stop()
