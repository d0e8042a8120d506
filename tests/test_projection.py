"""Maps to the plane: axes against numpy's, and UMAP by properties of its maps.

UMAP's coordinates differ between machines, so only their properties are asserted.
"""

import math
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import sklearn.manifold
import torch

from labkit.checks import ConfigError
from labkit.projection import Pca, UmapReference, procrustes, seed_flicker


@pytest.fixture(scope="module", autouse=True)
def unforgiving_threads():
    """Of numba's threading layers the one that aborts the process when two threads run it at once."""
    import numba

    numba.config.THREADING_LAYER = "workqueue"


def unequal(n, p, fall=0.7, shift=3.0):
    """Points whose deviations along hidden axes fall by a factor each, so that every principal axis is well defined."""
    turn = torch.linalg.qr(torch.randn(p, p)).Q
    return torch.randn(n, p) * fall ** torch.arange(p) @ turn + shift


def groups(count=3, each=40, width=16, apart=20.0):
    return torch.cat([torch.randn(each, width) + apart * torch.randn(width) for _ in range(count)])


def size(map_):
    """Root mean square distance from the middle of a map."""
    return (map_ - map_.mean(dim=0)).norm() / len(map_) ** 0.5


def random_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()


# --- principal axes


@pytest.mark.parametrize(("n", "p", "components"), [(300, 24, 2), (20, 90, 5), (60, 60, 3), (7, 40, 7), (50, 2, 2)])
def test_axes_are_those_of_numpys_svd_of_the_union(n, p, components):
    z = unequal(3 * n, p, fall=0.4 if p == 2 else 0.7)
    pca = Pca.fit({"a": z[:n], "b": z[n : 2 * n], "c": z[2 * n :].reshape(n, 1, p)}, components)
    union = z.double().numpy()
    axes = np.linalg.svd(union - union.mean(axis=0))[2][:components]
    axes *= np.sign(axes[np.arange(components), np.abs(axes).argmax(axis=1)])[:, None]
    np.testing.assert_allclose(pca.axes, axes, atol=3e-4)
    expected = (union - union.mean(axis=0)) @ axes.T / math.sqrt(p)
    np.testing.assert_allclose(pca.transform(z), expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    "z",
    [torch.eye(30), torch.ones(5, 4), torch.randn(20, 1) * torch.randn(1, 50), torch.randn(30, 3) @ torch.randn(3, 80)],
    ids=["one hot", "identical", "a line", "rank 3"],
)
def test_axes_without_variance_are_orthonormal_all_the_same(z):
    axes = Pca.fit({"a": z}, components=4).axes
    torch.testing.assert_close(axes @ axes.T, torch.eye(4).double(), rtol=0, atol=1e-10)


def test_axes_do_not_depend_on_chance_and_draw_none():
    z = unequal(60, 20)
    first = Pca.fit({"a": z})
    torch.manual_seed(7)
    before = random_states()
    assert torch.equal(first.axes, Pca.fit({"a": z}).axes)
    assert random_states() == before


def test_the_share_of_each_condition_is_that_of_its_own_variance():
    wide, narrow = unequal(50, 20), 0.1 * torch.randn(30, 20) - 40
    pca = Pca.fit({"wide": wide, "narrow": narrow})
    for z in (wide, narrow):
        own = z.double() - z.double().mean(dim=0)
        expected = (own @ pca.axes.double().T).square().sum() / own.square().sum()
        assert pca.explained(z) == pytest.approx(expected.item(), rel=1e-4)
    assert pca.explained(narrow) < 0.3 < pca.explained(wide)


def test_identical_samples_have_no_place_but_the_middle_and_nothing_to_explain():
    z = torch.randn(1, 50).expand(12, 50)
    pca = Pca.fit({"a": z[:2], "b": z[2:]})
    assert not pca.transform(z).any()
    assert math.isnan(pca.explained(z))


def test_low_precision_is_raised_and_gradients_stay_out():
    z = torch.randn(30, 4, 6).bfloat16().requires_grad_()
    pca = Pca.fit({"a": z})
    assert torch.equal(pca.axes, Pca.fit({"a": z.detach().float()}).axes)
    assert pca.transform(z).dtype == torch.float32 and not pca.transform(z).requires_grad


