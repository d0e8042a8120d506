"""Solvers of ordinary equations, on a Gaussian whose flow is in closed form and against torchdiffeq."""

import itertools
import math
from functools import partial

import pytest
import torch
from gaussian import average, flow, velocity
from torchdiffeq import odeint

from labkit.checks import ConfigError
from labkit.paths import PATHS
from labkit.sampling import Problem, Sampler, states


def adaptive(field, x0, interval=(0.0, 1.0), **tolerances):
    """The sample by dopri5, and the number of evaluations."""
    times = []
    problem = Problem(lambda x, t: times.append(t) or field(x, t), interval)
    _, (last, x) = Sampler("dopri5", **tolerances).filled("SiT").solver(problem).states(x0)
    assert last == interval[1] and all(t.shape == x0.shape[:1] for t in times)
    return x, len(times)


@pytest.fixture
def noise():
    return torch.randn(64, 3, dtype=torch.float64)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_halving_the_step_divides_the_error_by_2_to_the_order(noise, method, order):
    exact = flow(noise, 1.0)
    ends = [list(states(velocity, noise, steps, method))[-1][1] for steps in (80, 160, 320)]
    errors = [(end - exact).abs().max().item() for end in ends]
    assert [math.log2(a / b) for a, b in itertools.pairwise(errors)] == pytest.approx([order, order], abs=0.1)


@pytest.mark.parametrize(("method", "theirs"), [("euler", "euler"), ("heun", "heun2")])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.1, 0.7)])
def test_each_step_is_torchdiffeqs(method, theirs, interval):
    def field(x, t):
        return torch.sin(3 * x) * (1 + t.reshape(-1, 1, 1, 1) ** 2)

    grid, x0 = torch.linspace(*interval, 8, dtype=torch.float64), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    expected = odeint(lambda t, x: field(x, t.expand(len(x))), x0, grid, method=theirs)
    walk = list(Sampler(method, 7).filled("SiT").solver(Problem(field, interval)).states(x0))
    assert [t for t, _ in walk] == pytest.approx(grid.tolist()) and (walk[0][0], walk[-1][0]) == interval
    torch.testing.assert_close(torch.stack([x for _, x in walk]), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(walk[0][1], x0)


def test_states_come_one_by_one_and_a_reader_may_stop(noise):
    calls = []
    walk = states(lambda x, t: calls.append(t) or velocity(x, t), noise, 100, "euler")
    assert not calls
    for _ in range(4):
        next(walk)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"steps": steps}, rf"steps = {steps} .*whole number of at least 1") for steps in (0, -3, 2.5)),
        *(({"method": method}, rf"method = {method!r} .*heun, euler") for method in ("dopri5", None)),
    ],
)
def test_bad_settings_are_refused_at_the_call_not_at_the_first_step(noise, settings, message, unchecked):
    with pytest.raises(ConfigError, match=rf"^{message}"):
        states(velocity, noise, **{"steps": 4, **settings})


@pytest.mark.parametrize("name", PATHS)
def test_dopri5_stays_within_its_tolerance_on_every_path(noise, name):
    field, exact, ends = partial(velocity, path=PATHS[name]), flow(noise, 0.98, PATHS[name]), (0.0, 0.98)
    rough, few = adaptive(field, noise, ends)
    fine, many = adaptive(field, noise, ends, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.05)
    torch.testing.assert_close(fine, exact, rtol=0, atol=1e-6)
    assert 6 < few < many < 2000
    assert adaptive(field, noise.float(), ends)[0].dtype == torch.float32


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_jumps_by_the_average_velocity_lead_to_the_data_in_any_number_of_steps(noise, steps):
    walk = list(states(average, noise, steps, "meanflow"))
    assert [t for t, _ in walk] == pytest.approx([k / steps for k in range(steps + 1)])
    for t, x in walk:
        torch.testing.assert_close(x, flow(noise, t), rtol=1e-10, atol=1e-10)
