"""The one place where ranks meet: a gather that gradients flow back through.

Losses never gather. What is to be global is gathered here, once, before the loss; each rank then computes the same loss
of the global batch. Its gradient reaches the own rows from all ranks and is summed, so with the averaging of
DistributedDataParallel every parameter gets what one process with the whole batch would give it. Gathering detached
tensors and putting the own slice back would give 1/world_size of it.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def world_size() -> int:
    """Number of ranks, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(z: Float[Tensor, "batch ..."]) -> Float[Tensor, "global ..."]:
    """The rows of all ranks in their order, with gradient; every rank must bring as many. One rank: z itself."""
    if world_size() == 1:
        return z
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(z))
