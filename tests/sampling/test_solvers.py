"""Solvers on a field whose flow is in closed form: the ideal velocity of the linear path from N(0, 1) to N(m, s²)."""

import itertools
import math

import pytest
import torch
from torchdiffeq import odeint

from labkit.checks import ConfigError
from labkit.paths import PATHS
from labkit.sampling import SOLVERS, Problem, Sampler, integrate, states

MEAN, DEVIATION = 1.5, 0.3
METHODS = {"euler": 1, "heun": 2}  # order of convergence, and evaluations in a step


def adaptive(field, x0, interval=(0.0, 1.0), **tolerances):
    """The sample by dopri5, and the number of evaluations."""
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


@pytest.mark.parametrize(("method", "order"), METHODS.items())
def test_halving_the_step_divides_the_error_by_2_to_the_order(noise, method, order):
    exact = flow(noise, 1.0)
    errors = [(integrate(ideal, noise, steps, method) - exact).abs().max().item() for steps in (80, 160, 320)]
    assert [math.log2(a / b) for a, b in itertools.pairwise(errors)] == pytest.approx([order, order], abs=0.1)


@pytest.mark.parametrize(("method", "theirs"), [("euler", "euler"), ("heun", "heun2")])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.1, 0.7)])
def test_each_step_is_torchdiffeqs(method, theirs, interval):
    def field(x, t):
        return torch.sin(3 * x) * (1 + t.reshape(-1, 1, 1, 1) ** 2)

    grid, x0 = torch.linspace(*interval, 8, dtype=torch.float64), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    expected = odeint(lambda t, x: field(x, t.expand(len(x))), x0, grid, method=theirs)
    walk = list(states(field, x0, 7, method, interval))
    assert [t for t, _ in walk] == pytest.approx(grid.tolist()) and (walk[0][0], walk[-1][0]) == interval
    torch.testing.assert_close(torch.stack([x for _, x in walk]), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(walk[0][1], x0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evaluations_are_as_stated_within_the_interval_and_in_the_precision_of_the_noise(noise, method, dtype):
    times = []

    def counted(x, t):
        assert t.shape == (64,) and t.dtype == dtype
        times.append(t[0].item())
        return ideal(x, t)

    assert integrate(counted, noise.to(dtype), 5, method).dtype == dtype
    assert len(times) == 5 * METHODS[method] == 5 * SOLVERS[method].evaluations
    assert times[0] == 0
    assert max(times) <= 1 + 1e-6


def test_states_come_one_by_one_and_a_reader_may_stop(noise):
    calls = []
    walk = states(lambda x, t: calls.append(t) or ideal(x, t), noise, 100, "euler")
    assert not calls
    for _ in range(4):
        next(walk)
    assert len(calls) == 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"steps": steps}, rf"steps = {steps} .*whole number of at least 1") for steps in (0, -3, 2.5)),
        *(({"method": method}, rf"method = {method!r} .*heun, euler") for method in ("dopri5", None)),
        *(
            ({"interval": interval}, r"interval = .*within 0 to 1")
            for interval in ((0.5, 0.5), (-0.1, 1), (0, 1.1), (0.9, 0.1), (0, math.nan), (0.5,))
        ),
    ],
)
def test_bad_settings_are_refused_at_the_call_not_at_the_first_step(noise, settings, message):
    with pytest.raises(ConfigError, match=rf"^{message}"):
        states(ideal, noise, **{"steps": 4, **settings})


@pytest.mark.parametrize("name", PATHS)
def test_dopri5_stays_within_its_tolerance_on_every_path(name):
    """Data N(m, c²): x_t − α·m grows as the deviation s = (α²c² + σ²)^½ does, so the whole flow is in closed form."""
    m, c, path = 0.7, 0.3, PATHS[name]

    def parts(t):
        k = path.coefficients(t)
        return k, (k.alpha**2 * c**2 + k.sigma**2).sqrt()

    def velocity(x, t):
        k, s = parts(t)
        slope = (k.alpha * k.d_alpha * c**2 + k.sigma * k.d_sigma) / s**2
        return k.d_alpha * m + slope * (x - k.alpha * m)

    x0, ends = torch.randn(20, dtype=torch.float64), (0.0, 0.98)
    (a, before), (b, after) = (parts(torch.tensor(t, dtype=torch.float64)) for t in ends)
    exact = b.alpha * m + after / before * (x0 - a.alpha * m)
    rough, few = adaptive(velocity, x0, ends)
    fine, many = adaptive(velocity, x0, ends, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.02)
    torch.testing.assert_close(fine, exact, rtol=0, atol=1e-6)
    assert 6 < few < many < 2000
    assert adaptive(velocity, x0.float(), ends)[0].dtype == torch.float32
