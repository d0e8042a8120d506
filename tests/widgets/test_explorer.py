"""The explorer: clouds that compare, numbers that are the library's, a background that never gives up, faults in words.

Three small runs of one seed, with checkpoints at steps 2, 4 and 6, trained so fast that they differ by then.
"""

import dataclasses
import json
import threading
import time

import pytest
import torch
from ipywidgets.widgets.widget import _instances

from labkit import Run, recipes
from labkit.checks import ConfigError
from labkit.config import Optimizer
from labkit.experiments import Comparison
from labkit.metrics import effective_rank, feature_norm, mean_pairwise_distance, neighbour_purity
from labkit.plots import CLASSES
from labkit.training import Look
from labkit.widgets import Explorer, explorer_panel
from labkit.widgets.explorer import Place
from labkit.widgets.panel import Panel

STEPS, DEPTH, COUNT, TIMES = [0, 2, 4, 6], 4, 40, (0.3, 0.8, "mixed")
CONFIG = recipes.digits(model="SiT-Nano/4", batch_size=8, steps=6, save_every=2, keep_last=9, log_every=2).replace(
    optimizer=Optimizer(lr=1e-2), ema_decay=0.5
)


@pytest.fixture(autouse=True)
def nobody_stays():
    """No panel and no thread of one test is there in the next."""
    yield
    for panel in list(Panel._open.values()):
        panel.close()
    wait_for(lambda: not alive())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return trained(
        tmp_path_factory.mktemp("runs"),
        baseline=CONFIG,
        dispersive=CONFIG.replace(lam=0.5),
        hinge=CONFIG.replace(lam=2.0, variant="hinge"),
    )


def trained(out, **configs):
    for _ in Comparison(configs, out):
        pass
    return {name: Run.open(out / name) for name in configs}


@pytest.fixture
def explorer(runs):
    state = Explorer(runs, COUNT, TIMES)
    yield state
    state.close()


@pytest.fixture
def brief(runs):
    """With fewer times."""
    state = Explorer(runs, COUNT, (0.3, "mixed"))
    yield state
    state.close()


@pytest.fixture(scope="module")
def known(runs):
    """An explorer that has made all it can by PCA."""
    state = Explorer(runs, COUNT, TIMES)
    state.start()
    for state.labelled in (False, True):
        wait_for(lambda: filled(state))
    state.close()
    return state


@pytest.fixture
def panel(explorer, known):
    """A panel whose background has nothing to do, so that what changes is the reader's doing."""
    explorer.clouds, explorer._axes = dict(known.clouds), dict(known._axes)
    panel = explorer_panel(explorer)
    yield panel
    panel.close()


@pytest.fixture(scope="module")
def mapped(runs):
    """An explorer in which UMAP has been asked for."""
    state = Explorer(dict(list(runs.items())[:2]), COUNT, (0.3,))
    state.projection = "UMAP"
    state.settle()
    yield state
    state.close()


def wait_for(condition):
    """Poll; the limit only ends a test that would otherwise hang."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def filled(state):
    return state.progress()[0] == state.progress()[1]


def at_rest(panel):
    """Wait until all is made, and end the background, so that what changes then is the reader's doing."""
    wait_for(lambda: filled(panel.state))
    panel.state.close()
    wait_for(lambda: not alive())


def alive():
    return [t for t in threading.enumerate() if t.name == "labkit-explorer"]


def poison(monkeypatch, run, step, block):
    """Two images' features of one run, at one step and block, become NaN and infinite."""
    honest = Run.features

    def features(self, look, blocks, at):
        seen = honest(self, look, blocks, at)
        if (self.path, at) == (run.path, step) and block in seen.features:
            seen.features[block][0], seen.features[block][7, 0, 0] = float("nan"), float("inf")
        return seen

    monkeypatch.setattr(Run, "features", features)


# --- clouds and numbers


def test_what_is_shown_is_at_hand_after_settling_and_nothing_else(explorer):
    assert not explorer.ready and explorer.place == Place(1, 0.3, True, 6)
    explorer.settle()
    assert explorer.ready and set(explorer.clouds) == {explorer.place}
    assert {name: tuple(xy.shape) for name, xy in explorer.points().items()} == dict.fromkeys(explorer.runs, (COUNT, 2))
    assert alive() == []


