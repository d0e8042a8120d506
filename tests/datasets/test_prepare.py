"""A store holds its images, whoever makes it and however often that is cut short; what does not fit is refused."""

import contextlib
import errno
import importlib
import json
import os
import resource
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photos import contents, image_folder, killed_at, noise, prepared_by_ranks, tiny_vae
from PIL import Image
from safetensors.torch import load_file, save_file

from labkit.checks import ConfigError
from labkit.datasets import Codec, StoreError, describe, open_store, prepare
from labkit.datasets.decode import decode
from labkit.datasets.prepare import held_out_rows
from labkit.disk import DiskError

MODULE = importlib.import_module("labkit.datasets.prepare")  # the package's attribute of that name is the function


@pytest.fixture
def source(tmp_path):
    """Eleven images of two classes, the fourth and the last of them broken."""
    root = image_folder(tmp_path / "photos", {"a": 6, "b": 5})
    (root / "a" / "003.png").write_bytes(b"no image")
    last = root / "b" / "004.png"
    last.write_bytes(last.read_bytes()[:300])
    return root


@pytest.fixture
def vae(tmp_path):
    return str(tiny_vae(tmp_path / "vae"))


SMALL = dict(size=16, shard=4, held_out=2)


def prepared(source, out, **settings):
    return prepare(source, out, **{**SMALL, "progress": False, **settings})


def about(store):
    return json.loads((store / "store.json").read_text())


def rows_of(store):
    return np.concatenate([np.load(path) for path in sorted(store.glob("shard-*.npy"))])


def kept(source):
    return [path for path in sorted(source.rglob("*.png")) if path.name != "003.png" or path.parent.name != "a"][:-1]


def squares(paths):
    return np.stack([decode(path, 16).pixels for path in paths])


def refused(message, error=StoreError):
    return pytest.raises(error, match=message)


def test_every_row_is_its_image_and_the_record_is_true(source, tmp_path):
    store = prepared(source, tmp_path / "store")
    assert np.array_equal(rows_of(store), squares(kept(source)))
    assert np.load(store / "labels.npy").tolist() == [0] * 5 + [1] * 4
    assert (store / "files.txt").read_text().split("\n") == [str(p.relative_to(source)) for p in kept(source)]
    record = about(store)
    assert [shard["count"] for shard in record["shards"]] == [3, 4, 2]
    expected = dict(count=9, classes=["a", "b"], root=str(source), shape=[3, 16, 16], vae=None)
    assert record.items() >= expected.items()
    assert [entry["path"] for entry in record["skipped"]] == ["a/003.png", "b/004.png"]
    assert "cannot identify" in record["skipped"][0]["why"] and "truncated" in record["skipped"][1]["why"]
    assert record["machine"]["torch"] == torch.__version__
    assert record["held_out"] == held_out_rows(np.load(store / "labels.npy"), 2, seed=0).tolist()


def test_a_store_in_words(source, tmp_path):
    text = describe(prepared(source, tmp_path / "store", size=24))
    assert "9 images of 3×24×24, in 2 classes (a, b), 2 of them held out" in text
    for words in ("9 images had to be enlarged", "2 images could", "a/003.png: cannot identify"):
        assert words in text
    (source / "a" / "003.png").unlink()
    text = describe(prepared(source / "a", tmp_path / "plain", held_out=0))
    assert text == f"{tmp_path / 'plain'} holds 5 images of 3×16×16, in 1 class (a)."
    (source / "a" / "x.heic").touch()
    assert "\nNot taken: .heic files (1: x.heic)." in describe(prepared(source / "a", tmp_path / "plain", held_out=0))


@pytest.mark.parametrize("flips", [True, False])
def test_latents_are_the_posterior_of_each_image_and_of_its_mirror_image(source, tmp_path, vae, flips):
    store = prepared(source, tmp_path / "store", latents=vae, flips=flips, batch=3)
    latents = torch.from_numpy(rows_of(store))
    assert (latents.dtype, latents.shape) == (torch.float16, (9, 1 + flips, 2, 4, 2, 2))
    x, codec = torch.from_numpy(squares(kept(source))).float() / 127.5 - 1, Codec(vae)
    for view in range(1 + flips):
        expected = torch.stack(codec.encode(x.flip(-1) if view else x), dim=1)
        torch.testing.assert_close(latents[:, view].float(), expected, rtol=2e-3, atol=1e-5)
    record = about(store)
    assert record.items() >= dict(scale=0.18215, shape=[4, 2, 2], size=16, flips=flips).items()
    assert record["vae"]["digest"] == codec.digest and record["vae"]["name"] == vae


