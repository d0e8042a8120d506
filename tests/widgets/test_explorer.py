"""The explorer: clouds, numbers, the background thread, faults, the panel.

Three small runs of one seed, with checkpoints at steps 2, 4 and 6; their learning rate is so large that they differ.
"""

import dataclasses
import html
import json
import math
import re
import threading

import pytest
import torch
from ipywidgets.widgets.widget import _instances
from waiting import threads, wait_for

from labkit import Run, recipes
from labkit.checks import ConfigError
from labkit.config import Optimizer
from labkit.datasets import digits
from labkit.experiments import Comparison
from labkit.metrics import effective_rank, feature_norm, mean_pairwise_distance, neighbour_purity, three_digits
from labkit.paths import Flow
from labkit.plots import CLASSES
from labkit.training import Look
from labkit.widgets import Explorer, explorer_panel
from labkit.widgets.explorer import Place

STEPS, DEPTH, COUNT, TIMES = [0, 2, 4, 6], 4, 40, (0.3, 0.8, "mixed")
CONFIG = recipes.digits(model="SiT-Nano/4", batch_size=8, steps=6, save_every=2, keep_last=9, log_every=2).replace(
    optimizer=Optimizer(lr=1e-2), ema_decay=0.5
)


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


@pytest.fixture(scope="module")
def finished(runs):
    """An explorer that has made everything by PCA."""
    state = Explorer(runs, COUNT, TIMES)
    state.start()
    for state.labelled in (False, True):
        wait_for(lambda: filled(state))
    state.close()
    return state


@pytest.fixture
def panel(explorer, finished):
    """A panel whose background has nothing to do: only the reader changes anything."""
    explorer.clouds, explorer._axes = dict(finished.clouds), dict(finished._axes)
    return explorer_panel(explorer)


@pytest.fixture(scope="module")
def mapped(runs):
    """An explorer with a fitted UMAP."""
    state = Explorer(dict(list(runs.items())[:2]), COUNT, (0.3,))
    state.projection = "UMAP"
    state.settle()
    yield state
    state.close()


def filled(state):
    return state.progress()[0] == state.progress()[1]


def complete(panel):
    """Wait until everything is made, and end the background: only the reader changes anything then."""
    wait_for(lambda: filled(panel.state))
    panel.state.close()
    wait_for(lambda: not alive())


def alive():
    return threads("labkit-explorer")


def poison(monkeypatch, run, step, block):
    """Two images' features of one run, at one step and block, become NaN and infinite."""
    honest = Run.features

    def features(self, look, blocks, at):
        result = honest(self, look, blocks, at)
        if (self.path, at) == (run.path, step) and block in result.features:
            result.features[block][0], result.features[block][7, 0, 0] = float("nan"), float("inf")
        return result

    monkeypatch.setattr(Run, "features", features)


# --- clouds and numbers


def features(explorer, run, place):
    """Features as the library gives them, one row an image."""
    look = Look(None if place.t == "mixed" else place.t, COUNT, place.labelled)
    return explorer.runs[run].features(look, [place.block], place.step).features[place.block].flatten(1)


def test_settling_makes_this_place_alone_and_in_this_thread(explorer):
    assert not explorer.ready and explorer.place == Place(1, 0.3, True, 6)
    explorer.settle()
    assert explorer.ready and set(explorer.clouds) == {explorer.place} and alive() == []
    first, *others = explorer.points().values()
    assert first.shape == (COUNT, 2) and not any(torch.allclose(first, other, atol=1e-3) for other in others)
    explorer.step = 0
    assert not explorer.ready
    explorer.settle()
    first, *others = explorer.points().values()
    assert all(torch.equal(first, other) for other in others), "runs of one seed begin alike"


@pytest.mark.parametrize("place", [Place(2, 0.8, True, 4), Place(1, "mixed", True, 6), Place(1, 0.3, False, 6)])
def test_clouds_and_numbers_are_those_of_the_librarys_features(explorer, place):
    explorer.block, explorer.t, explorer.labelled, explorer.step = place
    explorer.settle()
    for name, cloud in explorer.clouds[place].items():
        z = features(explorer, name, place)
        assert cloud.numbers == {
            "feature_norm": feature_norm(z),
            "mean_pairwise_distance": mean_pairwise_distance(z),
            "effective_rank": effective_rank(z),
            "neighbour_purity": neighbour_purity(z, explorer.y, 10),
        }
        torch.testing.assert_close(cloud.norms, z.norm(dim=1) / z.shape[1] ** 0.5)
        z = z - z.mean(dim=0)
        for axes, xy in cloud.points.items():
            assert xy.mean(dim=0).abs().max() < 1e-5
            assert (torch.pdist(xy) <= torch.pdist(z) / z.shape[1] ** 0.5 * (1 + 1e-4)).all(), "no length grows"
            share = xy.square().sum() / z.square().sum() * z.shape[1]
            assert cloud.explained[axes] == pytest.approx(share.item(), rel=1e-3) and 0 < share < 1
    assert len(explorer.inputs["mixed"].t.unique()) == COUNT


