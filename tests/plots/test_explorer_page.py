"""The explorer's page holds what ships, number by number, and asks nothing of a network."""

import base64
import json
import re

import numpy as np
import pandas as pd
import pytest

from labkit.experiments import Atlas
from labkit.experiments.atlas import describe_point
from labkit.experiments.playground import NUMBERS, Playground
from labkit.experiments.statistics import describe_row, side
from labkit.metrics.table import METRICS
from labkit.plots.explorer_page import explorer_page

CLOSE = dict(rtol=1e-4, atol=1e-9)


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


@pytest.fixture(scope="module")
def page(atlas):
    return explorer_page(atlas, Playground.load())


@pytest.fixture(scope="module")
def data(page):
    return held(page)


def held(page):
    """The data of a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def array(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_it_is_small_whole_and_alone(page):
    assert len(page.encode()) < 6e6
    assert len(explorer_page(None, Playground.load()).encode()) < 1e6
    assert not re.search(r"https?://|<link|<img|\bsrc=|@import|url\(|fetch\(|XMLHttp|import\(", page)
    assert "default-src 'none'" in page
    assert not re.search(r"<!-- (STYLE|DATA|SCRIPT) -->", page)


def test_a_page_without_an_atlas_has_the_playground_alone():
    assert set(held(explorer_page(None, Playground.load()))) == {"playground", "unlike", "zero"}


def test_every_value_by_seed_is_the_atlas_s(atlas, data):
    table = atlas.table[atlas.table["measure"].isin(METRICS) & atlas.table["condition"].isin(atlas.conditions)]
    key = ["condition", "measure", "step", "block", "sampler", "seed"]
    rows = [
        (condition, measure, step, block, sampler, int(seed), value)
        for condition, metrics in data["atlas"]["values"].items()
        for measure, places in metrics.items()
        for step, block, sampler, by_seed in places
        for seed, value in by_seed.items()
    ]
    there = pd.DataFrame(rows, columns=[*key, "value"])
    there["sampler"] = there["sampler"].fillna("")
    table = table.assign(sampler=table["sampler"].fillna(""))
    for part in (there, table):
        part[["step", "block", "seed"]] = part[["step", "block", "seed"]].astype("Float64").fillna(-1).astype(int)
    both = table[[*key, "value"]].merge(there, on=key, how="outer", suffixes=("", "_shown"), indicator=True)
    assert (both["_merge"] == "both").all() and len(both) == len(table) > 10_000
    np.testing.assert_allclose(both["value_shown"].astype(float), both["value"].astype(float), **CLOSE)


def test_every_difference_is_the_atlas_s(atlas, data):
    findings = atlas.findings[atlas.findings["measure"].isin(METRICS)]
    shown = data["atlas"]["findings"]
    assert len(shown) == len(findings) > 2000
    for name in ("difference", "low", "high"):
        values = np.array([row[name] for row in shown], dtype=float)
        np.testing.assert_allclose(values, findings[name].astype(float), **CLOSE)
    for name in ("question", "condition", "against", "measure"):
        assert [row[name] for row in shown] == findings[name].tolist()
    for row, (_, own) in list(zip(shown, findings.iterrows(), strict=True))[::50]:
        assert (row["side"], row["text"], row["n"]) == (side(own), describe_row(own), own["n"])


def test_samples_maps_and_real_images_are_the_atlas_s(atlas, data):
    shown = data["atlas"]
    for name, images in atlas.samples.items():
        there = array(shown["samples"][name]["bytes"], np.uint8)
        assert (there.reshape(-1, *shown["samples"][name]["shape"]) == images).all(), name
    for name, own in atlas.maps.groupby("condition"):
        for kind in ("pca", "umap"):
            places = array(shown["map"]["panes"][name][kind], "<i2").reshape(-1, 2) * shown["map"]["units"][kind]
            np.testing.assert_allclose(places, own[[f"{kind}_1", f"{kind}_2"]], atol=shown["map"]["units"][kind])
    for condition in ("coarse-dispersive", "few-baseline", "emoji-baseline"):
        real = shown["real"][shown["conditions"][condition]["images"]]
        for measure in ("frechet", "frechet_pixels", "memorisation", "loss_train"):
            value = atlas.real(condition, measure)
            assert real.get(measure) == (None if value is None else pytest.approx(value, rel=1e-4)), measure


def test_each_run_says_where_it_comes_from(atlas, data):
    for name, info in data["atlas"]["conditions"].items():
        rows = atlas.table[atlas.table["condition"] == name]
        assert info["seeds"] == rows["seed"].nunique() and set(info["commits"]) == set(rows["commit"].dropna())
        assert info["baseline"] == atlas.baseline(name) and info["label"] == describe_point(atlas.points[name])
    labels = [info["label"] for info in data["atlas"]["conditions"].values()]
    assert len(set(labels)) == len(labels), "two conditions have one name"


def test_every_number_of_the_playground_is_shown(data):
    playground, shown = Playground.load(), data["playground"]
    assert shown["origin"] == playground.describe()
    for i, name in enumerate(playground.conditions):
        there = shown["conditions"][name]
        np.testing.assert_allclose(there["numbers"], playground.arrays["numbers"][i], **CLOSE)
        assert (np.array(there["counts"]) == playground.arrays["counts"][i]).all()
    assert shown["names"] == list(NUMBERS)
    for name in ("places", "samples"):
        kind = playground.arrays[name].dtype.newbyteorder("<")
        assert (array(shown[name], kind).reshape(playground.arrays[name].shape) == playground.arrays[name]).all()


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        ("coarse-baseline", "SiT-Nano/4, baseline"),
        ("coarse-dispersive", "SiT-Nano/4, λ 0.5, τ 0.5"),
        ("hinge", "SiT-Nano/2, hinge, λ 0.5"),
        ("alpha0.5", "SiT-Nano/2, λ 0.5, τ 0.5, α 0.5, independent noise"),
        ("blocks-all", "SiT-Nano/2, λ 0.5, τ 0.5, all blocks"),
        ("few-baseline", "SiT-Nano/2, 200 digits, baseline"),
        ("repa", "SiT-Nano/2, REPA"),
    ],
)
def test_conditions_have_names_for_people(atlas, condition, name):
    assert describe_point(atlas.points[condition]) == name
