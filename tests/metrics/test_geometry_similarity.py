"""Two representations of the same samples: linear CKA and the alignment of two views, from closed forms and loops."""

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.metrics import alignment, cka_table, linear_cka

SEEDS = st.integers(0, 10**6)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize(("batch", "p", "q"), [(200, 200, 200), (100, 50, 1000), (400, 30, 30)])
def test_unrelated_features_read_the_floor_that_the_docstring_states(batch, p, q):
    values = [linear_cka(torch.randn(batch, p), torch.randn(batch, q)) for _ in range(10)]
    assert np.mean(values) == pytest.approx(math.sqrt(p / (p + batch) * q / (q + batch)), rel=0.03)


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
        value = measure(a, b)
        assert type(value) is float
        assert value == measure(a.detach().to(torch.promote_types(dtype, torch.float32)).flatten(1), b.flatten(1))


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


def test_labels_of_two_parts_become_levels():
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
