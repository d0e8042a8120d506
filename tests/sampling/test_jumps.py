"""Jumps by an average velocity in closed form: from N(0, 1) to N(m, c²) in one step as in many."""

import pytest
import torch

from labkit.sampling import integrate, states

MEAN, DEVIATION = 1.5, 0.3


def deviation(t):
    return ((t * DEVIATION) ** 2 + (1 - t) ** 2) ** 0.5


def flow(x0, t):
    """Where the flow from N(0, 1) to N(m, c²) has led at time t."""
    return t * MEAN + deviation(t) * x0


def average(x, t, span):
    """(x_s − x)/(s − t): the displacement of the flow over a span, divided by its length."""
    t, s = t[:, None], (t + span)[:, None]
    return (flow((x - t * MEAN) / deviation(t), s) - x) / (s - t)


def velocity(x, t):
    t = t[:, None]
    return MEAN + (x - t * MEAN) * (t * DEVIATION**2 - (1 - t)) / deviation(t) ** 2


@pytest.fixture
def noise():
    return torch.randn(64, 3, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_exact_average_leads_to_the_data_in_any_number_of_steps(noise, steps):
    calls = []

    def field(x, t, span):
        calls.append((x, t, span))
        return average(x, t, span)

    walk = list(states(field, noise, steps, "meanflow"))
    times = [k / steps for k in range(steps + 1)]
    assert [t for t, _ in walk] == pytest.approx(times)
    assert torch.equal(walk[0][1], noise)
    for t, x in walk:
        torch.testing.assert_close(x, flow(noise, t), rtol=1e-10, atol=1e-10)
    assert len(calls) == steps
    for (x, t, span), (_, state), time in zip(calls, walk[:-1], times[:-1], strict=True):
        assert torch.equal(x, state) and t.shape == span.shape == (64,)
        assert t.unique().tolist() == pytest.approx([time])
        assert span.unique().tolist() == pytest.approx([1 / steps])
        assert {x.dtype, t.dtype, span.dtype} == {torch.float64}


def test_a_velocity_in_place_of_the_average_is_followed_as_by_euler(noise):
    """And in one step it misses what the average velocity hits."""
    for steps in (1, 5):
        x = integrate(lambda x, t, span: velocity(x, t), noise, steps, "meanflow")
        torch.testing.assert_close(x, integrate(velocity, noise, steps, "euler"), rtol=1e-12, atol=1e-12)
    assert integrate(velocity, noise, 1, "euler").std() < 1e-6  # it lands on the mean