# --- cut short, shared out, made again


@pytest.fixture
def whole(source, tmp_path):
    return contents(prepared(source, tmp_path / "whole"))


@pytest.mark.parametrize(
    ("call", "moment"), [(1, "before"), *((call, "half-way") for call in (1, 2, 3, 8, 9, 10)), (10, "after")]
)
def test_a_killed_run_goes_on_to_the_same_store(source, tmp_path, whole, call, moment):
    """At one of its ten writes: the claim, the first of three shards, its record; two tables, the end."""
    out = tmp_path / "store"
    killed_at(call, moment, source, out, **SMALL)
    if (call, moment) != (10, "after"):
        with refused(r"not complete.*`labkit prepare`|is not a store"):
            open_store(out)
    assert contents(prepared(source, out)) == whole


def test_finished_shards_are_not_made_again(source, tmp_path, monkeypatch, capsys):
    out, decoded = tmp_path / "store", []
    killed_at(5, "after", source, out, **SMALL)
    monkeypatch.setattr(MODULE, "decode", lambda file, *size: decoded.append(file.name) or decode(file, *size))
    prepared(source, out, progress=True)
    assert sorted(decoded) == ["002.png", "003.png", "003.png", "004.png"]  # those of the third shard and a broken one
    bar = capsys.readouterr().err
    assert "8/11" in bar and "11/11" in bar and "image/s" in bar
    decoded.clear()
    prepared(source, out)
    assert sorted(decoded) == ["003.png", "004.png"] and not capsys.readouterr().err  # might they be repaired by now?


def test_a_shard_that_is_lost_or_cut_is_made_again(source, tmp_path, whole):
    out = prepared(source, tmp_path / "store")
    (out / "shard-00001.npy").unlink()
    (out / "shard-00002.npy").write_bytes(b"cut")
    (out / "shard-00000.json").write_text("{")
    (out / "labels.npy").unlink()
    assert contents(prepared(source, out)) == whole


@pytest.mark.parametrize("stamped", [True, False], ids=["", "by an earlier version"])
def test_what_was_repaired_or_replaced_is_read_again(source, tmp_path, stamped, capsys):
    out = prepared(source, tmp_path / "store")
    old = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.npy")}
    shutil.copy(source / "a" / "000.png", source / "a" / "003.png")  # was broken
    if stamped:  # of the same size, and not newer than the store
        replaced = source / "b" / "001.png"
        times = replaced.stat()
        Image.fromarray(noise(20, 20, 3)).save(replaced, compress_level=0)
        os.utime(replaced, ns=(times.st_atime_ns, times.st_mtime_ns - 10**10))
    else:
        for path in out.glob("shard-*.json"):
            record = json.loads(path.read_text())
            record.pop("stamp")
            path.write_text(json.dumps(record))
    again = prepared(source, out, progress=True)
    assert f"{1 + stamped} of 3 shards hold images that were repaired or replaced since" in capsys.readouterr().out
    assert contents(again).keys() == contents(whole := prepared(source, tmp_path / "whole")).keys()
    assert np.array_equal(rows_of(again), rows_of(whole)) and about(again)["count"] == 10
    assert [path.stat().st_mtime_ns == time for path, time in sorted(old.items())] == [False, not stamped, True]
    (source / "a" / "000.png").write_bytes(b"x")  # and now broken
    assert about(prepared(source, out))["count"] == 9


