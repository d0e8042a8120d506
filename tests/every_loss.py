"""Every loss on features, as a function of two views of a batch, for tests of what all of them have in common."""

from functools import partial
from typing import get_args

import torch

from labkit.losses import Variant, contrastive_loss, dispersive_loss

VARIANTS = get_args(Variant)


def dispersive(a, b, **arguments):
    return dispersive_loss(a, **arguments)


ARGUMENTS = [
    *({"variant": variant} for variant in VARIANTS),  # by default
    {"variant": "infonce_l2", "tau": 2.0, "include_self": False},
    {"variant": "infonce_cosine", "tau": 0.2, "include_self": False},
    {"variant": "hinge", "margin": 3.0, "include_self": False},
]
LOSSES = {f"dispersive {v}": partial(dispersive, variant=v) for v in VARIANTS}
LOSSES |= {f"contrastive {v}": partial(contrastive_loss, variant=v) for v in VARIANTS}
LOSSES |= {f"original {v}": partial(contrastive_loss, variant=v, form="original") for v in VARIANTS if v != "hinge"}


def two_views(*shape, dtype=torch.float64):
    a = 0.5 * torch.randn(shape, dtype=dtype)
    return a, a + 0.5 * torch.randn(shape, dtype=dtype)


def value_and_gradients(loss, *views):
    """The loss, and its gradient with respect to each view: 0 for one that it does not use."""
    views = [z.detach().clone().requires_grad_() for z in views]
    value = loss(*views)
    return value.detach(), *torch.autograd.grad(value, views, allow_unused=True, materialize_grads=True)
