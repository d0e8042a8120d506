"""Jumps by an average velocity that is known: from N(0, 1) to N(m, c²) in one step as in many."""

import pytest
import torch

from labkit.sampling import integrate, states

MEAN, DEVIATION = 1.5, 0.3


def deviation(t):
    return ((t * DEVIATION) ** 2 + (1 - t) ** 2) ** 0.5


def flow(x0, t):
    """Where the flow from N(0, 1) to N(m, c²) has led at time t."""
    return t * MEAN + deviation(t) * x0


def ideal(x, t, span):
    """(x_s − x)/(s − t): what the flow does over a span, divided by its length."""
    t, s = t[:, None], (t + span)[:, None]
    return (flow((x - t * MEAN) / deviation(t), s) - x) / (s - t)


@pytest.fixture
def noise():
    return torch.randn(64, 3, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_the_exact_average_leads_to_the_data_in_any_number_of_steps(noise, steps):
    seen = list(states(ideal, noise, steps, "meanflow"))
    assert len(seen) == steps + 1
    assert [t for t, _ in seen] == pytest.approx([k / steps for k in range(steps + 1)])
    assert (seen[0][0], seen[-1][0]) == (0, 1)
    assert torch.equal(seen[0][1], noise)
    for t, x in seen:
        torch.testing.assert_close(x, flow(noise, t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(seen[-1][1], MEAN + DEVIATION * noise, rtol=1e-10, atol=1e-10)


def test_one_step_is_the_formula_of_the_paper(noise):
    (_, start), (t, x) = states(ideal, noise, 1, "meanflow")
    assert t == 1
    torch.testing.assert_close(x, start + ideal(start, torch.zeros(64).double(), torch.ones(64).double()))


def test_a_velocity_that_knows_no_span_is_followed_as_by_euler(noise):
    """And in one step it misses what the average velocity hits."""

    def velocity(x, t):
        t = t[:, None]
        return MEAN + (x - t * MEAN) * (t * DEVIATION**2 - (1 - t)) / deviation(t) ** 2

    for steps in (1, 5):
        *_, (_, x) = states(lambda x, t, span: velocity(x, t), noise, steps, "meanflow")
        torch.testing.assert_close(x, integrate(velocity, noise, steps, "euler"), rtol=1e-12, atol=1e-12)
    *_, (_, x) = states(lambda x, t, span: velocity(x, t), noise, 1, "meanflow")
    assert x.std() < 1e-6  # it lands on the mean


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_call_is_told_where_it_is_and_how_far_it_goes(noise, steps, dtype):
    asked = []

    def counted(x, t, span):
        asked.append((x, t, span))
        return ideal(x, t, span)

    seen = list(states(counted, noise.to(dtype), steps, "meanflow"))
    assert len(asked) == steps
    for k, (x, t, span) in enumerate(asked):
        assert torch.equal(x, seen[k][1])
        assert t.shape == span.shape == (64,)
        assert {x.dtype, t.dtype, span.dtype} == {dtype}
        assert t.unique().tolist() == pytest.approx([k / steps])
        assert span.unique().tolist() == pytest.approx([1 / steps])


def test_images_keep_their_shape():
    x0 = torch.randn(5, 1, 8, 8)
    *_, (_, x) = states(lambda x, t, span: 2 * span.reshape(-1, 1, 1, 1) * x, x0, 2, "meanflow")
    torch.testing.assert_close(x, x0 * 1.5**2)
