"""Live training driven as a person would, without a browser."""

import math
import threading

import pytest

from labkit import Contrastive, Repa, Run, recipes
from labkit.paths import Flow
from labkit.widgets import LiveTraining, Runner, training_panel

SLIDERS = ("lam", "tau", "block", "steps", "seed")


def configs(s):
    config = recipes.digits(
        model="SiT-Nano/4",
        lam=s.lam,
        tau=s.tau,
        blocks=(s.block,),
        steps=s.steps,
        seed=s.seed,
        batch_size=8,
        log_every=2,
    )
    return {"baseline": config.replace(lam=None), "dispersive": config}


@pytest.fixture
def live(tmp_path):
    yield LiveTraining(configs, out=tmp_path, steps=12)
    if Runner._alive is not None:
        Runner._alive.stop()


def buttons(panel):
    return {child.description: child for child in panel.widget.children[2].children[:4]}


@pytest.mark.parametrize(
    ("settings", "title", "way"),
    [
        (dict(model="DiT-Nano/4"), "noise loss", "ddim with 10 steps"),
        (dict(model="MeanFlow-Nano/4"), "average velocity's loss", "meanflow with 1 step"),
        (dict(model="SiT-Nano/4", flow=Flow(path="vp", prediction="score")), "score loss", "heun with 10 steps"),
    ],
)
def test_a_run_of_any_kind_shows_its_own_loss_and_samples(settings, title, way):
    config = recipes.digits(steps=3, batch_size=8, log_every=1, **settings)
    state = LiveTraining(lambda s: {"it": config}, steps=3)
    panel = training_panel("kind", state, ("steps",), "?")
    state.wait()
    loss, samples = panel.figure.data
    notes = [note.text for note in panel.figure.layout.annotations]
    assert notes[0].startswith(title) and way in notes[1]
    assert loss.x == (1, 2, 3) and all(math.isfinite(value) for value in loss.y)
    assert samples.z is not None and state.previews["it"].isfinite().all()
    panel.close()


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


def test_only_the_settings_that_a_variant_has_can_be_moved(live):
    panel = training_panel("live", live, ("lam", "variant", "tau", "margin", "noise", "max_gap"), "?")
    disabled = lambda: {name: panel.controls[name].disabled for name in ("tau", "margin", "max_gap")}  # noqa: E731
    assert disabled() == {"tau": False, "margin": True, "max_gap": True}
    live.variant, live.noise = "hinge", "restricted"
    assert disabled() == {"tau": True, "margin": False, "max_gap": False}
    assert live.loss_settings() == {"variant": "hinge", "margin": 1.0}
    live.variant = "covariance"
    assert disabled() == {"tau": True, "margin": True, "max_gap": False}
    assert live.loss_settings() == {"variant": "covariance"}


def test_every_regularizer_shows_its_meters_and_the_baseline_those_it_has():
    def configs(s):
        base = recipes.digits(steps=4, batch_size=8, log_every=2)
        return {
            "repa": base.replace(repa=Repa(lam=0.5, hidden=8)),
            "contrastive": base.replace(contrastive=Contrastive(lam=0.5, blocks=(3,))),
            "baseline": base,
        }

    live = LiveTraining(configs)
    panes = ("repa", "alignment", "feature_norm", "gradient_cosine", "dispersive", "velocity", "gradient_ratio")
    panel = training_panel("all", live, ("lam",), "?", panes)
    live.wait()
    said = panel.sentence.value
    assert said.count("at step 4") == 3
    for words in ("repa at step 4: REPA loss", "contrastive at step 4: alignment", "baseline at step 4: feature norm"):
        assert words in said
    assert live.curve("contrastive", "block3.feature_norm") and not live.curve("contrastive", "block1.feature_norm")


def test_one_run_shows_as_many_panes_as_are_asked_for_and_its_samples():
    live = LiveTraining(lambda s: {"dispersive": recipes.digits(lam=0.5, steps=2, batch_size=8, log_every=1)})
    panel = training_panel("one", live, (), "?", ("velocity", "feature_norm"))
    live.wait()
    assert [t.type for t in panel.figure.data] == ["scatter", "scatter", "heatmap"]
    places = {(t.xaxis, t.yaxis) for t in panel.figure.data}
    assert len(places) == 3, "no two share a pane"


def test_the_floor_is_that_of_the_variant_and_absent_where_there_is_none():
    def trained(**changes):
        live = LiveTraining(lambda s: {"a": recipes.digits(lam=0.5, steps=2, batch_size=8, log_every=1, **changes)})
        panel = training_panel("floor", live, (), "?", ("dispersive",))
        live.wait()
        return next(t for t in panel.figure.data if t.name == "floor").y

    assert trained() == pytest.approx((-math.log(8),) * 2)
    assert trained(variant="hinge", margin=2.0) == pytest.approx((0.5, 0.5))
    assert not trained(include_self=False)