def test_axes_are_orthonormal_and_stay_and_a_runs_own_explain_more_of_it(explorer):
    explorer.settle()
    basis = explorer._axes[1, True]
    assert len(set(map(id, basis["shared"].values()))) == 1 and len(set(map(id, basis["own"].values()))) == 3
    for name in explorer.runs:
        shared, own = basis["shared"][name], basis["own"][name]
        for pca in (shared, own):
            torch.testing.assert_close(pca.axes @ pca.axes.T, torch.eye(2).double(), rtol=0, atol=1e-9)
        times = [features(explorer, name, explorer.place._replace(t=t)) for t in TIMES]  # fitted on all of them
        z = torch.cat([z - z.mean(dim=0) for z in times])
        assert own.explained(z) >= shared.explained(z) - 1e-5
    explorer.step, explorer.t = 2, 0.8
    explorer.settle()
    assert explorer._axes[1, True] is basis and len(explorer._axes) == 1


def test_bounds_hold_every_point_and_are_one_for_all_where_axes_are_shared(explorer, finished):
    explorer.clouds = finished.clouds
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
        assert all(len(own) == 1 for own in bounds.values()), "a film does not zoom"
        assert len(set.union(*bounds.values())) == (1 if axes == "shared" else 3)


# --- in the background


def test_everything_is_made_in_the_background_nearest_first(explorer):
    jobs = []

    def changed():
        jobs.append(list(explorer.clouds)[-1])
        if len(jobs) == 20:
            explorer.block, explorer.t, explorer.step = 3, "mixed", 2

    explorer.block, explorer.step, explorer.changed = 2, 4, changed
    explorer.start()
    explorer.start()  # a second call changes nothing
    assert len(alive()) == 1
    wait_for(lambda: filled(explorer) and len(jobs) == len(explorer.clouds))
    assert explorer.progress() == (len(STEPS) * DEPTH * len(TIMES),) * 2 and set(jobs) == set(explorer._all())
    assert jobs[0] == Place(2, 0.3, True, 4), "this place comes first, then other steps, blocks, times"
    assert {place.step for place in jobs[:4]} == {0, 2, 4, 6} and {place.block for place in jobs[:4]} == {2}
    assert {place.t for place in jobs[:16]} == {0.3}
    assert jobs[20] == Place(3, "mixed", True, 2), "a new place comes next"
    explorer.labelled = False
    wait_for(lambda: explorer.ready)  # a thread that had finished wakes


def test_closed_it_stops_and_started_again_it_goes_on(explorer):
    explorer.changed = explorer.close
    explorer.start()
    wait_for(lambda: not alive())
    assert len(explorer.clouds) == 1
    explorer.changed = lambda: None
    explorer.start()
    wait_for(lambda: len(explorer.clouds) > 1)
    assert len(alive()) == 1


def test_closed_while_it_goes_to_sleep_it_ends_as_well(finished):
    class Late(threading.Event):
        def clear(self):
            finished.close()
            super().clear()

    finished._wake, finished._closed = Late(), threading.Event()
    background = threading.Thread(target=finished._work, args=(finished._wake, finished._closed), daemon=True)
    background.start()
    background.join(20)
    assert not background.is_alive()


# --- what cannot be shown


