"""The atlas's explorer and its questions without a browser: places, words, traces, and a training of one's own."""

import pytest
from waiting import wait_for

from labkit.experiments import Atlas, Measures
from labkit.experiments.atlas import COORDINATES
from labkit.experiments.statistics import side
from labkit.plots import picture
from labkit.plots.findings import describe_findings, labels
from labkit.plots.theme import PALETTE
from labkit.sampling import Sampler
from labkit.widgets import Ablations, Questions, ablations_panel, questions_panel
from labkit.widgets.ablations import FIRST, MEASURES, grid


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


@pytest.fixture
def state(atlas, tmp_path):
    return Ablations(atlas, out=tmp_path / "runs", steps=3)


@pytest.fixture
def panel(state):
    return ablations_panel(state)


def place(state):
    return {name: getattr(state, name) for name in COORDINATES}


def test_a_control_leads_to_the_measured_condition(state, atlas):
    assert state.condition == FIRST and place(state) == atlas.points[FIRST]
    for trait, value, condition in (
        ("lam", 0.25, "coarse-lam0.25-tau0.5"),
        ("lam", 0.0, "coarse-baseline"),
        ("model", "SiT-Nano/2", "baseline"),
    ):
        setattr(state, trait, value)
        assert state.condition == condition and place(state) == atlas.points[condition]


def test_coordinates_that_move_along_are_named(state, panel):
    state.lam = 0.25
    assert not state.also_moved and "changed too" not in panel.sentence.value
    state.variant = "hinge"  # measured at λ = 0.5 alone, and without τ
    assert state.lam == 0.5 and state.tau == 0.0
    assert "so λ = 0.5, τ = 0 changed too" in panel.sentence.value
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
            assert ("has no meaning" in panel.sentence.value) == (not there)


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
    assert heat.text[at[0]][at[1]].startswith(f"{expected:+#.2g}")
    assert ("InfoNCE-L2", "infonce_l2") in panel.controls["variant"].options


def test_the_words_say_what_the_atlas_says(state, panel, atlas):
    row, words = atlas.difference(FIRST, "frechet"), panel.sentence.value
    assert f"{atlas.title(FIRST)}</b> ({FIRST} in the atlas)" in words
    assert f"Difference by seed {row['difference']:+.3g}" in words and f"n = {row['n']}" in words
    sure = not row["low"] <= 0 <= row["high"]
    assert ("no difference shown" in words) != sure and ("than seeds alone" in words) == sure
    state.lam = 0.0
    assert "This is a baseline" in panel.sentence.value


def test_the_heat_map_is_the_plane_and_its_colours_say_which_side_is_better(state, panel, atlas):
    for model, start in (("SiT-Nano/2", ""), ("SiT-Nano/4", "coarse-")):
        cells = {name for name in atlas.conditions if name.startswith(f"{start}lam")} | {f"{start}dispersive"}
        assert set(grid(atlas, "frechet", model)["condition"]) == cells and len(cells) >= 7
    table = grid(atlas, "frechet", "SiT-Nano/4").pivot(index="lam", columns="tau", values="n")
    assert (table.loc[[0.25, 0.5, 1], [0.25, 0.5, 1, 2]] >= 3).all(axis=None), "the paper's table is whole"
    for measure, low_end in (("frechet", "sky"), ("recall", "gold"), ("effective_rank", "quiet")):
        state.measure = measure
        assert panel.figure.data[5].colorscale[0][1].upper() == PALETTE[low_end].upper()


def test_samples_are_those_of_the_two_conditions(state, panel, atlas):
    state.go_to("hinge")
    for trace, condition in zip(panel.figure.data[-2:], ("baseline", "hinge"), strict=True):
        assert trace.source == picture(atlas.sheet(condition), 10)
    for condition in (name for name, x in atlas.samples.items() if x.shape[1] == 3):
        state.go_to(condition)
        assert panel.figure.data[-1].source == picture(atlas.sheet(condition), 10)


def test_a_run_of_ones_own(state, panel, monkeypatch):
    monkeypatch.setattr("labkit.experiments.rerun.Measures", lambda: Measures(40, (Sampler("euler", 2),)))
    state.go_to("batch32-baseline")
    mine = state.wait()
    assert state.runner.status == "finished" and mine.rows and "too few to compare" in mine.describe()
    panel.redraw()
    star = panel.figure.data[3]
    assert list(star.x) == [mine.value("frechet")]
    state.measure = "feature_norm"
    assert list(star.x) == [mine.value("feature_norm")]
    state.go_to("baseline")
    assert list(star.x) == [], "it belongs to the condition that it was trained for"


def test_the_button_trains_in_the_background_stop_saves_and_a_refusal_is_shown(atlas, tmp_path):
    state = Ablations(atlas, out=tmp_path / "runs", steps=1500)
    panel = ablations_panel(state)
    start, stop, seed, status = panel.widget.children[2].children
    seed.value = 77
    start.click()
    assert state.runner.busy and start.disabled and not stop.disabled
    stop.click()
    assert state.runner.status == "stopped"  # the thread that trained tells the panel a little later
    wait_for(lambda: not start.disabled and "Stopped and saved" in status.value)
    assert (tmp_path / "runs" / f"{FIRST}-seed77" / "config.json").exists() and state.mine.seed == 77
    (tmp_path / "file").write_text("a file where the folder should be")
    state.out = tmp_path / "file"
    start.click()
    assert "<b>" in status.value and not state.runner.busy and not start.disabled


@pytest.fixture
def questions(atlas):
    return questions_panel(Questions(atlas))


def test_every_question_is_answered_in_every_measure_that_it_has(atlas, questions):
    state = questions.state
    assert len(state.texts) >= 15
    for question in state.texts:
        state.question = question
        measures = state.measures()
        for measure in measures if question == "works" else measures[:2]:
            state.measure = measure
            rows = state.rows()
            named = state.named(rows)
            assert len(rows) and questions.figure.layout.title.text == atlas.questions[question]
            assert describe_findings(named) in questions.sentence.value and len({*labels(named)}) == len(rows)
            for trace in questions.figure.data:
                own = [row["difference"] for _, row in rows.iterrows() if side(row) == trace.name]
                assert list(trace.x) == pytest.approx(own), "colours say on which side of 0 an interval lies"


def test_labels_say_only_what_differs(atlas):
    age, batch = (Questions(atlas, question=question) for question in ("age", "batch"))
    assert {*age.named(age.rows())["against"]} == {"its baseline"}
    assert labels(age.named(age.rows()))[:2] == [f"SiT-Nano/4, λ 0.5, τ 0.5, step {step}" for step in ("500", "1,000")]
    bank = batch.named(batch.rows()).query("condition.str.contains('bank')")["against"]
    without = [f"SiT-Nano/4, {data}λ 0.5, τ 0.5" for data in ("", "letters, ")]
    assert [*bank] == ["its baseline", *without]


def test_a_step_narrows_a_question_and_one_that_it_lacks_is_said(questions):
    state = questions.state
    state.question = "age"
    every = state.rows()
    state.step = 3000
    assert 0 < len(state.rows()) < len(every) and set(state.rows()["step"]) == {3000}
    state.question = "works"
    assert not len(state.rows()) and "after 3,000 steps was not compared" in questions.sentence.value


def test_a_measure_that_a_question_lacks_falls_back(questions):
    state = questions.state
    state.question = "carry-over"
    assert state.measure in state.measures() and len(state.rows())
    state.measure = "frechet"
    assert "choose another" in questions.sentence.value
