"""Memory that does not suffice: one sentence with the settings that need less, and nothing that was trained is lost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import outcome, tiny, trained

from labkit import ConfigError, Run, Trainer
from labkit.config import Engine
from labkit.datasets import prepare
from labkit.runtime import MemoryFull, memory_for

TOO_MUCH = {
    "torch": lambda: torch.empty(2**50),
    "numpy": lambda: np.empty(2**60, np.uint8),
    "a GPU": lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_every_kind_of_full_memory_is_one_sentence(kind):
    sentence = r"^The memory does not suffice for a test.*; take less\.$"
    with pytest.raises(MemoryFull, match=sentence), memory_for("a test", "take less"):
        TOO_MUCH[kind]()
    with pytest.raises(RuntimeError, match=r"^shapes$"), memory_for("a test", "take less"):
        raise RuntimeError("shapes")


def test_full_memory_in_training_saves_and_names_the_settings(tmp_path, monkeypatch):
    trainer = Trainer(tiny(), tmp_path / "run")
    backward = trainer.fabric.backward
    monkeypatch.setattr(
        trainer.fabric, "backward", lambda loss: backward(loss) if trainer.step < 7 else torch.empty(2**50)
    )
    words = r"step 8 \(\d+ bytes .*engine.checkpointing.*engine.accumulate \(now 1\).*batch_size \(now 8\)"
    with pytest.raises(MemoryFull, match=words):
        list(trainer)
    run = Run.open(tmp_path / "run")
    assert max(run.checkpoints) == 7 and "batch_size" in run.status.error
    less = tiny(engine=Engine(checkpointing=True))
    assert outcome(trained(less, run.path)) == outcome(trained(tiny(), tmp_path / "straight"))


def test_full_memory_in_sampling_names_the_settings(tmp_path, monkeypatch):
    run = Run.open(trained(tiny(steps=1), tmp_path / "run"))
    monkeypatch.setattr("labkit.sampling.sample.starting_noise", lambda *_: torch.empty(2**50))
    with pytest.raises(MemoryFull, match=r"sampling 3 images at a time.*batch_size"):
        run.sample(3)


@pytest.mark.parametrize("size", [100_000, 10**9])
def test_a_store_of_images_beyond_the_memory_is_refused_before_the_first(tmp_path: Path, size):
    np.savez(tmp_path / "i.npz", x=np.zeros((20, 8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match=rf"size = {size} .*take a smaller size or a smaller shard \(now 4096\)"):
        prepare(tmp_path / "i.npz", tmp_path / "store", size=size, progress=False)