def test_features_that_are_not_finite_are_reported_at_their_place_and_all_else_is_shown(runs, monkeypatch):
    poison(monkeypatch, runs["dispersive"], 2, 1)
    state = Explorer(runs, COUNT, (0.3,))
    jobs = []
    monkeypatch.setattr(state, "_make_clouds", lambda place, make=state._make_clouds: (jobs.append(place), make(place)))
    panel = explorer_panel(state)
    complete(panel)
    assert state.progress() == (15, 15) and len(jobs) == 16, "it is tried once"
    assert "all views are ready" in status(panel) and "cannot be shown" not in panel.sentence.value
    before = shown(panel)
    state.step = 2
    where = "dispersive at step 2, block 1: the features of 2 of 40 images are NaN or infinite;"
    assert where in panel.sentence.value and shown(panel)["points"] == before["points"]
    for block, step in ((1, 4), (2, 2)):
        state.block, state.step = block, step
        assert f"step {step}, block {block}" in panel.sentence.value and "cannot" not in panel.sentence.value


def test_a_run_that_diverged_in_the_end_is_refused_by_name(runs, monkeypatch):
    poison(monkeypatch, runs["hinge"], 6, 1)
    with pytest.raises(ValueError, match="hinge at step 6, block 1: the features of 2 of 40"):
        explorer_panel(Explorer(runs, COUNT, (0.3,)))
    assert alive() == []


def test_three_images_have_axes_but_no_map_and_the_panel_says_why(runs):
    state = Explorer(runs, 3, (0.3,))
    panel = explorer_panel(state)
    state.projection = "UMAP"
    wait_for(lambda: "cannot be shown" in panel.sentence.value)
    assert "UMAP needs 4 or more; here n = 9" in panel.sentence.value
    assert "Traceback" not in panel.sentence.value and len(alive()) == 1
    state.projection = "PCA"
    wait_for(lambda: "PCA at step 6" in panel.sentence.value and "cannot be shown" not in panel.sentence.value)


