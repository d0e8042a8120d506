"""A run's folder has one writer, which keeps the run's status there."""

import os
import pickle
import re
import signal
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import rows
from tiny import files, outcome, tiny, trained, training_elsewhere
from waiting import wait_for

from labkit import Run, Trainer
from labkit.training import NonFiniteLoss, folder
from labkit.training.folder import BusyError, RunFolder
from labkit.training.status import SILENT, Status, now

ENDLESS = dict(steps=10**6, save_every=10**6)


def status(path: Path) -> Status:
    return RunFolder(path).status


def test_the_status_of_a_run_from_begin_to_end(tmp_path):
    trainer = Trainer(tiny(), tmp_path)
    assert status(tmp_path) is None, "nothing is trained yet"
    with closing(iter(trainer)) as loop:
        next(loop)
        first = status(tmp_path)
        assert first.state == "running" and first.alive and (first.pid, first.steps) == (os.getpid(), 12)
        next(loop)
    left = status(tmp_path)
    assert (left.state, left.step, left.alive, left.error) == ("stopped", 2, False, "")
    assert first.started == left.started <= first.updated <= left.updated
    trained(tiny(), tmp_path)
    assert status(tmp_path).state == "finished" and status(tmp_path).step == 12
    with pytest.raises(ZeroDivisionError):
        for _ in Trainer(tiny(steps=13), tmp_path):
            raise ZeroDivisionError  # of whoever reads the reports: the loop was left
    assert status(tmp_path).state == "stopped"


def test_a_failure_says_why_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(NonFiniteLoss) as error:
        trained(tiny(optimizer=replace(tiny().optimizer, lr=1e30)), tmp_path / "wild")
    assert (status(tmp_path / "wild").state, status(tmp_path / "wild").error) == ("failed", str(error.value))
    trainer = Trainer(tiny(), tmp_path / "other")
    monkeypatch.setattr(trainer.ema, "update", lambda step: {}["two\nlines"])
    with pytest.raises(KeyError):
        list(trainer)
    assert status(tmp_path / "other").error == r"KeyError: 'two\nlines'"


def test_it_is_written_once_a_second_at_most_and_once_a_minute_at_least(tmp_path, monkeypatch):
    clock, written = [0.0], []
    monkeypatch.setattr(folder, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    monkeypatch.setattr(Status, "write", lambda status, path: written.append(status.step))
    for report in Trainer(tiny(steps=30, log_every=10, save_every=30), tmp_path):  # logs 1, 2, 4, 6, 8, 10, 20, 30
        clock[0] += 0.3 if report.step <= 20 else 25.0
    assert written == [0, 6, 10, 20, 24, 27, 30, 30]


def test_a_status_that_cannot_be_written_ends_no_training(tmp_path):
    (tmp_path / "status.json").mkdir(parents=True)
    assert outcome(trained(tiny(steps=2), tmp_path))[0] == 2


def test_a_second_trainer_is_refused_by_name_while_the_first_one_trains(tmp_path):
    path = tmp_path / "run"
    waiting = Trainer(tiny(), path)
    with closing(iter(Trainer(tiny(), path))) as loop:
        next(loop)
        before = files(path)
        words = re.escape(f"{path} is being trained by process {os.getpid()} on ") + ".*choose another folder"
        for second in (lambda: Trainer(tiny(), path), lambda: next(iter(waiting))):
            with pytest.raises(BusyError, match=words):
                second()
        assert RunFolder(path).busy
        assert files(path) == before
        assert Run.open(path).config == tiny() and len(Run.open(path).metrics()) > 0, "reading is free"
    assert not RunFolder(path).busy


def test_an_owner_that_was_killed_is_followed_at_once(tmp_path):
    path = tmp_path / "run"
    with training_elsewhere(tiny(**ENDLESS), path) as process:
        wait_for(lambda: rows(path) > 1)
        with pytest.raises(BusyError, match=f"being trained by process {process.pid} on "):
            Trainer(tiny(**ENDLESS), path)
        assert status(path).alive
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert status(path).state == "running" and not status(path).alive
    with closing(iter(Trainer(tiny(**ENDLESS), path))) as loop:
        assert next(loop).step == 1
    assert status(path).pid == os.getpid()


def test_where_locks_do_not_reach_a_fresh_status_protects_the_owner(tmp_path):
    trainer = Trainer(tiny(), tmp_path)
    there = now("running", 3, 12, started=0.0)._replace(host="elsewhere")
    there.write(tmp_path / "status.json")
    with pytest.raises(BusyError, match=f"being trained by process {there.pid} on elsewhere"):
        next(iter(trainer))
    assert status(tmp_path) == there
    there._replace(updated=time.time() - SILENT - 1).write(tmp_path / "status.json")
    list(trainer)
    assert status(tmp_path).state == "finished" and status(tmp_path).here


def test_a_pickled_folder_owns_nothing(tmp_path):
    owner = RunFolder(tmp_path)
    with owner.writing(), owner.writing():
        copy = pickle.loads(pickle.dumps(owner))
        assert copy.path == owner.path and copy.busy
    assert not copy.busy


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running"}', '{"later": 1}'])
def test_a_status_that_cannot_be_read_counts_as_none(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert status(tmp_path) is None
