"""Training as a process of its own: it outlives its parent, is found again, saves when stopped, and reports its end.

The processes are the lab as a reader has it, and take seconds to start.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import psutil
import pytest
from forked import processes
from tiny import outcome, tiny, trained
from waiting import wait_for

from labkit import Config, ConfigError, Job, Trainer
from labkit.training import RunError
from labkit.training.joblog import JobLog
from labkit.training.status import SILENT, now

ENDLESS = dict(steps=10**6, save_every=10**6)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As in the tests: bits may depend on it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def out(tmp_path) -> Iterator[Path]:
    """A folder; whatever still trains there when the test ends is killed."""
    yield tmp_path / "run"
    for process in psutil.process_iter(["cmdline"]):
        if str(tmp_path / "run") in (process.info["cmdline"] or []):
            process.kill()


def until(job: Job, step: int) -> Job:
    """Wait for a step to be logged; the limit only ends a test that would otherwise hang."""
    limit = time.monotonic() + 120
    while job.history.step < step:
        assert job.running, job.log_tail()
        assert time.monotonic() < limit, job.describe()
        time.sleep(0.05)
        job.history.refresh()
    return job


def stopped(folder: Path, step: int = 7) -> Path:
    """A run of 12 steps, stopped at one of them."""
    next(r for r in Trainer(tiny(), folder) if r.step == step)
    return folder


def with_note(folder: Path, **process) -> Job:
    """The job of a folder whose note holds this about its process."""
    usual = dict(pid=os.getpid(), created=time.time(), host=socket.gethostname(), command=["labkit"], processes=1)
    (folder / "job.json").write_text(json.dumps(usual | process))
    return Job.attach(folder)


def launch_and_stay(config: str, out: Path) -> None:
    """Stand in for a notebook's kernel, in a process group of its own."""
    os.setsid()
    Job.launch(Config.from_json(config), out)
    out.with_name("launched").touch()
    time.sleep(600)


def test_it_outlives_its_parent_is_found_and_ends_as_a_straight_run(out, tmp_path):
    """As when a notebook's kernel is killed: the signal goes to all processes of its group."""
    kernel = processes.Process(target=launch_and_stay, args=(tiny().to_json(), out), daemon=True)
    kernel.start()
    wait_for((tmp_path / "launched").exists)
    os.killpg(kernel.pid, signal.SIGKILL)
    job = Job.attach(out)
    assert job.running and job.state == "running" and "Starting (process" in job.describe()
    again = Job.attach(out)
    assert again.running and again.process == job.process
    with pytest.raises(RunError, match=rf"being trained by process {job.process.pid} on .*attach to it"):
        Job.launch(tiny(), out)
    assert job.wait(120)
    assert (again.running, again.state, again.describe()) == (False, "finished", "Finished 12 steps.")
    assert "Finished 12 steps" in job.log_tail(1) and "it/s" not in job.log_tail()
    assert outcome(out) == outcome(trained(tiny(), tmp_path / "straight"))


def test_killed_then_stopped_it_says_so_and_goes_on_to_the_straight_run(out, tmp_path):
    endless = tiny(**ENDLESS | {"save_every": 5})
    job = until(Job.launch(endless, out), 20)
    os.kill(job.process.pid, signal.SIGKILL)
    assert job.wait(10) and job.state == "lost"
    saved, words = max(job.folder.checkpoints), job.describe()
    assert f"killed by SIGKILL, as the system does when memory runs out; training can go on from step {saved}" in words
    job = until(Job.launch(endless, out), saved + 20)
    assert "steps/s" in job.describe() and f"(process {job.process.pid})" in job.describe()
    assert not job.wait(0.2)
    Job.attach(out).stop()
    job.stop()  # a second request, from elsewhere, must not cut the saving short
    assert job.wait(60)
    saved = max(job.folder.checkpoints)
    assert job.describe() == f"Stopped at step {saved:,} of 1,000,000; training can go on from step {saved:,}."
    assert job.log_tail(100).count("── ") == 2, "one log of both launches"
    straight = endless.replace(steps=saved + 5, save_every=10**6)
    trained(endless.replace(steps=saved + 5), out)
    assert outcome(out) == outcome(trained(straight, tmp_path / "straight"))


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_leaves_room_for_a_config_put_right(out):
    job = Job.launch(tiny(blocks=(9,)), out)
    assert job.wait(120)
    assert job.state == "failed"
    assert job.describe().startswith("Failed at step 0 of 12: dispersive.blocks = (9,) cannot be used")
    right = Job.launch(tiny(), out)
    assert right.config == tiny() and right.running


@pytest.mark.slow
@pytest.mark.parametrize("leader", ["alive", "killed"])
def test_two_ranks_stop_together_even_if_torchrun_was_killed(out, leader):
    job = until(Job.launch(tiny(**ENDLESS), out, processes=2), 5)
    assert "with 2 ranks" in job.describe()
    if leader == "killed":
        os.kill(job.process.pid, signal.SIGKILL)
        time.sleep(1)
        job = Job.attach(out)
        assert job.running, "its ranks go on"
        with pytest.raises(RunError, match="being trained"):
            Job.launch(tiny(**ENDLESS), out)
    job.stop()
    assert job.wait(60) and job.state == "stopped"
    assert max(job.folder.checkpoints) >= 5


@pytest.mark.slow
def test_a_rank_that_was_killed_takes_the_job_along_and_is_named(out):
    job = until(Job.launch(tiny(**ENDLESS), out, processes=2), 5)
    os.kill(psutil.Process(job.process.pid).children()[-1].pid, signal.SIGKILL)
    assert job.wait(60)
    assert "killed by SIGKILL" in job.describe()