def test_with_one_class_purity_is_undefined_and_has_a_dash(runs, monkeypatch):
    ones = digits("held_out")
    ones = dataclasses.replace(ones, y=torch.ones_like(ones.y))
    monkeypatch.setattr("labkit.training.features.datasets.load", lambda *_: ones)
    state = Explorer(runs, COUNT, (0.3,))
    panel = explorer_panel(state)
    assert math.isnan(state.clouds[state.place]["baseline"].numbers["neighbour_purity"])
    assert numbers(panel).count("<td>–</td>") == len(runs) and "nan" not in numbers(panel)
    assert [option for option, _ in panel.controls["highlight"].options] == ["all", "the 1s", "what I drew around"]
    json.dumps(panel.figure.to_dict(), allow_nan=False, default=repr)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model="SiT-Nano/2"), "open one explorer for each width"),
        (dict(save_every=5, steps=5), r"\(baseline: 2, 4, 6; other: 5\)"),
        (dict(steps=1), "other.* has no checkpoint yet: train it first"),
        (dict(flow=Flow(path="vp")), "take runs of one path"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_with_the_remedy(runs, tmp_path, changes, message):
    other = trained(tmp_path, other=CONFIG.replace(**changes))["other"]
    if other.config.steps == 1:
        other.checkpoints[1].unlink()
    with pytest.raises(ConfigError, match=f"^runs = .*{message}"):
        Explorer({"baseline": runs["baseline"], "other": other})


@pytest.mark.usefixtures("unchecked")
def test_no_run_five_runs_and_too_few_images_are_refused(runs):
    with pytest.raises(ConfigError, match=r"^runs = \[\] .*at least one"):
        Explorer({})
    with pytest.raises(ConfigError, match=r"^runs = .*at most four"):
        explorer_panel(dict.fromkeys("abcde", runs["baseline"]))
    for count in (2, 2.5, None):
        with pytest.raises(ConfigError, match=f"^count = {count} "):
            Explorer(runs, count)


# --- the panel


def status(panel):
    return panel.widget.children[2].children[2].value


def film(panel):
    return panel.widget.children[2].children[1]


def shown(panel):
    """Parts of the page as plain text. Traces are points and a ring of each run, the distances, the curves, and the two
    images; the last annotation is the key to the classes.
    """
    data, count = panel.figure.data, len(panel.state.runs)
    dots, rings, distances = data[: 2 * count : 2], data[1 : 2 * count : 2], data[2 * count : 3 * count + 1]
    lines, (image, noised) = data[3 * count + 1 : 5 * count + 1], data[5 * count + 1 :]
    layout = panel.figure.layout
    notes = [note.text for note in layout.annotations]
    panes = [layout[letter + "axis" + dot[letter + "axis"][1:]] for dot in dots for letter in "xy"]
    parts = {
        "points": [(list(dot.x), list(dot.y)) for dot in dots],
        "colours": [list(dot.marker.color) for dot in dots],
        "selected": [dot.selectedpoints for dot in dots],
        "rings": [(list(ring.x), list(ring.y)) for ring in rings],
        "distances": [(line.x, line.y) for line in distances],
        "curves": [(line.x, line.y) for line in lines],
        "image": (image.z.tolist(), notes[count]),
        "as seen": noised.z.tolist(),
        "time": notes[-2],
        "rules": [(rule.x0, rule.x1) for rule in layout.shapes],
        "ends": [axis.range for axis in panes],
        "bar": (layout.coloraxis.showscale, layout.coloraxis.cmax, layout.coloraxis.colorbar.title.text),
        "key": layout.annotations[-1].visible,
        "words": panel.sentence.value,
        "what it shows": panel.widget.children[3].value,
    }
    return {name: str(part) for name, part in parts.items()}


def numbers(panel):
    """The table of numbers under the figure."""
    return panel.widget.children[-2].value


def changed(panel, act):
    """The parts that an act changes."""
    before = shown(panel)
    act()
    after = shown(panel)
    return {name for name in before if before[name] != after[name]}


def on_page(panel, event, pane, *images):
    """Send what the page sends when the mouse is over, clicks at, or is drawn around points of one pane."""
    at = {"xs": [0.0] * len(images), "ys": [0.0] * len(images), "point_indexes": list(images)}
    lasso = {"type": "lasso", "selector_state": {"xs": [], "ys": []}} if event == "selected" else None
    panel.figure._js2py_pointsCallback = {
        "event_type": f"plotly_{event}",
        "points": at | {"trace_indexes": [2 * pane] * len(images)},
        "selector": lasso,
    }


ELSEWHERE = {"points", "rings", "distances", "words"}
CONTROLS = [
    ("step", 2, ELSEWHERE | {"rules"}),
    ("block", 3, ELSEWHERE | {"curves", "ends"}),
    ("t", 0.8, ELSEWHERE | {"curves", "ends", "as seen", "time"}),
    ("t", "mixed", ELSEWHERE | {"curves", "ends", "as seen", "time"}),
    ("labelled", False, ELSEWHERE | {"curves", "ends"}),
    ("axes", "own", {"points", "rings", "ends", "what it shows"}),
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


def test_the_figure_and_the_words_hold_what_the_state_holds(panel):
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
        spread, share = cloud.numbers["mean_pairwise_distance"], cloud.explained["shared"]
        caption = f"<b>{name}</b><br>spread {spread:.2g}<br>axes hold {share:.0%} of variance"
        assert layout.annotations[place].text == caption
        row = "\\s+".join(
            f"<td>{three_digits(cloud.numbers[of])}</td>" for of in ("feature_norm", "mean_pairwise_distance")
        )
        assert re.search(f"<th>{name}</th>\\s+{row}", numbers(panel))
        middles, density = cloud.density
        assert data[6 + place].name == name and set(data[6 + place].x) <= set(middles.tolist())
        assert sum(data[6 + place].y) == pytest.approx(density.sum().item()), "every distance is drawn"
        assert data[10 + place].name == name and data[10 + place].y[2] == spread and data[10 + place].x == (0, 1, 2, 3)
        assert data[13 + place].y[1] == state.history("effective_rank")[name][2]
    assert "PCA at step 4, block 1, t = 0.3, with the class." in panel.sentence.value
    assert [rule.x0 for rule in layout.shapes] == [2, 2], "step 4 is the third"
    assert layout.coloraxis.colorbar.title.text == "norm ‖z‖/√P"
    x1, x_t = (images.z for images in data[16:18])
    assert torch.equal(torch.tensor(x1), state.inputs[0.3].x1[11, 0])
    assert torch.equal(torch.tensor(x_t), state.inputs[0.3].x_t[11, 0].clamp(-1, 1))
    assert layout.annotations[3].text == f"image 11: a {state.y[11]}"
    assert layout.annotations[-2].text == "as seen at t = 0.30"
    assert "twice as wide" in panel.widget.children[3].value
    state.colour, state.t, state.labelled, state.axes = "class", "mixed", False, "own"
    assert list(data[0].marker.color) == [CLASSES[digit] for digit in state.y.tolist()]
    assert "block 1, each image at a time of its own, without the class." in panel.sentence.value
    assert layout.annotations[-2].text == f"as seen at t = {state.inputs['mixed'].t[11]:.2f}"
    assert "twice as wide" not in panel.widget.children[3].value, "own axes have scales of their own"


def test_until_a_view_is_ready_the_panel_says_so(panel, monkeypatch):
    go_on, state = threading.Event(), panel.state
    state.clouds = {place: clouds for place, clouds in state.clouds.items() if place.labelled}
    monkeypatch.setattr(state, "_make_clouds", lambda place, make=state._make_clouds: go_on.wait(20) and make(place))
    assert "all views are ready" in status(panel)
    assert changed(panel, lambda: setattr(state, "labelled", False)) == {"words", "curves"}
    assert "without the class is being computed" in panel.sentence.value
    assert "0 of 48 views are ready" in status(panel)
    go_on.set()
    wait_for(lambda: "computed" not in panel.sentence.value and "1 of 48 views" not in status(panel))


def test_a_slider_may_move_while_a_picture_is_drawn(panel, monkeypatch, caplog):
    """The background draws, too: it finishes the drawing it has begun, then draws the new place."""
    state, bounds = panel.state, Explorer.bounds
    state.clouds = {place: clouds for place, clouds in state.clouds.items() if place.labelled}

    def slow(self, name):
        state.labelled = False
        return bounds(self, name)

    monkeypatch.setattr(Explorer, "bounds", slow)
    state.step = 4
    wait_for(lambda: "step 4" in panel.sentence.value and "without the class." in panel.sentence.value)
    assert not caplog.records


@pytest.mark.parametrize("event", ["hover", "click"])
def test_pointing_at_an_image_rings_it_in_all_panes(panel, event):
    assert changed(panel, lambda: on_page(panel, event, 1, 12)) == {"image", "as seen", "rings"}
    assert panel.state.image == panel.controls["image"].value == 12
    on_page(panel, "unhover", 1)
    assert panel.state.image == 12


def test_drawing_around_images_selects_them_in_all_panes_until_deselected(panel):
    highlight, data = panel.controls["highlight"], panel.figure.data
    selected = lambda: [dots.selectedpoints for dots in data[:6:2]]  # noqa: E731
    highlight.value = "drawn"
    assert selected() == [None] * 3, "nothing was drawn around yet: nothing is left out"
    highlight.value = "all"
    assert changed(panel, lambda: on_page(panel, "selected", 2, 3, 5, 8)) == {"selected"}
    assert selected() == [(3, 5, 8)] * 3 and highlight.value == "drawn"
    on_page(panel, "selected", 0, 1)
    assert selected() == [(1,)] * 3
    on_page(panel, "selected", 0)
    assert selected() == [(1,)] * 3 and panel.state.selected() == [1], "a line around nothing changes nothing"
    others = [trace for trace in data if trace.type == "scatter" and trace not in data[:6:2]]
    assert all(trace.selectedpoints is None for trace in others), "rings and curves stay as they are"
    highlight.value = 4
    assert panel.state.selected() == [i for i, digit in enumerate(panel.state.y.tolist()) if digit == 4]
    highlight.value = "drawn"
    assert panel.state.selected() == [1], "the drawn selection can be had again"
    on_page(panel, "deselect", 0)
    assert selected() == [None] * 3 and highlight.value == "all"


def test_the_film_moves_the_step_and_follows_it(panel):
    assert (film(panel).min, film(panel).max, film(panel).value) == (0, 3, 3)
    film(panel).value = 1
    assert panel.state.step == panel.controls["step"].value == 2
    panel.controls["step"].value = 4
    assert film(panel).value == 2


def test_up_to_four_runs_stand_side_by_side_under_their_names(runs):
    for count in (1, 2, 4):
        named = {f"<b>λ & {name} {i}": run for i in range(2) for name, run in runs.items()}
        panel = explorer_panel(Explorer(dict(list(named.items())[:count]), COUNT, (0.3,)))
        dots = panel.figure.data[: 2 * count : 2]
        assert len({trace.xaxis for trace in dots}) == count and all(len(trace.x) == COUNT for trace in dots)
        for name, note in zip(list(named)[:count], panel.figure.layout.annotations[:count], strict=True):
            assert note.text.startswith(f"<b>{html.escape(name)}</b><br>") and html.escape(name) in numbers(panel)


def test_making_the_panel_again_closes_the_earlier_and_goes_on_where_it_stood(explorer):
    explorer_panel(explorer).close()
    wait_for(lambda: not alive())
    before = set(_instances)
    first = explorer_panel(explorer)
    (thread,) = alive()
    explorer.step, explorer.block = 2, 3
    second = explorer_panel(explorer)
    assert first.closed and not second.closed and second.controls["step"].value == 2 and film(second).value == 1
    wait_for(lambda: not thread.is_alive() and len(alive()) == 1)
    wait_for(lambda: "all views are ready" in status(second))
    explorer.step = 4
    assert film(first).value == 1, "the closed panel follows no more"
    second.close()
    assert set(_instances) == before


# --- UMAP


def test_a_map_holds_all_runs_and_carries_the_numbers_that_judge_it(mapped):
    reference = mapped.map.reference
    assert len(reference.places) == 2 * COUNT
    assert torch.equal(torch.cat(list(mapped.points().values())), reference.places), "the last step is the map's own"
    assert mapped.map.trustworthiness.keys() == mapped.runs.keys()
    assert all(0.5 < trust <= 1 for trust in mapped.map.trustworthiness.values()) and 0 <= mapped.map.flicker <= 1
    mapped.step = 2
    mapped.settle()
    (left, _), (_, high) = whole = mapped.bounds("baseline")
    assert mapped.map.reference is reference and mapped.bounds("dispersive") == whole
    for place in (mapped.place, mapped.place._replace(step=6)):
        for xy in mapped.mapped[place].values():
            assert xy.isfinite().all() and left < xy[:, 0].min() and xy[:, 1].max() < high
    mapped.step, mapped.axes = 6, "own"
    boxes = {name: mapped.bounds(name) for name in mapped.runs}
    mapped.axes = "shared"
    assert len(set(boxes.values())) == len(boxes), "each run may have a box of its own"
    for name, xy in mapped.points().items():
        ends = zip(xy.amin(0).tolist(), xy.amax(0).tolist(), strict=True)
        for (low, high), box, both in zip(ends, boxes[name], whole, strict=True):
            assert both[0] <= box[0] < low and high < box[1] <= both[1]


def test_the_panel_shows_the_map_its_trust_and_what_it_cannot_show(mapped):
    panel = explorer_panel(mapped)
    complete(panel)
    assert "all steps of this map are ready" in status(panel) and "UMAP at step 6, block 1" in panel.sentence.value
    assert f"another seed differs by a disparity of {mapped.map.flicker:.2f}" in panel.sentence.value
    assert "cannot show spread" in panel.widget.children[3].value
    captions = [note.text for note in panel.figure.layout.annotations[:2]]
    for (name, trust), caption in zip(mapped.map.trustworthiness.items(), captions, strict=True):
        assert caption.startswith(f"<b>{name}</b><br>spread ") and caption.endswith(f"trustworthiness {trust:.2f}")
    assert not panel.figure.layout.xaxis.showticklabels and not panel.figure.layout.yaxis2.showticklabels
    assert changed(panel, lambda: setattr(mapped, "step", 0)) == {"points", "rings", "distances", "rules", "words"}
    back = changed(panel, lambda: setattr(mapped, "projection", "PCA"))
    assert back == {"points", "rings", "ends", "words", "what it shows"}
    assert panel.figure.layout.xaxis.showticklabels
    mapped.projection, mapped.step = "UMAP", 6


def test_while_a_map_is_fitted_axes_can_be_shown_and_nothing_piles_up(panel, monkeypatch):
    state, go_on = panel.state, threading.Event()
    widgets, traces, notes = set(_instances), len(panel.figure.data), len(panel.figure.layout.annotations)
    monkeypatch.setattr(state, "_make_map", lambda place, make=state._make_map: go_on.wait(20) and make(place))
    state.projection = "UMAP"
    assert "UMAP is being fitted" in status(panel) and "is being computed" in panel.sentence.value
    state.projection = "PCA"
    for move in range(24):
        state.block, state.t, state.step = move % DEPTH, TIMES[move % 3], STEPS[move % 4]
    state.block, state.t, state.step = 1, 0.3, 6
    assert "all views are ready" in status(panel) and "PCA at step 6" in panel.sentence.value
    state.projection = "UMAP"
    go_on.set()
    wait_for(lambda: "UMAP at step 6" in panel.sentence.value and "disparity" in panel.sentence.value)
    assert set(_instances) == widgets and len(alive()) == 1
    assert (len(panel.figure.data), len(panel.figure.layout.annotations)) == (traces, notes)
