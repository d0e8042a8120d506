"""Stochastic samplers on a field in closed form: from N(0, 1) to N(m, s²) on every path, with every form of noise."""

import itertools
from functools import partial
from typing import get_args

import pytest
import torch
from gaussian import DEVIATION, MEAN, score, velocity

from labkit import ConfigError, paths
from labkit.sampling import METHODS, SOLVERS, Diffusion, Problem, Sampler
from labkit.sampling.solvers import diffusion

FORMS = get_args(Diffusion)
SDE_METHODS = [method for method in METHODS["SiT"] if "diffusion" in SOLVERS[method].settings()]


def normals(shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=draw, dtype=torch.float64)


def walk(field, start, noise, path, steps, method="euler_maruyama", **settings):
    return Sampler(method, steps, **settings).solver(Problem(field, noise=noise, path=path)).states(start)


@pytest.mark.parametrize(
    ("path", "form", "method"),
    [*itertools.product((paths.linear, paths.gvp), FORMS, SDE_METHODS), (paths.vp, "sbdm", "euler_maruyama")],
)
def test_samples_have_the_mean_and_deviation_of_the_data(path, form, method):
    vp, noise = path is paths.vp, normals((4000, 1))
    steps, last = (600, 0.005) if vp else (200, 0.01)
    *_, (t, x) = walk(partial(velocity, path=path), noise(), noise, path, steps, method, diffusion=form, last=last)
    assert t == 1
    assert x.mean().item() == pytest.approx(MEAN, abs=0.05 if vp else 0.03)
    # The last step takes w·s·last off without putting noise back: where w has not faded by then, that is too much.
    assert x.std().item() == pytest.approx(DEVIATION, rel=0.2 if form == "constant" else 0.1 if vp else 0.06)


@pytest.mark.parametrize(("method", "ode"), [("euler_maruyama", "euler"), ("sde_heun", "heun")])
def test_without_noise_it_is_the_solver_of_the_flow(method, ode):
    field, noise = partial(velocity, path=paths.gvp), normals((9, 1))
    start = noise()
    *_, (_, before), (_, last) = walk(field, start, noise, paths.gvp, 24, method, strength=0.0, last=0.04)
    *_, (_, expected) = Sampler(ode, 24).filled("SiT").solver(Problem(field, (0.0, 0.96))).states(start)
    torch.testing.assert_close(before, expected, rtol=1e-12, atol=1e-12)
    t = torch.full((9,), 0.96, dtype=torch.float64)
    torch.testing.assert_close(last, expected + 0.04 * field(expected, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", SDE_METHODS)
@pytest.mark.parametrize("path", [paths.linear, paths.gvp, paths.vp])
def test_the_last_step_is_one_of_the_four_of_sit_s_release(path, method):
    """From the same state at 1 − last: its formulas, with the score that the field's velocity implies."""
    field, start = partial(velocity, path=path), torch.randn(9, 1, dtype=torch.float64)

    def run(**settings):
        return list(walk(field, start, normals((9, 1)), path, 6, method, **settings))

    ends = {last_step: run(last=0.1, last_step=last_step) for last_step in ("mean", "tweedie", "euler")}
    (now, x), *others = (states[-2] for states in ends.values())
    assert now == pytest.approx(0.9) and all(torch.equal(x, other) for _, other in others)
    t = torch.full((9,), 0.9, dtype=torch.float64)
    c, v = path.coefficients(t[:, None]), field(x, t)
    s = score(x, t, path)  # of the Gaussian itself
    expected = {
        "mean": x + 0.1 * (v + c.sigma * s),
        "tweedie": x / c.alpha + c.sigma**2 / c.alpha * s,
        "euler": x + 0.1 * v,
    }
    for last_step, states in ends.items():
        assert states[-1][0] == 1
        torch.testing.assert_close(states[-1][1], expected[last_step], rtol=1e-9, atol=1e-11)
    none = run(last_step="none")
    assert [t for t, _ in none] == pytest.approx([0.999 * k / 6 for k in range(7)])
    assert Sampler(method, 6, last_step="none").filled("SiT").total_steps == 6


def test_forms_have_the_published_values():
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    values = {form: diffusion(form, paths.linear, t).tolist() for form in FORMS}
    assert values["sigma"] == values["linear"] == pytest.approx([0.8, 0.5, 0.1])
    assert values["sbdm"] == pytest.approx([0.8 / 0.2, 1.0, 0.1 / 0.9])  # (1 − t)²/t + (1 − t)
    assert values["constant"] == [1, 1, 1]
    assert values["decreasing"] == pytest.approx([0.25 * 1.8090169943749475**2, 0.25, 0.25 * 0.0489434837048**2])
    assert values["bump"] == pytest.approx([0.3454915028125263, 1, 0.0954915028125263])
    # on VP it is β/2, so that dx = (β/2)(x + 2s) dt + √β dW as published
    torch.testing.assert_close(diffusion("sbdm", paths.vp, t), (0.1 + 19.9 * (1 - t)) / 2)


def test_where_the_score_is_infinite_sbdm_begins_later():
    for path, first in ((paths.linear, paths.EDGE), (paths.vp, 0)):
        noise = normals((2, 1))
        (t, _), *_ = walk(velocity, noise(), noise, path, 3, diffusion="sbdm")
        assert t == first


def test_a_last_step_that_reaches_beyond_the_start_is_refused():
    problem = Problem(velocity, (0.96, 1.0), normals((2, 3)), paths.linear)
    with pytest.raises(ConfigError, match=r"^last = 0\.04 .*below"):
        list(Sampler("euler_maruyama", 4).solver(problem).states(torch.randn(2, 3)))