def test_images_that_use_few_of_their_16_bits_are_refused_until_the_number_is_known(tmp_path):
    deep = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
    (tmp_path / "p").mkdir()
    Image.fromarray(deep).save(tmp_path / "p" / "0.png")
    Image.fromarray(deep // 4).save(tmp_path / "p" / "1.png")
    settings = dict(held_out=0, channels=1)
    with refused("^bits = None .*the brightest value .* is 4095 of 65535, or 12 bits.*--bits", ConfigError):
        prepared(tmp_path / "p", tmp_path / "store", **settings)
    taken = prepared(tmp_path / "p", tmp_path / "store", bits=16, **settings)  # no shard was made
    assert rows_of(taken).max() == 16
    stretched = prepared(tmp_path / "p", tmp_path / "other", bits=12, **settings)
    assert np.array_equal(rows_of(stretched)[0, 0], np.round(deep / (4095 / 255)))
    for bits, out, message in ((12, taken, "bits: None → 12"), (16, stretched, "bits: 12 → None")):
        with refused(message):
            prepared(tmp_path / "p", out, bits=bits, **settings)
    narrow = prepared(tmp_path / "p", tmp_path / "narrow", bits=10, **settings)
    [skipped] = about(narrow)["skipped"]
    assert skipped["why"] == "its brightest value is 4095, and 10 bits hold up to 1023"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_large_images_are_skipped_until_they_are_trusted(source, tmp_path, monkeypatch, vae):
    Image.fromarray(noise(60, 60, 3)).save(source / "a" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    out = prepared(source, tmp_path / "store", latents=vae)
    assert about(out)["skipped"][1]["why"] == "it has 3600 pixels; if you trust it, prepare with --max-pixels 3600"
    prepared(source, out, latents=vae, max_pixels=3600)
    assert [entry["path"] for entry in about(out)["skipped"]] == ["a/003.png", "b/004.png"]
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert open_store(out).pixels(torch.arange(8)).shape == (8, 3, 16, 16)  # a teacher needs no permission again


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 1, 2, 0]])
def test_torchruns_ranks_share_the_shards(source, tmp_path, whole, order, monkeypatch):
    out = tmp_path / "store"
    for name, value in {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "test"}.items():
        monkeypatch.setenv(name, value)
    for rank in order:
        assert not out.exists() or (not about(out)["complete"] and "other processes" in describe(out))
        monkeypatch.setenv("RANK", str(rank))
        prepared(source, out)
        assert (out / f"shard-{rank:05d}.npy").exists()
    assert contents(out) == whole
    for rank, ranks in ((2, 2), (-1, 2), (0, 0)):
        with refused("^rank", ConfigError):
            prepared(source, out, rank=rank, ranks=ranks)


def test_ranks_at_the_same_time(source, tmp_path, whole):
    prepared_by_ranks(4, source, tmp_path / "store", **SMALL)  # one more than there are shards
    assert contents(tmp_path / "store") == whole


# --- what does not fit


def test_other_settings_or_images_are_refused_by_name(source, tmp_path):
    out = prepared(source, tmp_path / "store")
    before = contents(out)
    assert contents(prepared(source, out, batch=1)) == before  # it changes the speed alone
    for changed, message in [
        ({"size": 8}, "size: 16 → 8"),
        ({"flips": False}, "flips: True → False"),
        ({"held_out": 3, "seed": 1}, "held_out: 2 → 3; seed: 0 → 1"),
        ({"shard": 5}, "shard: 4 → 5"),
    ]:
        with refused(rf"other settings \({message}\); choose another folder"):
            prepared(source, out, **changed)
    shutil.copytree(source, tmp_path / "copy")
    with refused(r"other settings \(source: "):
        prepared(tmp_path / "copy", out)
    shutil.copy(source / "a" / "000.png", source / "a" / "more.png")
    with refused(r"photos holds other images than .* \(1 added: a/more.png\). That store can be used as it is"):
        prepared(source, out)
    (source / "b" / "000.png").rename(source / "b" / "renamed.png")
    with refused(r"2 added: a/more.png, 1 gone: b/000.png"):
        prepared(source, out)
    assert contents(out) == before
    half = tmp_path / "half"
    prepared(source, half, rank=0, ranks=2)
    (source / "a" / "more.png").unlink()
    with refused(r"half was begun \(12 images then, 11 now\). That store goes on with the first ones; .*another"):
        prepared(source, half)


