"""The atlas's explorer and its questions without a browser: places, words, traces, and a training of one's own."""

import re

import pytest

from labkit.experiments import Atlas, Measures
from labkit.experiments.statistics import side
from labkit.plots import picture
from labkit.plots.findings import describe_findings, labels
from labkit.plots.theme import PALETTE
from labkit.sampling import Sampler
from labkit.widgets import Ablations, Questions, ablations_panel, questions_panel
from labkit.widgets.ablations import COORDINATES, FIRST, MEASURES, grid_of


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


@pytest.fixture
def state(atlas, tmp_path):
    return Ablations(atlas, out=tmp_path / "runs", steps=3)


@pytest.fixture
def panel(state):
    panel = ablations_panel(state)
    yield panel
    panel.close()


def place(state):
    return {name: getattr(state, name) for name in COORDINATES}


def test_it_opens_on_the_papers_setting(state, atlas):
    assert state.condition == FIRST and place(state) == atlas.points[FIRST]
    assert (state.lam, state.tau, state.block, state.baseline) == (0.5, 0.5, "1", "coarse-baseline")


@pytest.mark.parametrize(
    ("trait", "value", "condition"),
    [
        ("lam", 0.25, "coarse-lam0.25-tau0.5"),
        ("lam", 0.0, "coarse-baseline"),
        ("tau", 2.0, "coarse-lam0.5-tau2"),
        ("variant", "hinge", "coarse-hinge"),
        ("block", "all", "blocks-all"),
        ("model", "SiT-Nano/2", "dispersive"),
        ("dataset", "digits-few", "coarse-few-dispersive"),
        ("model", "DiT-Nano/2", "dit-dispersive"),
        ("alpha", 0.5, "coarse-alpha0.5"),
    ],
)
def test_a_control_leads_to_the_measured_condition(state, atlas, trait, value, condition):
    setattr(state, trait, value)
    assert state.condition == condition and place(state) == atlas.points[condition]


def test_what_moved_along_is_said(state, panel):
    state.lam = 0.25
    assert not state.moved_too and "that also" not in panel.sentence.value
    state.variant = "hinge"  # measured at λ = 0.5 alone, and without τ
    assert state.lam == 0.5 and state.tau == 0.0
    assert "so that also λ = 0.5, τ = 0" in panel.sentence.value
    assert panel.controls["lam"].value == 0.5 and panel.controls["tau"].value == 0.0


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_conditions_and_measures_can_be_shown(state, panel, atlas, every):
    everywhere = "baseline", "coarse-dispersive", "emoji-dispersive", "few-dispersive"
    for condition in {*everywhere, *list(atlas.conditions)[::every]}:
        state.go_to(condition)
        assert state.condition == condition and place(state) == atlas.points[condition]
        for measure in MEASURES if condition in everywhere else ("frechet",):
            state.measure = measure
            assert "could not be drawn" not in panel.sentence.value
            there = measure in atlas.measures(condition)
            assert ("it has no meaning" in panel.sentence.value) == (not there)


def test_the_figure_shows_the_seeds(state, panel, atlas):
    state.lam = 0.1
    _, base, own, mine, real, heat, ring, *_ = panel.figure.data
    for trace, condition in ((own, "coarse-lam0.1-tau0.5"), (base, "coarse-baseline")):
        values = atlas.band(condition, "frechet").values
        assert list(trace.x) == pytest.approx(list(values)) and list(trace.text) == [str(s) for s in values.index]
    assert list(mine.x) == [] and real.x[0] == pytest.approx(atlas.real("coarse-baseline", "frechet"))
    assert list(ring.x) == ["τ = 0.5"] and list(ring.y) == ["λ = 0.1"]
    state.variant = "covariance"
    assert list(ring.x) == [], "outside the plane of the heat map there is no mark in it"
    at = [row for row in heat.y].index("λ = 0.1"), [*heat.x].index("τ = 0.5")
    expected = atlas.difference("coarse-lam0.1-tau0.5", "frechet")["difference"]
    assert heat.z[at[0]][at[1]] == pytest.approx(expected)
    assert heat.text[at[0]][at[1]].startswith(f"{expected:+.2g}")


def test_the_words_say_what_the_atlas_says(state, panel, atlas):
    row, told = atlas.difference(FIRST, "frechet"), re.sub("<.*?>", "", panel.sentence.value)
    assert f"Difference by seed {row['difference']:+.3g}" in told and f"n = {row['n']}" in told
    sure = not row["low"] <= 0 <= row["high"]
    assert ("no difference shown" in told) != sure and ("beyond what seeds alone do" in told) == sure
    state.lam = 0.0
    assert "This is a baseline" in panel.sentence.value


