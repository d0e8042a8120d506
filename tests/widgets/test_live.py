"""Live training driven as a person would, without a browser."""

import math
import re
import threading

import pytest
import torch
from waiting import threads, wait_for

from labkit import Contrastive, Repa, Run, recipes
from labkit.checks import ConfigError
from labkit.losses.weight import value_at
from labkit.paths import Flow
from labkit.widgets import LiveTraining, training_panel
from labkit.widgets.live import BRANCHES
from labkit.widgets.painter import painter

SLIDERS = ("lam", "tau", "block", "steps", "seed")
SMALL = dict(model="SiT-Nano/4", batch_size=8)


def configs(s):
    chosen = dict(tau=s.tau, blocks=(s.block,), steps=s.steps, seed=s.seed)
    config = recipes.digits(**s.weight(), **chosen, log_every=2, **SMALL)
    return {"baseline": config.replace(lam=None), "dispersive": config}


@pytest.fixture
def live(tmp_path):
    return LiveTraining(configs, out=tmp_path, steps=12)


def show(state, sliders=SLIDERS, panes=None):
    return training_panel("live", state, sliders, "?", panes)


def buttons(panel):
    return {child.description: child for child in panel.widget.children[2].children[:5]}


def status(panel):
    return panel.widget.children[2].children[6].value


def forked(live, panel):
    """Press Fork and wait for what follows, the last redraw included."""
    buttons(panel)["Fork"].click()
    live.wait()
    wait_for(lambda: not threads("labkit-training"))


def sheets(panel):
    return panel.widget.children[-2].value


def shown(panel):
    """The runs that the first pane draws, by the length of their curves."""
    return {line.name: len(line.x) for line in panel.figure.data[:BRANCHES] if line.x}


@pytest.mark.parametrize(
    ("settings", "title", "sampler"),
    [
        (dict(model="DiT-Nano/4"), "noise loss", "ddim with 10 steps"),
        (dict(model="MeanFlow-Nano/4"), "average velocity's loss", "meanflow with 1 step"),
        (dict(model="SiT-Nano/4", flow=Flow(path="vp", prediction="score")), "score loss", "heun with 10 steps"),
    ],
)
def test_a_run_of_any_kind_shows_its_own_loss_and_samples(settings, title, sampler):
    config = recipes.digits(steps=3, batch_size=8, log_every=1, **settings)
    state = LiveTraining(lambda s: {"it": config}, steps=3)
    panel = show(state, ("steps",))
    assert "<img" not in sheets(panel)
    state.wait()
    loss = panel.figure.data[0]
    assert panel.figure.layout.annotations[0].text.startswith(title) and sampler in sheets(panel)
    assert loss.x == (1, 2, 3) and all(math.isfinite(value) for value in loss.y)
    assert state.sheets["it"][1] in sheets(panel) and "samples drawn at step 3" in panel.sentence.value


def test_marks_cross_their_pane_and_four_panes_stand_in_two_rows():
    panes = ("velocity", "dispersive", "feature_norm", "effective_rank")
    state = LiveTraining(configs, steps=4)
    panel = training_panel("marked", state, (), "?", panes, marks={"feature_norm": (0.7, "as it was")})
    layout, (line,) = panel.figure.layout, panel.figure.layout.shapes
    assert (line.y0, line.y1, line.yref, line.label.text) == (0.7, 0.7, "y3", "as it was")
    assert layout.xaxis3.domain == layout.xaxis.domain and layout.yaxis3.domain[1] < layout.yaxis.domain[0]


def test_values_near_0_do_not_stretch_a_log_axis():
    state = LiveTraining(configs, steps=4)
    panel = show(state, (), ("velocity", "gradient_ratio"))
    axis = panel.figure.layout.yaxis2
    for values, lowest in (([0.5, 0.02], None), ([0.5, 1e-20, 0.0], 5e-5), ([0.5, 0.02], None)):
        state._curves["dispersive"]["dispersive.gradient_ratio"] = list(enumerate(values))
        panel.redraw()
        assert axis.autorange is (lowest is None), "plotly takes no notice of a range as long as this is on"
        assert lowest is None or axis.range[0] == pytest.approx(math.log10(lowest))


