"""Samplers of DiT, from noise at the last step of a ``Schedule`` back to data.

ancestral   x_{k−1} ~ N(mean of q(x_{k−1} | x_k, x̂₁), Σ), with x̂₁ the data that the predicted noise implies, and Σ the
            predicted variance
ddim        x_{k−1} = √ᾱ_{k−1}·x̂₁ + √(1 − ᾱ_{k−1} − s²)·ε + s·fresh noise,  s = η·√(β̃_k)

Each step evaluates the network once; the last step adds no noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.ops import expand_like
from labkit.sampling.solvers import Solver
from labkit.schedule import Schedule


class Ancestral(Solver):
    families, default_steps = ("DiT",), 250

    @property
    def schedule(self) -> Schedule:
        assert self.problem.schedule is not None, f"{type(self).__name__} needs a problem with a schedule"
        return self.problem.schedule

    def times(self) -> Sequence[int]:
        """Numbers of remaining steps."""
        return range(len(self.schedule), -1, -1)

    def states(self, x: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Yield (share of the steps taken, x), the noise x first and the sample last."""
        for remaining, state in super().states(x):
            yield 1 - remaining / len(self.schedule), state

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        k, x1, _, var_logit = self.predict(x, int(then))
        mean = self.schedule.posterior_mean(x1, x, k)
        if then == 0:
            return mean
        return mean + torch.exp(self.schedule.log_variance(var_logit, k) / 2) * self.noise()

    def predict(self, x: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step k of each sample, data x̂₁, noise ε and the number v that gives the variance."""
        k = torch.full((len(x),), step, device=x.device)
        eps_pred, var_logit = self.problem.field(x, self.schedule.timesteps[k].to(x.dtype)).chunk(2, dim=1)
        x1 = self.schedule.data(x, eps_pred, k)
        if self.problem.clip:  # with the noise that leads from the clipped data to x
            x1 = x1.clamp(-1, 1)
            eps_pred = self.schedule.noise(x, x1, k)
        return k, x1, eps_pred, var_logit


@dataclass
class Ddim(Ancestral):
    default_steps = 50
    eta: float

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        k, x1, eps_pred, _ = self.predict(x, int(then))
        before = expand_like(self.schedule.alpha_bar_before[k].to(x.dtype), x)
        std = self.eta * torch.exp(self.schedule.log_variance(-torch.ones_like(x), k) / 2) * (then > 0)
        mean = before.sqrt() * x1 + (1 - before - std.square()).clamp_min(0).sqrt() * eps_pred
        return mean + std * self.noise() if then > 0 and self.eta > 0 else mean


DIFFUSION_SOLVERS: dict[str, type[Solver]] = {"ddim": Ddim, "ancestral": Ancestral}
"""Samplers of DiT by name, the default first."""
