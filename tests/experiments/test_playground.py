"""The playground that ships is complete and agrees with the atlas; and how it is made, in miniature."""

import sys

import build_playground as build
import numpy as np
import pytest

from labkit.checks import LabError
from labkit.evaluation import losses
from labkit.experiments import Atlas
from labkit.experiments.playground import NUMBERS, Playground
from labkit.losses import dispersive_floor
from labkit.metrics import effective_rank, mean_pairwise_distance
from labkit.runtime import data_dir
from labkit.training import Look, Run


@pytest.fixture(scope="module")
def shipped():
    return Playground.load()


def test_what_ships_is_what_the_command_makes(shipped):
    assert (data_dir() / "playground.npz").stat().st_size < 1e6
    assert shipped.ages == build.AGES
    assert shipped.conditions == {
        condition: config
        for condition, config in build.CONDITIONS.items()
        if condition not in shipped.record["missing"]
    }
    shape = len(shipped.conditions), len(build.AGES)
    assert {name: array.shape[:2] for name, array in shipped.arrays.items() if name not in ("classes", "edges")} == {
        name: shape for name in ("places", "shares", "counts", "numbers", "samples")
    }
    assert np.isfinite(shipped.arrays["numbers"]).all()
    images = build.LOOK.count
    assert (shipped.arrays["counts"].sum(axis=-1) == images * (images - 1) // 2).all(), "every pair is in one bin"
    assert all(run["commit"].isalnum() for run in shipped.record["runs"].values()), "made from an edited checkout"
    assert set(shipped.record["runs"]) == set(shipped.conditions)


def test_before_training_all_are_one_network(shipped):
    for name in ("places", "counts", "samples"):
        first = shipped.arrays[name][:, 0]
        assert (first == first[0]).all(), name


def test_losses_lie_above_their_floors(shipped):
    for name, config in shipped.conditions.items():
        floor = dispersive_floor(config.batch_size, **config.repelling.arguments, features=4 * 64)
        for step in shipped.ages:
            assert shipped.number(name, step, "floor") == pytest.approx(floor, abs=1e-6)
            assert shipped.number(name, step, "dispersive") >= floor - 1e-3


def test_mean_distances_agree_with_the_distribution(shipped):
    """The mean over bins of their middles is within the width of a bin."""
    edges, counts = shipped.arrays["edges"], shipped.arrays["counts"].astype(float)
    means = (counts * np.sqrt(edges[1:] * edges[:-1])).sum(axis=-1) / counts.sum(axis=-1)
    spread = shipped.arrays["numbers"][..., NUMBERS.index("mean_pairwise_distance")]
    np.testing.assert_allclose(means, spread, rtol=edges[1] / edges[0] - 1)


def test_it_tells_what_the_atlas_tells(shipped):
    """Trained again, a condition comes out as the same seed of the atlas: sizes and ranks differ by a few per cent."""
    atlas, compared = Atlas.load(), 0
    for name in shipped.conditions.keys() & atlas.conditions.keys():
        assert not shipped.conditions[name].breaks(atlas.conditions[name].replace(steps=build.STEPS))
        for measure in ("feature_norm", "mean_pairwise_distance", "effective_rank", "loss_held_out"):
            other = atlas.band(name, measure).values.loc[0]
            assert shipped.number(name, build.STEPS, measure) == pytest.approx(other, rel=0.12), (name, measure)
            compared += 1
    assert compared >= 40


def test_one_that_is_missing_or_of_another_kind_says_what_to_do(tmp_path):
    with pytest.raises(LabError, match=r"git checkout data/playground\.npz"):
        Playground.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", record=np.array("{}"))
    with pytest.raises(LabError, match="git checkout"):
        Playground.load(tmp_path / "other.npz")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole way for two short trainings; the second call trains nothing."""
    folder = tmp_path_factory.mktemp("playground")
    names = ("coarse-baseline", "coarse-hinge")
    short = {name: build.CONDITIONS[name].replace(steps=6, save_every=6) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "AGES", (2, 6))
        patch.setattr(build, "CONDITIONS", short)
        patch.setattr(build, "LOOK", Look(count=130))
        patch.setattr(sys, "argv", ["build", "--out", str(folder / "runs"), "--to", str(folder / "small.npz")])
        build.main()
        patch.setattr(sys, "argv", [*sys.argv, "--trained"])
        build.main()
    return Playground.load(folder / "small.npz"), folder / "runs"


def test_its_numbers_are_those_of_the_runs(built):
    playground, folder = built
    assert (
        playground.record["missing"] == []
        and list(playground.conditions) == ["coarse-baseline", "coarse-hinge"]
        and playground.ages == (2, 6)
    )
    run = Run.open(folder / "coarse-hinge")
    assert set(run.steps) == {0, 2, 6}, "a checkpoint of each age"
    z = run.features(Look(count=130), [1], 6).features[1]
    number = lambda name: playground.number("coarse-hinge", 6, name)  # noqa: E731
    assert number("effective_rank") == pytest.approx(effective_rank(z), rel=1e-5)
    assert number("mean_pairwise_distance") == pytest.approx(mean_pairwise_distance(z), rel=1e-5)
    assert number("loss_held_out") == pytest.approx(losses(run.model(), run.config, 130)["loss_held_out"], rel=1e-5)
    assert number("floor") == pytest.approx(1 / 128)
    assert playground.record["runs"].keys() == playground.conditions.keys()
    assert playground.table(6).loc["SiT-Nano/4, hinge, λ 0.5", "spread"] == pytest.approx(
        number("mean_pairwise_distance")
    )


def test_places_keep_lengths(built):
    """Along the axes a cloud has the share of its own variance that is stated."""
    playground, folder = built
    z = Run.open(folder / "coarse-hinge").features(Look(count=130), [1], 6).features[1].flatten(1).double()
    total = z.var(dim=0, unbiased=False).sum().item() / z.shape[1]
    places = playground.arrays["places"][1, 1] * playground.record["unit"]
    share = playground.arrays["shares"][1, 1]
    assert places.var(axis=0).sum() / total == pytest.approx(share, rel=0.15)  # of 100 of the 130 images
