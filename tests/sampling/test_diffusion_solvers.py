"""Ancestral and DDIM sampling, step by step against diffusers' schedulers, and to the data of a known Gaussian."""

import pytest
import torch

from labkit.sampling import Problem, Sampler
from labkit.schedule import Schedule

SHAPE = (3, 2, 4, 4)


def network(x, t):
    """Some noise and some variance that depend on everything."""
    said = torch.tanh(x * (1 + t[:, None, None, None] / 500))
    return torch.cat([said, torch.sin(3 * x)], dim=1)


def states(field, start, noise, schedule, method="ancestral", eta=0.0, clip=False):
    """(Steps left, x)."""
    problem = Problem(field, noise=noise, schedule=schedule, clip=clip)
    steps = len(schedule)
    for t, x in Sampler(method, steps, eta=eta).solver(problem).states(start):
        yield round((1 - t) * steps), x


def noises(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=draw, dtype=torch.float64) for _ in range(count)]


@pytest.fixture
def schedule():
    return Schedule.linear()


@pytest.mark.parametrize("clip", [False, True])
def test_ancestral_steps_are_diffusers(schedule, clip):
    scheduler = pytest.importorskip("diffusers").DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", variance_type="learned_range", clip_sample=clip
    )
    scheduler.alphas_cumprod, scheduler.betas = schedule.alpha_bar, schedule.betas  # theirs are float32
    scheduler.alphas, scheduler.one = 1 - schedule.betas, torch.ones((), dtype=torch.float64)
    start, *fresh = noises(1000)
    supply = iter(fresh)
    ours = states(network, start, lambda: next(supply), schedule, clip=clip)
    assert next(ours)[0] == 1000
    x = start
    for step in reversed(range(950, 1000)):
        said = network(x, torch.full((3,), step, dtype=torch.float64))
        noise = fresh[999 - step]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, noise=noise, **k: noise)
            x = scheduler.step(said, step, x).prev_sample
        left, found = next(ours)
        assert left == step
        torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("count", "clip"), [(10, False), (50, False), (50, True)])
def test_ddim_steps_are_diffusers(schedule, count, clip):
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=clip, set_alpha_to_one=True
    )
    few = schedule.respaced(count)
    # Their grid leaves the last steps out; on ours, each of their steps goes from one of ours to the next.
    scheduler.alphas_cumprod = few.alpha_bar
    scheduler.config.num_train_timesteps = count
    scheduler.set_timesteps(count)
    start = noises(1)[0]
    x = start
    for left, found in list(states(network, start, pytest.fail, few, "ddim", clip=clip))[1:]:
        told = few.timesteps[left].double().expand(3)
        x = scheduler.step(network(x, told)[:, :2], left, x, eta=0.0, use_clipped_model_output=clip).prev_sample
        torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


def gaussian(schedule, mean, deviation):
    """The noise that is expected at x_k when the data are N(mean, deviation²), and the least variance."""

    def says(x, t):
        bar = schedule.alpha_bar[t.long()][:, None]
        variance = bar * deviation**2 + 1 - bar
        said = (1 - bar).sqrt() * (x - bar.sqrt() * mean) / variance
        return torch.cat([said, -torch.ones_like(x)], dim=1)

    return says


@pytest.mark.parametrize(
    ("method", "eta", "count"),
    [("ancestral", 0.0, 1000), ("ddim", 0.0, 1000), ("ddim", 0.0, 100), ("ddim", 1.0, 1000), ("ddim", 0.5, 400)],
)
def test_samples_have_the_data_s_mean_and_deviation(schedule, method, eta, count):
    draw = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(3000, 1, generator=draw, dtype=torch.float64)

    says = gaussian(schedule, 0.5, 0.3)
    *_, (left, x) = states(says, noise(), noise, schedule.respaced(count), method, eta)
    assert left == 0
    assert x.mean().item() == pytest.approx(0.5, abs=0.03)
    assert x.std().item() == pytest.approx(0.3, rel=0.08)


@pytest.mark.parametrize(("method", "eta", "asked"), [("ancestral", 0.0, 6), ("ddim", 0.0, 0), ("ddim", 0.3, 6)])
def test_noise_is_asked_for_once_a_step_but_the_last(schedule, method, eta, asked):
    supply = iter(noises(asked))
    start = noises(1, seed=1)[0]
    seen = list(states(network, start, lambda: next(supply), schedule.respaced(7), method, eta))
    assert [left for left, _ in seen] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert next(supply, None) is None
