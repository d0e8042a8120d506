"""A store is what its images are, whoever makes it and however often that is cut short; what is wrong is told."""

import contextlib
import errno
import importlib
import json
import os
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photos import contents, image_folder, killed_at, noise, prepared_by_ranks, tiny_vae
from PIL import Image

from labkit.checks import ConfigError
from labkit.datasets import Codec, StoreError, describe, open_store, prepare
from labkit.datasets.decode import decode
from labkit.datasets.prepare import held_out_rows

needs_vae = pytest.mark.skipif(not __import__("importlib").util.find_spec("diffusers"), reason="needs diffusers")

MODULE = importlib.import_module("labkit.datasets.prepare")  # the package's attribute of that name is the function


@pytest.fixture
def source(tmp_path):
    """Eleven images of two classes, the fourth and the last of them broken."""
    root = image_folder(tmp_path / "photos", {"a": 6, "b": 5})
    (root / "a" / "003.png").write_bytes(b"no image")
    last = root / "b" / "004.png"
    last.write_bytes(last.read_bytes()[:300])
    return root


SMALL = dict(size=16, shard=4, held_out=2)


def made(source, out, **settings):
    return prepare(source, out, **{**SMALL, "progress": False, **settings})


def about(store):
    return json.loads((store / "store.json").read_text())


def kept(source):
    return [path for path in sorted(source.rglob("*.png")) if path.name != "003.png" or path.parent.name != "a"][:-1]


def test_every_row_is_its_image_and_says_so(source, tmp_path):
    store = made(source, tmp_path / "store")
    pixels = np.concatenate([np.load(path) for path in sorted(store.glob("shard-*.npy"))])
    assert np.array_equal(pixels, np.stack([decode(path, 16).pixels for path in kept(source)]))
    assert np.load(store / "labels.npy").tolist() == [0] * 5 + [1] * 4
    assert (store / "files.txt").read_text().split("\n") == [str(p.relative_to(source)) for p in kept(source)]
    said = about(store)
    assert [shard["count"] for shard in said["shards"]] == [3, 4, 2]
    assert (said["count"], said["classes"], said["root"], said["shape"]) == (9, ["a", "b"], str(source), [3, 16, 16])
    assert [entry["path"] for entry in said["skipped"]] == ["a/003.png", "b/004.png"]
    assert "cannot identify" in said["skipped"][0]["why"] and "truncated" in said["skipped"][1]["why"]
    assert said["machine"]["torch"] == torch.__version__ and said["vae"] is None


def test_what_is_told_when_it_is_done(source, tmp_path):
    told = describe(made(source, tmp_path / "store", size=24))
    assert "holds 9 images of 3×24×24, in 2 classes, 2 of them held out." in told
    assert "9 images had to be enlarged to 24 pixels." in told
    assert "2 images could not be used" in told and "a/003.png: cannot identify" in told
    shutil.rmtree(source / "b")
    (source / "a" / "003.png").unlink()
    told = describe(made(source / "a", tmp_path / "plain", held_out=0))
    assert told == f"{tmp_path / 'plain'} holds 5 images of 3×16×16, in 1 class."


def test_grey_images_and_arrays(tmp_path):
    images, labels = noise(6, 9, 9), np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    store = made(tmp_path / "a.npz", tmp_path / "store", size=9, channels=1)
    pixels = np.concatenate([np.load(path) for path in sorted(store.glob("shard-*.npy"))])
    assert np.array_equal(pixels[:, 0], images)
    assert np.load(store / "labels.npy").tolist() == labels.tolist()
    assert about(store)["root"] is None and not (store / "files.txt").exists()