def test_waiting_trains_what_nobody_started(live):
    panel = show(live)
    runs = live.wait()
    assert live.status == "finished" and {t.step for t in runs.trainers.values()} == {12}
    assert panel.figure.data[0].x == (2, 4, 6, 8, 10, 12)  # every log_every steps
    assert "baseline, dispersive at step 12, 96 samples seen; samples" in panel.sentence.value and live.share_done == 1
    assert live.wait() is runs, "a second time there is nothing to do"


def test_start_stop_resume_by_the_buttons(live, tmp_path):
    live.steps = 10**6
    panel = show(live)
    press = buttons(panel)
    enough = threading.Event()
    record = live.runner.on_report
    live.runner.on_report = lambda item: (record(item), enough.set() if item[1].step >= 6 else None)
    press["Start"].click()
    assert press["Start"].disabled and press["Start"].tooltip and not press["Stop"].disabled
    assert enough.wait(30)
    assert " left." in live.describe() and " s left" not in live.describe(), "a million steps are told in hours"
    press["Stop"].click()
    stopped = live.progress["baseline"].step
    assert live.status == "stopped" and "Resume goes on" in live.describe()
    wait_for(lambda: not press["Resume"].disabled)  # the thread that trained tells the panel last
    assert max(Run.open(tmp_path / "001" / "baseline").checkpoints) == stopped
    enough.clear()
    press["Resume"].click()
    assert enough.wait(30)
    live.runner.stop()
    assert live.progress["baseline"].step > stopped


def test_start_after_the_end_begins_afresh_with_the_sliders(live, tmp_path):
    live.wait()
    live.lam = 1.5
    buttons(show(live))["Start"].click()
    live.wait()
    assert live.configs["dispersive"].dispersive.lam == 1.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001", "002"]


def test_running_the_cell_again_and_clicking_twice_leave_one_thread(live, tmp_path):
    live.steps = 10**4
    show(live)
    for click in [threading.Thread(target=live.start) for _ in range(2)]:
        click.start()
        click.join(60)
    assert [path.name for path in tmp_path.iterdir()] == ["001"] and live.status == "running"
    again = LiveTraining(configs, out=tmp_path, steps=10**4)
    show(again)
    assert live.status == "stopped"
    again.start()
    assert len(threads("labkit-training")) == 1


def test_a_refused_start_is_shown_and_keeps_the_earlier_runs(live, tmp_path):
    runs, panel = live.wait(), show(live)
    live._configs = lambda s: {"dispersive": recipes.digits(lam=0.5, blocks=(7,), steps=5)}
    buttons(panel)["Start"].click()
    assert "dispersive.blocks" in status(panel) and not buttons(panel)["Start"].disabled
    with pytest.raises(ConfigError, match=r"dispersive\.blocks"):
        live.start()
    assert live.runs is runs and len(live.logged("baseline", "velocity").steps)
    assert [path.name for path in tmp_path.iterdir()] == ["001"]


def test_only_the_settings_that_a_variant_has_can_be_moved(live):
    panel = show(live, ("lam", "variant", "tau", "margin", "noise", "max_gap"))
    disabled = lambda: {name: panel.controls[name].disabled for name in ("tau", "margin", "max_gap")}  # noqa: E731
    assert disabled() == {"tau": False, "margin": True, "max_gap": True}
    live.variant, live.noise = "hinge", "restricted"
    assert disabled() == {"tau": True, "margin": False, "max_gap": False}
    assert live.loss_settings() == {"variant": "hinge", "margin": 1.0}
    live.variant = "covariance"
    assert disabled() == {"tau": True, "margin": True, "max_gap": False}
    assert live.loss_settings() == {"variant": "covariance"}


