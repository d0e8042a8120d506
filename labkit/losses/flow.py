"""The flow-matching loss: regress the velocity of the path."""

import torch
from jaxtyping import Float
from torch import Tensor


def velocity_errors(
    output: Float[Tensor, "batch ..."], velocity: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    """(v_θ(x_t, t) − v)², averaged over the entries of each sample, in float32; float64 stays float64 (SiT, eq. 8)."""
    if output.shape != velocity.shape:  # broadcasting would give a number, and the wrong one
        raise ValueError(
            f"output has shape {tuple(output.shape)} and velocity {tuple(velocity.shape)}; they must agree."
        )
    kind = torch.promote_types(output.dtype, torch.float32)
    return (output.to(kind) - velocity.to(kind)).square().flatten(1).mean(dim=1)


def velocity_loss(output: Float[Tensor, "batch ..."], velocity: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """The mean of ``velocity_errors`` over the batch."""
    return velocity_errors(output, velocity).mean()
