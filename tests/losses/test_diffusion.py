"""DiT's loss: the variational bound against direct computations of its own."""

import math

import pytest
import torch
from scipy.stats import norm

from labkit.losses.diffusion import diffusion_errors
from labkit.schedule import Schedule

SHAPE = (4, 2, 3, 3)
SCHEDULE = Schedule.linear()


@pytest.fixture
def ends():
    x1, noise = torch.rand(SHAPE, dtype=torch.float64) * 1.9 - 0.95, torch.randn(SHAPE, dtype=torch.float64)
    return x1, noise


def errors(output, ends, k):
    x1, noise = ends
    return diffusion_errors(output, noise, x1, SCHEDULE.noised(x1, noise, k), k, SCHEDULE)


def test_the_bound_is_the_divergence_of_two_gaussians_number_by_number(ends):
    x1, noise = ends
    k = torch.tensor([1, 17, 400, 999])
    output = torch.randn(4, 4, 3, 3, dtype=torch.float64)
    squared, bound = errors(output, ends, k)
    for i, step in enumerate(k.tolist()):
        beta, bar, before = (a[step].item() for a in (SCHEDULE.betas, SCHEDULE.alpha_bar, SCHEDULE.alpha_bar_before))
        low = beta * (1 - before) / (1 - bar)
        total = 0.0
        for place in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(3)).tolist():
            x, e = x1[i][tuple(place)].item(), noise[i][tuple(place)].item()
            eps_pred, logit = output[i][tuple(place)].item(), output[i][place[0] + 2, place[1], place[2]].item()
            point = bar**0.5 * x + (1 - bar) ** 0.5 * e
            guess = (point - (1 - bar) ** 0.5 * eps_pred) / bar**0.5

            def back(data, point=point, beta=beta, bar=bar, before=before):
                to_data, to_point = before**0.5 * beta / (1 - bar), (1 - beta) ** 0.5 * (1 - before) / (1 - bar)
                return to_data * data + to_point * point

            variance = math.exp((logit + 1) / 2 * math.log(beta) + (1 - logit) / 2 * math.log(low))
            gap = back(x) - back(guess)
            total += 0.5 * (math.log(variance / low) + (low + gap**2) / variance - 1)
        assert bound[i].item() == pytest.approx(total / 18 / math.log(2), rel=1e-9)
        assert squared[i].item() == pytest.approx((output[i, :2] - noise[i]).square().mean().item())


def test_the_first_step_counts_the_likelihood_of_a_level(ends):
    x1, noise = ends
    x1[0, 0, 0, 0], x1[0, 0, 0, 1] = -1.0, 1.0  # the ends of the range
    output = 0.3 * torch.randn(4, 4, 3, 3, dtype=torch.float64)
    k = torch.zeros(4).long()
    _, bound = errors(output, (x1, noise), k)
    x_k = SCHEDULE.noised(x1, noise, k)
    mean = SCHEDULE.data(x_k, output[:, :2], k)  # at the first step the way back ends at the data
    deviation = (SCHEDULE.log_variance(output[:, 2:], k) / 2).exp()
    probability = norm.cdf(x1 + 1 / 255, mean, deviation) - norm.cdf(x1 - 1 / 255, mean, deviation)
    probability[0, 0, 0, 0] = norm.cdf(-1 + 1 / 255, mean[0, 0, 0, 0], deviation[0, 0, 0, 0])
    probability[0, 0, 0, 1] = norm.sf(1 - 1 / 255, mean[0, 0, 0, 1], deviation[0, 0, 0, 1])
    expected = -torch.from_numpy(probability).clamp_min(1e-12).log2().flatten(1).mean(dim=1)
    torch.testing.assert_close(bound, expected, rtol=1e-6, atol=1e-9)


def test_the_bound_trains_the_variance_only_and_the_error_the_noise_only(ends):
    output = torch.randn(4, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    squared, bound = errors(output, ends, torch.tensor([0, 3, 50, 999]))
    (of_bound,) = torch.autograd.grad(bound.sum(), output, retain_graph=True)
    (of_squared,) = torch.autograd.grad(squared.sum(), output)
    assert (of_bound[:, :2] == 0).all() and (of_bound[1:, 2:] != 0).all()
    assert (of_squared[:, 2:] == 0).all() and (of_squared[:, :2] != 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised(ends, dtype):
    output = torch.randn(4, 4, 3, 3).to(dtype)
    both = errors(output, [x.float() for x in ends], torch.tensor([0, 1, 500, 999]))
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in both)


def test_an_output_without_variance_is_refused(ends, unchecked):
    with pytest.raises(ValueError, match=r"output has shape \(4, 2, 3, 3\) .*twice the channels"):
        errors(ends[1], ends, torch.tensor([1, 2, 3, 4]))