def test_every_regularizer_shows_its_metrics_and_the_baseline_those_it_has():
    base = recipes.digits(steps=4, batch_size=8, log_every=2)
    runs = {
        "repa": base.replace(repa=Repa(lam=0.5, hidden=8)),
        "contrastive": base.replace(contrastive=Contrastive(lam=0.5, blocks=(3,))),
        "baseline": base,
    }
    live = LiveTraining(lambda s: runs)
    panes = ("repa", "alignment", "feature_norm", "gradient_cosine", "dispersive", "velocity", "gradient_ratio")
    panel = show(live, ("lam",), panes)
    live.wait()
    lines = (re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in panel.widget.children[-3].value.split("</tr>"))
    titles, *rows = (line for line in lines if line)
    assert titles[:3] == ["", "REPA loss", "alignment of two views"] and len(titles) == 1 + len(panes)
    numbers = {run: dict(zip(titles[1:], values, strict=True)) for run, *values in rows}
    assert {run: values["REPA loss"] == "–" for run, values in numbers.items()} == {run: run != "repa" for run in runs}
    norm = live.curve("baseline", "feature_norm").values[-1]
    assert float(numbers["baseline"]["feature norm"]) == pytest.approx(norm, rel=0.01)
    for run, block in (("contrastive", 3), ("baseline", 1)):
        logged = live.logged(run, f"block{block}.feature_norm").values.tolist()
        assert live.curve(run, "feature_norm").values.tolist() == logged != []
    places = [(trace.xaxis, trace.yaxis) for trace in panel.figure.data]
    assert len(set(places)) == len(panes), "no two panes overlap"


def test_forks_go_on_beside_their_parents_and_come_back_after_the_kernel_is_gone(live, tmp_path):
    """At a chosen step and at the one reached; the second is a fork of the first, with λ as it was painted."""
    panel = show(live, (*SLIDERS, "painted"), ("velocity", "lam", "cloud", "distances"))
    press = buttons(panel)
    assert press["Fork"].disabled and "press Start" in press["Fork"].tooltip
    live.wait()
    forked(live, panel)
    assert "the fork begins after 12 steps" in status(panel) and list(live.runs.trainers) == ["baseline", "dispersive"]

    live.branch, live.at, live.lam = "baseline", 6, 1.0
    forked(live, panel)
    fork = Run.open(tmp_path / "001" / "fork 1")
    assert fork.parent.step == 6 and "dispersive.lam: None → 1.0" in fork.parent.changes
    assert live.logged("fork 1", "velocity").steps.tolist() == [2, 4, 6, 8, 10, 12]
    shared = live.logged("baseline", "velocity").values[:3]
    assert live.logged("fork 1", "velocity").values[:3].tolist() == shared.tolist()
    assert shown(panel) == {"baseline": 6, "dispersive": 6, "fork 1": 6}

    live.paint(0, 9, 0.0)
    live.branch, live.at = "fork 1", 8
    forked(live, panel)
    again = live.configs["fork 2"].dispersive
    assert (again.lam, again.schedule) == (1.0, ((8, 0.0), (9, 1.0)))
    origins = "forked from baseline at step 6, λ None → 1.0", "forked from fork 1 at step 8"
    assert all(origin in sheets(panel) for origin in origins)
    inks = [line.line.color for line in panel.figure.data[:4]]
    assert len(set(inks)) == 4, "every run has a colour of its own"
    lam = live.lam_at("fork 2")  # the baseline's to step 5, that of fork 1 to step 7, its own
    assert list(zip(lam.steps, lam.values, strict=True)) == [(0, 0), (5, 0), (6, 1), (7, 1), (8, 0), (9, 1), (11, 1)]
    cloud, layout = panel.figure.data[2 * BRANCHES], panel.figure.layout
    assert (layout.yaxis3.scaleanchor, layout.yaxis.scaleanchor, layout.yaxis.showticklabels) == ("x3", None, None)
    assert cloud.mode == "markers" and len(cloud.x) == 100 and "<th>spread</th>" in panel.widget.children[-3].value

    curves = {name: live.logged(name, "velocity") for name in live.configs}
    newer = LiveTraining(configs, out=tmp_path, steps=12)
    assert newer.unavailable()["resume"], "all of these runs are finished"
    later = next(tmp_path.glob("001/fork 2/checkpoints/*12.safetensors"))
    later.unlink()  # as if the kernel had been killed before it was saved
    panel = show(newer)
    assert not buttons(panel)["Resume"].disabled
    buttons(panel)["Resume"].click()
    newer.wait()
    assert newer.status == "finished" and {t.step for t in newer.runs.trainers.values()} == {12}
    for name, curve in curves.items():  # as if it had been watched all the time
        torch.testing.assert_close(newer.logged(name, "velocity"), curve, rtol=1e-5, atol=0)
    assert newer.parents == live.parents


