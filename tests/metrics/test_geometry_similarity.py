"""Two representations of the same samples: linear CKA and the alignment of two views, from closed forms and loops."""

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.metrics import alignment, cka_table, geometry, linear_cka

SEEDS = st.integers(0, 10**6)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def turn(width):
    return torch.linalg.qr(torch.randn(width, width)).Q


def cka_in_features(a, b):
    """The definition as printed, on features: entry by entry, in float64."""
    a, b = (z.double().numpy() - z.double().numpy().mean(axis=0) for z in (a, b))

    def size(x, y):  # ‖XᵀY‖²
        return sum((x[:, p] * y[:, q]).sum() ** 2 for p in range(x.shape[1]) for q in range(y.shape[1]))

    return size(a, b) / math.sqrt(size(a, a) * size(b, b))


# --- linear CKA


@given(SEEDS, st.integers(2, 9), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1e-15, 1.0, 1e15]))
def test_cka_equals_its_definition_in_plain_loops(seed, batch, p, q, size):
    a, b = size * drawn(seed, batch, p), drawn(seed + 1, batch, q) + 1
    assert linear_cka(a, b) == pytest.approx(cka_in_features(a / size, b), rel=1e-5, abs=1e-9)
    assert linear_cka(b, a) == pytest.approx(linear_cka(a, b), rel=1e-12)


def test_a_rotation_a_scale_and_a_shift_change_nothing():
    a = torch.randn(20, 6) * torch.linspace(0.2, 3, 6)
    b = a @ torch.randn(6, 9) + torch.randn(20, 9)
    assert linear_cka(a, 7 * a @ turn(6) + torch.randn(6)) == pytest.approx(1, abs=1e-6)
    assert linear_cka(a @ turn(6) - 4, 0.01 * b @ turn(9) + 1) == pytest.approx(linear_cka(a, b), rel=1e-5)
    order = torch.randperm(20)
    assert linear_cka(a[order], b[order]) == pytest.approx(linear_cka(a, b), rel=1e-9)


def test_another_order_or_another_shape_of_the_cloud_does():
    a = torch.randn(40, 3)
    assert linear_cka(a, a[torch.randperm(40)]) < 0.3
    assert linear_cka(a, a * torch.tensor([10.0, 1.0, 1.0])) < 0.8


def test_shares_of_a_common_basis():
    """Orthonormal, centred directions: k in common, of p and of q, give k / √(pq)."""
    waves = [f(2 * math.pi * n * torch.arange(16) / 16) for n in (1, 2, 3) for f in (torch.cos, torch.sin)]
    basis = torch.stack(waves, dim=1)
    for left, right, common in (([0], [1], 0), ([0, 1], [0], 1), ([0, 1, 2, 3], [2, 3, 4], 2), ([0, 5], [5, 0], 2)):
        expected = common / math.sqrt(len(left) * len(right))
        assert linear_cka(basis[:, left] + 3, -2 * basis[:, right]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("batch", "p", "q"), [(200, 200, 200), (100, 50, 1000), (400, 30, 30)])
def test_unrelated_features_read_the_floor_that_the_docstring_states(batch, p, q):
    found = [linear_cka(torch.randn(batch, p), torch.randn(batch, q)) for _ in range(10)]
    assert np.mean(found) == pytest.approx(math.sqrt(p / (p + batch) * q / (q + batch)), rel=0.03)


