"""Training on a store: the same bits mapped or resident, stopped or not; REPA's teacher gets the latents' images."""

import numpy as np
import pytest
import torch
from photos import image_folder, noise, tiny_dino, tiny_vae
from tiny import outcome, tiny, trained

from labkit import Run, Trainer
from labkit.checks import ConfigError
from labkit.config import Engine
from labkit.datasets import AugmentationDraws, prepare
from labkit.losses import Repa
from labkit.runtime import Purpose, generator


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stores")
    photos, vae = image_folder(folder / "photos", {"a": 5, "b": 6}, side=40), str(tiny_vae(folder / "vae"))
    np.savez(folder / "a.npz", x=noise(8, 32, 32, 3))
    settings = {"pixels": dict(size=16), "latents": dict(size=32, latents=vae)}
    paths = {name: prepare(photos, folder / name, shard=4, progress=False, **own) for name, own in settings.items()}
    unnamed = prepare(folder / "a.npz", folder / "unnamed", size=32, latents=vae, progress=False)
    return {**paths, "unnamed": unnamed}


def config(store, **changes):
    return tiny(dataset=str(store), model="SiT-Nano/2", **dict(steps=3, batch_size=4, lam=None) | changes)


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_a_run_is_the_same_mapped_resident_or_resumed_and_samples(stores, kind, tmp_path):
    mapped = config(stores[kind])
    straight = outcome(trained(mapped, tmp_path / "straight"))
    assert outcome(trained(mapped.replace(engine=Engine(resident=True)), tmp_path / "resident")) == straight
    trained(mapped.replace(steps=2), tmp_path / "run")
    assert outcome(trained(mapped, tmp_path / "run")) == straight
    assert Run.open(tmp_path / "run").sample(3, steps=1).x.shape[1:] == ((3, 16, 16), (4, 4, 4))[kind == "latents"]
    assert (tmp_path / "run" / "samples" / "step-00000003.png").exists()


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_without_flips_no_image_is_mirrored_and_nothing_else_changes(stores, kind):
    """As REPA trains: the same noise and the same draws from the posterior, of the images as they are."""
    streams = {flips: Trainer(config(stores[kind], flips=flips)).stream for flips in (True, False)}
    (mixed, draws), (plain, same_draws) = (streams[flips].at(8) for flips in (True, False))
    assert torch.equal(draws.noise, same_draws.noise) and torch.equal(draws.uniforms, same_draws.uniforms)
    order, source = streams[True]._rows(8), streams[True].images
    draw = generator(0, Purpose.AUGMENTATION, 8)
    noise, uniforms = torch.randn(4, *source.shape, generator=draw), torch.rand(4, 1, generator=draw)[:, 0]
    mirrored = uniforms < 0.5
    assert 0 < mirrored.sum() < 4
    assert torch.equal(plain.x, source.batch(order, AugmentationDraws(noise, torch.ones(4))).x)
    assert [torch.equal(a, b) for a, b in zip(plain.x, mixed.x, strict=True)] == (~mirrored).tolist()


def test_repas_teacher_gets_the_images_of_the_latents(stores, tmp_path):
    pytest.importorskip("transformers")
    dino = str(tiny_dino(tmp_path))
    aligned = config(stores["latents"], repa=Repa(0.5, block=1, hidden=16, teacher=dino))
    trainer = Trainer(aligned)
    batch, _ = trainer.stream.at(0)
    assert batch.pixels.shape == (4, 3, 32, 32)
    assert len(list(trainer)) == 3
    with pytest.raises(ConfigError, match=r"repa.lam = 0.5.*unnamed .*folder"):
        Trainer(config(stores["unnamed"], repa=Repa(0.5, block=1, hidden=16, teacher=dino)))
