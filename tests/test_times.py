"""Second times: near the first, within [0, 1], and as uniform as the first."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from labkit.time_sampling import near


def one(t: float, u: float, gap: float) -> float:
    return near(torch.tensor([t]), torch.tensor([u]), gap).item()


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32, exclude_max=True), st.floats(0, 1))
def test_within_the_unit_interval_and_the_gap(t, u, gap):
    second = one(t, u, gap)
    assert 0 <= second <= 1
    assert abs(second - t) <= gap + 1e-6


@pytest.mark.parametrize(
    ("t", "u", "gap", "expected"),
    [
        (0.5, 0.0, 0.2, 0.3),
        (0.5, 0.75, 0.2, 0.6),
        (0.1, 0.0, 0.3, 0.2),  # mirrored at 0
        (0.9, 0.999999, 0.3, 0.8),  # mirrored at 1
        (0.0, 0.0, 1.0, 1.0),
        (1.0, 0.75, 1.0, 0.5),
    ],
)
def test_moved_by_up_to_the_gap_and_mirrored_at_the_ends(t, u, gap, expected):
    assert one(t, u, gap) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("gap", [0.05, 0.3, 0.7, 1.0])
def test_the_second_of_uniform_times_is_uniform(gap):
    t, u = torch.rand(2, 40_000)
    second = near(t, u, gap)
    assert kstest(second.numpy(), "uniform").pvalue > 1e-3
    clipped = (t + gap * (2 * u - 1)).clamp(0, 1)
    assert kstest(clipped.numpy(), "uniform").pvalue < 1e-4  # so the test can tell
    if gap < 0.5:
        inside = (t > gap) & (t < 1 - gap)
        moved = (second - t)[inside] / gap
        assert kstest(moved.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
