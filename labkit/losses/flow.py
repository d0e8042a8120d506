"""The flow-matching loss: regress the velocity of the path."""

from jaxtyping import Float
from torch import Tensor


def velocity_loss(output: Float[Tensor, "batch ..."], velocity: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """Mean over all entries of (v_θ(x_t, t) − v)², in float32 (SiT, eq. 8)."""
    return (output.float() - velocity.float()).square().mean()
