"""λ as it is painted, against a plain array of one factor a step."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.losses.weight import Weight, paint, value_at

STEPS = 40
STROKES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.floats(0, 2)), max_size=6)
KNOTS = st.dictionaries(st.integers(0, 35), st.floats(0, 2), max_size=4).map(lambda knots: tuple(sorted(knots.items())))


@given(KNOTS, STROKES)
def test_painting_changes_the_steps_in_a_stroke_and_no_other(knots, strokes):
    expected = np.array([value_at(knots, step) for step in range(STEPS)])
    for first, width, factor in strokes:
        knots = paint(knots, first, first + width, factor)
        expected[first : first + width] = factor
    got = [value_at(knots, step) for step in range(STEPS)]
    assert np.allclose(got, expected, atol=1e-12)
    assert all(one[0] < other[0] for one, other in pairwise(knots))
    weight = Weight(0.5, knots)
    assert np.allclose([weight(torch.tensor(step)).item() for step in range(STEPS)], 0.5 * expected, atol=1e-9)


def test_painting_over_takes_knots_away():
    assert paint(((0, 0.3), (5, 1.0)), 0, 100, 0.7) == ((99, 0.7), (100, 1.0))
