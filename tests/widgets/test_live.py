"""Live training driven as a person would, without a browser."""

import threading

import pytest

from labkit import Run, recipes
from labkit.widgets import LiveTraining, Runner, training_panel

SLIDERS = ("lam", "tau", "block", "steps", "seed")


def configs(s):
    config = recipes.digits(
        lam=s.lam, tau=s.tau, blocks=(s.block,), steps=s.steps, seed=s.seed, batch_size=8, log_every=2
    )
    return {"baseline": config.replace(lam=None), "dispersive": config}


@pytest.fixture
def live(tmp_path):
    yield LiveTraining(configs, out=tmp_path, steps=12)
    if Runner._alive is not None:
        Runner._alive.stop()


def buttons(panel):
    return {child.description: child for child in panel.widget.children[2].children[:4]}


def test_waiting_trains_what_nobody_started(live):
    panel = training_panel("live", live, SLIDERS, "?")
    runs = live.wait()
    assert live.status == "finished" and {t.step for t in runs.trainers.values()} == {12}
    assert panel.figure.data[0].x == (2, 4, 6, 8, 10, 12)  # every log_every steps
    assert "step 12" in panel.sentence.value and live.share_done == 1
    assert live.wait() is runs  # a second time there is nothing to do


def test_start_stop_resume_by_the_buttons(live, tmp_path):
    live.steps = 10**4
    panel = training_panel("live", live, SLIDERS, "?")
    press = buttons(panel)
    enough = threading.Event()
    take = live.runner.on_report
    live.runner.on_report = lambda item: (take(item), enough.set() if item[1].step >= 6 else None)
    press["Start"].click()
    assert press["Start"].disabled and not press["Stop"].disabled
    assert enough.wait(30)
    press["Stop"].click()
    stopped = live.progress["baseline"].step
    assert live.status == "stopped" and not press["Resume"].disabled and "Resume goes on" in live.told()
    assert max(Run.open(tmp_path / "001" / "baseline").checkpoints) == stopped
    enough.clear()
    press["Resume"].click()
    assert enough.wait(30)
    live.runner.stop()
    assert live.progress["baseline"].step > stopped


def test_start_after_stop_begins_afresh_with_the_sliders(live, tmp_path):
    live.wait()
    live.lam = 1.5
    panel = training_panel("live", live, SLIDERS, "?")
    buttons(panel)["Start"].click()
    live.wait()
    assert live.configs["dispersive"].dispersive.lam == 1.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001", "002"]


def test_running_the_cell_again_leaves_one_thread(live, tmp_path):
    live.steps = 10**4
    training_panel("live", live, SLIDERS, "?")
    live.start()
    again = LiveTraining(configs, out=tmp_path, steps=10**4)
    training_panel("live", again, SLIDERS, "?")
    assert live.status == "stopped"
    again.start()
    assert sum(t.name == "labkit-training" for t in threading.enumerate()) == 1


def test_a_bad_setting_is_told_in_the_panel(live):
    live.block = 3
    panel = training_panel("live", live, SLIDERS, "?")
    live._configs = lambda s: {"dispersive": recipes.digits(lam=0.5, blocks=(7,), steps=5)}
    buttons(panel)["Start"].click()
    assert "dispersive.blocks" in panel.widget.children[2].children[5].value


def test_a_refused_start_keeps_what_was_there(live, tmp_path):
    runs = live.wait()
    live._configs = lambda s: {"dispersive": recipes.digits(lam=0.5, blocks=(7,), steps=5)}
    with pytest.raises(ValueError, match=r"dispersive\.blocks"):
        live.start()
    assert live.runs is runs and live.curve("baseline", "velocity")
    assert [path.name for path in tmp_path.iterdir()] == ["001"]


def test_two_clicks_start_one_run(live, tmp_path):
    live.steps = 10**4
    for click in [threading.Thread(target=live.start) for _ in range(2)]:
        click.start()
        click.join(60)
    assert [path.name for path in tmp_path.iterdir()] == ["001"] and live.status == "running"
