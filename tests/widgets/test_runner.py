"""The runner: start, pause, stop, resume, one thread at most, an interrupt that saves."""

import threading
from collections.abc import Iterator

import pytest
from waiting import threads

from labkit.widgets import Runner


class Loop:
    """Counts up to ``total``; can be left and entered again; ``gate`` lets a test hold it between two reports."""

    def __init__(self, total: int = 10**9, fail_at: int | None = None) -> None:
        self.total, self.fail_at, self.done, self.saves = total, fail_at, 0, 0

    def __iter__(self) -> Iterator[int]:
        try:
            while self.done < self.total:
                self.done += 1
                if self.done == self.fail_at:
                    raise ArithmeticError("the loss is not finite")
                yield self.done
        finally:
            self.saves += 1


class Reports:
    """Collects reports and lets a test wait until there are enough."""

    def __init__(self) -> None:
        self.reports: list[int] = []
        self._changed = threading.Condition()

    def __call__(self, report: int) -> None:
        with self._changed:
            self.reports.append(report)
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.reports) >= count, timeout=20)


def training_threads() -> int:
    return len(threads("labkit-training"))


def test_stop_gives_at_most_one_more_report_and_saves_and_resume_goes_on():
    loop, log = Loop(), Reports()
    runner = Runner(loop, log)
    runner.start()
    log.wait_for(3)
    runner.stop()
    assert runner.status == "stopped" and loop.saves == 1 and not runner.busy
    assert len(log.reports) == loop.done  # nothing was computed that was not reported
    loop.total = loop.done + 50
    runner.resume()
    assert runner.wait() == "finished" and log.reports == list(range(1, loop.total + 1))


def test_a_pause_holds_the_loop_and_resume_lets_it_go():
    loop, log = Loop(), Reports()
    runner = Runner(loop, log)
    runner.start()
    log.wait_for(2)
    runner.pause()
    assert runner.status == "paused" and runner.busy
    held = threading.Event()
    held.wait(0.3)  # the report in hand may still come; then nothing moves
    count = len(log.reports)
    held.wait(0.3)
    assert len(log.reports) == count and loop.saves == 0
    assert runner.wait() == "paused"  # waiting for a paused run must not hang
    runner.resume()
    log.wait_for(count + 3)


def test_one_training_thread_alive_ever():
    first, second = Runner(Loop()), Runner(Loop())
    first.start()
    second.start()
    assert training_threads() == 1 and first.status == "stopped" and first.loop.saves == 1
    second.start()  # a second press changes nothing
    assert training_threads() == 1


def test_waiting_runs_in_the_calling_thread_and_announces_statuses_in_order():
    threads, statuses = set(), []
    runner = Runner(Loop(total=3), lambda report: threads.add(threading.current_thread()), statuses.append)
    assert runner.wait() == "finished"
    assert threads == {threading.current_thread()} and statuses == ["running", "finished"]


def test_an_error_in_a_listener_to_the_status_is_logged(caplog):
    assert Runner(Loop(total=3), on_status=clumsy).wait() == "finished" and "status failed" in caplog.text


def test_interrupt_while_waiting_saves_and_is_raised():
    def interrupt(report: int) -> None:
        if report == 4:
            raise KeyboardInterrupt

    loop = Loop()
    runner = Runner(loop, interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.wait()
    assert runner.status == "stopped" and loop.saves == 1 and loop.done == 4


def clumsy(report: int) -> None:
    raise ArithmeticError("drawing failed")


@pytest.mark.parametrize(("loop", "on_report"), [(Loop(fail_at=3), lambda report: None), (Loop(), clumsy)])
def test_a_failure_in_the_loop_or_in_a_listener_saves_and_is_raised_by_wait(loop, on_report):
    runner = Runner(loop, on_report)
    runner.start()
    assert runner._left.wait(20)
    assert runner.status == "failed" and not runner.busy and loop.saves == 1
    with pytest.raises(ArithmeticError, match=r"failed|not finite"):
        runner.wait()


def test_many_hands_leave_one_thread_and_a_true_status():
    """Buttons may be handled in several threads at once."""
    runners = [Runner(Loop()) for _ in range(2)]
    hands = [threading.Thread(target=act) for _ in range(10) for r in runners for act in (r.start, r.pause, r.resume)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join(30)
    assert training_threads() <= 1
    for runner in runners:
        assert runner.busy == (runner.status in ("running", "paused"))
        runner.stop()
        assert runner.status in ("stopped", "ready")


def test_a_straight_run_can_be_stopped_from_another_thread():
    loop, log = Loop(), Reports()
    runner = Runner(loop, log)
    hand = threading.Thread(target=lambda: (log.wait_for(3), runner.stop()))
    hand.start()
    assert runner.wait() == "stopped" and loop.saves == 1
    hand.join(20)


def test_a_runner_without_a_loop_names_what_makes_one():
    with pytest.raises(AssertionError, match=r"begin\(\)"):
        Runner().wait()
