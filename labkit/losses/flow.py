"""The flow-matching loss: regress the velocity of the path."""

import torch
from jaxtyping import Float
from torch import Tensor


def velocity_loss(output: Float[Tensor, "batch ..."], velocity: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """Mean over all entries of (v_θ(x_t, t) − v)², in float32; float64 stays float64 (SiT, eq. 8)."""
    if output.shape != velocity.shape:  # broadcasting would give a number, and the wrong one
        raise ValueError(
            f"output has shape {tuple(output.shape)} and velocity {tuple(velocity.shape)}; they must agree."
        )
    kind = torch.promote_types(output.dtype, torch.float32)
    return (output.to(kind) - velocity.to(kind)).square().mean()
