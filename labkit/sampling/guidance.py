"""Classifier-free guidance: step beyond the conditional velocity, away from the unconditional one."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from labkit.checks import choose, finite, require

Channels = Literal["all", "first_three"]


def guided(
    network: Callable[..., Tensor], y: Int[Tensor, " batch"], null: int, scale: float = 1.0, channels: Channels = "all"
) -> Callable[..., Tensor]:
    """The velocity field v(x, t) = v(∅) + scale · (v(y) − v(∅)).

    Args:
        network: (x, t, labels) → velocity, of the channels of x or more; further arguments go through.
        y: the wanted labels.  null: the label that means none.
        scale: 1 is the plain conditional model at half the cost, 0 the unconditional one, above 1 is guidance.
        channels: of the velocity that are guided. ``first_three`` is what the released samplers of DiT and SiT do to
            latents of four channels; the others stay those of v(y), as do what
            a network says beyond the channels of x (DiT's variance).
    """
    choose(channels, Channels, "channels")
    require(finite(scale) and scale >= 0, "guidance", scale, "take a number of at least 0")
    if scale == 1:
        return lambda x, t, *more: network(x, t, y, *more)
    labels = torch.cat([y, torch.full_like(y, null)])

    def velocity(x: Tensor, t: Tensor, *more: Tensor) -> Tensor:
        time, *rest = (a.repeat(2) for a in (t, *more))
        with_label, without = network(x.repeat(2, *[1] * (x.ndim - 1)), time, labels, *rest).chunk(2)
        both, n = without + scale * (with_label - without), x.shape[1] if channels == "all" else min(3, x.shape[1])
        return torch.cat([both[:, :n], with_label[:, n:]], dim=1)

    return velocity
