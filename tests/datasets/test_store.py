"""Reading a store: rows, flips and draws as the files have them, mapped or resident; what is wrong with one is told."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photos import image_folder, noise, tiny_vae
from PIL import Image

from labkit.checks import ConfigError
from labkit.datasets import AugmentationDraws, StoreError, load, open_store, prepare, verify
from labkit.datasets.decode import decode

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Thirteen images of three classes, one of them broken."""
    root = image_folder(tmp_path_factory.mktemp("photos"), {"a": 5, "b": 6, "c": 2})
    (root / "b" / "002.png").write_bytes(b"x")
    return root


def made(source, out, **settings):
    return prepare(source, out, **{"size": 16, "shard": 3, "held_out": 4, "progress": False, **settings})


@pytest.fixture(scope="module")
def pixels(photos, tmp_path_factory):
    return made(photos, tmp_path_factory.mktemp("pixels") / "store")


@pytest.fixture(scope="module")
def latents(photos, tmp_path_factory):
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("latents")
    return made(photos, folder / "store", latents=str(tiny_vae(folder / "vae")))


def every_row(store):
    """All that lies in the shards, and the labels, read by numpy alone."""
    shards = [np.load(path) for path in sorted(store.glob("shard-*.npy"))]
    return torch.from_numpy(np.concatenate(shards)), torch.from_numpy(np.load(store / "labels.npy"))


def global_rows(store, split):
    about = json.loads((store / "store.json").read_text())
    aside = about["held_out"]
    return aside if split == "held_out" else [row for row in range(about["count"]) if row not in aside]


