"""Classifier-free guidance: step beyond the conditional velocity, away from the unconditional one."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from labkit.checks import check_number, choose, require
from labkit.config import Config

Channels = Literal["all", "first_three"]


def check_null_class(config: Config, guidance: float | None) -> None:
    """Refuse guidance for a model that was never trained without labels: its null class is the random initial one."""
    untrained = "the model without labels was never trained (label_drop = 0); take 1, which needs the labels alone"
    require(guidance in (None, 1) or config.label_drop > 0, "guidance", guidance, untrained)


def guided(
    network: Callable[..., Tensor],
    y: Int[Tensor, " batch"],
    null: int,
    scale: float = 1.0,
    channels: Channels = "all",
    acts: Callable[[Tensor], bool] | None = None,
) -> Callable[..., Tensor]:
    """The velocity field v(x, t) = v(∅) + scale · (v(y) − v(∅)) (Ho & Salimans 2022).

    Args:
        network: (x, t, labels) → velocity, with the channels of x or more; further arguments are passed on.
        y: labels, (B,).  null: the label of the unconditional model.
        scale: 1 is the conditional model at half the cost, 0 the unconditional one, above 1 is guidance.
        channels: channels of x that are guided. The released samplers of DiT and SiT guide the ``first_three`` of a
            latent's four. Other channels are those of v(y), as are outputs beyond the channels of x (DiT's variance).
        acts: function from t to whether guidance acts there; else v(y), at half the cost. None is always.

    Raises:
        ConfigError: a negative scale, or other channels.
    """
    choose(channels, Channels, "channels")
    check_number("guidance", scale, least=0)
    if scale == 1:
        return lambda x, t, *more: network(x, t, y, *more)
    labels = torch.cat([y, torch.full_like(y, null)])

    def velocity(x: Tensor, t: Tensor, *more: Tensor) -> Tensor:
        if acts is not None and not acts(t):
            return network(x, t, y, *more)
        time, *rest = (a.repeat(2) for a in (t, *more))
        with_label, without = network(x.repeat(2, *[1] * (x.ndim - 1)), time, labels, *rest).chunk(2)
        both, n = without + scale * (with_label - without), x.shape[1] if channels == "all" else min(3, x.shape[1])
        return torch.cat([both[:, :n], with_label[:, n:]], dim=1)

    return velocity
