"""DiT's loss: squared error of the noise, and for the variance the bound on the likelihood (Nichol & Dhariwal 2021).

    L = mean (ε_θ − ε)² + L_vb,    L_vb = KL( q(x_{k−1} | x_k, x₁) ‖ p_θ(x_{k−1} | x_k) )   in bits a number

At the first step L_vb is the negative log-likelihood of the data instead, counted in 256 levels from −1 to 1. The bound
trains the variance only: the mean that it uses is the noise prediction, detached.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.schedule import Schedule, Steps

LEVEL = 1 / 255  # half the distance of two of 256 levels from −1 to 1


def diffusion_errors(
    output: Float[Tensor, "batch twice ..."],
    noise: Float[Tensor, "batch channels ..."],
    x1: Float[Tensor, "batch channels ..."],
    x_k: Float[Tensor, "batch channels ..."],
    k: Steps,
    schedule: Schedule,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Squared error of the noise, and the bound in bits a number, of each sample; float32 (float64 stays float64).

    Args:
        output: prediction of noise and variance, (B, 2C, …).  noise: added noise ε, (B, C, …).  x1: the data.
        x_k: the noised data.  k: the steps, 0 ≤ k < len(schedule).
    """
    channels = noise.shape[1]
    if output.shape != (len(noise), 2 * channels, *noise.shape[2:]):
        raise ValueError(
            f"output has shape {tuple(output.shape)} and noise {tuple(noise.shape)}; the network has to predict noise "
            "and variance, twice the channels."
        )
    dtype = torch.promote_types(output.dtype, torch.float32)
    output, noise, x1, x_k = (x.to(dtype) for x in (output, noise, x1, x_k))
    eps_pred, var_logit = output.split(channels, dim=1)
    mean = schedule.posterior_mean(schedule.data(x_k, eps_pred.detach(), k), x_k, k)
    log_variance = schedule.log_variance(var_logit, k)
    true_mean = schedule.posterior_mean(x1, x_k, k)
    true_log_variance = schedule.log_variance(-torch.ones_like(x1), k)  # the lower end of the range
    kl = _kl(true_mean, true_log_variance, mean, log_variance).flatten(1).mean(dim=1)
    likelihood = _level_log_likelihood(x1, mean, log_variance / 2).flatten(1).mean(dim=1)
    bound = torch.where(k == 0, -likelihood, kl) / math.log(2)
    return (eps_pred - noise).square().flatten(1).mean(dim=1), bound


def _kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N₁ ‖ N₂) of every entry, in nats."""
    ratio = log_variance1 - log_variance2
    return 0.5 * (ratio.exp() - 1 - ratio + (mean1 - mean2).square() * torch.exp(-log_variance2))


def _level_log_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log-probability of x's level under a Gaussian; the lowest and the highest level reach to infinity."""
    scaled = torch.exp(-log_deviation)
    above, below = ((x - mean + side) * scaled for side in (LEVEL, -LEVEL))
    upper = torch.where(x > 0.999, torch.ones_like(x), torch.special.ndtr(above))
    lower = torch.where(x < -0.999, torch.zeros_like(x), torch.special.ndtr(below))
    return (upper - lower).clamp_min(1e-12).log()
