"""A training run small enough to be repeated dozens of times, and the means to compare two of them bit for bit."""

import contextlib
import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forked import running
from safetensors.torch import load_file
from torch import Tensor

from labkit import Config, Run, Trainer, disk
from labkit.config import Optimizer
from labkit.losses import Contrastive, Repa, warm_up
from labkit.training.checkpoint import optimizer_tensors


def tiny(**changes: Any) -> Config:
    """Four tokens an image, eight images a batch: a step takes milliseconds."""
    small = dict(model="SiT-Nano/4", optimizer=Optimizer(lr=1e-3), ema_decay=0.999, lam=0.5)
    short = dict(batch_size=8, steps=12, log_every=1, save_every=5)
    return Config().replace(**small | short | changes)


def everything(**changes: Any) -> Config:
    """All regularizers at once, each at blocks of its own and warming up at its own pace."""
    contrastive = Contrastive(0.25, tau=0.3, blocks=(1,), schedule=warm_up(9), noise="restricted", alignment_weight=0.5)
    on = dict(contrastive=contrastive, repa=Repa(0.5, block=2, hidden=16, schedule=warm_up(3)))
    return tiny(**dict(model="SiT-Nano/2", blocks=(0, 3), schedule=warm_up(7)) | on | changes)


def trained(config: Config, folder: Path) -> Path:
    """The folder, after training there to the end."""
    for _ in Trainer(config, folder):
        pass
    return folder


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """All that training changes, by name."""
    held = {"model": trainer.network, "ema": trainer.ema.network}
    if trainer.projector is not None:
        held["projector"] = trainer.projector
    state = {f"{part}.{name}": tensor for part, module in held.items() for name, tensor in module.state_dict().items()}
    trained = {f"{part}.{name}": p for part, module in held.items() for name, p in module.named_parameters()}
    return {name: t.clone() for name, t in (state | optimizer_tensors(trainer.optimizer, trained)).items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def finished(config: Config, folder: Path | None = None) -> dict[str, Tensor]:
    """The weights after training to the end."""
    trainer = Trainer(config, folder)
    list(trainer)
    return weights(trainer)


def outcome(folder: Path) -> tuple[int, dict[str, bytes], list[Any]]:
    """What a run came to: newest step; weights, averages and moments as bytes; the table without its clock."""
    run = Run.open(folder)
    step, file = list(run.checkpoints.items())[-1]
    tensors = {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}
    for part in ("model.", "ema.", "optimizer.exp_avg.", "optimizer.exp_avg_sq.", "optimizer.step."):
        assert any(name.startswith(part) for name in tensors)
    return step, tensors, run.metrics().drop(columns="seconds").to_numpy().tolist()


def files(folder: Path) -> dict[str, bytes]:
    """Contents of every file below a folder, by its path from there."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def training_elsewhere(config: Config, folder: Path, dies: str | None = None) -> contextlib.AbstractContextManager[Any]:
    """A process that trains in ``folder``; it dies at a moment of its second save if ``dies`` names one."""
    return running(_train, config.to_json(), folder, dies)


def _train(config: str, folder: Path, dies: str | None) -> None:
    torch.set_num_threads(1)  # as in the tests: bits may depend on it
    importlib.import_module("smoke")
    trainer = Trainer(Config.from_json(config), folder)
    if dies is not None:
        _die_in_second_save(trainer, dies)
    try:
        for _ in trainer:
            pass
    except KeyboardInterrupt:
        sys.exit(130)  # what a shell expects of an interrupted command


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_in_second_save(trainer: Trainer, moment: str) -> None:
    def watched(name: str, original: Callable[..., Any], *args: Any) -> Any:
        saving = trainer.step == 2 * trainer.config.save_every
        if saving and moment == f"before {name}":
            _die()
        result = original(*args)
        if saving and moment == f"after {name}":
            _die()
        return HalfWritten(result) if saving and moment == "half written" and name == "open" else result

    os.fsync = functools.partial(watched, "fsync", os.fsync)
    os.replace = functools.partial(watched, "replace", os.replace)
    disk.open = functools.partial(watched, "open", open)


class HalfWritten:
    """A file whose first write stops in the middle."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        _die()
