"""The atlas that ships: whole, measured, looked up and never interpolated; and one of its cells trained once more."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from labkit import datasets
from labkit.checks import ConfigError, LabError
from labkit.evaluation import REAL
from labkit.experiments import Atlas, Measures, Rerun
from labkit.experiments.atlas import COORDINATES, SHEET, band, point
from labkit.experiments.rerun import SHOWN
from labkit.runtime import data_dir
from labkit.sampling import Sampler

QUICK = "batch32-baseline"


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(data_dir() / "atlas", tmp_path / "atlas")


def test_it_is_small_and_says_how_it_was_made(atlas):
    files = list(atlas.folder.iterdir())
    assert {file.name for file in files} == {"atlas.json", *atlas.record["sha256"]} and len(files) == 10
    assert sum(file.stat().st_size for file in files) < 25e6
    assert atlas.record["command"] == "make atlas" and atlas.record["machines"] and atlas.record["torch"]
    assert all(len(commit) == 12 for commit in atlas.record["commits"]), "runs of a clean checkout alone"
    assert set(atlas.record["seeds_of_each"]) == set(atlas.conditions)
    assert str(len(atlas.conditions)) in atlas.describe() and atlas.record["machines"][0] in atlas.describe()


def test_no_condition_rests_on_one_seed(atlas):
    rows = atlas.table[atlas.table["condition"] != REAL]
    assert rows.groupby("condition")["seed"].nunique().min() >= 3
    assert not rows.duplicated(["run", "step", "block", "sampler", "measure"]).any()
    assert rows["value"].notna().all() and set(rows["condition"]) == set(atlas.conditions)


@pytest.mark.parametrize("name", Atlas.load().record["sha256"])
def test_a_file_that_was_changed_or_is_missing_is_named(copied, name):
    with open(copied / name, "ab") as file:
        file.write(b"x")
    with pytest.raises(
        LabError, match=rf"{name} is missing or not as it was shipped; .*`git checkout data/atlas/{name}`.*copy"
    ):
        Atlas.load(copied)
    (copied / name).unlink()
    with pytest.raises(LabError, match=f"{name} is missing"):
        Atlas.load(copied)


def test_another_version_and_no_atlas_at_all(copied, tmp_path):
    record = json.loads((copied / "atlas.json").read_text())
    (copied / "atlas.json").write_text(json.dumps({**record, "format": "other"}))
    with pytest.raises(LabError, match="holds 'other' instead of 'labkit-atlas-2'"):
        Atlas.load(copied)
    with pytest.raises(LabError, match=r"There is no atlas in .*git checkout data/atlas/atlas.json"):
        Atlas.load(tmp_path / "nowhere")


def test_a_band_by_hand():
    values = pd.Series([1.0, 2.0, 4.0], index=[0, 1, 2])
    interval, t = band(values), student.ppf(0.975, 2)
    s = math.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2)
    assert interval.mean == pytest.approx(7 / 3) and interval.n == 3
    assert interval.high - interval.mean == pytest.approx(t * s / math.sqrt(3)) == interval.mean - interval.low
    assert interval.last - interval.mean == pytest.approx(t * s * math.sqrt(4 / 3)) == interval.mean - interval.first
    assert interval.holds(interval.first) and not interval.holds(interval.last + 1e-9)
    assert band(values[:1]).holds(1e9), "one seed says nothing about another"


def test_one_more_seed_falls_inside_as_often_as_said():
    """Simulated: of 4,000 sets of five normal values, 95 % hold a sixth; of the mean's interval, 95 % hold the mean."""
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 6))
    bands = [band(pd.Series(row[:5])) for row in draws]
    inside = np.mean([interval.holds(row[5]) for interval, row in zip(bands, draws, strict=True)])
    holds_mean = np.mean([interval.low <= 3.0 <= interval.high for interval in bands])
    assert abs(inside - 0.95) < 0.012 and abs(holds_mean - 0.95) < 0.012  # 3.5 standard errors


def test_every_condition_has_a_place_of_its_own_and_can_be_reached(atlas):
    places = {name: tuple(at[c] for c in COORDINATES) for name, at in atlas.points.items()}
    assert len({*places.values()}) == len(places)
    for name, at in atlas.points.items():
        assert all(atlas.snap(at, coordinate) == name for coordinate in COORDINATES)
        assert point(atlas.conditions[name].replace(seed=7)) == at


def test_snapping_keeps_what_was_moved_and_never_leaves_the_measured(atlas):
    for name, at in atlas.points.items():
        for coordinate in COORDINATES:
            for value in atlas.choices(coordinate):
                point = atlas.snap({**at, coordinate: value}, coordinate)
                assert atlas.points[point][coordinate] == value, (name, coordinate, value)
    with pytest.raises(ConfigError, match=r"lam = 0\.37 cannot be used: nothing was measured there"):
        atlas.snap({**atlas.points["baseline"], "lam": 0.37}, "lam")


