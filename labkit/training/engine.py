"""How a step is computed on what is there: one process by default, or the ranks that torchrun started.

    labkit train …                                                        one process
    torchrun --nproc-per-node 8 -m labkit train …                         eight GPUs of one machine
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:29500 …   four such machines

The batch of the config is that of all ranks together. Each takes its share, in ``engine.accumulate`` micro-batches.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.checks import require
from labkit.config import Config
from labkit.distributed import gather, launched, mean
from labkit.objective import Objective
from labkit.runtime import device
from labkit.types import Losses

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SAVING = (signal.SIGINT, signal.SIGTERM)


def fabric_of(config: Config) -> "Fabric":
    """The engine of a config, its ranks gathered, which fit the batch.

    Raises:
        ConfigError: the batch cannot be shared out, or the chunks of negatives do not fit a micro-batch.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    here, machines = launched()
    share = micro_batch(config, here * machines)
    for name in ("dispersive", "contrastive"):
        group = getattr(config, name)
        least = 3 if group.variant == "covariance" else 2
        computed = group.lam is not None
        require(
            group.chunk is None or share % group.chunk == 0,
            f"{name}.chunk",
            group.chunk,
            f"it must divide the {share} samples of a micro-batch (batch_size {config.batch_size} over "
            f"{here * machines} ranks × engine.accumulate {config.engine.accumulate})",
        )
        require(
            not computed or share >= least,
            "batch_size",
            config.batch_size,
            f"it leaves a micro-batch of {share}, in which {name} has no pairs; take fewer ranks or a smaller "
            "engine.accumulate",
        )
    ddp = DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False)  # the buffers are constants
    ranks = dict(strategy=ddp) if here * machines > 1 else {}
    # Its precision stays 32 bit: the objective casts, so that regularizers' gradients can be taken one by one.
    fabric = Fabric(accelerator=device().type, devices=here, num_nodes=machines, **ranks)
    if ranks:
        fabric.launch()
    return fabric


def micro_batch(config: Config, ranks: int = 1) -> int:
    """Samples that a rank computes at a time.

    Raises:
        ConfigError: the batch cannot be shared out equally.
    """
    pieces = ranks * config.engine.accumulate
    require(
        config.batch_size % pieces == 0,
        "batch_size",
        config.batch_size,
        f"it must be a multiple of {ranks} ranks × engine.accumulate {config.engine.accumulate}",
    )
    return config.batch_size // pieces


def negatives(config: Config, ranks: int = 1) -> int:
    """B of the repelling loss, whose floor is −log B: how many samples repel each other."""
    group, share = config.repelling, micro_batch(config, ranks)
    return group.chunk or (share * ranks if group.negatives == "global" else share)


def together(parts: Sequence[Losses], look: bool) -> Losses:
    """The losses of a step from those of this rank's micro-batches.

    Args:
        look: bring the ranks together as well, and keep what meters read; else the figures are this rank's.
    """
    if len(parts) == 1 and not torch.distributed.is_initialized():
        return parts[0]
    names = list(parts[0].terms)
    means = [torch.stack([part.total.detach() for part in parts]).mean()]
    means += [torch.stack([part.terms[name] for part in parts]).mean() for name in names]
    if not look:
        return Losses(means[0], dict(zip(names, means[1:], strict=True)), {}, {}, parts[0].errors, parts[0].times)
    total, *terms = mean(*means)

    def all_rows(pieces: list[Tensor]) -> Tensor:
        with torch.no_grad():
            return gather(torch.cat([piece.detach() for piece in pieces]))

    features = {block: all_rows([part.features[block] for part in parts]) for block in parts[0].features}
    errors, times = (all_rows([getattr(part, name) for part in parts]) for name in ("errors", "times"))
    return Losses(total, dict(zip(names, terms, strict=True)), {}, features, errors, times)


def compile_in_place(objective: Objective, backend: str = "inductor") -> None:
    """Compile the objective inside whatever wraps it, so that names and gradients' hooks stay as they are."""
    import torch._functorch.config

    # At logged steps a regularizer's gradient is taken before the total's, from the same graph.
    torch._functorch.config.donated_buffer = False
    objective.compile(dynamic=False, backend=backend)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM for the lines that change weights and log them: a save never sees half a step."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    caught: list[tuple[int, FrameType | None]] = []
    handlers = {number: signal.getsignal(number) for number in SAVING}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda *signalled: caught.append(signalled))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    for number, frame in caught[:1]:
        held[number](number, frame)


@contextlib.contextmanager
def saving_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM, by which a machine that is taken away says so, and Ctrl-C call ``stop``; the second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SAVING}

    def handle(*_: object) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop()

    for number in SAVING:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