def test_runs_without_a_colour_of_their_own_can_be_told_apart():
    small = recipes.digits(steps=2, log_every=1, lam=0.5, **SMALL)
    panel = show(LiveTraining(lambda s: {"the library's loss": small, "your loss": small}), ())
    panel.state.wait()
    library, own = (line.line for line in panel.figure.data[:2])
    assert library.color != own.color and (library.dash, own.dash) == ("solid", "dash"), "one may lie on the other"


def test_lam_is_painted_and_the_slider_takes_it_back(live):
    assert live.weight() == {"lam": 0.5, "schedule": ()}
    live.paint(0, 12, 2.0)
    assert live.weight() == {"lam": 2.0, "schedule": ((11, 1.0), (12, 0.25))}
    live.paint(20, 30, 0.0)
    assert live.weight()["schedule"] == ((11, 1.0), (12, 0.25), (19, 0.25), (20, 0.0), (29, 0.0), (30, 0.25))
    _, strip, numbers = painter(live).children
    strip.stroke = [0, 12, 1.0]
    assert strip.knots[0] == [11, 1.0] and "1 at step 11" in numbers.children[-1].value
    first, last, value, press = numbers.children[:4]
    first.value, last.value, value.value = 5, 5, 0.7
    press.click()
    assert "last = 5 cannot be used" in numbers.children[-1].value
    last.value = 6
    press.click()
    assert live.weight()["lam"] == 1.0 and value_at(live.weight()["schedule"], 5) == 0.7
    live.lam = 0.3
    assert live.weight() == {"lam": 0.3, "schedule": ()} and strip.knots == [[0, 0.3]]
    live.paint(0, 10**5, 0.0)
    assert value_at(live.weight()["schedule"], 3) == 0


@pytest.mark.parametrize(
    ("changes", "title", "floor"),
    [
        ({}, "Dispersive Loss at block 1", -math.log(8)),
        (dict(lam=None), "Dispersive Loss at block 1, not trained on", -math.log(8)),
        (dict(variant="hinge", margin=2.0, blocks=(3,)), "Dispersive Loss at block 3", 0.5),
        (dict(variant="covariance"), "Dispersive Loss at block 1", 1 / 7),
        (dict(include_self=False), "Dispersive Loss at block 1", None),
    ],
)
def test_the_floor_is_that_of_the_variant_and_absent_where_there_is_none(monkeypatch, changes, title, floor):
    monkeypatch.setattr("labkit.widgets.training.POINTS", 2)
    live = LiveTraining(lambda s: {"a": recipes.digits(steps=3, batch_size=8, log_every=1, **{"lam": 0.5, **changes})})
    panel = show(live, (), ("dispersive",))
    live.wait()
    curve, line = panel.figure.data[0], panel.figure.data[-1]
    assert curve.x == (1, 3), "a long curve is thinned"
    assert panel.figure.layout.annotations[0].text == title
    assert not line.y if floor is None else line.y == pytest.approx((floor, floor), abs=1e-3)
    assert line.showlegend == ("floor" in panel.sentence.value) == (floor is not None)
