"""Tables of spread on tiny runs: every value is the library's of features asked for directly."""

import itertools
from dataclasses import replace

import pandas as pd
import pytest
import torch

from labkit import Run, datasets, recipes
from labkit.checks import ConfigError
from labkit.config import Optimizer
from labkit.experiments import Comparison, geometry_table, probe_table, shipped_run, similarity_table
from labkit.metrics import alignment, geometry, knn_accuracy, linear_cka, linear_probe_accuracy
from labkit.training import Look

MEASURES = ["feature_norm", "mean_pairwise_distance", "effective_rank", "uniformity", "anisotropy", "alignment"]
LOOK = Look(count=30)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with checkpoints at steps 2 and 4, trained so fast that they differ by then."""
    out = tmp_path_factory.mktemp("runs")
    base = recipes.digits(model="SiT-Nano/4", batch_size=16, steps=4, save_every=2).replace(
        optimizer=Optimizer(lr=1e-2), ema_decay=0.5
    )
    for _ in Comparison.with_and_without(base.replace(lam=0.5), out):
        pass
    return {name: Run.open(out / name) for name in ("baseline", "dispersive")}


def at(table, **where):
    """The one value of these rows."""
    for column, value in where.items():
        table = table[table[column] == value]
    (single,) = table["value"]
    return single


def test_geometry_has_a_row_for_every_run_step_block_time_and_measure(runs):
    table = geometry_table(runs, times=(0.2, 0.8), blocks=[1, 3], steps=[0, 4], look=LOOK)
    assert list(table.columns) == ["run", "step", "block", "t", "measure", "value"]
    rows = itertools.product(runs, (0, 4), (0.2, 0.8), (1, 3), MEASURES)
    assert set(table[["run", "step", "t", "block", "measure"]].itertuples(index=False, name=None)) == set(rows)
    assert len(table) == 2 * 2 * 2 * 2 * 6


def test_by_default_it_is_the_last_step_and_all_blocks_at_half_time(runs):
    table = geometry_table(runs, look=LOOK)
    assert set(table["step"]) == {4} and set(table["t"]) == {0.5} and list(table["block"].unique()) == [0, 1, 2, 3]


def test_its_values_are_the_meters_of_features_asked_for_directly(runs):
    table = geometry_table(runs, times=(0.2,), steps=[2], look=LOOK)
    for name, run in runs.items():
        for block, z in run.features(replace(LOOK, t=0.2), step=2).features.items():
            for measure, value in geometry(z).items():
                assert at(table, run=name, block=block, measure=measure) == value


def test_alignment_is_of_two_noises_of_the_same_images(runs):
    look = replace(LOOK, seed=5)
    value = at(geometry_table(runs, look=look, blocks=[2]), run="dispersive", measure="alignment")
    first, second = (runs["dispersive"].features(replace(look, seed=seed)) for seed in (5, 6))
    assert torch.equal(first.x1, second.x1) and not torch.equal(first.x_t, second.x_t)
    assert value == alignment(first.features[2], second.features[2]) > 0
    (without_noise,) = geometry_table({"a": runs["baseline"]}, (1.0,), [2], look=look).query("measure == 'alignment'")[
        "value"
    ]
    assert without_noise == pytest.approx(0, abs=1e-9)


def test_the_probe_learns_from_training_images_and_is_judged_on_held_out_ones(runs):
    table = probe_table(runs, times=(0.3, 0.9), blocks=[1], step=2, count=120, k=7)
    assert list(table.columns) == ["run", "block", "t", "measure", "value"] and len(table) == 2 * 2 * 2
    for name, run in runs.items():
        for t in (0.3, 0.9):
            train, held_out = (run.features(Look(t, 120, False, split), [1], 2) for split in ("train", "held_out"))
            views = train.features[1], train.y, held_out.features[1], held_out.y
            assert at(table, run=name, t=t, measure="knn") == knn_accuracy(*views, k=7)
            assert at(table, run=name, t=t, measure="linear_probe") == linear_probe_accuracy(*views)


def test_clean_digits_can_be_read_and_pure_noise_only_by_chance(runs):
    table = probe_table({"baseline": runs["baseline"]}, times=(0.0, 1.0), blocks=[1], count=500)
    for measure in ("knn", "linear_probe"):
        assert at(table, t=0.0, measure=measure) < 0.17  # of 500: chance is 0.1, deviation 0.013
        assert at(table, t=1.0, measure=measure) > 0.7


def test_labels_that_mean_nothing_are_found_only_where_the_network_was_told_them(tmp_path, monkeypatch):
    """Why a probe looks without: what a trained network is told it hands on."""

    def shuffled(_, split):
        images = datasets.digits(split)
        return replace(images, y=images.y[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))])

    run = Run.open(shipped_run("digits/baseline").path, shelf=tmp_path)
    monkeypatch.setattr("labkit.training.features.datasets", type("Shuffled", (), {"load": staticmethod(shuffled)}))
    accuracy = {
        labelled: at(probe_table({"a": run}, (0.5,), [3], labelled=labelled, count=500), measure="linear_probe")
        for labelled in (False, True)
    }
    assert accuracy[False] < 0.17 and accuracy[True] > 0.5


def test_similarity_is_symmetric_and_one_with_itself(runs):
    table = similarity_table(runs, LOOK, blocks=[0, 2, 3])
    labels = [(name, block) for name in runs for block in (0, 2, 3)]
    assert list(table.index) == list(table.columns) == labels
    values = torch.tensor(table.to_numpy())
    torch.testing.assert_close(values, values.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(values.diagonal(), torch.ones(6).double(), rtol=0, atol=1e-9)
    assert 0 <= values.min().item() < 0.999 and values.max() <= 1
    a, b = (runs[name].features(LOOK).features[block] for name, block in (("baseline", 2), ("dispersive", 3)))
    assert table.loc[("baseline", 2), ("dispersive", 3)] == pytest.approx(linear_cka(a, b), abs=1e-9)


def test_at_step_0_blocks_and_runs_of_one_seed_are_the_same(runs):
    values = similarity_table(runs, LOOK, step=0).to_numpy()
    assert values.shape == (8, 8) and values.min() == pytest.approx(1, abs=1e-9)


def test_what_is_asked_for_may_come_from_an_iterator(runs):
    lists = [
        geometry_table(runs, [0.5], [1, 2], [2, 4], LOOK),
        probe_table(runs, [0.5], [1, 2], count=30, k=3),
        similarity_table(runs, LOOK, [1, 2]),
    ]
    once = [
        geometry_table(runs, iter([0.5]), iter([1, 2]), iter([2, 4]), LOOK),
        probe_table(runs, iter([0.5]), iter([1, 2]), count=30, k=3),
        similarity_table(runs, LOOK, iter([1, 2])),
    ]
    for expected, actual in zip(lists, once, strict=True):
        pd.testing.assert_frame_equal(expected, actual)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (geometry_table, dict(blocks=[4]), r"blocks = \(4,\) .*4 blocks, numbered 0 to 3"),
        (geometry_table, dict(steps=[3]), r"step = 3 .*steps are 0, 2, 4"),
        (geometry_table, dict(times=(1.5,)), "t = 1.5 "),
        (probe_table, dict(k=0), "k = 0 .*from 1 to 2000"),
        (probe_table, dict(k=2001), "k = 2001 "),
        (probe_table, dict(k=6, count=5), "k = 6 .*from 1 to 5, the number of images"),
        (probe_table, dict(k=2.5), "k = 2.5 "),
        (probe_table, dict(blocks=[]), r"blocks = \(\)"),
        (probe_table, dict(step=1), "step = 1 "),
        (similarity_table, dict(blocks=[-1]), r"blocks = \(-1,\)"),
        (similarity_table, dict(step=9), "step = 9 "),
    ],
)
def test_what_cannot_be_is_refused_by_name(runs, make, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make(runs, **arguments)