def test_another_vae_is_refused(source, tmp_path, vae):
    out = prepared(source, tmp_path / "store", latents=vae)
    torch.manual_seed(1)
    with refused("latents: '"):
        prepared(source, out, latents=str(tiny_vae(tmp_path / "other")))
    shutil.copytree(vae, tmp_path / "moved")
    prepared(source, out, latents=str(tmp_path / "moved"))  # the same weights


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 16.0}, "^size = 16.0 "),
        ({"shard": 0}, "^shard = 0 "),
        ({"batch": -1}, "^batch = -1 "),
        ({"channels": 2}, "^channels = 2 "),
        ({"flips": "no"}, "^flips = 'no' "),
        ({"seed": -1}, "^seed = -1 "),
        ({"layout": "CHW"}, "^layout = 'CHW' "),
        ({"bits": 7}, "^bits = 7 "),
        ({"bits": 17}, "^bits = 17 "),
        ({"max_pixels": 0}, "^max_pixels = 0 "),
        ({"held_out": -1}, "^held_out = -1 "),
        ({"held_out": 10}, "^held_out = 10 .*at most 9"),
        ({"channels": 1, "latents": "x"}, "^channels = 1 .*VAE"),
        ({"size": 20, "latents": "vae"}, "^size = 20 .*by 8"),
    ],
)
def test_bad_settings_leave_nothing_behind(source, tmp_path, settings, message, request, unchecked):
    if settings.get("latents") == "vae":
        settings = settings | {"latents": request.getfixturevalue("vae")}
    with refused(message, ConfigError):
        prepared(source, tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


def test_folders_that_are_taken(source, tmp_path):
    (tmp_path / "file").write_text("x")
    for name, file, text in (("full", "thesis.tex", "x"), ("old", "store.json", '{"format": "labkit-store-0"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    for name, message in {"file": "not a store", "full": "not a store; choose", "old": "'labkit-store-0'"}.items():
        with refused(message):
            prepared(source, tmp_path / name)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    for place in (source, source / "a" / ".." / "store"):
        with refused("lies in the folder of images", ConfigError):
            prepared(source, place)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").write_text("x")
    prepared(source, tmp_path / "empty")


def test_a_class_whose_images_are_all_broken(source, tmp_path):
    for path in (source / "b").iterdir():
        path.write_bytes(b"x")
    with refused(r"class 'b' .*b/000.png: cannot identify.*Repair or replace .*; the same command"):
        prepared(source, tmp_path / "store", held_out=0)
    with refused("is not complete"):
        open_store(tmp_path / "store")
    shutil.copy(source / "a" / "000.png", source / "b" / "000.png")
    assert about(prepared(source, tmp_path / "store", held_out=0))["count"] == 6


def test_a_whole_shard_may_be_broken(source, tmp_path):
    for number in range(4):
        (source / "a" / f"{number:03d}.png").write_bytes(b"x")
    store = prepared(source, tmp_path / "store")
    assert [shard["file"] for shard in about(store)["shards"]] == ["shard-00001.npy", "shard-00002.npy"]
    train = np.setdiff1d(np.arange(6), about(store)["held_out"])
    expected = torch.from_numpy(squares(kept(source)[3:])[train]).float() / 127.5 - 1
    assert torch.equal(open_store(store).batch(torch.arange(4)).x, expected)


@pytest.mark.parametrize(("code", "words"), [(errno.EIO, "disk"), (errno.EMFILE, "ulimit -n")])
def test_a_failing_disk_does_not_count_as_a_broken_image(source, tmp_path, monkeypatch, whole, code, words):
    def failing(file, *size):
        if file.name == "001.png" and file.parent.name == "b":
            raise OSError(code, os.strerror(code))
        return decode(file, *size)

    with monkeypatch.context() as patched:
        patched.setattr(MODULE, "decode", failing)
        with refused(rf"b/001.png could not be read .*{words}.*goes on"):
            prepared(source, tmp_path / "store")
    assert contents(prepared(source, tmp_path / "store")) == whole


def test_a_full_disk(source, tmp_path, whole):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.ExitStack() as after:
        after.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, limits[1]))
        with refused(r"shard-00001.npy: the disk is full \(.*make room.*same command", DiskError):
            prepared(source, tmp_path / "store")
    assert not list((tmp_path / "store").glob(".*.part"))
    assert contents(prepared(source, tmp_path / "store")) == whole


def test_a_vae_that_gives_no_numbers(source, tmp_path, vae):
    file = f"{vae}/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["encoder.conv_in.bias"][:] = float("nan")
    save_file(weights, file)
    with refused("not finite"):
        prepared(source, tmp_path / "store", latents=vae)


def test_names_that_are_no_valid_text(source, tmp_path, capsys):
    (source / "a" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    Image.fromarray(noise(20, 20, 3)).save(source / "a" / os.fsdecode(b"\xfe.png"), "PNG")
    store = prepared(source, tmp_path / "store")
    print(describe(store))
    assert "a/\\udcff.png: cannot identify" in capsys.readouterr().out
    train, held_out = open_store(store), open_store(store, "held_out")
    assert (len(train), len(held_out)) == (8, 2)
    rows = sorted([*train.files, *held_out.files])
    assert rows == [path for path in kept(source) if path.name != os.fsdecode(b"\xff.png")]


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
    if count < most:  # else the last image of each class bends the shares
        # a threshold q takes of each class either floor(q·n) or one more, so no two classes differ by more in share
        least = (taken / sizes).max()
        assert ((taken + 1) / sizes >= np.minimum(least - 1 / sizes[np.argmax(taken / sizes)], 1) - 1e-9).all()
    with refused(f"at most {most}", ConfigError):
        held_out_rows(labels, most + 1, seed)


def test_held_out_rows_depend_on_the_seed():
    labels = np.repeat(np.arange(10), 100)
    assert not np.array_equal(held_out_rows(labels, 200), held_out_rows(labels, 200, seed=1))
