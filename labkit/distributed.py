"""Communication between ranks: a gather that gradients flow back through, means, and a vote.

Losses never gather. Global features are gathered here, once, before the loss; each rank then computes the same loss of
the global batch. A rank's own rows receive the sum of the gradients of all ranks, so after the averaging of
DistributedDataParallel every parameter gets the gradient of one process with the whole batch. Gathering detached
tensors and putting the own slice back would give 1/world_size of it.
"""

import os

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def launched() -> tuple[int, int]:
    """(processes on this machine, machines), from torchrun's environment; (1, 1) without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1, 1
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return here, int(os.environ["WORLD_SIZE"]) // here


def place() -> tuple[int, int]:
    """(number of this process, processes) by torchrun's environment, for work that needs no communication; else (0, 1).

    RANK and WORLD_SIZE alone are no sign of torchrun: batch systems and earlier shells leave them behind.
    """
    return (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if "TORCHELASTIC_RUN_ID" in os.environ else (0, 1)


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def world_size() -> int:
    """Number of ranks, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(z: Float[Tensor, "batch ..."]) -> Float[Tensor, "global ..."]:
    """The rows of all ranks in their order, with gradient; all ranks must have as many rows. One rank: z itself."""
    if world_size() == 1:
        return z
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(z))


@torch.no_grad()
def mean(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The mean of each tensor over all ranks, which all receive it; shapes may differ. One rank: the tensors."""
    if world_size() == 1:
        return tensors
    together = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(together)
    parts = (together / world_size()).split([tensor.numel() for tensor in tensors])
    return tuple(part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True))


def leave() -> None:
    """Take this process out of the ranks, before it ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def any_rank(vote: bool, on: torch.device) -> bool:
    """Whether any rank votes True; every rank gets the same answer."""
    if world_size() == 1:
        return vote
    votes = torch.tensor(float(vote), device=on)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes)