@pytest.mark.parametrize("axes", ["shared", "own"])
def test_clouds_are_centred_and_no_longer_in_the_picture_than_in_feature_space(explorer, axes):
    for step in (6, 2):
        explorer.axes, explorer.step = axes, step
        explorer.settle()
        for name, xy in explorer.points().items():
            z = explorer.runs[name].features(Look(0.3, COUNT), [1], step).features[1].flatten(1)
            z = z - z.mean(dim=0)
            assert xy.mean(dim=0).abs().max() < 1e-5
            assert (torch.pdist(xy) <= torch.pdist(z) / z.shape[1] ** 0.5 * (1 + 1e-4)).all()
            share = xy.square().sum() / z.square().sum() * z.shape[1]
            cloud = explorer.clouds[explorer.place][name]
            assert cloud.explained[axes] == pytest.approx(share.item(), rel=1e-3) and 0 < share < 1


def test_shared_axes_are_one_orthonormal_basis_for_all_runs_steps_and_times(explorer):
    explorer.settle()
    basis = explorer._axes[1, True]
    shared = set(map(id, basis["shared"].values()))
    assert len(shared) == 1 and len(set(map(id, basis["own"].values()))) == 3
    for pca in (*basis["shared"].values(), *basis["own"].values()):
        torch.testing.assert_close(pca.axes @ pca.axes.T, torch.eye(2).double(), rtol=0, atol=1e-9)
    explorer.step, explorer.t = 2, 0.8
    explorer.settle()
    assert explorer._axes[1, True] is basis and len(explorer._axes) == 1


def test_axes_of_its_own_show_more_of_a_run_than_the_shared_ones(explorer):
    """Of all times at the last step together, which is what axes are fitted on."""
    explorer.settle()
    basis = explorer._axes[1, True]
    for name, run in explorer.runs.items():
        of_all = [run.features(Look(t, COUNT), [1], 6).features[1].flatten(1) for t in (0.3, 0.8, None)]
        z = torch.cat([of_one - of_one.mean(dim=0) for of_one in of_all])
        assert basis["own"][name].explained(z) >= basis["shared"][name].explained(z) - 1e-5


def test_numbers_are_the_librarys_of_the_features_asked_for_directly(explorer):
    explorer.block, explorer.step, explorer.t = 2, 4, 0.8
    explorer.settle()
    for name, cloud in explorer.clouds[explorer.place].items():
        seen = explorer.runs[name].features(Look(0.8, COUNT), [2], 4)
        z = seen.features[2]
        assert cloud.numbers == {
            "feature_norm": feature_norm(z),
            "mean_pairwise_distance": mean_pairwise_distance(z),
            "effective_rank": effective_rank(z),
            "neighbour_purity": neighbour_purity(z.flatten(1), seen.y, 10),
        }
        torch.testing.assert_close(cloud.norms, z.flatten(1).norm(dim=1) / z[0].numel() ** 0.5)
        assert cloud.norms.mean().item() == pytest.approx(cloud.numbers["feature_norm"], rel=1e-5)


def test_history_fills_step_by_step(explorer):
    explorer.settle()
    assert all(set(known) == {6} for known in explorer.history("effective_rank").values())
    for step in (2, 0):
        explorer.step = step
        explorer.settle()
    history = explorer.history("effective_rank")["dispersive"]
    assert list(history) == [0, 2, 6]
    assert history[2] == explorer.clouds[Place(1, 0.3, True, 2)]["dispersive"].numbers["effective_rank"]
    explorer.block = 3
    assert explorer.history("effective_rank") == {name: {} for name in explorer.runs}


def test_bounds_hold_every_point_and_are_one_for_all_where_axes_are_shared(explorer):
    explorer.start()
    wait_for(lambda: filled(explorer))
    for axes in ("shared", "own"):
        explorer.axes, bounds = axes, {}
        for step in STEPS:
            explorer.step = step
            for name, xy in explorer.points().items():
                bounds.setdefault(name, set()).add(explorer.bounds(name))
                (left, right), (low, high) = explorer.bounds(name)
                assert right - left == pytest.approx(high - low) and left == -right
                assert left < xy[:, 0].min() and xy[:, 0].max() < right
                assert low < xy[:, 1].min() and xy[:, 1].max() < high
        assert all(len(of_one) == 1 for of_one in bounds.values()), "a film does not zoom"
        assert len(set.union(*bounds.values())) == (1 if axes == "shared" else 3)


