"""The conflict of two gradients against numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.metrics import gradient_conflict

E1, E2 = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])


def test_only_parameters_that_both_reach_count():
    both = gradient_conflict([E1, None, E2, E2], [E1, E2, None, -E2])
    assert both == pytest.approx(((9 - 16) / 25, 1))
    assert gradient_conflict([E1, 99 * E2], [E2, None]) == pytest.approx((0, 4 / 3))


@pytest.mark.parametrize(("base", "other"), [([None], [E1]), ([E1, None], [None, E2]), ([], [])])
def test_no_parameter_in_common(base, other):
    assert all(math.isnan(value) for value in gradient_conflict(base, other))


def test_a_gradient_that_is_zero_has_no_direction():
    assert math.isnan(gradient_conflict([E1], [0 * E1]).cosine)
    assert gradient_conflict([E1], [0 * E1]).ratio == 0
    assert all(math.isnan(value) for value in gradient_conflict([0 * E1], [E1]))
    assert all(math.isnan(value) for value in gradient_conflict([0 * E1], [0 * E1]))


def test_lists_of_different_parameters_are_refused():
    with pytest.raises(ValueError, match="zip"):
        gradient_conflict([E1], [E1, E2])


@given(st.integers(0, 10**6), st.sampled_from([1e-15, 1.0, 1e15]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_equals_numpy_at_any_size(seed, size, kind):
    """Squares of such numbers leave the range of float32."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (2, 1, 3)]
    base, other = ([(size * torch.randn(shape, generator=draw)).to(kind) for shape in shapes] for _ in range(2))
    a, b = (np.concatenate([g.double().numpy().ravel() for g in side]) for side in (base, other))
    expected = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b), np.sqrt(b @ b) / np.sqrt(a @ a)
    assert gradient_conflict(base, other) == pytest.approx(expected, rel=1e-9)
