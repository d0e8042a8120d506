"""The samplers of the released code, written once more from its equations, whole and in float64, with the same noise.

SiT and DiT guide the first three channels, REPA all of them within an interval of its time, which runs from the data.
"""

import itertools

import numpy as np
import pytest
import torch
from small import randomised

from labkit import build_model, paths
from labkit.process import DiffusionProcess
from labkit.sampling import Problem, Sampler, guided

NULL, SCALE = 10, 1.8
LABELS = torch.tensor([3, 0, 9])
SHAPE = (3, 4, 8, 8)


@pytest.fixture(scope="module")
def networks():
    def random(family):
        torch.manual_seed(2)
        built = build_model(f"{family}-Nano/4", 8, 4, NULL, learn_sigma=family == "DiT")
        network = randomised(built.double().eval(), 0.05)
        return lambda x, t, y: network(x, t, y).output

    return {family: random(family) for family in ("SiT", "DiT")}


def noises(count):
    draw = torch.Generator().manual_seed(0)
    return list(torch.randn(count, *SHAPE, generator=draw, dtype=torch.float64))


def full(t):
    return torch.full((3,), t, dtype=torch.float64)


def combined(network, x, t, channels):
    """Both predictions at once, and guidance in the first channels; the others are those with the label."""
    output = network(torch.cat([x, x]), full(t).repeat(2), torch.cat([LABELS, torch.full_like(LABELS, NULL)]))
    with_label, without = output.chunk(2)
    return torch.cat([(without + SCALE * (with_label - without))[:, :channels], with_label[:, channels:]], dim=1)


def last_state(sampler, family, field, start, noise, **problem):
    supply = iter(noise)
    filled = sampler.filled(family)
    [*_, (_, x)] = filled.solver(Problem(field, noise=lambda: next(supply), **problem)).states(start)
    assert next(supply, None) is None
    return x


@torch.no_grad()
@pytest.mark.parametrize("last_step", ["mean", "tweedie", "euler", "none"])
@pytest.mark.parametrize(("method", "form"), [("euler_maruyama", "sigma"), ("sde_heun", "sbdm")])
def test_sit_s_sde(networks, last_step, method, form):
    """Its ``num_steps`` are grid points: one interval less, and the last step."""
    network, points, last = networks["SiT"], 12, 0.04 if last_step != "none" else 0.0
    first = 1e-3 if form == "sbdm" else 0.0
    grid = np.linspace(first, 1 - last if last else 1 - 1e-3, points)
    step = grid[1] - grid[0]
    start, *fresh = noises(points)

    def parts(x, t):
        v = combined(network, x, t, 3)
        score = (t * v - x) / (1 - t)  # −x₀/σ, with x₀ = x − t·v
        w = 1 - t if form == "sigma" else (1 - t) ** 2 / t + (1 - t)
        return v, score, w

    def drift(x, t):
        v, score, w = parts(x, t)
        return v + w * score

    x = start
    for t, noise in zip(grid[:-1], fresh, strict=True):
        kick = (2 * parts(x, t)[2] * step) ** 0.5 * noise
        if method == "euler_maruyama":
            x = x + step * drift(x, t) + kick
        else:
            x = x + kick
            slope = drift(x, t)
            x = x + step / 2 * (slope + drift(x + step * slope, t + step))
    t = grid[-1]
    v, score, w = parts(x, t)
    ends = {"mean": x + last * (v + w * score), "tweedie": x / t + (1 - t) ** 2 / t * score, "euler": x + last * v}
    expected = ends.get(last_step, x)
    field = guided(network, LABELS, NULL, SCALE, "first_three")
    sampler = Sampler(method, points - 1, SCALE, "first_three", diffusion=form, last_step=last_step)
    x = last_state(sampler, "SiT", field, start, fresh, path=paths.linear)
    torch.testing.assert_close(x, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_repa_s_sde_guided_up_to_0_7_of_its_time(networks):
    """There t = 1 is noise, x = (1 − t)·data + t·noise and the velocity points to the noise."""
    network, points = networks["SiT"], 25
    times = [*np.linspace(1, 0.04, points), 0.0]
    start, *fresh = noises(points)
    x = start
    for i, (t, then) in enumerate(itertools.pairwise(times)):

        def drift(label, x=x, t=t):
            v = -network(x, full(1 - t), label)
            score = -(x + (1 - t) * v) / t
            return v - t * score  # half of the diffusion 2t

        with_label = drift(LABELS)
        move = with_label
        if 0 <= t <= 0.7:
            without = drift(torch.full_like(LABELS, NULL))
            move = without + SCALE * (with_label - without)
        x = x + (then - t) * move
        if i < points - 1:
            x = x + (2 * t * (t - then)) ** 0.5 * fresh[i]
    sampler = Sampler("euler_maruyama", points - 1, SCALE, guidance_interval=(0.3, 1.0))
    first, last = sampler.guidance_interval
    field = guided(network, LABELS, NULL, SCALE, acts=lambda t: first <= t[0].item() <= last)
    mine = last_state(sampler, "SiT", field, start, fresh, path=paths.linear)
    torch.testing.assert_close(mine, x, rtol=1e-10, atol=1e-10)
    unbounded = last_state(sampler, "SiT", guided(network, LABELS, NULL, SCALE), start, fresh, path=paths.linear)
    assert (unbounded - mine).abs().amax() > 1e-3


@torch.no_grad()
def test_dit_s_ancestral_steps(networks):
    """Some of 1,000, unclipped, the variance between β̃ and β; the last step adds no noise."""

    def spaced(count):
        place, kept = 0.0, []
        for _ in range(count):
            kept.append(round(place))
            place += 999 / (count - 1)
        return kept

    network, every = networks["DiT"], DiffusionProcess().schedule
    assert every.respaced(250).timesteps.tolist() == spaced(250)
    count, kept = 40, spaced(40)
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[kept]
    before = np.append(1.0, bars[:-1])
    betas = 1 - bars / before
    start, *fresh = noises(count)
    x = start
    for number, k in enumerate(reversed(range(count))):
        output = combined(network, x, float(kept[k]), 3)
        eps, v = output[:, :4], output[:, 4:]
        data = (x - (1 - bars[k]) ** 0.5 * eps) / bars[k] ** 0.5
        mean = before[k] ** 0.5 * betas[k] * data + (1 - betas[k]) ** 0.5 * (1 - before[k]) * x
        mean = mean / (1 - bars[k])
        least = np.log((betas * (1 - before) / (1 - bars))[max(k, 1)])
        x = mean
        if k > 0:
            share = (v + 1) / 2
            x = x + torch.exp((share * np.log(betas[k]) + (1 - share) * least) / 2) * fresh[number]
    field = guided(network, LABELS, NULL, SCALE, "first_three")
    sampler = Sampler("ancestral", count, SCALE, "first_three")
    mine = last_state(sampler, "DiT", field, start, fresh, schedule=every.respaced(count))
    torch.testing.assert_close(mine, x, rtol=1e-10, atol=1e-10)