def test_snapping_goes_to_what_a_reader_would_call_nearest(atlas):
    at = atlas.points["dispersive"]
    assert atlas.snap({**at, "lam": 0.0}, "lam") == "baseline"
    assert atlas.snap({**at, "dataset": "digits-few"}, "dataset") == "few-dispersive"
    assert atlas.snap({**at, "variant": "hinge"}, "variant") == "hinge"
    assert atlas.snap({**atlas.points["baseline"], "variant": "hinge"}, "variant") == "hinge"
    assert atlas.snap({**at, "block": "all"}, "block") == "blocks-all"


def test_baselines_differ_in_their_regularizers_alone(atlas):
    for name, config in atlas.conditions.items():
        other = atlas.conditions[atlas.baseline(name)]
        assert other.regularizers == () and (name == atlas.baseline(name)) == (config.regularizers == ())
        same = ("dataset", "model", "batch_size", "optimizer", "flow", "meanflow", "label_drop", "ema_decay", "seed")
        assert all(getattr(other, field) == getattr(config, field) for field in same)


def test_bands_and_differences_are_those_of_the_table(atlas):
    rows = atlas.table[(atlas.table["measure"] == "feature_norm") & (atlas.table["step"] == 1500)]
    for name in ("dispersive", "block-last"):
        own = rows[(rows["condition"] == name) & (rows["block"] == atlas.block(name))].set_index("seed")["value"]
        assert atlas.band(name, "feature_norm").mean == pytest.approx(own.mean())
        base = rows[(rows["condition"] == "baseline") & (rows["block"] == atlas.block(name))].set_index("seed")["value"]
        d = (own - base).dropna()
        half = student.ppf(0.975, len(d) - 1) * d.std() / math.sqrt(len(d))
        difference = atlas.difference(name, "feature_norm")
        assert [difference["difference"], difference["low"], difference["high"]] == pytest.approx(
            [d.mean(), d.mean() - half, d.mean() + half]
        )
    assert atlas.band("dispersive", "feature_norm", block=0).mean != atlas.band("dispersive", "feature_norm").mean


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (dict(condition="cats", measure="frechet"), "condition = 'cats' cannot be used: choose one of .*, baseline, "),
        (
            dict(condition="baseline", measure="fid"),
            "measure = 'fid' cannot be used: baseline was not measured so at step",
        ),
        (dict(condition="baseline", measure="frechet", step=7), "not measured so at step 7"),
        (dict(condition="baseline", measure="frechet", sampler="magic"), "sampler = 'magic' cannot be used"),
        (dict(condition="baseline", measure="feature_norm", block=9), "block = 9 cannot be used"),
    ],
)
def test_what_was_not_measured_is_said(atlas, query, message):
    with pytest.raises(ConfigError, match=message):
        atlas.band(query.pop("condition"), query.pop("measure"), **query)


def test_a_baseline_has_no_difference(atlas):
    with pytest.raises(ConfigError, match="it is a baseline itself"):
        atlas.difference("baseline", "frechet")


def test_samples_are_of_the_same_noise(atlas):
    sheets = {name: atlas.sheet(name) for name in atlas.conditions}
    for name, x in sheets.items():
        assert x.shape == (SHEET, *datasets.load(atlas.conditions[name].dataset).shape)
    near = (sheets["baseline"] - sheets["dispersive"]).square().mean()
    other = (sheets["baseline"] - sheets["dispersive"].roll(1, 0)).square().mean()
    assert 0 < near < 0.3 * other, "the same noise leads to nearly the same digit"


def test_findings_are_paired_and_corrected(atlas):
    """Each row of the findings against the table, and Holm's p within each question."""
    findings = atlas.findings
    assert set(findings["question"]) <= set(atlas.questions) and (findings["n"] >= 3).all()
    rows = findings[(findings["measure"] == "frechet") & findings["sampler"].eq("heun with 50 steps, guidance 1")]
    for row in rows.itertuples():
        bands = []
        for condition in (row.condition, row.against):
            name, _, early = condition.partition("@")
            bands.append(atlas.band(name, "frechet", step=int(early or row.step), sampler=row.sampler).values)
        assert row.difference == pytest.approx((bands[0] - bands[1]).dropna().mean())
    for _, group in rows.groupby(["question", "step"]):
        p = group["p"].sort_values()
        stepped = np.maximum.accumulate(p.to_numpy() * np.arange(len(p), 0, -1)).clip(max=1)
        assert group.loc[p.index, "p_holm"].to_numpy() == pytest.approx(stepped)


