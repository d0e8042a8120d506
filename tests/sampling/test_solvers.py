"""The solvers on a field whose flow is known: the ideal velocity of the linear path from N(0, 1) to N(m, s²)."""

import itertools
import math

import pytest
import torch

from labkit.checks import ConfigError
from labkit.paths import PATHS
from labkit.sampling import SOLVERS, Problem, Sampler, integrate, states

MEAN, DEVIATION = 1.5, 0.3


EVALUATIONS = {"euler": 1, "heun": 2}


def adaptive(field, x0, interval=(0.0, 1.0), **tolerances):
    """By dopri5: the sample, and how often the field was evaluated."""
    times = []
    problem = Problem(lambda x, t: times.append(t) or field(x, t), interval)
    _, (last, x) = Sampler("dopri5", **tolerances).filled("SiT").solver(problem).states(x0)
    assert last == interval[1] and all(t.shape == x0.shape[:1] for t in times)
    return x, len(times)


def deviation(t):
    return ((t * DEVIATION) ** 2 + (1 - t) ** 2) ** 0.5


def ideal(x, t):
    """v(x, t) = m + (x − t·m)·σ′_t/σ_t, with x_t ~ N(t·m, σ_t²)."""
    t = t[:, None]
    return MEAN + (x - t * MEAN) * (t * DEVIATION**2 - (1 - t)) / deviation(t) ** 2


def flow(x0, t):
    return t * MEAN + deviation(t) * x0


@pytest.fixture
def noise():
    return torch.randn(64, 3, dtype=torch.float64)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_halving_the_step_divides_the_error_by_2_to_the_order(noise, method, order):
    exact = flow(noise, 1.0)
    errors = [(integrate(ideal, noise, steps, method) - exact).abs().max().item() for steps in (80, 160, 320)]
    assert [math.log2(a / b) for a, b in itertools.pairwise(errors)] == pytest.approx([order, order], abs=0.1)


@pytest.mark.parametrize("method", EVALUATIONS)
def test_every_state_lies_on_the_flow_from_noise_to_data(noise, method):
    seen = list(states(ideal, noise, 200, method))
    assert [t for t, _ in seen] == pytest.approx([k / 200 for k in range(201)])
    assert torch.equal(seen[0][1], noise)
    for t, x in seen:
        torch.testing.assert_close(x, flow(noise, t), rtol=0, atol=0.05 if method == "euler" else 5e-4)
    assert torch.equal(seen[-1][1], integrate(ideal, noise, 200, method))


