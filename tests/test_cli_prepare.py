"""`labkit prepare` as a person types it."""

import json

import numpy as np
import pytest
from forked import interrupted
from photos import image_folder

from labkit.cli import main
from labkit.datasets import open_store


@pytest.fixture
def photos(tmp_path):
    return image_folder(tmp_path / "photos", {"a": 5, "b": 5})


def test_prepare_verify_train_and_again(photos, tmp_path, capsys):
    out = str(tmp_path / "store")
    (photos / "a" / "broken.jpg").write_bytes(b"x")
    words = ["prepare", str(photos), "--size", "16", "--held-out", "3", "--no-flips", "--shard", "4", "--out", out]
    for _ in range(2):
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert f"{out} holds 10 images of 3×16×16, in 2 classes (a, b), 3 of them held out." in printed
        assert "1 image could not be used" in printed and "a/broken.jpg: cannot identify image file" in printed
    assert main(["prepare", "--verify", out]) == 0
    assert f"10 images in {out}, all as they were written." in capsys.readouterr().out
    assert (len(open_store(out)), len(open_store(out, "held_out")), open_store(out).augments) == (7, 3, False)
    train = ["train", "digits", "--dataset", out, "--batch-size", "4", "--steps", "1", "--out", str(tmp_path / "run")]
    assert main(train) == 0
    assert f"on {out}" in capsys.readouterr().out


def test_every_setting_can_be_typed(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 1, 8, 8), np.uint8), y=np.array([0, 1, 0, 1]))
    words = "--size 8 --layout NCHW --channels 1 --held-out 1 --seed 5 --shard 2 --batch 1 --latents None --flips"
    assert main(["prepare", str(tmp_path / "a.npz"), *words.split(), "--out", str(tmp_path / "store")]) == 0
    wanted = {"layout": "NCHW", "channels": 1, "held_out": 1, "seed": 5, "shard": 2, "latents": None, "flips": True}
    settings = json.loads((tmp_path / "store" / "store.json").read_text())["settings"]
    assert {name: settings[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    "words, printed",
    [
        ("photos --size 0 --out o", "size = 0"),
        ("photos --size 8 --out photos/a/000.png", "it lies in the folder of images"),
        ("photos --size 8 --out o --flips false", "'false' cannot be used: write --flips for yes, --no-flips for no"),
        ("photos --size 8 --out o --flips=No", "flips = 'No' cannot be used"),
        ("--verify photos", "photos is not a store"),
        ("--verify=nowhere", "nowhere is not a store"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(words, printed, photos, capsys, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert main(["prepare", *words.split()]) == 2
    streams = capsys.readouterr()
    assert printed in " ".join((streams.err + streams.out).split()) and "Traceback" not in streams.err
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


def test_ctrl_c_says_how_to_go_on(photos, tmp_path, capsys):
    out = tmp_path / "store"
    for i in range(400):
        (photos / "b" / f"more{i}.png").write_bytes((photos / "b" / "000.png").read_bytes())
    words = ["prepare", str(photos), "--size", "256", "--shard", "4", "--out", str(out)]
    status, printed, errors = interrupted(*words, folder=tmp_path, when=(out / "shard-00001.json").exists)
    assert status == 130 and "Traceback" not in errors
    assert f"Go on with the same command:  labkit {' '.join(words)}" in printed
    assert main(["prepare", "--verify", str(out)]) == 2
    assert "not complete" in capsys.readouterr().err
    assert main(words) == 0
    assert main(["prepare", "--verify", str(out)]) == 0