def test_another_process_of_its_number_is_not_the_job(out):
    stopped(out)
    me = psutil.Process()
    assert with_note(out, created=me.create_time()).running
    assert with_note(out, created=0.0, command=me.cmdline()).running, "the clock was set meanwhile"
    assert not with_note(out, created=0.0).running
    with subprocess.Popen(["true"]) as gone:
        pass
    job = with_note(out, pid=gone.pid)
    assert not job.running
    assert job.describe() == "Ended at step 7 of 12, without saying why; training can go on from step 7."
    job.stop()  # nothing happens


def test_a_job_of_another_machine_is_judged_by_its_status(out):
    """Before its first one it is believed to be starting, for two minutes."""
    stopped(out)
    job = with_note(out, host="elsewhere")
    assert job.running and "Starting (launched on elsewhere)" in job.describe()
    with pytest.raises(RunError, match="it runs on elsewhere; stop it there"):
        job.stop()
    with pytest.raises(RunError, match=r"being trained by process \d+ on elsewhere"):
        Job.launch(tiny(), out)
    assert with_note(out, host="elsewhere", created=time.time() - 3600).state == "stopped"
    status = now("running", 7, 12, started=time.time())._replace(host="elsewhere", pid=3)
    status.write(out / "status.json")
    assert job.running and "(process 3 on elsewhere, status of 0 s ago)" in job.describe()
    status._replace(updated=time.time() - SILENT - 1).write(out / "status.json")
    assert not job.running and job.state == "lost"


def test_a_run_that_was_not_launched_can_be_attached_to(out):
    with closing(iter(Trainer(tiny(), out))) as loop:
        assert len(list(islice(loop, 7))) == 7
        job = Job.attach(out)
        assert job.process is None and job.running
        assert f"(process {os.getpid()} on {socket.gethostname()})" in job.describe()
        with pytest.raises(RunError, match="stop it where it was started"):
            job.stop()
        with pytest.raises(RunError, match=f"being trained by process {os.getpid()}"):
            Job.launch(tiny(), out)
    assert job.describe() == "Stopped at step 7 of 12; training can go on from step 7."
    with subprocess.Popen(["true"]) as gone:
        pass
    with closing(iter(Trainer(tiny(), out))) as loop:
        next(loop)
        job = with_note(out, pid=gone.pid, created=0.0)  # an earlier launch, which has ended
        job.log.request_stop()
        assert job.running and "Training, step 8" in job.describe()
        assert job.unstoppable == "it was not launched as a job; stop it where it was started"
    trained(tiny(), out)
    assert job.describe() == "Finished 12 steps."
    with pytest.raises(RunError, match="There is no run"):
        Job.attach(out / "nowhere")


def test_a_run_of_an_early_version_has_no_status(out):
    (stopped(out) / "status.json").unlink()
    job = Job.attach(out)
    assert not job.running and job.describe().startswith("Ended at step 7 of 12, without saying why")
    trained(tiny(), out)
    (out / "status.json").unlink()
    assert Job.attach(out).describe() == "Finished 12 steps."


def test_what_cannot_be_launched_leaves_no_trace(out):
    trained(tiny(steps=2), out)
    with pytest.raises(RunError, match="another config"):
        Job.launch(tiny(steps=2, seed=1), out)
    with pytest.raises(ConfigError, match="multiple of 3 ranks"):
        Job.launch(tiny(), out, processes=3)
    with pytest.raises(ConfigError, match="processes = 0"):
        Job.launch(tiny(), out, processes=0)
    assert not (out / "job.json").exists() and not (out / "job.log").exists()


OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
TRACE = 'Traceback (most recent call last):\n  File "trainer.py", line 1, in f\n    f()\n'
BOX = """
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
=======
labkit FAILED
[1]: traceback : Signal 15 (SIGTERM) received by PID 8
Root Cause (first observed failure):
[0]: """
STOPPED = "torch.distributed.elastic.multiprocessing.api.SignalException: Process 7 got signal: 15"
RANK1 = TRACE.replace("Tr", "[rank1]: Tr").replace("  F", "[rank1]:   F").replace("    f", "[rank1]:     f")


@pytest.mark.parametrize(
    ("printed", "error", "killed_rank"),
    [
        ("", "", ""),
        ("Training SiT-Nano/4 on digits.\nwarning: slow", "", ""),
        ("\nStopped at step 7, saved.\n" + TRACE + STOPPED, "", ""),
        ("labkit: seed = -1 cannot be used.", "seed = -1 cannot be used.", ""),
        (TRACE + OOM, OOM, ""),
        (TRACE + "KeyError: 1\n\nDuring handling of it:\n\n" + TRACE + OOM, OOM, ""),
        (RANK1 + "[rank1]: " + OOM + "\n" + TRACE + BOX + "exitcode : 1", OOM, ""),
        (
            TRACE + "RuntimeError: peer is gone\n" + BOX + "Signal 9 (SIGKILL) received by PID 9",
            "RuntimeError: peer is gone",
            "SIGKILL",
        ),
    ],
)
def test_the_log_of_the_last_launch(tmp_path, printed, error, killed_rank):
    log = JobLog(tmp_path / "job.log")
    assert (log.error(), log.killed_rank(), log.last(), log.stop_requested) == ("", "", "", False), "no log yet"
    for words in ("labkit: a fault of the launch before\n", printed):
        with log.begin("here: labkit train") as file:
            file.write(words.encode())
    assert (log.error(), log.killed_rank()) == (error, killed_rank)
    assert log.last() == (printed.splitlines() or [""])[-1]
    assert not log.stop_requested
    log.request_stop()
    assert log.stop_requested and log.error() == error
