"""Resuming equals never having stopped, bit for bit, whatever stopped the run: weights, averages, moments, table."""

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forked import rows
from tiny import everything, leftovers, outcome, tiny, trained, training_elsewhere
from waiting import wait_for

from labkit import Run, Trainer
from labkit.training import checkpoint

ENDLESS = 10**6


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple:
    """The tiny run, never stopped."""
    return outcome(trained(tiny(), tmp_path_factory.mktemp("straight") / "run"))


@pytest.mark.gpu
@pytest.mark.parametrize(("config", "stops"), [(tiny, (5,)), (tiny, (1, 2, 11)), (everything, (7,))])
def test_resumed_equals_straight(tmp_path, straight, config, stops):
    for stop in stops:
        next(r for r in Trainer(config(), tmp_path / "run") if r.step == stop)
        assert list(Run.open(tmp_path / "run").checkpoints)[-1] == stop
    expected = straight if config is tiny else outcome(trained(config(), tmp_path / "straight"))
    assert outcome(trained(config(), tmp_path / "run")) == expected


def test_the_comparison_can_fail(tmp_path, straight):
    """Another seed, or a moment lost on the way, does not pass for the same run."""
    assert outcome(trained(tiny(seed=1), tmp_path / "other"))[1:] != straight[1:]
    next(r for r in Trainer(tiny(), tmp_path / "run") if r.step == 7)
    trainer = Trainer(tiny(), tmp_path / "run")
    trainer.optimizer.state.clear()
    list(trainer)
    step, tensors, table = outcome(tmp_path / "run")
    assert step == straight[0]
    assert tensors != straight[1]
    assert table != straight[2]


def by_break(trainer):
    for report in trainer:
        if report.step == 7:
            break


def by_error_of_the_reader(trainer):
    with pytest.raises(ZeroDivisionError):
        for report in trainer:
            1 / (report.step - 7)


def by_closing(trainer):
    reports = iter(trainer)
    assert [r.step for r in itertools.islice(reports, 7)] == [*range(1, 8)]
    reports.close()


def by_ctrl_c_of_the_reader(trainer):
    with pytest.raises(KeyboardInterrupt):
        for report in trainer:
            if report.step == 7:
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("leave", [by_break, by_error_of_the_reader, by_closing, by_ctrl_c_of_the_reader])
def test_leaving_the_loop_saves(tmp_path, straight, leave):
    trainer = Trainer(tiny(), tmp_path)
    leave(trainer)
    assert list(Run.open(tmp_path).checkpoints) == [5, 7]
    list(trainer)
    assert outcome(tmp_path) == straight


# The call at which Ctrl-C comes, and the number of steps finished by then; the save is that of step 10.
MOMENTS = {
    "data": lambda trainer: (trainer.stream, "at", 7),
    "backward": lambda trainer: (trainer.fabric, "backward", 7),
    "optimizer": lambda trainer: (trainer.optimizer, "step", 7),
    "average": lambda trainer: (trainer.ema, "update", 7),
    "table": lambda trainer: (trainer.folder, "log", 8),
    "flush": lambda trainer: (os, "fsync", 10),
    "rename": lambda trainer: (os, "replace", 10),
}


@pytest.mark.parametrize(
    ("moment", "before", "afresh"),
    [  # going on in a new trainer and in the same one, by turns
        (moment, before, before == (place % 2 == 0)) for place, moment in enumerate(MOMENTS) for before in (True, False)
    ],
)
def test_ctrl_c_at_any_moment_saves_a_whole_step(tmp_path, straight, monkeypatch, moment, before, afresh):
    trainer = Trainer(tiny(), tmp_path)
    owner, name, step = MOMENTS[moment](trainer)
    original, pressed = getattr(owner, name), []

    def press() -> None:
        if not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    def interrupted(*args):
        now = trainer.step == step
        if now and before:
            press()
        result = original(*args)
        if now and not before:
            press()
        return result

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, interrupted)
        list(trainer)
    assert trainer.saved_step == trainer.step == list(Run.open(tmp_path).checkpoints)[-1]
    assert trainer.step == {"data": 7, "backward": 7, "flush": 10, "rename": 10}.get(moment, 8)
    assert not leftovers(tmp_path)
    for _ in Trainer(tiny(), tmp_path) if afresh else trainer:
        pass
    assert outcome(tmp_path) == straight