def test_an_outcome_has_what_bands_have_at_every_common_step(atlas):
    outcome = atlas.outcome(["baseline", "dispersive", "l2-restricted"])
    assert outcome.conditions == ["baseline", "dispersive", "l2-restricted"] and outcome.steps == [1500, 3000]
    assert not outcome.table.duplicated(["condition", "seed", "step", "measure"]).any()
    for step in outcome.steps:
        rows = outcome.at(step)
        for measure in ("frechet", "effective_rank"):
            own = rows[(rows["condition"] == "dispersive") & (rows["measure"] == measure)].set_index("seed")["value"]
            assert own.to_dict() == atlas.band("dispersive", measure, step=step).values.to_dict()
        real = rows[(rows["condition"] == REAL) & (rows["measure"] == "frechet")]["value"]
        assert real.tolist() == [atlas.real("baseline", "frechet")]
    assert set(outcome.curves["condition"]) == {*outcome.conditions}
    with pytest.raises(ConfigError, match="condition = 'cats' cannot be used: choose one of"):
        atlas.outcome(["baseline", "cats"])


def test_curves_are_of_every_seed_of_the_followed(atlas):
    last = atlas.curves.groupby("condition")["step"].max()
    assert last.to_dict() == {name: atlas.conditions[name].steps for name in last.index}
    assert {"baseline", "meanflow-dispersive", "repa-dispersive", "letters-cosine"} <= set(last.index)
    seeds = atlas.curves.groupby("condition")["seed"].nunique()
    assert seeds.to_dict() == {name: atlas.record["seeds_of_each"][name] for name in seeds.index}


def test_maps_are_of_the_same_images(atlas):
    labels = atlas.maps.groupby("condition")["label"].agg(tuple)
    assert {"coarse-baseline", "coarse-dispersive"} <= set(labels.index) and labels.nunique() == 1
    spread = atlas.maps.groupby("condition")["pca_1"].std()
    assert spread["coarse-dispersive"] > 2 * spread["coarse-baseline"], "axes of the union keep the scale of each"


@pytest.mark.slow
def test_a_cell_trained_here_falls_into_its_band(atlas, tmp_path):
    """The whole way from a condition's config to its figures, on this machine, with a seed of the atlas."""
    rerun = Rerun(atlas, QUICK, 0, tmp_path / "run")
    for _ in rerun:
        pass
    verdicts = {row["measure"]: row for row in rerun.verdicts()}
    assert {"frechet", "agreement", "loss_held_out", "feature_norm"} <= set(verdicts)
    text = rerun.describe()
    assert all(verdicts[name]["inside"] for name in ("loss_held_out", "feature_norm", "frechet")), text
    assert "inside their bands" in text


def test_verdicts_are_whether_the_bands_hold_the_values(atlas, tmp_path):
    """Without training: the rows of one of the atlas's own runs, then one of them far off."""
    own = atlas.table[(atlas.table["run"] == f"{QUICK}-seed0") & (atlas.table["step"] == atlas.step(QUICK))]
    usual = own["sampler"].isna() | own["sampler"].str.startswith("heun with 50 steps, guidance 1")
    rerun = Rerun(atlas, QUICK, 0, tmp_path / "run")
    rerun.rows = [
        {name: row[name] for name in ("block", "measure", "value") if not pd.isna(row[name])}
        for row in own[usual].to_dict("records")
    ]
    verdicts = {row["measure"]: row for row in rerun.verdicts()}
    assert set(verdicts) == set(SHOWN) and all(row["inside"] for row in verdicts.values())
    assert all(row["value"] in list(atlas.band(QUICK, name).values) for name, row in verdicts.items())
    assert "8 of 8 metrics lie inside their bands." in rerun.describe()
    assert f"is expected between {max(verdicts['frechet']['first'], 0):.2f} and" in rerun.describe()
    worse = next(row for row in rerun.rows if row["measure"] == "frechet")
    worse["value"] += 9
    assert [row["measure"] for row in rerun.verdicts() if not row["inside"]] == ["frechet"]
    assert "7 of 8 metrics lie inside their bands, outside: Fréchet distance" in rerun.describe()


def test_a_short_rerun_says_that_it_cannot_be_compared(atlas, tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.experiments.rerun.Measures", lambda: Measures(40, (Sampler("euler", 2),)))
    short = Rerun(atlas, QUICK, 9, tmp_path / "run", steps=3)
    assert short.describe() == "Step 0 of 3." and short.value("frechet") is None
    reports = list(short)
    assert len(reports) == 3 and not short.verdicts() and short.value("feature_norm") > 0
    assert "You trained 3 of 1,500 steps: too few" in short.describe()
    with pytest.raises(
        ConfigError,
        match="steps = 1501 cannot be used: take a whole number from 1 to 1500, at which the atlas compares",
    ):
        Rerun(atlas, QUICK, 9, tmp_path / "other", steps=1501)