@pytest.mark.parametrize(("method", "theirs"), [("euler", "euler"), ("heun", "heun2")])
def test_each_step_is_torchdiffeqs(noise, method, theirs):
    odeint = pytest.importorskip("torchdiffeq").odeint
    grid = torch.linspace(0, 1, 8, dtype=torch.float64)
    expected = odeint(lambda t, x: ideal(x, t.expand(len(x))), noise, grid, method=theirs)
    found = torch.stack([x for _, x in states(ideal, noise, 7, method)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", EVALUATIONS)
@pytest.mark.parametrize("steps", [1, 5])
def test_evaluations_are_as_many_as_stated_and_inside_the_interval(noise, method, steps):
    times = []

    def counted(x, t):
        assert t.shape == (64,)
        times.append(t[0].item())
        return ideal(x, t)

    integrate(counted, noise, steps, method)
    assert len(times) == steps * EVALUATIONS[method] == steps * SOLVERS[method].evaluations
    assert times[0] == 0
    assert max(times) <= 1 + 1e-12


@pytest.mark.parametrize("method", EVALUATIONS)
def test_a_constant_velocity_is_followed_exactly_by_one_step(method):
    noise, data = torch.randn(2, 4, 1, 8, 8)
    torch.testing.assert_close(integrate(lambda x, t: data - noise, noise, 1, method), data)


def test_heun_also_follows_a_velocity_linear_in_time():
    def velocity(x, t):
        return (2 * t)[:, None].expand_as(x)

    torch.testing.assert_close(integrate(velocity, torch.zeros(2, 3), 3, "heun"), torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_noise(dtype):
    seen = set()
    out = integrate(lambda x, t: seen.add(t.dtype) or ideal(x, t), torch.randn(4, 2, dtype=dtype), 3)
    assert {out.dtype} | seen == {dtype}


def test_states_come_one_by_one_and_a_reader_may_stop(noise):
    calls = []
    walk = states(lambda x, t: calls.append(t) or ideal(x, t), noise, 100, "euler")
    assert not calls
    for _ in range(4):
        next(walk)
    assert len(calls) == 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps = 0 .*at least 1"),
        ({"steps": -3}, "steps = -3 "),
        ({"steps": 2.5}, "steps = 2.5 .*whole number"),
        ({"steps": 4, "method": "dopri5"}, "method = 'dopri5' .*heun, euler"),
        ({"steps": 4, "method": None}, "method = None "),
    ],
)
def test_bad_settings_are_refused_at_the_call_not_at_the_first_step(noise, arguments, message):
    with pytest.raises(ConfigError, match=rf"^{message}"):
        states(ideal, noise, **arguments)


@pytest.mark.parametrize("method", EVALUATIONS)
def test_a_shorter_interval_is_covered_end_to_end(noise, method):
    seen = list(states(ideal, flow(noise, 0.1), 300, method, interval=(0.1, 0.7)))
    assert [t for t, _ in seen] == pytest.approx([0.1 + 0.6 * k / 300 for k in range(301)])
    assert seen[-1][0] == 0.7
    torch.testing.assert_close(seen[-1][1], flow(noise, 0.7), rtol=0, atol=0.02 if method == "euler" else 1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("interval", [(0.5, 0.5), (-0.1, 1), (0, 1.1), (0.9, 0.1), (0, float("nan")), (0.5,)])
def test_an_interval_that_is_none_is_refused(noise, interval):
    with pytest.raises(ConfigError, match=r"^interval = "):
        states(ideal, noise, 3, interval=interval)


def test_dopri5_ends_on_the_flow_within_its_tolerance(noise):
    rough, few = adaptive(ideal, noise)
    fine, many = adaptive(ideal, noise, rtol=1e-8, atol=1e-10)
    assert many > few > 6
    torch.testing.assert_close(rough, flow(noise, 1.0), rtol=0, atol=0.03)
    torch.testing.assert_close(fine, flow(noise, 1.0), rtol=0, atol=1e-6)
    half, _ = adaptive(ideal, flow(noise, 0.2), rtol=1e-8, atol=1e-10, interval=(0.2, 0.6))
    torch.testing.assert_close(half, flow(noise, 0.6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_dopri5_on_every_path_of_normal_data(name):
    """Data N(m, c²): x_t − α·m grows as the deviation s = (α²c² + σ²)^½ does, so the whole flow is known."""
    m, c, path = 0.7, 0.3, PATHS[name]

    def parts(t):
        of = path.coefficients(t)
        return of, (of.alpha**2 * c**2 + of.sigma**2).sqrt()

    def velocity(x, t):
        of, s = parts(t)
        slope = (of.alpha * of.d_alpha * c**2 + of.sigma * of.d_sigma) / s**2
        return of.d_alpha * m + slope * (x - of.alpha * m)

    x0 = torch.randn(20, dtype=torch.float64)
    first, last = (torch.tensor(t, dtype=torch.float64) for t in (0.0, 0.98))
    (a, before), (b, after) = parts(first), parts(last)
    exact = b.alpha * m + after / before * (x0 - a.alpha * m)
    rough, few = adaptive(velocity, x0, interval=(0.0, 0.98))
    fine, many = adaptive(velocity, x0, rtol=1e-8, atol=1e-10, interval=(0.0, 0.98))
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.02)
    torch.testing.assert_close(fine, exact, rtol=0, atol=1e-6)
    assert 6 < few < many < 2000


def test_dopri5_keeps_single_precision(noise):
    x, _ = adaptive(ideal, noise.float())
    assert x.dtype == torch.float32
