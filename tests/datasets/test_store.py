"""Reading a store: rows, flips and draws as the files have them, mapped or resident; what is wrong is refused."""

import contextlib
import json
import os
import resource
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photos import image_folder, noise, tiny_vae
from PIL import Image

from labkit.checks import LabError
from labkit.datasets import AugmentationDraws, StoreError, open_store, prepare, verify
from labkit.datasets.decode import decode

CPU = torch.device("cpu")
SPLITS = ("train", "held_out")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Fourteen images of three classes, one of them broken and one large."""
    root = image_folder(tmp_path_factory.mktemp("photos"), {"a": 5, "b": 6, "c": 2})
    (root / "b" / "002.png").write_bytes(b"x")
    Image.fromarray(noise(150, 97, 3)).save(root / "a" / "large.png")  # halved twice and resized
    return root


def prepared(source, out, **settings):
    return prepare(source, out, **{"size": 16, "shard": 3, "held_out": 4, "progress": False, **settings})


@pytest.fixture(scope="module")
def pixels(photos, tmp_path_factory):
    return prepared(photos, tmp_path_factory.mktemp("pixels") / "store")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    torch.manual_seed(0)
    return str(tiny_vae(tmp_path_factory.mktemp("vae")))


@pytest.fixture(scope="module")
def latents(photos, vae, tmp_path_factory):
    return prepared(photos, tmp_path_factory.mktemp("latents") / "store", latents=vae)


def on_disk(folder, split):
    """Items and labels of a split, read by numpy alone."""
    about = json.loads((folder / "store.json").read_text())
    aside = about["held_out"]
    rows = aside if split == "held_out" else [row for row in range(about["count"]) if row not in aside]
    shards = [np.load(path) for path in sorted(folder.glob("shard-*.npy"))]
    return torch.from_numpy(np.concatenate(shards))[rows], torch.from_numpy(np.load(folder / "labels.npy"))[rows]


def draws_for(rows, shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return AugmentationDraws(torch.randn(len(rows), *shape, generator=draw), torch.rand(len(rows), generator=draw))


ANY = given(
    rows=st.lists(st.integers(0, 8), min_size=1, max_size=20),
    split=st.sampled_from(SPLITS),
    resident=st.booleans(),
    seed=st.integers(0, 99),
)


@ANY
def test_pixels_and_their_flips(pixels, rows, split, resident, seed):
    store = open_store(pixels, split, resident).to(CPU)
    rows = torch.tensor(rows) % len(store)
    items, labels = on_disk(pixels, split)
    expected = items[rows].float() / 127.5 - 1
    plain = store.batch(rows)
    assert torch.equal(plain.x, expected) and torch.equal(plain.y, labels[rows])
    assert (plain.x.dtype, plain.y.dtype) == (torch.float32, torch.int64) and plain.pixels is None
    draws = draws_for(rows, store.shape, seed)
    for image, row, uniform in zip(store.batch(rows, draws).x, expected, draws.uniforms, strict=True):
        assert torch.equal(image, row.flip(-1) if uniform < 0.5 else row)


@ANY
def test_latents_are_drawn_from_the_posterior_of_the_chosen_view(latents, rows, split, resident, seed):
    store = open_store(latents, split, resident).to(CPU)
    rows = torch.tensor(rows) % len(store)
    items, labels = on_disk(latents, split)
    plain = store.batch(rows)
    assert torch.equal(plain.x, items[rows, 0, 0].float() * 0.18215) and torch.equal(plain.y, labels[rows])
    draws = draws_for(rows, store.shape, seed)
    mean, deviation = items[rows, (draws.uniforms < 0.5).long()].float().unbind(1)
    batch = store.batch(rows, draws).x
    assert torch.equal(batch, (mean + deviation * draws.noise) * 0.18215) and batch.dtype == torch.float32


def test_without_flips_nothing_is_flipped(photos, vae, tmp_path):
    rows = torch.arange(5)
    plain = open_store(prepared(photos, tmp_path / "pixels", flips=False))
    assert not plain.augments
    assert torch.equal(plain.batch(rows, draws_for(rows, plain.shape)).x, plain.batch(rows).x)
    encoded = open_store(prepared(photos, tmp_path / "latents", flips=False, latents=vae))
    still = AugmentationDraws(torch.zeros(5, *encoded.shape), torch.zeros(5))
    assert encoded.augments
    assert torch.equal(encoded.batch(rows, still).x, encoded.batch(rows).x)
    assert torch.equal(encoded.pixels(rows, still), encoded.pixels(rows))


def test_files_and_a_teachers_pixels_are_those_of_the_rows(photos, pixels, latents):
    for split in SPLITS:
        store, encoded = open_store(pixels, split), open_store(latents, split)
        rows = torch.arange(len(store)).flip(0)
        assert [*store.files] == [*encoded.files] and len(store.files) == len(store)
        assert all(file.is_absolute() and photos in file.parents for file in store.files)
        images = np.stack([decode(store.files[row], 16).pixels for row in rows.tolist()])
        assert torch.equal(store.batch(rows).x, torch.from_numpy(images).float() / 127.5 - 1)
        draws = draws_for(rows, encoded.shape)
        assert 0 < (draws.uniforms < 0.5).sum() < len(rows)
        assert torch.equal(encoded.pixels(rows), store.batch(rows).x)
        assert torch.equal(encoded.pixels(rows, draws), store.batch(rows, draws).x)
    assert (store.dimensions, encoded.dimensions) == ((16, 3, 3), (2, 4, 3))


def test_resident_rows_stay_compact_and_need_no_files(pixels, latents, tmp_path):
    for folder, dtype, views in ((pixels, torch.uint8, 1), (latents, torch.float16, 2)):
        copy = shutil.copytree(folder, tmp_path / folder.parent.name)
        resident, rows = open_store(copy, resident=True).to(CPU), torch.tensor([3, 0, 3])
        expected = open_store(copy).to(CPU).batch(rows).x
        for shard in copy.glob("*.npy"):
            shard.write_bytes(b"")
        assert torch.equal(resident.to(CPU).batch(rows).x, expected)
        assert resident._held.dtype == dtype and len(resident._held) == len(resident) * views


def test_a_store_that_does_not_fit_into_memory_is_refused(pixels, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried much.")

    monkeypatch.setattr("labkit.datasets.store.torch.empty", full)
    with pytest.raises(LabError, match=r"all of .*store on cpu, 0.0 GiB; leave engine.resident off"):
        open_store(pixels, resident=True).to(CPU)


# --- what is wrong


@pytest.fixture
def copy(pixels, tmp_path):
    return shutil.copytree(pixels, tmp_path / "copy")


def refused(folder, message, split="train"):
    with pytest.raises(StoreError, match=message) as error:
        open_store(folder, split)
    assert "\n" not in str(error.value)


def edited(folder, **changes):
    about = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(about | changes))


def test_folders_that_are_no_store_or_not_a_complete_one(copy, tmp_path, photos):
    (tmp_path / "empty").mkdir()
    for folder in (copy / "labels.npy", tmp_path / "empty", tmp_path / "none"):
        refused(folder, "is not a store .*`labkit prepare")
    edited(copy, complete=False)
    refused(copy, "is not complete; run its `labkit prepare` command again")
    edited(copy, format="labkit-store-9")
    refused(copy, "'labkit-store-9' .*'labkit-store-1'; take the one that wrote it")
    for text in ("", "[]", "3", "{}", "\x00"):
        (copy / "store.json").write_text(text)
        refused(copy, r"store.json is cut or was not written by labkit")
    refused(prepared(photos, tmp_path / "store", held_out=0), "has no held-out images; .*`--held-out N`", "held_out")


@pytest.mark.parametrize("name", ["shard-00001.npy", "labels.npy", "files.txt"])
def test_a_store_copied_without_a_file_or_half_of_one(copy, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])
    refused(copy, rf"{name} has {len(data) - 1} bytes instead of {len(data)}; copy that file again, or run")
    (copy / name).unlink()
    refused(copy, rf"{name} is missing; copy that file again")
    with pytest.raises(StoreError, match=f"{name} is missing"):
        verify(copy)


def test_a_shard_of_another_store(copy):
    file = copy / "shard-00000.npy"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"'|u1'", b"'|i1'"))
    refused(copy, "shard-00000.npy is no shard of this store: it holds int8")
    file.write_bytes(b"X" * len(data))
    refused(copy, "shard-00000.npy cannot be read")


def test_more_shards_than_files_may_be_open(tmp_path):
    images = noise(40, 8, 8)
    np.savez(tmp_path / "a.npz", x=images)
    folder = prepared(tmp_path / "a.npz", tmp_path / "store", size=8, channels=1, shard=1, held_out=0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as after:
        after.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 25, limits[1]))
        for resident in (False, True):
            x = open_store(folder, resident=resident).to(CPU).batch(torch.arange(40)).x
            assert torch.equal(x[:, 0], torch.from_numpy(images).float() / 127.5 - 1)
        store = open_store(folder)
        with contextlib.ExitStack() as files, pytest.raises(LabError, match=r"shard-\d+.npy: .*`ulimit -n"):
            for _ in range(40):
                files.enter_context(open(os.devnull))
                store.batch(torch.arange(40))


def test_images_that_are_no_longer_there(photos, latents, vae, tmp_path):
    moved, copy = shutil.copytree(photos, tmp_path / "moved"), shutil.copytree(latents, tmp_path / "copy")
    edited(copy, root=str(tmp_path / "gone"))
    with pytest.raises(StoreError, match=r'gone/a/\w+.png .*No such file.*new folder as "root"'):
        open_store(copy).pixels(torch.tensor([0]))
    edited(copy, root=str(moved))
    assert torch.equal(open_store(copy).pixels(torch.arange(9)), open_store(latents).pixels(torch.arange(9)))
    np.savez(tmp_path / "a.npz", x=noise(5, 16, 16, 3))
    store = open_store(prepared(tmp_path / "a.npz", tmp_path / "store", held_out=0, latents=vae))
    assert store.files is None
    with pytest.raises(StoreError, match="not made from image files; prepare it from a folder"):
        store.pixels(torch.tensor([0]))


# --- verify


def test_a_whole_store_is_verified(pixels, latents, capsys):
    assert verify(pixels) == verify(latents) == 13
    assert not capsys.readouterr().err
    verify(pixels, progress=True)
    assert "7/7" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["shard-00002.npy"], ["shard-00000.npy", "labels.npy", "files.txt"]])
def test_a_flipped_bit_is_discovered_and_healed(photos, copy, names):
    for name in names:
        data = bytearray((copy / name).read_bytes())
        data[-1] ^= 1
        (copy / name).write_bytes(data)
    with pytest.raises(StoreError, match=rf"is corrupted.*: {', '.join(names)}\. Move them away and run"):
        verify(copy)
    for name in names:
        (copy / name).unlink()
    assert verify(prepared(photos, copy)) == 13