def test_mixed_times_are_each_images_own(explorer):
    explorer.t = "mixed"
    explorer.settle()
    times = explorer.inputs["mixed"].t
    assert len(times.unique()) == COUNT and 0 <= times.min() < times.max() <= 1
    z = explorer.runs["hinge"].features(Look(None, COUNT), [1], 6).features[1]
    assert explorer.clouds[explorer.place]["hinge"].numbers["feature_norm"] == feature_norm(z)


def test_telling_the_class_changes_the_features(explorer):
    explorer.settle()
    told = explorer.points()["baseline"]
    explorer.labelled = False
    assert not explorer.ready
    explorer.settle()
    assert not torch.allclose(told, explorer.points()["baseline"], atol=1e-4)
    z = explorer.runs["baseline"].features(Look(0.3, COUNT, labelled=False), [1], 6).features[1]
    assert explorer.clouds[explorer.place]["baseline"].numbers["feature_norm"] == feature_norm(z)


def test_at_step_0_runs_of_one_seed_have_the_same_cloud_and_later_not(explorer):
    explorer.settle()
    first, *others = explorer.points().values()
    assert not any(torch.allclose(first, other, atol=1e-3) for other in others)
    explorer.step = 0
    explorer.settle()
    first, *others = explorer.points().values()
    assert all(torch.equal(first, other) for other in others)


def test_what_is_highlighted(explorer):
    assert explorer.selected() is None
    explorer.highlight = 3
    assert explorer.selected() == [i for i, digit in enumerate(explorer.y.tolist()) if digit == 3]
    explorer.highlight = "drawn"
    assert explorer.selected() is None, "nothing was drawn around yet: nothing is left out"
    explorer.drawn = (4, 7)
    assert explorer.selected() == [4, 7]


# --- in the background


def test_everything_is_made_in_the_background_and_told_each_time(brief):
    state, told = brief, []
    state.block, state.step = 2, 4
    state.changed = lambda: told.append(list(state.clouds)[-1])
    state.start()
    state.start()  # a second time it goes on as it is
    assert len(alive()) == 1
    wait_for(lambda: filled(state) and len(told) == len(state.clouds))  # the last is made, then told
    assert state.progress() == (len(STEPS) * DEPTH * 2,) * 2
    assert told[0] == Place(2, 0.3, True, 4), "what is looked at comes first"
    assert {place.step for place in told[:4]} == {0, 2, 4, 6} and {place.block for place in told[:4]} == {2}
    assert {place.t for place in told[:16]} == {0.3} and set(told) == set(state._all())
    state.close()
    wait_for(lambda: not alive())


def test_where_one_looks_meanwhile_comes_next(brief):
    state, told = brief, []

    def changed():
        told.append(list(state.clouds)[-1])
        if len(told) == 3:
            state.block, state.t, state.step = 3, "mixed", 2

    state.changed = changed
    state.start()
    wait_for(lambda: len(told) > 3)
    assert told[3] == Place(3, "mixed", True, 2)
    state.close()
    wait_for(lambda: not alive())


def test_looking_elsewhere_wakes_a_background_that_has_finished(explorer):
    explorer.start()
    wait_for(lambda: filled(explorer))
    explorer.labelled = False
    wait_for(lambda: explorer.ready)
    assert explorer.progress()[1] == len(STEPS) * DEPTH * len(TIMES)


def test_closed_it_stops_and_started_again_it_goes_on(explorer):
    explorer.changed = explorer.close
    explorer.start()
    wait_for(lambda: not alive())
    assert len(explorer.clouds) == 1
    explorer.changed = lambda: None
    explorer.start()
    wait_for(lambda: filled(explorer))
    assert len(alive()) == 1


def test_closed_between_two_looks_around_it_ends_as_well(known):
    class Late(threading.Event):
        def clear(self):
            known.close()
            super().clear()

    known._wake, known._closed = Late(), threading.Event()
    background = threading.Thread(target=known._work, args=(known._wake, known._closed), daemon=True)
    background.start()
    background.join(20)
    assert not background.is_alive()


# --- what cannot be shown


