"""Engine of a training step: one process by default, or the ranks that torchrun started.

    labkit train …                                                        one process
    torchrun --nproc-per-node 8 -m labkit train …                         eight GPUs of one machine
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:29500 …   four such machines

The config's batch is that of all ranks together. Each rank takes its share, in ``engine.accumulate`` micro-batches.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.checks import require
from labkit.config import Config
from labkit.distributed import gather, launched, mean
from labkit.objective import Objective
from labkit.runtime import compiler_fault, device
from labkit.types import Losses

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fabric_of(config: Config) -> "Fabric":
    """The engine of a config, with its ranks connected.

    Raises:
        ConfigError: the ranks cannot share the batch equally, or the chunks of negatives do not fit a micro-batch.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    here, machines = launched()
    ranks, batch = here * machines, config.batch_size
    share = micro_batch(config, ranks)
    for name in ("dispersive", "contrastive"):
        group = getattr(config, name)
        parts = f"batch_size {batch} over {ranks} ranks × engine.accumulate {config.engine.accumulate}"
        fits = group.chunk is None or share % group.chunk == 0
        require(fits, f"{name}.chunk", group.chunk, f"it must divide the {share} samples of a micro-batch ({parts})")
        enough = group.lam is None or share >= (3 if group.variant == "covariance" else 2)
        few = f"it leaves a micro-batch of {share}, too few for {name}; take fewer ranks or a smaller engine.accumulate"
        require(enough, "batch_size", batch, few)
    banked = config.dispersive.lam is not None and config.dispersive.negatives == "bank"
    alone = f"a bank belongs to one process, and there are {ranks}; take negatives = global, or one process"
    require(not banked or ranks == 1, "dispersive.negatives", "bank", alone)
    ddp = DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False)  # the buffers are constants
    strategy = ddp if ranks > 1 else "auto"
    # Named, since Fabric would else believe the variables that a batch system or MPI leaves, such as SLURM_NTASKS.
    launcher = TorchElasticEnvironment() if ranks > 1 else LightningEnvironment()
    # Fabric's precision stays 32 bit: the objective casts, so that regularizers' gradients can be taken one by one.
    fabric = Fabric(accelerator=device().type, devices=here, num_nodes=machines, strategy=strategy, plugins=launcher)
    if ranks > 1:
        fabric.launch()
    return fabric


def micro_batch(config: Config, ranks: int = 1) -> int:
    """Number of samples that a rank computes at a time.

    Raises:
        ConfigError: the ranks cannot share the batch equally.
    """
    pieces = ranks * config.engine.accumulate
    multiple = f"it must be a multiple of {ranks} ranks × engine.accumulate {config.engine.accumulate}"
    require(config.batch_size % pieces == 0, "batch_size", config.batch_size, multiple)
    return config.batch_size // pieces


def negatives(config: Config, ranks: int = 1) -> int:
    """Number of samples that repel each other: the B of the repelling loss, whose floor is −log B."""
    group, share = config.repelling, micro_batch(config, ranks)
    if group.negatives == "bank":
        return share + group.bank
    return group.chunk or (share * ranks if group.negatives == "global" else share)


def combined(parts: Sequence[Losses], look: bool) -> Losses:
    """Losses of a step from those of this rank's micro-batches.

    Args:
        look: combine the ranks as well, and keep what the meters read; else the values are this rank's.
    """
    first = parts[0]
    if len(parts) == 1 and not torch.distributed.is_initialized():
        return first
    means = [torch.stack([part.total.detach() for part in parts]).mean()]
    means += [torch.stack([part.terms[name] for part in parts]).mean() for name in first.terms]
    total, *terms = mean(*means) if look else means
    terms = dict(zip(first.terms, terms, strict=True))
    if not look:
        return Losses(total, terms, {}, {}, first.errors, first.times)

    def all_rows(pieces: list[Tensor]) -> Tensor:
        with torch.no_grad():
            return gather(torch.cat([piece.detach() for piece in pieces]))

    features = {block: all_rows([part.features[block] for part in parts]) for block in first.features}
    errors, times = (all_rows([getattr(part, name) for part in parts]) for name in ("errors", "times"))
    return Losses(total, terms, {}, features, errors, times)


def check_compiler(config: Config) -> None:
    """Refuse ``engine.compile`` where a compiler is missing, before any folder is made.

    Raises:
        ConfigError: it says what to install, and how to do without.
    """
    lacks = compiler_fault() if config.engine.compile else ""
    require(not lacks, "engine.compile", True, f"{lacks}, or go without: --engine.no-compile")


def compile_in_place(objective: Objective, backend: str = "inductor") -> None:
    """Compile the objective inside its wrapper, so that names and gradients' hooks stay as they are."""
    import torch._functorch.config

    # At logged steps a regularizer's gradient is taken before the total's, from the same graph.
    torch._functorch.config.donated_buffer = False
    objective.compile(dynamic=False, backend=backend)
