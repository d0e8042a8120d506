"""The discrete diffusion: its numbers against diffusers', its step back against Bayes' rule."""

import numpy as np
import pytest
import torch

from labkit.checks import ConfigError
from labkit.schedule import Schedule


@pytest.fixture
def schedule():
    return Schedule.linear()


def test_betas_and_products_are_diffusers(schedule):
    theirs = pytest.importorskip("diffusers").DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    np.testing.assert_allclose(schedule.betas, theirs.betas, rtol=1e-5)
    np.testing.assert_allclose(schedule.alpha_bar, theirs.alphas_cumprod, rtol=2e-4)  # theirs is a float32 product
    x1, noise = torch.randn(2, 5, 1, 4, 4)
    k = torch.tensor([0, 1, 30, 500, 999])
    torch.testing.assert_close(schedule.noised(x1, noise, k), theirs.add_noise(x1, noise, k), rtol=1e-3, atol=1e-4)


def test_the_step_back_is_bayes_rule(schedule):
    """q(x_{k−1} | x_k, x₁) ∝ q(x_k | x_{k−1})·q(x_{k−1} | x₁): precisions add, means are weighted by them."""
    x1, x_k = 0.7, -0.4
    for k in (1, 2, 57, 999):
        beta, before = schedule.betas[k].item(), schedule.alpha_bar[k - 1].item()
        forward, prior = (1 - beta) / beta, 1 / (1 - before)
        variance = 1 / (forward + prior)
        mean = variance * (forward * x_k / (1 - beta) ** 0.5 + prior * before**0.5 * x1)
        at = torch.tensor([k])
        ends = torch.full((1, 1), x1, dtype=torch.float64), torch.full((1, 1), x_k, dtype=torch.float64)
        assert schedule.posterior_mean(*ends, at).item() == pytest.approx(mean, rel=1e-9)
        lowest = schedule.log_variance(-torch.ones(1, 1, dtype=torch.float64), at)
        assert lowest.exp().item() == pytest.approx(variance, rel=1e-9)
        highest = schedule.log_variance(torch.ones(1, 1, dtype=torch.float64), at)
        assert highest.exp().item() == pytest.approx(beta, rel=1e-9)


def test_the_first_step_back_ends_at_the_data_with_the_second_one_s_variance(schedule):
    x1, x_k = torch.randn(2, 3, 4, dtype=torch.float64)
    at = torch.zeros(3).long()
    torch.testing.assert_close(schedule.posterior_mean(x1, x_k, at), x1)
    second = schedule.log_variance(-torch.ones(3, 4, dtype=torch.float64), at + 1)
    assert torch.equal(schedule.log_variance(-torch.ones(3, 4, dtype=torch.float64), at), second)


def test_data_and_noise_come_back(schedule):
    x1, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    k = torch.tensor([0, 3, 200, 700, 999])
    torch.testing.assert_close(schedule.data(schedule.noised(x1, noise, k), noise, k), x1)


@pytest.mark.parametrize("count", [2, 3, 50, 250, 999, 1000])
def test_fewer_steps_are_the_same_diffusion(schedule, count):
    few = schedule.respaced(count)
    assert len(few) == count == len(set(few.timesteps.tolist()))
    assert few.timesteps[0] == 0 and few.timesteps[-1] == 999
    torch.testing.assert_close(few.alpha_bar, schedule.alpha_bar[few.timesteps])
    gaps = few.timesteps.diff()
    assert gaps.max() - gaps.min() <= 1
    assert ((few.betas > 0) & (few.betas < 1)).all()


def test_the_250_steps_are_those_of_dit(schedule):
    stride, place, expected = 999 / 249, 0.0, []
    for _ in range(250):
        expected.append(round(place))
        place += stride
    assert schedule.respaced(250).timesteps.tolist() == expected


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [0, 1, 1001, 2.5])
def test_step_counts_that_cannot_be_are_refused(schedule, count):
    with pytest.raises(ConfigError, match=f"^steps = {count} "):
        schedule.respaced(count)
