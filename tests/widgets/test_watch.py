"""A run watched from outside: its folder, drawn and described; its process only where buttons act on it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest
from ipywidgets.widgets.widget import _instances
from waiting import threads, wait_for

from labkit import Config, Job, Trainer, recipes
from labkit.training import NonFiniteLoss, RunError
from labkit.widgets import Watch, watch_panel
from labkit.widgets import watch as module
from labkit.widgets.live import BRANCHES

CONFIG = recipes.digits(model="SiT-Nano/4", lam=0.5, batch_size=8, steps=12, log_every=1, save_every=5)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Frequent readings; no process of one test is there in the next."""
    monkeypatch.setattr(module, "EVERY", 0.02)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or []):
            process.kill()


def watching():
    return threads("labkit-watch")


def trained(folder: Path, to: int, config: Config = CONFIG) -> Path:
    """The folder, after training there up to a step."""
    next((report for report in Trainer(config, folder) if report.step == to), None)
    return folder


@contextmanager
def under_way(folder: Path, to: int) -> Iterator[Iterator]:
    """A loop over a trainer that has come to a step, and can go on."""
    loop = iter(Trainer(CONFIG, folder))
    assert len(list(islice(loop, to))) == to
    try:
        yield loop
    finally:
        loop.close()


def parts(panel):
    """Stop, Resume, the bar, and the status."""
    return panel.widget.children[2].children


def test_the_panel_shows_and_describes_what_the_folder_holds(tmp_path):
    state = Watch(trained(tmp_path / "run", 3))
    assert state.curve("run", "velocity").steps.tolist() == [1, 2, 3] and not state.sheets and state.share_done == 0.25
    assert not state.refresh()
    trained(tmp_path / "run", 7)
    assert state.refresh()
    panel, table = watch_panel(state), state.job.folder.metrics()
    velocity, dispersive, floor, norm = (panel.figure.data[i] for i in (0, BRANCHES, 2 * BRANCHES, 2 * BRANCHES + 1))
    logged = ("velocity", "block1.dispersive", "block1.feature_norm")
    for trace, name in zip((velocity, dispersive, norm), logged, strict=True):
        assert trace.x == tuple(range(1, 8))
        assert trace.y == pytest.approx(table[table.name == name].value.tolist())
    assert floor.y == pytest.approx((-math.log(8),) * 2) and floor.name == "floor −log 8 = −2.08"
    step, source = state.sheets["run"]
    assert step == 5 and source.startswith("data:image/png;base64,") and source in panel.widget.children[-2].value
    words, numbers = panel.sentence.value, panel.widget.children[-3].value
    assert "run at step 7, 56 samples seen; samples drawn at step 5. Dispersive Loss: floor −log 8 = −2.08." in words
    for title, line in (("velocity loss", velocity), ("feature norm", norm)):
        assert f"<th>{title}</th>" in numbers and f"<td>{line.y[-1]:#.3g}</td>" in numbers
    panel.controls["over"].value = "samples"
    panel.controls["log"].value = True
    assert velocity.x[-1] == 56 and panel.figure.layout.xaxis.title.text == "samples seen"
    assert [panel.figure.layout[axis].type for axis in ("yaxis", "yaxis2")] == ["log", None], "only one is positive"


def test_a_run_that_is_no_job_is_followed_to_its_end_but_not_stopped(tmp_path):
    with under_way(tmp_path / "run", 3):
        stop, resume, bar, status = parts(watch_panel(tmp_path / "run"))
        assert stop.disabled and resume.disabled and bar.value == 0.25
        assert "Stop is off: it was not launched as a job" in status.value and "not launched as a job" in stop.tooltip
    wait_for(lambda: not resume.disabled)
    assert stop.disabled and "Stopped at step 3 of 12" in status.value
    with under_way(tmp_path / "run", 1) as loop:
        panel = watch_panel(tmp_path / "run")
        assert len(watching()) == 1
        assert len(list(loop)) == 8
    wait_for(lambda: not watching())
    stop, resume, bar, status = parts(panel)
    assert panel.figure.data[0].x == tuple(range(1, 13)) and bar.value == 1
    assert "Finished 12 steps." in status.value and stop.disabled and resume.disabled
    assert "step 12" in panel.widget.children[-2].value


def test_a_run_that_failed_says_why(tmp_path):
    with pytest.raises(NonFiniteLoss):
        trained(tmp_path / "run", 12, CONFIG.replace(optimizer=replace(CONFIG.optimizer, lr=1e30)))
    _, resume, _, status = parts(watch_panel(tmp_path / "run"))
    assert "Failed at step" in status.value and "is not finite" in status.value and not resume.disabled


def test_running_the_cell_again_leaves_one_thread_and_closing_none(tmp_path):
    with under_way(tmp_path / "run", 3):
        watch_panel(tmp_path / "run").close()  # the first panel of a process makes a widget that all share
        wait_for(lambda: not watching())
        before = set(_instances)
        first, second = watch_panel(tmp_path / "run"), watch_panel(tmp_path / "run")
        assert first.closed and not second.closed
        wait_for(lambda: len(watching()) == 1)
        second.close()
        wait_for(lambda: not watching())
    assert set(_instances) == before


def test_a_folder_that_is_away_for_a_moment_is_read_again(tmp_path, monkeypatch):
    attempts = []

    def away():
        attempts.append(True)
        raise OSError("stale file handle")

    with under_way(tmp_path / "run", 3) as loop:
        panel = watch_panel(tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(panel.state.job.history, "refresh", away)
            wait_for(lambda: len(attempts) > 2)
        assert len(list(loop)) == 9
    wait_for(lambda: not watching())
    assert panel.figure.data[0].x[-1] == 12


def test_a_refusal_is_shown(tmp_path, monkeypatch):
    _, resume, _, status = parts(watch_panel(trained(tmp_path / "run", 3)))
    assert not resume.disabled

    def refuse(*_):
        raise RunError("no <room> here")

    monkeypatch.setattr(Job, "launch", refuse)
    resume.click()
    assert "<b>no &lt;room&gt; here</b>" in status.value and not resume.disabled


@pytest.mark.slow
def test_stop_and_resume_by_the_buttons(tmp_path):
    job = Job.launch(CONFIG.replace(steps=10**6, save_every=10**6), tmp_path / "run")
    panel = watch_panel(job)
    stop, resume, _, status = parts(panel)
    assert not stop.disabled and resume.disabled and "Starting" in status.value
    wait_for(lambda: panel.figure.data[0].x and panel.figure.data[0].x[-1] > 5)
    stop.click()
    assert stop.disabled and ("Asked to save and leave" in status.value or "Stopped" in status.value)
    wait_for(lambda: not resume.disabled and not watching())
    saved = max(job.folder.checkpoints)
    assert f"Stopped at step {saved:,} of 1,000,000" in status.value
    resume.click()
    assert resume.disabled and len(watching()) == 1
    wait_for(lambda: panel.figure.data[0].x[-1] > saved)
    panel.close()
    assert Job.attach(tmp_path / "run").running, "closing the panel leaves the job alone"
