"""The discrete diffusion: its numbers against diffusers', its step back against Bayes' rule."""

import diffusers
import numpy as np
import pytest
import torch

from labkit.checks import ConfigError
from labkit.schedule import Schedule

SCHEDULE = Schedule.linear()


def test_betas_and_products_are_those_of_diffusers_and_data_and_noise_come_back():
    theirs = diffusers.DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    np.testing.assert_allclose(SCHEDULE.betas, theirs.betas, rtol=1e-5)
    np.testing.assert_allclose(SCHEDULE.alpha_bar, theirs.alphas_cumprod, rtol=2e-4)  # theirs is a float32 product
    x1, noise = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    k = torch.tensor([0, 1, 30, 500, 999])
    x_k = SCHEDULE.noised(x1, noise, k)
    torch.testing.assert_close(x_k.float(), theirs.add_noise(x1, noise, k).float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(SCHEDULE.data(x_k, noise, k), x1)
    torch.testing.assert_close(SCHEDULE.noise(x_k, x1, k), noise)


def test_the_step_back_is_bayes_rule():
    """q(x_{k−1} | x_k, x₁) ∝ q(x_k | x_{k−1})·q(x_{k−1} | x₁): precisions add, means are weighted by them."""
    x1, x_k = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    lowest, highest = (torch.tensor([[v]], dtype=torch.float64) for v in (-1.0, 1.0))
    for k in (1, 2, 57, 999):
        beta, before = SCHEDULE.betas[k].item(), SCHEDULE.alpha_bar[k - 1].item()
        forward, prior = (1 - beta) / beta, 1 / (1 - before)
        variance = 1 / (forward + prior)
        mean = variance * (forward * x_k.item() / (1 - beta) ** 0.5 + prior * before**0.5 * x1.item())
        at = torch.tensor([k])
        assert SCHEDULE.posterior_mean(x1, x_k, at).item() == pytest.approx(mean, rel=1e-9)
        assert SCHEDULE.log_variance(lowest, at).exp().item() == pytest.approx(variance, rel=1e-9)
        assert SCHEDULE.log_variance(highest, at).exp().item() == pytest.approx(beta, rel=1e-9)
    first = torch.tensor([0])  # ends at the data, with the variance of the second step
    torch.testing.assert_close(SCHEDULE.posterior_mean(x1, x_k, first), x1)
    assert torch.equal(SCHEDULE.log_variance(lowest, first), SCHEDULE.log_variance(lowest, first + 1))


@pytest.mark.parametrize("count", [2, 50, 999, 1000])
def test_fewer_steps_are_the_same_diffusion(count):
    few = SCHEDULE.respaced(count)
    assert len(few) == count == len(set(few.timesteps.tolist()))
    assert few.timesteps[0] == 0 and few.timesteps[-1] == 999
    torch.testing.assert_close(few.alpha_bar, SCHEDULE.alpha_bar[few.timesteps])
    gaps = few.timesteps.diff()
    assert gaps.max() - gaps.min() <= 1
    assert ((few.betas > 0) & (few.betas < 1)).all()


@pytest.mark.parametrize("count", [1, 1001, 2.5])
def test_impossible_numbers_of_steps_are_refused(count, unchecked):
    with pytest.raises(ConfigError, match=f"^steps = {count} "):
        SCHEDULE.respaced(count)
