"""A run watched from outside: what its folder says, drawn and told; the process itself only where buttons act on it."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest
from ipywidgets.widgets.widget import _instances

from labkit import Config, Job, Trainer, recipes
from labkit.training import NonFiniteLoss, RunError
from labkit.widgets import Watch, watch_panel
from labkit.widgets import watch as module
from labkit.widgets.panel import Panel

CONFIG = recipes.digits(model="SiT-Nano/4", lam=0.5, batch_size=8, steps=12, log_every=1, save_every=5)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Frequent looks; no panel, thread or process of one test is there in the next."""
    monkeypatch.setattr(module, "EVERY", 0.02)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for panel in list(Panel._open.values()):
        panel.close()
    wait_for(lambda: not watching())
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or []):
            process.kill()


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def watching():
    return [thread for thread in threading.enumerate() if thread.name == "labkit-watch"]


def trained(folder: Path, to: int, config: Config = CONFIG) -> Path:
    """The folder, after training there up to a step."""
    next((report for report in Trainer(config, folder) if report.step == to), None)
    return folder


@contextmanager
def training(folder: Path, to: int) -> Iterator[Iterator]:
    """A loop over a trainer that has come to a step, and goes on when it is asked."""
    loop = iter(Trainer(CONFIG, folder))
    assert len(list(islice(loop, to))) == to
    try:
        yield loop
    finally:
        loop.close()


def parts(panel):
    """Stop, Resume, the bar, and what is told."""
    row, status = panel.widget.children[2:4]
    return (*row.children, status)


def test_it_follows_a_run(tmp_path):
    state = Watch(trained(tmp_path / "run", 3))
    assert state.curve("base")[0] == [1, 2, 3] and not state.sheet and state.share_done == 0.25
    assert not state.refresh()
    trained(tmp_path / "run", 7)
    assert state.refresh()
    assert state.curve("norm")[0] == [*range(1, 8)] and state.sheet_step == 5
    assert state.sheet.startswith("data:image/png;base64,")
    table = state.job.folder.metrics()
    for name, logged in {"base": "velocity", "dispersive": "block1.dispersive", "norm": "block1.feature_norm"}.items():
        assert state.curve(name)[1] == pytest.approx(table[table.name == logged].value.tolist())
    state.over = "samples"
    assert state.curve("base")[0] == [8 * step for step in range(1, 8)]


