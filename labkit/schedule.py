"""DiT's diffusion in discrete time (Ho et al. 2020, Nichol & Dhariwal 2021): x_k = √ᾱ_k·x₁ + √(1 − ᾱ_k)·noise.

    β_k from 0.0001 to 0.02 over k = 0 … 999,   ᾱ_k = Π_{j≤k} (1 − β_j)

Steps count from data (k = 0) to noise (k = 999) as in DiT's code, against the direction of the paths' time t. Given the
data, the step back is Gaussian: q(x_{k−1} | x_k, x₁) = N(a_k·x₁ + b_k·x_k, β̃_k) with

    a_k = √ᾱ_{k−1}·β_k/(1 − ᾱ_k),   b_k = √(1 − β_k)·(1 − ᾱ_{k−1})/(1 − ᾱ_k),   β̃_k = β_k·(1 − ᾱ_{k−1})/(1 − ᾱ_k)

The network predicts the noise and, in the second half of its channels, a number v from −1 to 1 that places the variance
between β̃_k and β_k: log Σ = (v + 1)/2·log β_k + (1 − v)/2·log β̃_k.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.checks import check_whole
from labkit.ops import expand_like

STEPS, FIRST, LAST = 1000, 1e-4, 0.02
Steps = Int[Tensor, " batch"]


class Schedule(nn.Module):
    """Steps of a diffusion, all or a subset of them; ``k`` below numbers the steps of this schedule.

    It is a module so that its tables move to a device with the module that holds it. They are not in its state dict.

    Args:
        betas: β_k of each step.
        timesteps: the network's time input at each step, which is the step's number in the original schedule.
    """

    betas: Tensor
    timesteps: Tensor
    alpha_bar: Tensor
    signal: Tensor
    std: Tensor
    alpha_bar_before: Tensor
    posterior_log_variance: Tensor

    def __init__(self, betas: Float[Tensor, " steps"], timesteps: Int[Tensor, " steps"]) -> None:
        super().__init__()
        alpha_bar = (1 - betas).cumprod(0)
        before = torch.cat([betas.new_ones(1), alpha_bar[:-1]])
        variance = betas * (1 - before) / (1 - alpha_bar)
        tables = {
            "betas": betas,
            "timesteps": timesteps,
            "alpha_bar": alpha_bar,
            "signal": alpha_bar.sqrt(),
            "std": (1 - alpha_bar).sqrt(),
            "alpha_bar_before": before,  # ᾱ of the step before, 1 before the first
            "posterior_log_variance": torch.cat([variance[1:2], variance[1:]]).log(),  # log β̃; β̃ = 0 at the first
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    @classmethod
    def linear(cls) -> "Schedule":
        """The 1,000 steps of DiT, with β on a line from 0.0001 to 0.02, in float64."""
        return cls(torch.linspace(FIRST, LAST, STEPS, dtype=torch.float64), torch.arange(STEPS))

    def respaced(self, count: int) -> "Schedule":
        """The same diffusion in ``count`` longer steps, evenly spaced, the first and the last among them."""
        steps = len(self.betas)
        check_whole("steps", count, 2, steps, why="the steps of this diffusion")
        kept = torch.linspace(0, steps - 1, count, dtype=torch.float64).round().long()
        alpha_bar = self.alpha_bar[kept]
        before = torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])
        return Schedule(1 - alpha_bar / before, self.timesteps[kept])

    def __len__(self) -> int:
        return len(self.betas)

    def noised(self, x1: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch ..."], k: Steps) -> Tensor:
        """x_k, from data and noise."""
        return self._at(self.signal, k, x1) * x1 + self._at(self.std, k, x1) * noise

    def data(self, x_k: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch ..."], k: Steps) -> Tensor:
        """x₁, from x_k and its noise."""
        return (x_k - self._at(self.std, k, x_k) * noise) / self._at(self.signal, k, x_k)

    def noise(self, x_k: Float[Tensor, "batch ..."], x1: Float[Tensor, "batch ..."], k: Steps) -> Tensor:
        """Noise, from x_k and its data."""
        return (x_k - self._at(self.signal, k, x_k) * x1) / self._at(self.std, k, x_k)

    def posterior_mean(self, x1: Float[Tensor, "batch ..."], x_k: Float[Tensor, "batch ..."], k: Steps) -> Tensor:
        """Mean of q(x_{k−1} | x_k, x₁)."""
        rest = 1 - self.alpha_bar
        a = self.alpha_bar_before.sqrt() * self.betas / rest
        b = (1 - self.betas).sqrt() * (1 - self.alpha_bar_before) / rest
        return self._at(a, k, x1) * x1 + self._at(b, k, x1) * x_k

    def log_variance(self, v: Float[Tensor, "batch ..."], k: Steps) -> Tensor:
        """log Σ of the step back, from the second half of the network's channels."""
        share = (v + 1) / 2
        return share * self._at(self.betas.log(), k, v) + (1 - share) * self._at(self.posterior_log_variance, k, v)

    def _at(self, values: Tensor, k: Steps, x: Tensor) -> Tensor:
        return expand_like(values[k].to(x.dtype), x)