@needs_vae
@pytest.mark.parametrize("flips", [True, False])
def test_latents_are_the_posterior_of_each_image_and_of_its_mirror_image(source, tmp_path, flips):
    vae = tiny_vae(tmp_path / "vae")
    store = made(source, tmp_path / "store", latents=str(vae), flips=flips, batch=3)
    latents = torch.from_numpy(np.concatenate([np.load(path) for path in sorted(store.glob("shard-*.npy"))]))
    assert (latents.dtype, latents.shape) == (torch.float16, (9, 1 + flips, 2, 4, 2, 2))
    x = torch.stack([torch.from_numpy(decode(path, 16).pixels).float() / 127.5 - 1 for path in kept(source)])
    codec = Codec(str(vae))
    for view in range(1 + flips):
        expected = codec.encode(x.flip(-1) if view else x)
        for part in range(2):
            torch.testing.assert_close(latents[:, view, part].float(), expected[part], rtol=2e-3, atol=1e-5)
    said = about(store)
    assert (said["scale"], said["shape"], said["size"], said["flips"]) == (0.18215, [4, 2, 2], 16, flips)
    assert said["vae"]["digest"] == codec.digest and said["vae"]["name"] == str(vae)


# --- cut short, shared out, made again


@pytest.fixture
def whole(source, tmp_path):
    return contents(made(source, tmp_path / "whole"))


@pytest.mark.parametrize(
    ("call", "moment"), [(1, "before"), *((call, "half-way") for call in range(1, 11)), (10, "after")]
)
def test_a_killed_run_goes_on_to_the_same_store(source, tmp_path, whole, call, moment):
    """At each of its ten writes: the claim, three shards with their records, two tables, the end."""
    out = tmp_path / "store"
    killed_at(call, moment, source, out, **SMALL)
    complete = call == 10 and moment == "after"
    if not complete:
        with pytest.raises(StoreError, match=r"not complete; run the `labkit prepare` command|is not a store"):
            open_store(out)
    assert contents(made(source, out)) == whole


def test_finished_shards_are_not_made_again(source, tmp_path, monkeypatch):
    out = tmp_path / "store"
    killed_at(5, "after", source, out, **SMALL)
    seen = []
    monkeypatch.setattr(MODULE, "decode", lambda file, *size: seen.append(file.name) or decode(file, *size))
    made(source, out)
    assert sorted(seen) == ["002.png", "003.png", "004.png"]  # the third shard's
    seen.clear()
    made(source, out)
    assert not seen


def test_a_shard_that_is_lost_or_cut_is_made_again(source, tmp_path, whole):
    out = made(source, tmp_path / "store")
    (out / "shard-00001.npy").unlink()
    (out / "shard-00002.npy").write_bytes(b"cut")
    (out / "shard-00000.json").write_text("{")
    (out / "labels.npy").unlink()
    assert contents(made(source, out)) == whole


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 2, 0]])
def test_ranks_share_the_shards(source, tmp_path, whole, order):
    out = tmp_path / "store"
    for rank in order[:-1]:
        made(source, out, rank=rank, ranks=3)
        assert not about(out)["complete"] and "the other processes" in describe(out)
    shards = {path.name for path in out.glob("shard-*.npy")}
    assert shards == {f"shard-{rank:05d}.npy" for rank in order[:-1]}
    made(source, out, rank=order[-1], ranks=3)
    assert contents(out) == whole


def test_ranks_at_the_same_time(source, tmp_path, whole):
    prepared_by_ranks(4, source, tmp_path / "store", **SMALL)  # one more than there are shards
    assert contents(tmp_path / "store") == whole


def test_ranks_are_those_of_torchrun(source, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    made(source, tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").glob("shard-*.npy")] == ["shard-00001.npy"]
    for rank, ranks in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ConfigError, match="rank"):
            made(source, tmp_path / "store", rank=rank, ranks=ranks)


@needs_vae
def test_latents_come_out_the_same_after_a_kill_and_on_ranks(source, tmp_path):
    encoded = dict(SMALL, latents=str(tiny_vae(tmp_path / "vae")), batch=3)
    expected = contents(made(source, tmp_path / "whole", **encoded))
    killed_at(4, "half-way", source, tmp_path / "killed", **encoded)
    assert contents(made(source, tmp_path / "killed", **encoded)) == expected
    prepared_by_ranks(2, source, tmp_path / "ranks", **encoded)
    assert contents(tmp_path / "ranks") == expected


def test_the_bar_counts_images_and_starts_where_it_stopped(source, tmp_path, capsys):
    out = tmp_path / "store"
    killed_at(3, "after", source, out, **SMALL)
    made(source, out, progress=True)
    told = capsys.readouterr().err
    assert "4/11" in told and "11/11" in told and "image/s" in told
    made(source, tmp_path / "quiet")
    assert not capsys.readouterr().err


# --- what does not fit


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"size": 8}, r"size: 16 → 8"),
        ({"flips": False}, r"flips: True → False"),
        ({"held_out": 3, "seed": 1}, r"held_out: 2 → 3; seed: 0 → 1"),
        ({"channels": 1}, r"channels: 3 → 1"),
        ({"shard": 5}, r"shard: 4 → 5"),
    ],
)
def test_other_settings_are_refused_by_name(source, tmp_path, changed, told):
    out = made(source, tmp_path / "store")
    before = contents(out)
    with pytest.raises(StoreError, match=rf"holds a store of other settings \({told}\); choose another folder"):
        made(source, out, **changed)
    assert contents(out) == before
    assert contents(made(source, out, batch=1)) == before  # of speed alone


