"""The flow-matching loss: regression of the path's velocity, or of the equivalent noise or score."""

import torch
from jaxtyping import Float
from torch import Tensor


def squared_errors(output: Float[Tensor, "batch ..."], target: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """(output − target)², averaged over the entries of each sample, in float32; float64 stays float64 (SiT, eq. 8)."""
    if output.shape != target.shape:  # broadcasting would give a wrong number
        raise ValueError(f"output has shape {tuple(output.shape)} and target {tuple(target.shape)}; they must agree.")
    dtype = torch.promote_types(output.dtype, torch.float32)
    return (output.to(dtype) - target.to(dtype)).square().flatten(1).mean(dim=1)


def velocity_loss(output: Float[Tensor, "batch ..."], velocity: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """The mean of ``squared_errors`` over the batch."""
    return squared_errors(output, velocity).mean()