def test_the_heat_map_is_the_plane_and_its_colours_say_which_side_is_better(state, panel, atlas):
    for model, start in (("SiT-Nano/2", ""), ("SiT-Nano/4", "coarse-")):
        cells = {name for name in atlas.conditions if name.startswith(f"{start}lam")} | {f"{start}dispersive"}
        assert set(grid_of(atlas, "frechet", model)["condition"]) == cells and len(cells) >= 7
    table = grid_of(atlas, "frechet", "SiT-Nano/4").pivot(index="lam", columns="tau", values="n")
    assert (table.loc[[0.25, 0.5, 1], [0.25, 0.5, 1, 2]] >= 3).all(axis=None), "the paper's table is whole"
    for measure, low_end in (("frechet", "sky"), ("recall", "gold"), ("effective_rank", "quiet")):
        state.measure = measure
        assert panel.figure.data[5].colorscale[0][1].upper() == PALETTE[low_end].upper()


def test_samples_are_those_of_the_two_conditions(state, panel, atlas):
    state.go_to("hinge")
    for trace, condition in zip(panel.figure.data[-2:], ("baseline", "hinge"), strict=True):
        assert trace.source == picture(atlas.sheet(condition), 10)
    for condition in (of for of, x in atlas.samples.items() if x.shape[1] == 3):
        state.go_to(condition)
        assert panel.figure.data[-1].source == picture(atlas.sheet(condition), 10)


def test_a_run_of_ones_own(state, panel, monkeypatch):
    monkeypatch.setattr("labkit.experiments.rerun.Measures", lambda: Measures(40, (Sampler("euler", 2),)))
    state.go_to("batch32-baseline")
    mine = state.wait()
    assert state.runner.status == "finished" and mine.rows and "too few to compare" in mine.describe()
    panel.redraw()
    assert list(panel.figure.data[3].x) == [mine.value("frechet")]
    state.measure = "feature_norm"
    assert list(panel.figure.data[3].x) == [mine.value("feature_norm")]
    state.go_to("baseline")
    assert list(panel.figure.data[3].x) == [], "it belongs to the condition that it was trained for"


def test_the_button_trains_in_the_background_and_stop_saves(atlas, tmp_path):
    state = Ablations(atlas, out=tmp_path / "runs", steps=1500)
    panel = ablations_panel(state)
    train, stop, seed, status = panel.widget.children[2].children
    seed.value = 77
    train.click()
    assert state.runner.busy and train.disabled and not stop.disabled
    stop.click()
    assert state.runner.status == "stopped" and not train.disabled and "Stopped and saved" in status.value
    assert (tmp_path / "runs" / f"{FIRST}-seed77" / "config.json").exists() and state.mine.seed == 77
    panel.close()


def test_a_refusal_is_told_beside_the_button(atlas, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    state = Ablations(atlas, out=tmp_path / "runs")
    panel = ablations_panel(state)
    train, _, _, status = panel.widget.children[2].children
    train.click()
    assert "Not started" in status.value and not state.runner.busy
    panel.close()


@pytest.fixture
def questions(atlas):
    panel = questions_panel(Questions(atlas))
    yield panel
    panel.close()


def test_every_question_is_answered_in_every_measure_it_asks(atlas, questions):
    state = questions.state
    assert len(state.asked) >= 15
    for question in state.asked:
        state.question = question
        measures = state.measures()
        for measure in measures if question == "works" else measures[:2]:
            state.measure = measure
            rows = state.rows()
            assert len(rows) and questions.figure.layout.title.text == atlas.questions[question]
            assert sum(len(trace.x) for trace in questions.figure.data) == len(rows)
            assert describe_findings(rows) in questions.sentence.value and len({*labels(rows)}) == len(rows)


def test_a_measure_that_a_question_lacks_falls_back(questions):
    state = questions.state
    state.question = "carry-over"
    assert state.measure in state.measures() and len(state.rows())
    state.measure = "frechet"
    assert "was not asked of this question" in questions.sentence.value


def test_colours_say_on_which_side_an_interval_lies(questions):
    rows = questions.state.rows()
    for trace in questions.figure.data:
        own = [row for _, row in rows.iterrows() if side(row) == trace.name]
        assert list(trace.x) == pytest.approx([row["difference"] for row in own])
