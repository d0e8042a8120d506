"""The mean error by part of [0, 1], against numpy."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.metrics import by_time

SAMPLES = st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 100, width=32)), min_size=1, max_size=30)


@given(SAMPLES, st.integers(1, 7))
def test_equals_numpy(samples, bins):
    times, errors = (np.array(column, dtype=np.float32) for column in zip(*samples, strict=True))
    part = np.minimum(np.floor(times * np.float32(bins)), bins - 1)
    expected = [errors[part == n].astype(float).mean() if (part == n).any() else math.nan for n in range(bins)]
    means = by_time(torch.from_numpy(errors), torch.from_numpy(times), bins)
    np.testing.assert_allclose(means, expected, rtol=1e-9)
