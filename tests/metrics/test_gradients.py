"""The conflict of two gradients against numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.metrics import gradient_conflict

E1, E2 = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
NAN = (math.nan, math.nan)


@pytest.mark.parametrize(
    ("base", "other", "cosine_and_ratio"),
    [
        ([E1, None, E2, E2], [E1, E2, None, -E2], ((9 - 16) / 25, 1)),  # the parameters that both depend on
        ([E1, 99 * E2], [E2, None], (0, 4 / 3)),
        ([E1, None], [None, E2], NAN),
        ([], [], NAN),
        ([E1], [0 * E1], (math.nan, 0)),  # zero has no direction
        ([0 * E1], [E1], NAN),
        ([0 * E1], [0 * E1], NAN),
    ],
)
def test_known_vectors(base, other, cosine_and_ratio):
    assert gradient_conflict(base, other) == pytest.approx(cosine_and_ratio, nan_ok=True)


def test_it_does_not_depend_on_the_number_of_threads():
    """Bit for bit, so that a run's log is the same whichever process has written a row."""
    draw = torch.Generator().manual_seed(0)
    base, other = (torch.randn(300_001, generator=draw) for _ in range(2))
    alone = gradient_conflict([base], [other])
    torch.set_num_threads(2)
    assert gradient_conflict([base], [other]) == alone and torch.get_num_threads() == 2


def test_lists_of_different_parameters_are_refused():
    with pytest.raises(ValueError, match="zip"):
        gradient_conflict([E1], [E1, E2])


@given(st.integers(0, 10**6), st.sampled_from([1e-15, 1.0, 1e15]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_equals_numpy_at_any_size(seed, size, dtype):
    """Squares of such numbers leave the range of float32."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (2, 1, 3)]
    base, other = ([(size * torch.randn(shape, generator=draw)).to(dtype) for shape in shapes] for _ in range(2))
    a, b = (np.concatenate([g.double().numpy().ravel() for g in side]) for side in (base, other))
    expected = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b), np.sqrt(b @ b) / np.sqrt(a @ a)
    assert gradient_conflict(base, other) == pytest.approx(expected, rel=1e-9)