@pytest.mark.gpu
@pytest.mark.parametrize("save_every", [1, 20], ids=["mostly within saves", "mostly within steps"])
def test_kill_9_at_random_moments(tmp_path, save_every):
    """Killed twice, or $LAB_KILLS times, each time going on from what the last one left."""
    config = tiny(steps=ENDLESS, save_every=save_every)
    moments = random.Random(save_every)
    for _ in range(int(os.environ.get("LAB_KILLS", 2))):
        before = newest(tmp_path / "run")
        with training_elsewhere(config, tmp_path / "run") as process:
            wait_for(lambda before=before: newest(tmp_path / "run") > before)
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
    assert_same_as_straight(tmp_path, config, newest(tmp_path / "run"))


def test_kill_9_before_the_first_save_starts_over(tmp_path):
    config = tiny(steps=ENDLESS, save_every=1000)
    with training_elsewhere(config, tmp_path / "run") as process:
        wait_for(lambda: rows(tmp_path / "run") > 50)
        process.kill()
    assert rows(tmp_path / "run") > 50  # they would stand in the table twice
    assert_same_as_straight(tmp_path, config, 0)


@pytest.mark.parametrize("moment", ["half written", "before fsync", "before replace", "after replace"])
def test_kill_9_within_a_save(tmp_path, straight, moment):
    with training_elsewhere(tiny(), tmp_path, dies=moment) as process:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    whole = {5: "step-00000005.safetensors"} | ({10: "step-00000010.safetensors"} if "after" in moment else {})
    checkpoints = Run.open(tmp_path).checkpoints
    assert {step: file.name for step, file in checkpoints.items()} == whole
    assert [checkpoint.read(file).step for file in checkpoints.values()] == list(whole)
    assert bool(leftovers(tmp_path)) == (moment != "after replace")
    trainer = Trainer(tiny(), tmp_path)
    assert trainer.step == max(whole)
    assert not leftovers(tmp_path)
    list(trainer)
    assert outcome(tmp_path) == straight


def test_kill_9_between_a_save_and_its_sheet(tmp_path, straight):
    """The sheet is drawn when the run goes on, and at its end even if nothing else is left to do."""
    for steps, step in ((7, 5), (12, 12)):
        trained(tiny(steps=steps), tmp_path)
        sheet = tmp_path / "samples" / f"step-{step:08d}.png"
        drawn = sheet.read_bytes()
        sheet.unlink()
        for later in (f for s, f in Run.open(tmp_path).checkpoints.items() if s > step):
            later.unlink()
        next(iter(Trainer(tiny(), tmp_path)), None)
        assert sheet.read_bytes() == drawn
    assert outcome(tmp_path) == straight


def test_a_trainer_that_another_one_overtook_goes_on_from_there(tmp_path, straight):
    """If it trained the same steps again, it would first drop their rows, and if it stopped on the way lose them."""
    early = Trainer(tiny(), tmp_path)
    next(r for r in Trainer(tiny(), tmp_path) if r.step == 7)
    assert next(iter(early)).step == 8
    assert outcome(trained(tiny(), tmp_path)) == straight


def newest(folder: Path) -> int:
    return max((int(file.stem[5:]) for file in folder.glob("checkpoints/step-*.safetensors")), default=0)


def assert_same_as_straight(tmp_path, config, step):
    """What was left at ``step``, trained three steps more, against a run that was never stopped."""
    end = config.replace(steps=step + 3)
    trainer = Trainer(end, tmp_path / "run")
    assert trainer.step == step
    list(trainer)
    assert outcome(tmp_path / "run") == outcome(trained(end.replace(save_every=10**6), tmp_path / "straight"))