def test_features_that_are_not_finite_are_told_where_they_are_and_all_else_is_shown(runs, monkeypatch):
    poison(monkeypatch, runs["dispersive"], 2, 1)
    state = Explorer(runs, COUNT, (0.3,))
    made = []
    monkeypatch.setattr(state, "_make_clouds", lambda place, make=state._make_clouds: (made.append(place), make(place)))
    panel = explorer_panel(state)
    at_rest(panel)
    assert state.progress() == (15, 15) and len(made) == 16, "it is tried once"
    assert "every view is at hand" in status(panel) and "cannot be shown" not in panel.sentence.value
    before = shown(panel)
    state.step = 2
    where = "dispersive at step 2, block 1: the features of 2 of 40 images are NaN or infinite."
    assert where in panel.sentence.value and "picture is that of the place before" in panel.sentence.value
    assert shown(panel)["points"] == before["points"]
    for block, step in ((1, 4), (2, 2)):
        state.block, state.step = block, step
        assert f"step {step}, block {block}" in panel.sentence.value and "spread" in panel.sentence.value
    panel.close()


def test_a_run_that_diverged_in_the_end_is_refused_by_name(runs, monkeypatch):
    poison(monkeypatch, runs["hinge"], 6, 1)
    with pytest.raises(ValueError, match="hinge at step 6, block 1: the features of 2 of 40"):
        explorer_panel(Explorer(runs, COUNT, (0.3,)))
    assert alive() == []


def test_a_checkpoint_that_cannot_be_read_is_told_and_the_rest_shown(tmp_path):
    state = Explorer(trained(tmp_path, baseline=CONFIG), COUNT, (0.3,))
    panel_of = explorer_panel(state)
    wait_for(lambda: filled(state))
    state.close()
    wait_for(lambda: not alive())
    file = state.runs["baseline"].checkpoints[4]
    file.write_bytes(file.read_bytes()[:1000])
    state = Explorer(state.runs, COUNT, (0.3,))
    panel_of = explorer_panel(state)
    state.step = 4
    wait_for(lambda: "cannot be shown" in panel_of.sentence.value)
    assert "step-00000004.safetensors is cut or not a checkpoint" in panel_of.sentence.value
    wait_for(lambda: filled(state))
    panel_of.close()


def test_three_images_have_axes_but_no_map_and_the_panel_says_why(runs):
    state = Explorer(runs, 3, (0.3,))
    panel = explorer_panel(state)
    assert "effective rank" in panel.sentence.value
    state.projection = "UMAP"
    wait_for(lambda: state.fault)
    wait_for(lambda: "cannot be shown" in panel.sentence.value)
    assert "UMAP needs 4 or more; here n = 9" in panel.sentence.value
    assert "Traceback" not in panel.sentence.value and len(alive()) == 1
    state.projection = "PCA"
    wait_for(lambda: "PCA at step 6" in panel.sentence.value and "cannot be shown" not in panel.sentence.value)
    panel.close()


def test_too_few_images_for_trustworthiness_are_told(runs):
    state = Explorer(runs, 25, (0.3,))
    panel = explorer_panel(state)
    state.projection = "UMAP"
    wait_for(lambda: "cannot be shown" in panel.sentence.value)
    assert "n_samples / 2 (12.5)" in panel.sentence.value
    panel.close()