@pytest.mark.parametrize("components", [0, 6, 2.0])
def test_more_axes_than_features_or_none_are_refused(components, unchecked):
    with pytest.raises(ConfigError, match=f"^components = {components} .*20 rows of 5 features take 1 to 5"):
        Pca.fit({"a": torch.randn(20, 5)}, components)


# --- conditions


@pytest.mark.parametrize("fit", [Pca.fit, UmapReference.fit], ids=["pca", "umap"])
@pytest.mark.parametrize(
    ("conditions", "error", "fault"),
    [
        ({}, ConfigError, "at least one named set"),
        ({"run": torch.randn(30, 4), "wider": torch.randn(30, 2, 4)}, ConfigError, r"'run': 4, 'wider': 8.*share axes"),
        ({"good": torch.randn(30, 6), "bad": torch.full((2, 6), math.inf)}, ValueError, "'bad' holds .* in 2 of 2"),
    ],
    ids=["none", "widths", "not finite"],
)
def test_conditions_that_cannot_share_a_map_are_refused_by_name(fit, conditions, error, fault, unchecked):
    with pytest.raises(error, match=fault):
        fit(conditions)


# --- alignment


def test_a_turned_or_mirrored_scaled_and_moved_map_is_laid_back_onto_itself():
    a = torch.randn(20, 2, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q
    for orthogonal in (turn, turn * torch.tensor([1, -1])):
        points, disparity = procrustes(a, 7 * a @ orthogonal + 3)
        torch.testing.assert_close(points, a)
        assert disparity == pytest.approx(0, abs=1e-9)


def test_maps_without_a_shape_are_refused(unchecked):
    for b, message in (
        (torch.randn(4, 2), "same shape"),
        (torch.full((5, 2), 0.1), "unique points"),
        (torch.full((5, 2), math.nan), "b holds NaN or infinite features in 5 of 5"),
    ):
        with pytest.raises(ValueError, match=message):
            procrustes(torch.randn(5, 2), b)


# --- UMAP


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    conditions = {"a": groups(), "b": groups(count=2)}
    return conditions, UmapReference.fit(conditions)


def test_fits_and_transforms_from_two_threads_take_turns(fitted):
    conditions, reference = fitted
    further = conditions["a"] + 0.1
    expected, maps = reference.transform(further), []

    def map_again():
        for _ in range(3):
            again = UmapReference.fit(conditions)
            maps.append((again.places, again.transform(further)))

    threads = [threading.Thread(target=map_again) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(maps) == 6  # and the process is alive: unguarded, numba takes it down
    assert all(torch.equal(places, reference.places) and torch.equal(new, expected) for places, new in maps)
    assert torch.get_num_threads() == 1  # numba's is that of the cores, and OpenMP is one library for both


def test_what_was_compiled_is_kept_for_the_next_process(fitted):
    from numba.core.dispatcher import Dispatcher

    parts = [part for name in ("layouts", "utils", "umap_") for part in vars(sys.modules[f"umap.{name}"]).values()]
    compiled = [part for part in parts if isinstance(part, Dispatcher) and part.signatures]
    assert len(compiled) > 5
    for part in compiled:
        assert part.stats.cache_hits or part.stats.cache_misses, f"{part} is not cached"


def test_the_graph_of_neighbours_is_the_one_that_the_library_finds_in_the_features():
    import umap

    z = groups(each=20)
    graph = umap.UMAP(n_neighbors=7, random_state=0, n_jobs=1).fit(z.numpy()).graph_
    ours = UmapReference.fit({"a": z[:25], "b": z[25:]}, n_neighbors=7).fitted.graph_
    np.testing.assert_allclose(ours.toarray(), graph.toarray(), atol=1e-3)


def test_a_seed_draws_one_map_and_nothing_from_anybodys_random_state(fitted):
    conditions, reference = fitted
    before = random_states()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # and it warns of nothing
        again = UmapReference.fit(conditions)
        again.transform(conditions["a"] + 0.1)
    assert random_states() == before
    assert torch.equal(again.places, reference.places)
    assert not torch.equal(UmapReference.fit(conditions, seed=1).places, reference.places)


def test_fitted_samples_keep_their_places_among_others_in_any_order(fitted):
    conditions, reference = fitted
    assert reference.places.shape == (200, 2) and reference.places.dtype == torch.float32
    assert torch.equal(reference.transform(conditions["a"].reshape(120, 4, 4)), reference.places[:120])
    order = torch.randperm(80)
    mixed = torch.cat([conditions["b"][order], conditions["b"] + 0.1])
    assert torch.equal(reference.transform(mixed)[:80], reference.places[120:][order])


def test_trustworthiness_is_sklearns(fitted):
    conditions, reference = fitted
    for z in (conditions["a"], torch.randn(40, 16)):
        places = reference.transform(z).numpy()
        expected = sklearn.manifold.trustworthiness(z.numpy(), places, n_neighbors=15)
        assert reference.trustworthiness(z) == pytest.approx(expected, abs=1e-3)


def test_of_large_conditions_the_same_rows_are_fitted_and_small_ones_are_kept_whole():
    numbers = torch.arange(100.0)[:, None] + torch.zeros(1, 3)
    reference = UmapReference.fit({"a": numbers, "b": numbers + 1000, "small": numbers[:5] - 1000}, most=30)
    of_a, of_b, small = reference.features[:, 0].split([10, 10, 5])
    assert torch.equal(of_b - 1000, of_a) and torch.equal(small + 1000, torch.arange(5.0))
    assert len(of_a.unique()) == 10 and len((of_a % 10).unique()) > 3  # not a single class of ten that come in turn
    other = UmapReference.fit({"a": numbers}, n_neighbors=5, most=10, seed=1)
    assert torch.equal(other.features[:, 0], of_a)
    assert reference.transform(numbers).shape == (100, 2)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_tiny_and_huge_features_are_mapped_as_well(scale):
    z = scale * groups(count=5, each=20)
    reference = UmapReference.fit({"a": z}, n_neighbors=5)
    assert reference.trustworthiness(z) > 0.95
    moved = reference.transform(1.0001 * z) - reference.places
    assert moved.norm(dim=1).mean() < 0.1 * size(reference.places)


@pytest.mark.parametrize(
    ("z", "settings", "error", "message"),
    [
        (torch.randn(30, 4), {"n_neighbors": 30}, ConfigError, "n_neighbors = 30 .*n = 30"),
        (torch.randn(30, 4), {"most": 15}, ConfigError, "n_neighbors = 15 .*n = 15"),
        (torch.randn(30, 4), {"n_neighbors": 1}, ConfigError, "n_neighbors = 1 .*at least 2"),
        (torch.randn(30, 4), {"min_dist": math.nan}, ConfigError, "min_dist = nan .*at least 0 and at most 1"),
        (torch.randn(30, 4), {"seed": -1}, ValueError, "between 0 and"),
        (torch.randn(3, 4), {"n_neighbors": 2}, ConfigError, "n_neighbors = 2 .*n = 3"),
        (torch.full((30, 4), 0.1), {}, ValueError, "All 30 samples are the same"),
    ],
)
def test_settings_that_umap_cannot_use_are_refused(z, settings, error, message):
    with pytest.raises(error, match=message):
        UmapReference.fit({"a": z}, **settings)


def test_further_features_that_do_not_fit_are_refused(fitted):
    conditions, reference = fitted
    for frame in (reference, Pca.fit(conditions)):
        with pytest.raises(ValueError, match="z has 15 features a sample, but the fit was on 16"):
            frame.transform(torch.randn(40, 15))
    with pytest.raises(ValueError, match="n_neighbors"):
        reference.trustworthiness(conditions["a"][:30])


def test_flicker_is_the_mean_disparity_between_the_maps_of_all_pairs_of_seeds():
    conditions = {"a": torch.randn(60, 8)}
    maps = [UmapReference.fit(conditions, n_neighbors=8, seed=seed).places for seed in (0, 1, 5)]
    pairs = [procrustes(maps[i], maps[j]).disparity for i, j in ((0, 1), (0, 2), (1, 2))]
    flicker = seed_flicker(conditions, seeds=(0, 1, 5), n_neighbors=8)
    assert flicker == pytest.approx(sum(pairs) / 3)
    assert 0.01 < flicker < 1
    for seeds in ((0,), (1, 1)):
        with pytest.raises(ConfigError, match="at least two different ones"):
            seed_flicker(conditions, seeds=seeds)


def test_importing_labkit_loads_no_library_that_takes_seconds():
    slow = {"umap", "numba", "sklearn", "matplotlib"}
    code = f"import sys, labkit.projection, labkit.plots; print({slow} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
