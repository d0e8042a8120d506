"""`labkit evaluate` and `labkit sample --vae` as a person types them, on the way to ImageNet in miniature."""

import functools

import numpy as np
import pytest
import torch
from forked import interrupted
from photos import image_folder, tiny_vae
from PIL import Image

from labkit import Run
from labkit.cli import main
from labkit.datasets import Codec
from labkit.metrics import METRICS

TINY = ["--model", "SiT-Nano/4", "--batch-size", "4", "--log-every", "1", "--save-every", "1"]


@pytest.fixture
def run(tmp_path, capsys):
    assert main(["train", "digits", *TINY, "--steps", "2", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_evaluate_export_and_again(run, tmp_path, capsys):
    words = ["evaluate", str(run), "--count", "20", "--steps", "1", "--npz", str(tmp_path / "samples.npz")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "20 samples by heun with 1 step" in printed and "reference digits, held_out, 500 images" in printed
    assert "Fréchet distance" in printed and "precision" in printed and "real against real" in printed
    [stored] = (run / "evaluations").glob("*.json")
    assert str(stored) in printed
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive["arr_0"].shape == (20, 8, 8, 3) and archive["arr_1"].tolist() == [n % 10 for n in range(20)]
    before = stored.stat().st_mtime_ns
    assert main(words) == 0 and capsys.readouterr().out == printed
    assert stored.stat().st_mtime_ns == before
    published = ["--protocol", "published", "--count", "20", "--guidance", "1.5", "--rtol", "0.1"]
    assert main(["evaluate", str(run), *published]) == 0
    assert "20 samples by dopri5, guidance 1.5 on three channels" in capsys.readouterr().out
    # what was written is a reference in its turn
    against = ["--reference", str(tmp_path / "samples.npz"), "--features", "digits"]
    assert main(["evaluate", str(run), "--count", "20", "--steps", "1", *against]) == 0
    figures = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert float(next(line[2] for line in figures if line[:2] == ["Fréchet", "distance"])) < 1e-3


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["--reference", "nowhere.npz"], "there is no such file, folder or data set"),
        (["--npz", "."], "npz = '.' cannot be used: it is a folder; name a file in it"),
        (["--npz", "samples.png"], "npz = 'samples.png' cannot be used: a .npz file is written"),
    ],
)
def test_mistakes_are_told_in_one_line(run, capsys, words, printed):
    assert main(["evaluate", str(run), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("labkit: ") and printed in line


def test_ctrl_c_keeps_what_is_drawn_and_the_same_command_goes_on(run, tmp_path):
    words = ["evaluate", str(run), "--count", "40", "--steps", "20", "--shard", "2"]
    drawn = functools.partial(run.glob, "evaluations/*/samples-*.npy")
    status, out, err = interrupted(*words, folder=tmp_path, when=lambda: len(list(drawn())) > 1)
    assert status == 130, err
    assert "Go on with the same command:  labkit evaluate" in out and "Traceback" not in err
    kept = {path: path.stat().st_mtime_ns for path in drawn()}
    assert 2 <= len(kept) < 20
    assert main(words) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert len(list(drawn())) == 20


def test_from_a_folder_of_images_to_figures(tmp_path, capsys):
    """prepare, train, sample, evaluate: ImageNet's four commands, on 17 images, a VAE of chance and a small model."""
    pytest.importorskip("diffusers")
    photos, vae = str(image_folder(tmp_path / "photos", {"a": 9, "b": 8}, side=40)), str(tiny_vae(tmp_path / "vae"))
    store, out = str(tmp_path / "store"), str(tmp_path / "run")
    assert main(["prepare", photos, "--size", "32", "--latents", vae, "--held-out", "6", "--out", store]) == 0
    small = ["--dataset", store, "--preset", "paper", *TINY, "--model", "SiT-Nano/2", "--steps", "2"]
    engine = ["--engine.precision", "float32", "--engine.no-compile", "--dispersive.chunk", "4"]
    assert main(["train", "imagenet256", *small, *engine, "--out", out]) == 0
    sheet = str(tmp_path / "sheet.png")
    assert main(["sample", out, "--n", "3", "--steps", "2", "--vae", vae, "--out", sheet]) == 0
    with Image.open(sheet) as image:
        assert image.size == (4 * 10 * 34, 4 * 34)
        drawn = np.asarray(image)[4:132:4, 4:132:4]
    decoded = Codec(vae).decode(Run.open(out).sample(3, steps=2).x)[0]
    expected = ((decoded.permute(1, 2, 0) + 1) * 127.5).round()
    torch.testing.assert_close(torch.from_numpy(drawn.copy()).float(), expected, atol=1, rtol=0)
    capsys.readouterr()
    words = ["--count", "8", "--steps", "2", "--features", "pixels", "--vae", vae]
    for reference, count in (([], 6), (["--reference", photos], 17)):
        assert main(["evaluate", out, *words, *reference]) == 0
        assert f"{count} images; features pixels" in capsys.readouterr().out
    assert main(["sample", out, "--n", "2", "--steps", "1", "--vae", photos]) == 2
    assert photos in capsys.readouterr().err


def test_emoji_from_the_first_step_to_its_figures(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "emoji", "--steps", "1", "--batch-size", "4", "--out", out]) == 0
    assert main(["train", "--resume", out, "--steps", "2"]) == 0
    assert "from step 1 to 2" in capsys.readouterr().out
    assert main(["sample", out, "--n", "3", "--steps", "1"]) == 0
    with Image.open(next((tmp_path / "run" / "samples").glob("*heun1*.png"))) as image:
        assert image.size == (4 * 10 * 34, 4 * 34)
    assert main(["evaluate", out, "--count", "8", "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "reference emoji, held_out, 756 images; features pixels" in printed and "recall" in printed


@pytest.mark.slow
def test_letters_are_measured_by_their_classifier(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "letters", "--steps", "1", "--batch-size", "4", "--out", out]) == 0
    assert main(["evaluate", out, "--count", "26", "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "reference letters, held_out, 2,912 images; features letters" in printed
    for metric in ("frechet", "frechet_pixels", "kernel_distance", "recall", "agreement", "memorisation"):
        assert f"\n{METRICS[metric].title} " in printed