def draw(rows, shape, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return AugmentationDraws(torch.randn(len(rows), *shape, generator=draws), torch.rand(len(rows), generator=draws))


ROWS = st.lists(st.integers(0, 7), min_size=1, max_size=20)


@given(rows=ROWS, split=st.sampled_from(["train", "held_out"]), resident=st.booleans(), seed=st.integers(0, 99))
def test_pixels_and_their_flips(pixels, rows, split, resident, seed):
    store = open_store(pixels, split, resident).to(CPU)
    rows = torch.tensor(rows) % len(store)
    raw, labels = every_row(pixels)
    numbers = torch.tensor(global_rows(pixels, split))[rows]
    expected = raw[numbers].float() / 127.5 - 1
    plain = store.batch(rows)
    assert torch.equal(plain.x, expected) and torch.equal(plain.y, labels[numbers])
    assert (plain.x.dtype, plain.y.dtype) == (torch.float32, torch.int64) and plain.pixels is None
    chance = draw(rows, store.shape, seed)
    for image, row, uniform in zip(store.batch(rows, chance).x, expected, chance.uniforms, strict=True):
        assert torch.equal(image, row.flip(-1) if uniform < 0.5 else row)


@given(rows=ROWS, split=st.sampled_from(["train", "held_out"]), resident=st.booleans(), seed=st.integers(0, 99))
def test_latents_are_drawn_from_the_posterior_of_the_chosen_view(latents, rows, split, resident, seed):
    store = open_store(latents, split, resident).to(CPU)
    rows = torch.tensor(rows) % len(store)
    raw, labels = every_row(latents)
    numbers = torch.tensor(global_rows(latents, split))[rows]
    plain = store.batch(rows)
    assert torch.equal(plain.x, raw[numbers, 0, 0].float() * 0.18215) and torch.equal(plain.y, labels[numbers])
    chance = draw(rows, store.shape, seed)
    drawn = store.batch(rows, chance).x
    assert drawn.dtype == torch.float32
    for i, number in enumerate(numbers):
        mean, deviation = raw[number, int(chance.uniforms[i] < 0.5)].float()
        assert torch.equal(drawn[i], (mean + deviation * chance.noise[i]) * 0.18215)


def test_many_draws_have_the_posteriors_mean_and_deviation(latents):
    store, rows = open_store(latents), torch.zeros(20_000, dtype=torch.long)
    chance = draw(rows, store.shape)._replace(uniforms=torch.ones(len(rows)))
    drawn = store.batch(rows, chance).x / 0.18215
    mean, deviation = every_row(latents)[0][global_rows(latents, "train")[0], 0].float()
    assert ((drawn.mean(0) - mean) / deviation).abs().max() < 5 / len(rows) ** 0.5
    assert (drawn.std(0) / deviation - 1).abs().max() < 5 / (2 * len(rows)) ** 0.5


def test_without_flips_nothing_is_flipped(photos, latents, tmp_path):
    vae = json.loads((latents / "store.json").read_text())["vae"]["name"]
    rows = torch.arange(5)
    plain = open_store(made(photos, tmp_path / "pixels", flips=False))
    assert not plain.augments and open_store(latents).augments
    assert torch.equal(plain.batch(rows, draw(rows, plain.shape)).x, plain.batch(rows).x)
    encoded = open_store(made(photos, tmp_path / "latents", flips=False, latents=vae))
    chance = draw(rows, encoded.shape)._replace(uniforms=torch.zeros(5))
    assert encoded.augments
    assert torch.equal(encoded.batch(rows, chance._replace(noise=0 * chance.noise)).x, encoded.batch(rows).x)
    assert torch.equal(encoded.pixels(rows, chance), encoded.pixels(rows))


def test_the_teachers_pixels_are_those_of_the_latents(photos, latents):
    """The encoder's mean of what pixels() gives is the latent that batch() gives, flips included."""
    from labkit.datasets import Codec

    codec = Codec(json.loads((latents / "store.json").read_text())["vae"]["name"])
    for split in ("train", "held_out"):
        store = open_store(latents, split).to(CPU)
        rows = torch.arange(len(store)).flip(0)
        chance = draw(rows, store.shape)
        flips = chance.uniforms < 0.5
        assert flips.any() and not flips.all()
        seen, noiseless = store.pixels(rows, chance), chance._replace(noise=0 * chance.noise)
        assert (seen.shape, seen.dtype) == ((len(rows), 3, 16, 16), torch.float32)
        expected = codec.encode(seen)[0] * 0.18215
        torch.testing.assert_close(store.batch(rows, noiseless).x, expected, rtol=2e-3, atol=1e-4)
        plain = np.stack([decode(store.files[row], 16).pixels for row in rows.tolist()])
        assert torch.equal(store.pixels(rows), torch.from_numpy(plain).float() / 127.5 - 1)


def test_files_are_those_of_the_rows(photos, pixels):
    for split in ("train", "held_out"):
        store = open_store(pixels, split)
        assert len(store.files) == len(store)
        for row in range(len(store)):
            assert store.files[row].is_absolute() and photos in store.files[row].parents
            expected = torch.from_numpy(decode(store.files[row], 16).pixels).float() / 127.5 - 1
            assert torch.equal(store.batch(torch.tensor([row])).x[0], expected)
        assert [*store.files[1:3]] == [store.files[1], store.files[2]]


def test_what_a_network_must_be_built_for(pixels, latents):
    assert (open_store(pixels).dimensions, open_store(latents).dimensions) == ((16, 3, 3), (2, 4, 3))


def test_resident_rows_stay_compact_and_need_no_files(pixels, latents, tmp_path):
    for store, dtype, views in ((pixels, torch.uint8, 1), (latents, torch.float16, 2)):
        copy = shutil.copytree(store, tmp_path / store.parent.name)
        mapped, resident = open_store(copy).to(CPU), open_store(copy, resident=True).to(CPU)
        rows = torch.tensor([3, 0, 3])
        expected = mapped.batch(rows).x
        for shard in copy.glob("*.npy"):
            shard.write_bytes(b"")
        assert torch.equal(resident.to(CPU).batch(rows).x, expected)
        assert resident._held.dtype == dtype and len(resident._held) == 8 * views


def test_what_does_not_fit_says_so(pixels, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried much.")

    monkeypatch.setattr("labkit.datasets.store.torch.empty", full)
    with pytest.raises(StoreError, match=r"cannot be held on cpu \(0.0 GiB: CUDA out of memory.\); leave engine.res"):
        open_store(pixels, resident=True).to(CPU)


def test_a_store_is_loaded_by_its_folder(pixels):
    assert len(load(str(pixels))) == 8 and len(load(str(pixels), "held_out")) == 4
    assert load(str(pixels), resident=True).to(CPU)._held is not None
    with pytest.raises(ConfigError, match=r"dataset = 'nowhere' cannot be used: choose digits or .*, or the folder"):
        load("nowhere")


# --- what is wrong


@pytest.fixture
def copy(pixels, tmp_path):
    return shutil.copytree(pixels, tmp_path / "copy")


def refused(folder, told, split="train"):
    with pytest.raises(StoreError, match=told) as error:
        open_store(folder, split)
    assert "\n" not in str(error.value)


def test_a_file_or_another_folder(copy, tmp_path):
    refused(copy / "labels.npy", "is not a store")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"is not a store \(it has no store.json\); make one with `labkit prepare")
    refused(tmp_path / "none", "is not a store")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '"x"', "\x00"])
