"""DiT's samplers, from noise at the last step of a ``Schedule`` back to data.

ancestral   x_{k−1} ~ N(mean of q(x_{k−1} | x_k, x̂₁), Σ), with the data x̂₁ that the network's noise implies and its Σ
ddim        x_{k−1} = √ᾱ_{k−1}·x̂₁ + √(1 − ᾱ_{k−1} − s²)·ε + s·fresh noise,  s = η·√(β̃_k): with η = 0 none is drawn

One evaluation of the network a step; the last step adds no noise.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import choose, finite, require
from labkit.ops import expand_like
from labkit.schedule import Schedule

DiffusionMethod = Literal["ancestral", "ddim"]


def diffusion_states(
    network: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "batch channels ..."],
    noise: Callable[[], Float[Tensor, "batch channels ..."]],
    schedule: Schedule,
    method: DiffusionMethod = "ancestral",
    eta: float = 0.0,
    clip: bool = False,
) -> Iterator[tuple[int, Float[Tensor, "batch channels ..."]]]:
    """Yield (steps left, x) from the noise to the sample: len(schedule) + 1 states.

    Args:
        network: (x, what it is told of the time, (B,)) → noise and variance, (B, 2C, …).  x: noise to start from.
        noise: gives fresh N(0, 1) of the shape of x; called once a step by ``ancestral``, and by ``ddim`` if η > 0.
        schedule: all its steps are taken; ``Schedule.respaced`` gives fewer.  eta: η of ``ddim``, 0 to 1.
        clip: keep x̂₁ within [−1, 1], as for images in pixels: at the first steps it is the network's error times 157.
    """
    choose(method, DiffusionMethod, "method")
    require(finite(eta) and 0 <= eta <= 1, "eta", eta, "take a number from 0 to 1")
    return _states(network, x, noise, schedule, method, eta, clip)


def _states(
    network: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    noise: Callable[[], Tensor],
    schedule: Schedule,
    method: DiffusionMethod,
    eta: float,
    clip: bool,
) -> Iterator[tuple[int, Tensor]]:
    yield len(schedule), x
    for step in reversed(range(len(schedule))):
        k = torch.full((len(x),), step, device=x.device)
        told = schedule.timesteps[k].to(x.dtype)
        said, v = network(x, told).chunk(2, dim=1)
        x1 = schedule.data(x, said, k)
        if clip:  # and the noise is what leads from there to x
            x1 = x1.clamp(-1, 1)
            said = schedule.noise(x, x1, k)
        if method == "ancestral":
            mean = schedule.posterior_mean(x1, x, k)
            kick = torch.exp(schedule.log_variance(v, k) / 2)
        else:
            before = expand_like(schedule.alpha_bar_before[k].to(x.dtype), x)
            kick = eta * torch.exp(schedule.log_variance(-torch.ones_like(x), k) / 2) * (step > 0)
            mean = before.sqrt() * x1 + (1 - before - kick.square()).clamp_min(0).sqrt() * said
        random = step > 0 and (method == "ancestral" or eta > 0)
        x = mean + kick * noise() if random else mean
        yield step, x