def test_the_panel_shows_and_tells_it(tmp_path):
    state = Watch(trained(tmp_path / "run", 7))
    panel = watch_panel(state)
    base, dispersive, norm, floor, sheet = panel.figure.data
    assert base.x == dispersive.x == norm.x == tuple(range(1, 8))
    assert floor.y == pytest.approx((-math.log(8),) * 2) and floor.name == "floor −log 8 = −2.08"
    assert sheet.source == state.sheet
    assert "samples of the averaged weights at step 5" in [note.text for note in panel.figure.layout.annotations]
    said = panel.sentence.value
    assert f"At step 7, 56 samples seen: velocity loss {base.y[-1]:.3g}, Dispersive Loss {dispersive.y[-1]:.3g}" in said
    assert f"feature norm {norm.y[-1]:.3g}; both at block 1. The samples were drawn at step 5." in said
    assert "aria-label" in panel.widget.children[0].value
    panel.controls["over"].value = "samples"
    panel.controls["log"].value = True
    assert base.x[-1] == 56 and panel.figure.layout.xaxis.title.text == "samples seen"
    kinds = [panel.figure.layout[axis].type for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert kinds == ["log", None, "log"], "the Dispersive Loss is negative"


@pytest.mark.parametrize(
    ("changes", "title", "floor"),
    [
        (dict(lam=None), "Dispersive Loss at block 1, not trained on", -math.log(8)),
        (dict(model="DiT-Nano/4"), "noise loss, mean squared error", -math.log(8)),
        (dict(variant="hinge", margin=2.0, blocks=(3,)), "feature norm, ‖z‖/√P at block 3", 0.5),
        (dict(variant="covariance", batch_size=8), "Dispersive Loss at block 1", 0.0),
        (dict(include_self=False), "Dispersive Loss at block 1", None),
    ],
)
def test_any_run_can_be_watched(tmp_path, changes, title, floor):
    panel = watch_panel(trained(tmp_path / "run", 2, CONFIG.replace(**changes)))
    assert title in [note.text for note in panel.figure.layout.annotations]
    assert [len(trace.x) for trace in panel.figure.data[:3]] == [2, 2, 2]
    drawn = panel.figure.data[3].y
    assert not drawn if floor is None else drawn[0] == pytest.approx(floor, abs=1)
    assert (floor is None) == ("floor" not in panel.sentence.value)


def test_a_run_that_is_no_job_is_only_watched(tmp_path):
    with training(tmp_path / "run", 3):
        panel = watch_panel(tmp_path / "run")
        stop, resume, bar, told = parts(panel)
        assert stop.disabled and resume.disabled and bar.value == 0.25
        assert "Stop is off: it was not launched as a job; stop it where it was started." in told.value
        assert "not launched as a job" in stop.tooltip
    wait_for(lambda: not resume.disabled)
    assert stop.disabled and "Stopped at step 3 of 12; training can go on from step 3" in told.value


def test_a_run_that_failed_says_why(tmp_path):
    with pytest.raises(NonFiniteLoss):
        trained(tmp_path / "run", 12, CONFIG.replace(optimizer=replace(CONFIG.optimizer, lr=1e30)))
    resume, told = parts(watch_panel(tmp_path / "run"))[1::2]
    assert "Failed at step" in told.value and "is not finite" in told.value and not resume.disabled


def test_the_background_follows_until_the_run_has_finished(tmp_path):
    with training(tmp_path / "run", 3) as loop:
        panel = watch_panel(tmp_path / "run")
        assert len(watching()) == 1
        assert len(list(loop)) == 9
    wait_for(lambda: not watching())
    stop, resume, bar, told = parts(panel)
    assert panel.figure.data[0].x == tuple(range(1, 13)) and bar.value == 1
    assert "Finished 12 steps." in told.value and stop.disabled and resume.disabled
    assert "12" in panel.figure.layout.annotations[3].text


def test_running_the_cell_again_leaves_one_thread_and_closing_none(tmp_path):
    with training(tmp_path / "run", 3):
        before = set(_instances)
        first = watch_panel(tmp_path / "run")
        second = watch_panel(tmp_path / "run")
        assert first.closed and not second.closed
        wait_for(lambda: len(watching()) == 1)
        second.close()
        wait_for(lambda: not watching())
    assert set(_instances) == before


def test_a_long_curve_is_thinned(tmp_path):
    folder = trained(tmp_path / "run", 1)
    state = Watch(folder)
    for step in range(2, 5001):
        state.job.folder.log(step, 8 * step, float(step), {"velocity": 1 / step})
    state.refresh()
    steps, values = state.curve("base")
    assert len(steps) == module.POINTS and (steps[0], steps[-1]) == (1, 5000)
    assert values[-1] == pytest.approx(1 / 5000)


def test_a_folder_that_is_away_for_a_moment_is_looked_at_again(tmp_path, monkeypatch):
    looks = []

    def away():
        looks.append(True)
        raise OSError("stale file handle")

    with training(tmp_path / "run", 3) as loop:
        panel = watch_panel(tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(panel.state.job.history, "refresh", away)
            wait_for(lambda: len(looks) > 2)
        assert len(list(loop)) == 9
    wait_for(lambda: not watching())
    assert panel.figure.data[0].x[-1] == 12


def test_what_stands_in_the_way_is_told(tmp_path, monkeypatch):
    panel = watch_panel(trained(tmp_path / "run", 3))
    resume, told = parts(panel)[1], parts(panel)[3]
    assert not resume.disabled

    def refused(*_):
        raise RunError("no <room> here")

    monkeypatch.setattr(Job, "launch", refused)
    resume.click()
    assert "<b>no &lt;room&gt; here</b>" in told.value and not resume.disabled


@pytest.mark.slow
def test_stop_and_resume_by_the_buttons(tmp_path):
    job = Job.launch(CONFIG.replace(steps=10**6, save_every=10**6), tmp_path / "run")
    panel = watch_panel(job)
    stop, resume, _, told = parts(panel)
    assert not stop.disabled and resume.disabled and "Starting" in told.value
    wait_for(lambda: panel.figure.data[0].x and panel.figure.data[0].x[-1] > 5)
    stop.click()
    assert stop.disabled and ("Asked to save and leave" in told.value or "Stopped" in told.value)
    wait_for(lambda: not resume.disabled and not watching())
    saved = max(job.folder.checkpoints)
    assert f"Stopped at step {saved:,} of 1,000,000" in told.value
    resume.click()
    assert resume.disabled and len(watching()) == 1
    wait_for(lambda: panel.figure.data[0].x[-1] > saved)
    panel.close()
    assert Job.attach(tmp_path / "run").running, "closing the panel leaves the job alone"