def test_a_store_json_that_is_none(copy, text):
    (copy / "store.json").write_text(text)
    refused(copy, r"store.json is cut or was not written by labkit")


def edited(store, **changes):
    about = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(about | changes))


def test_another_version_or_an_unfinished_store(copy):
    edited(copy, complete=False)
    refused(copy, "is not complete; run the `labkit prepare` command that began it again, and it goes on where it")
    edited(copy, format="labkit-store-9")
    refused(copy, "has format 'labkit-store-9' and this version of labkit reads 'labkit-store-1': prepare it anew")


@pytest.mark.parametrize("name", ["shard-00001.npy", "labels.npy", "files.txt"])
def test_a_store_copied_without_a_file_or_half_of_one(copy, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])
    refused(copy, rf"{name} has {len(data) - 1} bytes instead of {len(data)}; copy the store again, or run the")
    (copy / name).unlink()
    refused(copy, rf"{name} is missing; copy the store again")


def test_a_shard_of_another_store(copy):
    file = copy / "shard-00000.npy"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"'|u1'", b"'|i1'"))
    refused(copy, "shard-00000.npy is no shard of this store: it holds int8")
    file.write_bytes(b"X" * len(data))
    refused(copy, "shard-00000.npy cannot be read")


def test_no_held_out_images(photos, tmp_path):
    store = made(photos, tmp_path / "store", held_out=0)
    refused(store, "has no held-out images; prepare it anew with `--held-out N`", "held_out")
    assert len(open_store(store)) == 12


def test_images_that_are_no_longer_there(photos, latents, tmp_path):
    moved, copy = shutil.copytree(photos, tmp_path / "moved"), shutil.copytree(latents, tmp_path / "copy")
    edited(copy, root=str(tmp_path / "gone"))
    with pytest.raises(StoreError, match=r"gone/a/\d+.png could be read when .* was made, and now it cannot \(No such"):
        open_store(copy).pixels(torch.tensor([0]))
    edited(copy, root=str(moved))
    assert torch.equal(open_store(copy).pixels(torch.arange(8)), open_store(latents).pixels(torch.arange(8)))


def test_latents_without_files(tmp_path, latents):
    vae = json.loads((latents / "store.json").read_text())["vae"]["name"]
    np.savez(tmp_path / "a.npz", x=noise(5, 16, 16, 3))
    store = open_store(made(tmp_path / "a.npz", tmp_path / "store", held_out=0, latents=vae))
    assert store.files is None
    with pytest.raises(StoreError, match="was not made from image files"):
        store.pixels(torch.tensor([0]))


# --- verify


def test_a_whole_store_is_verified(pixels, latents, capsys):
    assert verify(pixels) == verify(latents) == 12
    assert not capsys.readouterr().err
    verify(pixels, progress=True)
    assert "7/7" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["shard-00002.npy"], ["shard-00000.npy", "labels.npy", "files.txt"]])
def test_a_flipped_bit_is_found_and_healed(photos, copy, names):
    for name in names:
        data = bytearray((copy / name).read_bytes())
        data[-1] ^= 1
        (copy / name).write_bytes(data)
    with pytest.raises(StoreError, match=re.escape(f"is corrupted: {', '.join(names)} do")) as error:
        verify(copy)
    assert "Remove" in str(error.value)
    for name in names:
        (copy / name).unlink()
    assert verify(made(photos, copy)) == 12


def test_a_broken_store_is_not_verified(copy):
    (copy / "labels.npy").unlink()
    with pytest.raises(StoreError, match=r"labels\.npy is missing"):
        verify(copy)


def test_a_large_image_is_cut_alike_at_both_ends(tmp_path, latents):
    """One that is halved twice and resized on the way: preparing and the teacher's eye agree to the bit."""
    Image.fromarray(noise(150, 97, 3)).save(tmp_path / "a.png")
    vae = json.loads((latents / "store.json").read_text())["vae"]["name"]
    (tmp_path / "one").mkdir()
    shutil.move(tmp_path / "a.png", tmp_path / "one" / "a.png")
    kept = every_row(made(tmp_path / "one", tmp_path / "p", held_out=0))[0]
    seen = open_store(made(tmp_path / "one", tmp_path / "l", held_out=0, latents=vae)).pixels(torch.tensor([0]))
    assert torch.equal(seen, kept.float() / 127.5 - 1)