def test_an_offset_a_million_times_the_spread_is_no_similarity():
    a, b = torch.randn(30, 4).double(), torch.randn(30, 4).double()
    assert linear_cka(a + 1e6, b + 1e6) == pytest.approx(linear_cka(a, b), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # in float64 the mean of equal numbers is not exact
def test_without_variation_there_is_nothing_to_be_similar(value, dtype):
    still, moving = torch.full((7, 3), value, dtype=dtype), torch.randn(7, 4)
    for pair in ((still, moving), (moving, still), (still, still)):
        assert math.isnan(linear_cka(*pair))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_and_shape_gives_a_plain_number_without_gradient(dtype):
    a, b = torch.randn(6, 4, 3).to(dtype).requires_grad_(), torch.randn(6, 4, 3)
    for measure in (linear_cka, alignment):
        found = measure(a, b)
        assert type(found) is float
        assert found == measure(a.detach().to(torch.promote_types(dtype, torch.float32)).flatten(1), b.flatten(1))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_similar_to_nothing(bad):
    spoilt, b = torch.randn(5, 3), torch.randn(5, 3)
    spoilt[1, 2] = bad
    for measure in (linear_cka, alignment):
        assert math.isnan(measure(spoilt, b)) and math.isnan(measure(b, spoilt))
    table = cka_table({"spoilt": spoilt, "b": b, "c": torch.randn(5, 2)})
    np.testing.assert_array_equal(table.isna(), [[True] * 3, [True, False, False], [True, False, False]])


@pytest.mark.usefixtures("unchecked")
def test_different_samples_are_refused_by_name():
    with pytest.raises(ValueError, match=r"a has 5, b has 7.*the same number"):
        linear_cka(torch.randn(5, 3), torch.randn(7, 3))
    with pytest.raises(ValueError, match=r"first has 5, second has 5, third has 4"):
        cka_table({"first": torch.randn(5, 3), "second": torch.randn(5, 2), "third": torch.randn(4, 3)})
    with pytest.raises(ValueError, match="there is none"):
        cka_table({})
    with pytest.raises(ValueError, match=r"^a has a batch of 1; .*at least 2"):
        linear_cka(torch.randn(1, 3), torch.randn(1, 3))


# --- the table


def test_the_table_holds_all_pairs_under_their_labels():
    blocks = {3: torch.randn(9, 4, 2), 0: torch.randn(9, 5), "pixels": torch.randn(9, 1, 3, 3).double()}
    table = cka_table(blocks)
    assert list(table.index) == list(table.columns) == [3, 0, "pixels"]
    for one, a in blocks.items():
        for other, b in blocks.items():
            assert table.loc[one, other] == pytest.approx(linear_cka(a, b), rel=1e-12)
    np.testing.assert_array_equal(table, table.T)
    np.testing.assert_allclose(np.diag(table), 1, rtol=1e-12)
    assert table.to_numpy().max() <= 1


def test_labels_of_two_parts_are_found():
    first, second = torch.randn(9, 3), torch.randn(9, 4)
    table = cka_table({("baseline", 0): first, ("dispersive", 0): second})
    assert list(table.index) == list(table.columns) == [("baseline", 0), ("dispersive", 0)]
    assert table.loc[("baseline", 0), ("dispersive", 0)] == pytest.approx(linear_cka(first, second), rel=1e-12)


def test_each_representation_is_reduced_once(monkeypatch):
    """n Gram matrices of features, and one of the n of them; not one for each of the n² pairs."""
    module = importlib.import_module("labkit.metrics.geometry")  # the package's attribute is the function
    sizes, gram = [], module.gram
    monkeypatch.setattr(module, "gram", lambda z: sizes.append(tuple(z.shape)) or gram(z))
    cka_table({width: torch.randn(7, width) for width in range(1, 6)})
    assert sizes == [(7, 1), (7, 2), (7, 3), (7, 4), (7, 5), (5, 49)]


# --- alignment


def test_alignment_of_known_views():
    z = torch.randn(9, 4, 6)
    assert alignment(z, z) == alignment(z, 2 * z) == 0
    assert alignment(z, -z) == pytest.approx(4, rel=1e-6)
    assert alignment(torch.eye(5), 3 * torch.eye(5).roll(1, 0)) == pytest.approx(2)
    assert alignment(z[:1], z[:1] * torch.rand(1) + 1e-3 * z[:1]) == pytest.approx(0, abs=1e-12)  # one sample is enough


@given(SEEDS, st.integers(1, 8), st.integers(1, 9), st.sampled_from([1e-12, 1.0, 1e12]))
def test_alignment_equals_a_loop_in_numpy(seed, batch, width, size):
    a, b = size * drawn(seed, batch, width), drawn(seed + 1, batch, width)
    pairs = zip(a.double().numpy() / size, b.double().numpy(), strict=True)
    gaps = [((p / np.linalg.norm(p) - q / np.linalg.norm(q)) ** 2).sum() for p, q in pairs]
    assert alignment(a, b) == pytest.approx(sum(gaps) / batch, rel=1e-5)
    assert alignment(b, a) == alignment(a, b)


def test_close_views_keep_their_digits():
    """1 − cos of these is below what float32 can tell from 0."""
    z, gap = torch.randn(4, 64), 1e-5 * torch.randn(4, 64)
    a, b = ((x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (z.double().numpy(), (z + gap).double().numpy()))
    assert alignment(z, z + gap) == pytest.approx(((a - b) ** 2).sum(axis=1).mean(), rel=0.05)


def test_a_row_of_zeros_is_at_1_from_any_direction():
    e = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert alignment(torch.zeros(2, 2), e) == 1
    assert alignment(torch.zeros(2, 2), torch.zeros(2, 2)) == 0


def test_alignment_is_blind_to_norms_and_to_a_common_rotation_only():
    a, b = torch.randn(12, 5), torch.randn(12, 5)
    found, both, order = alignment(a, b), turn(5), torch.randperm(12)
    for x, y in ((a * torch.rand(12, 1), 9 * b), (a @ both, b @ both), (a[order], b[order])):
        assert alignment(x, y) == pytest.approx(found, rel=1e-5)
    for x, y in ((a @ both, b), (a + 1, b + 1), (a, b[order])):
        assert alignment(x, y) != pytest.approx(found, rel=1e-2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("other", [(5, 3), (6, 4), (6,), (6, 1, 3)])
def test_views_of_different_shapes_are_refused(other):
    with pytest.raises(ValueError, match=r"^a has shape \(6, 3\) and b \(.*two views of the same samples"):
        alignment(torch.randn(6, 3), torch.randn(other))


def test_autocast_does_not_reach_either():
    a, b = torch.randn(16, 32) + 1, torch.randn(16, 32) + 1
    outside = alignment(a, b), linear_cka(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert (alignment(a, b), linear_cka(a, b)) == outside


def test_collapsed_features_are_perfectly_aligned_and_not_uniform():
    collapsed = torch.ones(8, 5)
    assert alignment(collapsed, collapsed) == 0
    assert geometry(collapsed)["uniformity"] == pytest.approx(0)
