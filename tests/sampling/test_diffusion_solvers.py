"""Ancestral and DDIM sampling, step by step against diffusers' schedulers."""

import diffusers
import pytest
import torch

from labkit.sampling import Problem, Sampler
from labkit.schedule import Schedule

SHAPE = (3, 2, 4, 4)
SCHEDULE = Schedule.linear()


def network(x, t):
    """Noise and variance that depend on all inputs."""
    eps_pred = torch.tanh(x * (1 + t[:, None, None, None] / 500))
    return torch.cat([eps_pred, torch.sin(3 * x)], dim=1)


def states(field, start, noise, schedule, method="ancestral", eta=0.0, clip=False):
    """(Number of remaining steps, x)."""
    problem = Problem(field, noise=noise, schedule=schedule, clip=clip)
    steps = len(schedule)
    for t, x in Sampler(method, steps, eta=eta).solver(problem).states(start):
        yield round((1 - t) * steps), x


def noises(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=draw, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("clip", [False, True])
def test_ancestral_steps_are_those_of_diffusers(clip):
    scheduler = diffusers.DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", variance_type="learned_range", clip_sample=clip
    )
    scheduler.alphas_cumprod, scheduler.betas = SCHEDULE.alpha_bar, SCHEDULE.betas  # theirs are float32
    scheduler.alphas, scheduler.one = 1 - SCHEDULE.betas, torch.ones((), dtype=torch.float64)
    x, *fresh = noises(51)
    supply = iter(fresh)
    ours = states(network, x, lambda: next(supply), SCHEDULE, clip=clip)
    assert next(ours)[0] == 1000
    for step, noise in zip(reversed(range(950, 1000)), fresh, strict=True):
        output = network(x, torch.full((3,), step, dtype=torch.float64))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, noise=noise, **k: noise)
            x = scheduler.step(output, step, x).prev_sample
        remaining, state = next(ours)
        assert remaining == step
        torch.testing.assert_close(state, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("count", "eta", "clip"), [(10, 0.0, False), (50, 0.0, True), (50, 1.0, False)])
def test_ddim_steps_are_those_of_diffusers(count, eta, clip):
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=clip, set_alpha_to_one=True
    )
    few = SCHEDULE.respaced(count)
    # Their grid leaves the last steps out; on ours, each of their steps goes from one of ours to the next.
    scheduler.alphas_cumprod = few.alpha_bar
    scheduler.config.num_train_timesteps = count
    scheduler.set_timesteps(count)
    x, *fresh = noises(count + 1)
    supply = iter(fresh)
    ours = list(states(network, x, lambda: next(supply), few, "ddim", eta=eta, clip=clip))[1:]
    for (remaining, state), noise in zip(ours, fresh, strict=True):
        eps_pred = network(x, few.timesteps[remaining].double().expand(3))[:, :2]
        how = dict(eta=eta, use_clipped_model_output=clip, variance_noise=noise if eta else None)
        x = scheduler.step(eps_pred, remaining, x, **how).prev_sample
        torch.testing.assert_close(state, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("method", "eta", "count"), [("ancestral", 0.0, 6), ("ddim", 0.0, 0), ("ddim", 0.3, 6)])
def test_noise_is_drawn_once_a_step_except_the_last(method, eta, count):
    supply, start = iter(noises(count)), noises(1, seed=1)[0]
    walk = list(states(network, start, lambda: next(supply), SCHEDULE.respaced(7), method, eta))
    assert [remaining for remaining, _ in walk] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert next(supply, None) is None