def test_other_images_are_refused(source, tmp_path):
    out = made(source, tmp_path / "store")
    shutil.copytree(source, tmp_path / "copy")
    with pytest.raises(StoreError, match=r"other settings \(source: "):
        made(tmp_path / "copy", out)
    shutil.copy(source / "a" / "000.png", source / "a" / "more.png")
    with pytest.raises(StoreError, match=r"images: 11 → 12; listing: "):
        made(source, out)


@needs_vae
def test_another_vae_is_refused(source, tmp_path):
    torch.manual_seed(1)
    encoded = [dict(latents=str(tiny_vae(tmp_path / name))) for name in "ab"]
    out = made(source, tmp_path / "store", **encoded[0])
    with pytest.raises(StoreError, match="latents: '"):
        made(source, out, **encoded[1])
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    made(source, out, latents=str(tmp_path / "moved"))  # the same weights


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"size": 0}, "size = 0"),
        ({"size": 16.0}, "size = 16.0"),
        ({"shard": 0}, "shard = 0"),
        ({"batch": -1}, "batch = -1"),
        ({"channels": 2}, "channels = 2"),
        ({"flips": "no"}, "flips = 'no'"),
        ({"seed": -1}, "seed = -1"),
        ({"layout": "CHW"}, "layout = 'CHW'"),
        ({"held_out": -1}, "held_out = -1"),
        ({"held_out": 10}, "held_out = 10 cannot be used: at most 9 can go"),
        ({"channels": 1, "latents": "x"}, "a VAE encodes images of 3 channels"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_leave_nothing_behind(source, tmp_path, settings, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        made(source, tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


@needs_vae
def test_a_size_that_the_vae_cannot_divide(source, tmp_path):
    with pytest.raises(ConfigError, match="size = 20 cannot be used: take a multiple of 8"):
        made(source, tmp_path / "store", size=20, latents=str(tiny_vae(tmp_path / "vae")))
    assert not (tmp_path / "store").exists()


def test_folders_that_are_taken(source, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file exists and is not a store"):
        made(source, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="full exists and is not a store; choose an empty or a new folder"):
        made(source, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    for place in (source, source / "store", source / "a" / ".." / "store"):
        with pytest.raises(ConfigError, match="lies in the folder of images"):
            made(source, place)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "store.json").write_text('{"format": "labkit-store-0"}')
    with pytest.raises(StoreError, match="'labkit-store-0' and this version of labkit reads 'labkit-store-1'"):
        made(source, tmp_path / "other")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").write_text("x")
    made(source, tmp_path / "empty")


def test_a_class_whose_images_are_all_broken(source, tmp_path):
    for path in (source / "b").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(StoreError, match=r"No image of class 'b' can be used \(b/000.png: cannot identify.*anew"):
        made(source, tmp_path / "store", held_out=0)
    with pytest.raises(StoreError, match="is not complete"):
        open_store(tmp_path / "store")


def test_a_whole_shard_may_be_broken(source, tmp_path):
    for number in range(4):
        (source / "a" / f"{number:03d}.png").write_bytes(b"x")
    store = made(source, tmp_path / "store")
    assert [shard["file"] for shard in about(store)["shards"]] == ["shard-00001.npy", "shard-00002.npy"]
    expected = np.stack([decode(path, 16).pixels for path in kept(source)[3:]])
    rows = open_store(store).batch(torch.arange(4)).x
    train = np.setdiff1d(np.arange(6), about(store)["held_out"])
    assert torch.equal(rows, torch.from_numpy(expected[train]).float() / 127.5 - 1)


def test_a_failing_disk_is_no_broken_image(source, tmp_path, monkeypatch, whole):
    def failing(file, *size):
        if file.name == "001.png" and file.parent.name == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return decode(file, *size)

    with monkeypatch.context() as patched:
        patched.setattr(MODULE, "decode", failing)
        with pytest.raises(StoreError, match=r"b/001.png could not be read, and not by its own fault.*goes on"):
            made(source, tmp_path / "store")
    assert contents(made(source, tmp_path / "store")) == whole


def test_a_full_disk(source, tmp_path, whole):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.ExitStack() as after:
        after.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, limits[1]))
        with pytest.raises(StoreError, match=r"shard-00001.npy: the disk is full \(.*Make room.*same command"):
            made(source, tmp_path / "store")
    assert not list(Path(tmp_path / "store").glob(".*.part"))
    assert contents(made(source, tmp_path / "store")) == whole


@needs_vae
def test_a_vae_that_gives_no_numbers(source, tmp_path):
    vae = tiny_vae(tmp_path / "vae")
    from safetensors.torch import load_file, save_file

    file = vae / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["encoder.conv_in.bias"][:] = float("nan")
    save_file(weights, file)
    with pytest.raises(StoreError, match="latents that are not finite"):
        made(source, tmp_path / "store", latents=str(vae))


def test_a_name_that_is_no_text_can_be_told(source, tmp_path, capsys):
    (source / "a" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    Image.fromarray(noise(20, 20, 3)).save(source / "a" / os.fsdecode(b"\xfe.png"), "PNG")
    store = made(source, tmp_path / "store")
    print(describe(store))
    assert "a/\\udcff.png: cannot identify" in capsys.readouterr().out
    rows = [*open_store(store).files, *open_store(store, "held_out").files]
    assert sorted(rows) == [path for path in kept(source) if path.name != os.fsdecode(b"\xff.png")]


# --- held out


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 2**40), st.data())
def test_held_out_rows_are_a_fair_share_of_each_class(labels, seed, data):
    labels = np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)
    sizes = np.bincount(labels)
    most = len(labels) - len(sizes)
    count = data.draw(st.integers(0, most))
    rows = held_out_rows(labels, count, seed)
    assert len(set(rows.tolist())) == count and (np.diff(rows) > 0).all()
    taken = np.bincount(labels[rows], minlength=len(sizes))
    assert (taken < sizes).all()
    assert np.array_equal(held_out_rows(labels, count, seed), rows)
    if count < most:  # else the last of each class bends the shares
        # a threshold q takes of each class either floor(q·n) or one more, so no two classes differ by more in share
        least = (taken / sizes).max()
        assert ((taken + 1) / sizes >= np.minimum(least - 1 / sizes[np.argmax(taken / sizes)], 1) - 1e-9).all()
    with pytest.raises(ConfigError, match=f"at most {most} can go"):
        held_out_rows(labels, most + 1, seed)


def test_held_out_rows_of_equal_classes():
    labels = np.repeat(np.arange(10), 100)
    assert (np.bincount(labels[held_out_rows(labels, 200)]) == 20).all()
    assert set(np.bincount(labels[held_out_rows(labels, 205)])) == {20, 21}
    assert not np.array_equal(held_out_rows(labels, 200), held_out_rows(labels, 200, seed=1))


def test_a_store_puts_them_aside(source, tmp_path):
    store = made(source, tmp_path / "store")
    rows = held_out_rows(np.load(store / "labels.npy"), 2, seed=0)
    assert about(store)["held_out"] == rows.tolist()
    train, held_out = open_store(store), open_store(store, "held_out")
    assert (len(train), len(held_out)) == (7, 2)
    assert {*train.files} | {*held_out.files} == {*kept(source)}