def test_of_one_class_purity_is_undefined_and_not_told(runs, monkeypatch):
    from labkit.datasets import digits

    ones = digits("held_out")
    ones = dataclasses.replace(ones, y=torch.ones_like(ones.y))
    monkeypatch.setattr("labkit.training.features.datasets.load", lambda *_: ones)
    state = Explorer(runs, COUNT, (0.3,))
    panel = explorer_panel(state)
    numbers = state.clouds[state.place]["baseline"].numbers
    assert numbers["neighbour_purity"] != numbers["neighbour_purity"]
    words = panel.sentence.value
    assert "effective rank" in words and "nan" not in words and "nearest neighbours" not in words
    assert [option for option, _ in panel.controls["highlight"].options] == ["all", "the 1s", "what I drew around"]
    assert "nan" not in json.dumps(panel.figure.to_dict(), allow_nan=False, default=repr)
    panel.close()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model="SiT-Nano/2"), "features of different widths have no axes in common"),
        (dict(save_every=5, steps=5), r"share no step with a checkpoint \(baseline: 2, 4, 6; other: 5\)"),
        (dict(steps=1), "other.* has no checkpoint yet: train it first"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_with_the_reason(runs, tmp_path, changes, message):
    other = trained(tmp_path, other=CONFIG.replace(**changes))["other"]
    if other.config.steps == 1:
        other.checkpoints[1].unlink()
    with pytest.raises(ConfigError, match=message) as refused:
        Explorer({"baseline": runs["baseline"], "other": other})
    assert str(refused.value).startswith("runs = ")


@pytest.mark.usefixtures("unchecked")
def test_no_run_five_runs_and_too_few_images_are_refused(runs):
    with pytest.raises(ConfigError, match=r"runs = \[\] .*at least one"):
        Explorer({})
    with pytest.raises(ConfigError, match="four are as many as fit side by side"):
        explorer_panel(dict.fromkeys("abcde", runs["baseline"]))
    for count in (2, 2.5, None):
        with pytest.raises(ConfigError, match=f"count = {count} "):
            Explorer(runs, count)
    assert alive() == []


# --- the panel


def status(panel):
    return panel.widget.children[2].children[2].value


def film(panel):
    return panel.widget.children[2].children[1]


def shown(panel):
    """What a reader sees, part by part, as plain text. Of each run there are points and a ring; then come the curves,
    and the two images; the last annotation is the key to the classes.
    """
    data, count = panel.figure.data, len(panel.state.runs)
    dots, rings, lines, (image, seen) = (
        data[: 2 * count : 2],
        data[1 : 2 * count : 2],
        data[2 * count : 5 * count],
        (data[5 * count : 5 * count + 2]),
    )
    layout = panel.figure.layout
    notes = [note.text for note in layout.annotations]
    panes = [layout[letter + "axis" + dot[letter + "axis"][1:]] for dot in dots for letter in "xy"]
    parts = {
        "points": [(list(dot.x), list(dot.y)) for dot in dots],
        "colours": [list(dot.marker.color) for dot in dots],
        "selected": [dot.selectedpoints for dot in dots],
        "rings": [(list(ring.x), list(ring.y)) for ring in rings],
        "curves": [(line.x, line.y) for line in lines],
        "image": (image.z.tolist(), notes[count]),
        "as seen": seen.z.tolist(),
        "time": notes[-2],
        "rules": [(rule.x0, rule.x1) for rule in layout.shapes],
        "ends": [axis.range for axis in panes],
        "bar": (layout.coloraxis.showscale, layout.coloraxis.colorbar.title.text),
        "key": layout.annotations[-1].visible,
        "words": panel.sentence.value,
        "what it can": panel.widget.children[3].value,
    }
    return {name: str(part) for name, part in parts.items()}


def changed(panel, act):
    """Which parts are others after an act."""
    before = shown(panel)
    act()
    after = shown(panel)
    return {name for name in before if before[name] != after[name]}


def on_page(panel, event, pane, *images):
    """What the page sends when the mouse is over, clicks at, or is drawn around points of one pane."""
    at = {"xs": [0.0] * len(images), "ys": [0.0] * len(images), "point_indexes": list(images)}
    lasso = {"type": "lasso", "selector_state": {"xs": [], "ys": []}} if event == "selected" else None
    panel.figure._js2py_pointsCallback = {
        "event_type": f"plotly_{event}",
        "points": at | {"trace_indexes": [2 * pane] * len(images)},
        "selector": lasso,
    }


ELSEWHERE = {"points", "rings", "words"}


CONTROLS = [
    ("step", 2, ELSEWHERE | {"rules"}),
    ("block", 3, ELSEWHERE | {"curves", "ends"}),
    ("t", 0.8, ELSEWHERE | {"curves", "ends", "as seen", "time"}),
    ("t", "mixed", ELSEWHERE | {"curves", "ends", "as seen", "time"}),
    ("labelled", False, ELSEWHERE | {"curves", "ends"}),
    ("axes", "own", {"points", "rings", "ends", "what it can"}),
    ("colour", "norm", {"colours", "bar", "key"}),
    ("colour", "time t", {"colours", "bar", "key"}),
    ("highlight", 3, {"selected"}),
    ("image", 9, {"rings", "image", "as seen"}),
]


def test_each_control_changes_what_it_should_and_nothing_else(panel):
    for name, value, parts in CONTROLS:
        control = panel.controls[name]
        before, move = control.value, lambda to, control=control: setattr(control, "value", to)
        assert changed(panel, lambda value=value, move=move: move(value)) == parts, (name, value)
        assert getattr(panel.state, name) == value
        move(before)


def test_what_is_drawn_is_what_the_state_holds(panel):
    state = panel.state
    state.step, state.colour, state.highlight, state.image = 4, "norm", 7, 11
    data, layout = panel.figure.data, panel.figure.layout
    sevens = tuple(i for i, digit in enumerate(state.y.tolist()) if digit == 7)
    for place, (name, xy) in enumerate(state.points().items()):
        dots, ring, cloud = data[2 * place], data[2 * place + 1], state.clouds[state.place][name]
        assert dots.x.tolist() == xy[:, 0].tolist() and dots.y.tolist() == xy[:, 1].tolist()
        assert (ring.x[0], ring.y[0]) == tuple(xy[11].tolist())
        assert dots.marker.color.tolist() == cloud.norms.tolist() and dots.marker.coloraxis == "coloraxis"
        assert dots.selectedpoints == sevens
        caption = layout.annotations[place].text
        spread = cloud.numbers["mean_pairwise_distance"]
        assert (
            caption == f"<b>{name}</b><br>spread {spread:.2g}<br>axes hold {cloud.explained['shared']:.0%} of variance"
        )
        words = f"<b>{name}</b> norm {cloud.numbers['feature_norm']:.2g}, spread {spread:.2g}, effective rank "
        assert words in panel.sentence.value
        assert data[6 + place].name == name and data[6 + place].y[2] == spread and data[6 + place].x == (0, 1, 2, 3)
        assert data[9 + place].y[1] == state.history("effective_rank")[name][2]
        assert data[12 + place].y[0] == state.history("neighbour_purity")[name][0]
    assert "PCA at step 4, block 1, t = 0.3, class told: <b>baseline</b>" in panel.sentence.value
    assert [rule.x0 for rule in layout.shapes] == [2, 2, 2], "step 4 is the third"
    assert layout.coloraxis.colorbar.title.text == "norm ‖z‖/√P"
    x1, x_t = (images.z for images in data[15:17])
    assert torch.equal(torch.tensor(x1), state.inputs[0.3].x1[11, 0])
    assert torch.equal(torch.tensor(x_t), state.inputs[0.3].x_t[11, 0].clamp(-1, 1))
    assert layout.annotations[3].text == f"image 11: a {state.y[11]}"
    assert layout.annotations[-2].text == "as seen at t = 0.30"
    state.colour = "class"
    assert list(data[0].marker.color) == [CLASSES[digit] for digit in state.y.tolist()]


def test_the_sentence_says_how_the_model_was_asked(panel):
    panel.state.t, panel.state.labelled = "mixed", False
    assert "block 1, each image at a time of its own, class not told:" in panel.sentence.value
    panel.state.image, own = 5, panel.state.inputs["mixed"].t[5]
    assert panel.figure.layout.annotations[-2].text == f"as seen at t = {own:.2f}"


def test_lengths_of_two_runs_are_said_to_compare_only_where_they_do(panel):
    can = panel.widget.children[3]
    assert "twice as wide <i>is</i> twice as wide" in can.value
    panel.state.axes = "own"
    assert "never of one with another" in can.value and "twice as wide" not in can.value


def test_until_a_view_is_at_hand_the_panel_says_that_it_is_on_its_way(panel, monkeypatch):
    go_on, state = threading.Event(), panel.state
    state.clouds = {place: clouds for place, clouds in state.clouds.items() if place.labelled}
    monkeypatch.setattr(state, "_make_clouds", lambda place, make=state._make_clouds: go_on.wait(20) and make(place))
    assert "every view is at hand" in status(panel)
    assert changed(panel, lambda: setattr(state, "labelled", False)) == {"words", "curves"}
    assert "class not told is on its way" in panel.sentence.value
    assert "0 of 48 views at hand, the rest follow" in status(panel)
    go_on.set()
    wait_for(lambda: "norm" in panel.sentence.value and "1 of 48 views at hand" not in status(panel))


def test_a_slider_may_move_while_a_picture_is_drawn(panel, monkeypatch, caplog):
    """The background draws, too: what it began with it finishes, then draws where the reader went."""
    state, bounds = panel.state, Explorer.bounds
    state.clouds = {place: clouds for place, clouds in state.clouds.items() if place.labelled}

    def slow(self, name):
        state.labelled = False
        return bounds(self, name)

    monkeypatch.setattr(Explorer, "bounds", slow)
    state.step = 4
    wait_for(lambda: "step 4" in panel.sentence.value and "class not told: <b>baseline" in panel.sentence.value)
    assert not caplog.records


@pytest.mark.parametrize("event", ["hover", "click"])
def test_pointing_at_an_image_rings_it_in_all_panes(panel, event):
    assert changed(panel, lambda: on_page(panel, event, 1, 12)) == {"image", "as seen", "rings"}
    assert panel.state.image == panel.controls["image"].value == 12
    on_page(panel, "unhover", 1)
    assert panel.state.image == 12


def test_drawing_around_images_selects_them_in_all_panes_until_deselected(panel):
    highlight = panel.controls["highlight"]
    assert changed(panel, lambda: on_page(panel, "selected", 2, 3, 5, 8)) == {"selected"}
    assert [dots.selectedpoints for dots in panel.figure.data[:6:2]] == [(3, 5, 8)] * 3 and highlight.value == "drawn"
    on_page(panel, "selected", 0, 1)
    assert [dots.selectedpoints for dots in panel.figure.data[:6:2]] == [(1,)] * 3
    on_page(panel, "selected", 0)
    assert panel.state.selected() == [1], "a line around nothing changes nothing"
    assert [dots.selectedpoints for dots in panel.figure.data[:6:2]] == [(1,)] * 3
    others = [trace for trace in panel.figure.data if trace.type == "scatter" and trace not in panel.figure.data[:6:2]]
    assert all(trace.selectedpoints is None for trace in others), "rings and curves stay as they are"
    highlight.value = 4
    assert panel.state.selected() != [1]
    highlight.value = "drawn"
    assert panel.state.selected() == [1], "what was drawn can be had again"
    on_page(panel, "deselect", 0)
    assert [dots.selectedpoints for dots in panel.figure.data[:6:2]] == [None] * 3 and highlight.value == "all"


def test_the_film_moves_the_step_and_follows_it(panel):
    assert (film(panel).min, film(panel).max, film(panel).value) == (0, 3, 3)
    film(panel).value = 1
    assert panel.state.step == panel.controls["step"].value == 2
    panel.controls["step"].value = 4
    assert film(panel).value == 2


def test_up_to_four_runs_stand_side_by_side(runs):
    for count in (1, 2, 4):
        named = {f"{name} {i}": run for i in range(2) for name, run in runs.items()}
        panel = explorer_panel(Explorer(dict(list(named.items())[:count]), COUNT, (0.3,)))
        dots = panel.figure.data[: 2 * count : 2]
        assert len({trace.xaxis for trace in dots}) == count and all(len(trace.x) == COUNT for trace in dots)
        assert [note.text.split("<br>")[0] for note in panel.figure.layout.annotations[:count]] == [
            f"<b>{name}</b>" for name in list(named)[:count]
        ]
        panel.close()


def test_names_are_shown_as_they_are_written(runs):
    panel = explorer_panel(Explorer({"<b>λ & τ": runs["baseline"]}, COUNT, (0.3,)))
    assert "<b>&lt;b&gt;λ &amp; τ</b>" in panel.sentence.value
    assert panel.figure.layout.annotations[0].text.startswith("<b>&lt;b&gt;λ &amp; τ</b>")
    panel.close()


def test_making_the_panel_again_closes_the_earlier_and_its_thread(runs):
    explorer_panel(Explorer(runs, COUNT, (0.3,))).close()
    wait_for(lambda: not alive())
    before = set(_instances)
    first = explorer_panel(Explorer(runs, COUNT, (0.3,)))
    (thread,) = alive()
    second = explorer_panel(Explorer(runs, COUNT, (0.3,)))
    assert first.closed and not second.closed
    wait_for(lambda: not thread.is_alive())
    assert len(alive()) == 1
    second.close()
    assert set(_instances) == before
    wait_for(lambda: not alive())


def test_a_panel_of_the_same_explorer_goes_on_where_the_earlier_stood(explorer):
    first = explorer_panel(explorer)
    explorer.step, explorer.block = 2, 3
    second = explorer_panel(explorer)
    assert first.closed and second.controls["step"].value == 2 and film(second).value == 1
    wait_for(lambda: filled(explorer))
    wait_for(lambda: "every view is at hand" in status(second))
    assert len(alive()) == 1
    explorer.step = 4
    assert film(first).value == 1, "the closed panel follows no more"
    second.close()


# --- UMAP


def test_a_map_holds_all_runs_and_carries_what_it_takes_to_judge_it(mapped):
    reference = mapped.map.reference
    assert len(reference.places) == 2 * COUNT
    assert torch.equal(torch.cat(list(mapped.points().values())), reference.places), "the last step is its own"
    assert mapped.map.trustworthiness.keys() == mapped.runs.keys()
    assert all(0.5 < trust <= 1 for trust in mapped.map.trustworthiness.values()) and 0 <= mapped.map.flicker <= 1
    mapped.step = 2
    mapped.settle()
    (left, right), (low, high) = mapped.bounds("baseline")
    assert mapped.map.reference is reference and mapped.bounds("dispersive") == ((left, right), (low, high))
    for place in (mapped.place, mapped.place._replace(step=6)):
        for xy in mapped.mapped[place].values():
            assert xy.isfinite().all() and left < xy[:, 0].min() and xy[:, 1].max() < high
    mapped.step = 6


def test_in_a_map_each_run_may_have_a_box_of_its_own(mapped):
    shared = mapped.bounds("baseline")
    mapped.axes = "own"
    boxes = {name: mapped.bounds(name) for name in mapped.runs}
    mapped.axes = "shared"
    for name, xy in mapped.points().items():
        ends = zip(xy.amin(0).tolist(), xy.amax(0).tolist(), strict=True)
        for (low, high), box, whole in zip(ends, boxes[name], shared, strict=True):
            assert whole[0] <= box[0] < low and high < box[1] <= whole[1]
    assert len(set(boxes.values())) == len(boxes)


def test_the_panel_shows_the_map_its_trust_and_what_it_cannot_show(mapped):
    panel = explorer_panel(mapped)
    at_rest(panel)
    assert "every step of this map is at hand" in status(panel)
    judged = mapped.map
    assert "UMAP at step 6, block 1" in panel.sentence.value
    assert f"another seed differs by a disparity of {judged.flicker:.2f}" in panel.sentence.value
    assert "cannot show spread" in panel.widget.children[3].value
    captions = [note.text for note in panel.figure.layout.annotations[:2]]
    for (name, trust), caption in zip(judged.trustworthiness.items(), captions, strict=True):
        assert caption.startswith(f"<b>{name}</b><br>spread ") and caption.endswith(f"trustworthiness {trust:.2f}")
    assert not panel.figure.layout.xaxis.showticklabels and not panel.figure.layout.yaxis2.showticklabels
    assert changed(panel, lambda: setattr(mapped, "step", 0)) == {"points", "rings", "rules", "words"}
    back = changed(panel, lambda: setattr(mapped, "projection", "PCA"))
    assert back == {"points", "rings", "ends", "words", "what it can"}
    assert panel.figure.layout.xaxis.showticklabels
    assert "keeps lengths" in panel.widget.children[3].value
    mapped.projection, mapped.step = "UMAP", 6
    panel.close()


def test_a_map_that_is_being_fitted_is_announced_and_axes_are_looked_at_meanwhile(panel, monkeypatch):
    state, go_on = panel.state, threading.Event()
    monkeypatch.setattr(state, "_make_map", lambda place, make=state._make_map: go_on.wait(20) and make(place))
    state.projection = "UMAP"
    assert "UMAP is being fitted" in status(panel) and "is on its way" in panel.sentence.value
    state.projection = "PCA"
    assert "every view is at hand" in status(panel) and "PCA at step 6" in panel.sentence.value
    state.projection = "UMAP"
    go_on.set()
    wait_for(lambda: "UMAP at step 6" in panel.sentence.value and "disparity" in panel.sentence.value)


def test_moving_about_leaves_no_widget_and_no_trace_behind(panel):
    state = panel.state
    widgets_, traces, notes = set(_instances), len(panel.figure.data), len(panel.figure.layout.annotations)
    for move in range(24):
        state.block, state.t, state.step = move % DEPTH, TIMES[move % 3], STEPS[move % 4]
        state.projection = "UMAP" if move == 9 else "PCA"
    state.projection = "PCA"
    wait_for(lambda: filled(state))
    assert set(_instances) == widgets_
    assert (len(panel.figure.data), len(panel.figure.layout.annotations)) == (traces, notes)
    assert "norm" in panel.sentence.value and len(alive()) == 1
