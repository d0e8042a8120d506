"""References: ADM's files, folders, stores, embedded sets give the images they hold, and refuse what does not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from labkit import datasets
from labkit.checks import ConfigError
from labkit.datasets import Preparation, prepare
from labkit.datasets.sources import list_images
from labkit.evaluation.references import open_reference
from labkit.ops import to_bytes

CHANCE = np.random.default_rng(0)
GREY, COLOUR = (1, 8, 8), (3, 8, 8)


def some(*shape):
    return CHANCE.integers(0, 256, shape, dtype=np.uint8)


def all_of(reference):
    return reference.images().numpy()


def test_an_embedded_set_is_its_held_out_images_and_has_others_beside():
    reference = open_reference("digits", GREY)
    for part, split in ((reference, "held_out"), (reference.second, "train")):
        images = datasets.digits(split)
        assert (part.name, part.count) == (f"digits, {split}", len(images))
        assert np.array_equal(all_of(part), to_bytes(images.x).numpy())
    assert reference.digest != reference.second.digest and reference.statistics is None
    rows = torch.tensor([5, 2, 2])
    assert torch.equal(next(reference.batches(9, rows)), to_bytes(datasets.digits("held_out").x[rows]))
    with pytest.raises(ConfigError, match="its images are 1×8×8, and those to be measured 3×32×32"):
        open_reference("digits", (3, 32, 32))


def test_adms_file_of_images_and_statistics(tmp_path):
    images, mean, covariance = some(5, 8, 8, 3), CHANCE.normal(size=4), np.eye(4, dtype=np.float32)
    np.savez(tmp_path / "a.npz", arr_0=images, mu=mean, sigma=covariance, mu_s=mean)
    reference = open_reference(str(tmp_path / "a.npz"), COLOUR)
    assert np.array_equal(all_of(reference), images.transpose(0, 3, 1, 2)) and reference.count == 5
    np.testing.assert_array_equal(reference.statistics[0], mean)
    assert reference.statistics[1].dtype == torch.float64 and reference.second is None
    np.savez(tmp_path / "b.npz", mu=mean, sigma=covariance)
    alone = open_reference(str(tmp_path / "b.npz"), COLOUR)
    assert (alone.count, alone.read) == (0, None) and alone.digest != reference.digest


def test_grey_images_may_have_three_equal_channels(tmp_path):
    grey, path = some(4, 8, 8), tmp_path / "a.npz"
    for images in (grey, grey[..., None], np.stack([grey] * 3, axis=-1)):
        np.savez(path, arr_0=images)
        assert np.array_equal(all_of(open_reference(str(path), GREY)), grey[:, None])
    np.savez(path, arr_0=some(4, 8, 8, 3))
    with pytest.raises(ConfigError, match="its images are 3×8×8"):
        open_reference(str(path), GREY)


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"z": np.zeros(3)}, "it has z, and neither images .* nor mu and sigma"),
        ({"mu": np.zeros(3)}, "it has mu, and neither images .* nor mu and sigma"),
        ({"arr_0": np.zeros((4, 8, 8, 3))}, "its images are float64; save them as uint8"),
        ({"arr_0": np.zeros((0, 8, 8, 3), np.uint8)}, "it holds no images"),
        ({"arr_0": np.zeros((4, 8), np.uint8)}, r"shape \(4, 8\); give \(n, h, w, 3\)"),
        ({"x": np.zeros((8, 8, 3), np.uint8)}, "looks like a single image"),
        ({"images": np.zeros((5, 8, 8, 4), np.uint8)}, "its images are 4×8×8"),
        ({"mu": np.zeros(3), "sigma": np.zeros((4, 4))}, r"give \(d,\) and \(d, d\)"),
        ({"mu": np.zeros(3, int), "sigma": np.zeros((3, 3))}, "mu is int64"),
        ({"arr_0": np.array([{}])}, "cannot be read as an .npz file of plain arrays"),
    ],
)
def test_files_that_are_no_reference(tmp_path, arrays, fault):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=f"reference = .*a.npz.*{fault}"):
        open_reference(str(tmp_path / "a.npz"), COLOUR)


def test_torn_and_foreign_files(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=some(50, 8, 8, 3))
    for content in ((tmp_path / "a.npz").read_bytes()[:2000], b"hello", b""):
        (tmp_path / "torn.npz").write_bytes(content)
        with pytest.raises(ConfigError, match=r"torn.npz' cannot be read as an .npz file"):
            open_reference(str(tmp_path / "torn.npz"), COLOUR)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"give an \.npz file, a folder of images, a store, or one of .*emoji"):
        open_reference(str(tmp_path / "a.txt"), COLOUR)
    with pytest.raises(ConfigError, match="there is no such file, folder or data set"):
        open_reference("nowhere", COLOUR)


@pytest.mark.parametrize("name", ["a.npz", "A.NPZ", "a.npy", "A.Npy"])
def test_an_archive_that_prepare_takes_is_a_reference_too(tmp_path, name):
    images = some(5, 8, 8, 3)
    with open(tmp_path / name, "wb") as file:  # by its name, numpy would add a suffix
        np.savez(file, x=images, y=np.zeros(5, int)) if name.lower().endswith("z") else np.save(file, images)
    assert np.array_equal(all_of(open_reference(str(tmp_path / name), COLOUR)), images.transpose(0, 3, 1, 2))
    assert list_images(str(tmp_path / name), Preparation(size=8)).labels.tolist() == [0] * 5


def test_a_folder_of_images_is_cut_to_size(tmp_path):
    folder = tmp_path / "some"
    (folder / "more").mkdir(parents=True)
    exact, large = some(8, 8, 3), some(20, 32, 3)
    Image.fromarray(exact).save(folder / "a.png")
    Image.fromarray(large).save(folder / "more" / "b.png")
    (folder / "notes.txt").write_text("no image")
    reference = open_reference(str(folder), COLOUR)
    assert reference.count == 2 and np.array_equal(all_of(reference)[0], exact.transpose(2, 0, 1))
    Image.fromarray(some(8, 8, 3)).save(folder / "a.png")
    assert open_reference(str(folder), COLOUR).digest != reference.digest


def test_folders_that_cannot_serve(tmp_path):
    with pytest.raises(ConfigError, match="holds no images"):
        open_reference(str(tmp_path), COLOUR)
    Image.fromarray(some(6, 9, 3)).save(tmp_path / "small.png")
    with pytest.raises(ConfigError, match=r"small.png' cannot be used: it is smaller than 8×8"):
        all_of(open_reference(str(tmp_path), COLOUR))
    (tmp_path / "small.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"small.png cannot be read \(cannot identify"):
        all_of(open_reference(str(tmp_path), COLOUR))


def test_dark_images_of_16_bits_are_refused_and_a_store_of_them_is_the_way(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(CHANCE.integers(0, 1024, (8, 8)).astype(np.uint16)).save(folder / f"{i}.png")
    with pytest.raises(ConfigError, match=r"scans' cannot .*of 65535, or 10 bits; .*`labkit prepare --bits"):
        all_of(open_reference(str(folder), GREY))
    store = prepare(folder, tmp_path / "store", size=8, channels=1, bits=10, held_out=3, progress=False)
    assert all_of(open_reference(str(store), GREY)).max() > 200


def test_a_store_is_its_held_out_images(tmp_path):
    np.savez(tmp_path / "a.npz", x=some(9, 8, 8, 3))
    store = prepare(tmp_path / "a.npz", tmp_path / "store", size=8, held_out=4, progress=False)
    reference = open_reference(str(store), COLOUR)
    assert (reference.count, reference.second.count) == (4, 5)
    held_out, train = (all_of(part).reshape(part.count, -1) for part in (reference, reference.second))
    assert not (held_out[:, None] == train[None]).all(axis=2).any() and reference.digest != reference.second.digest
    none = prepare(tmp_path / "a.npz", tmp_path / "none", size=8, progress=False)
    whole = open_reference(str(none), COLOUR)
    assert (whole.count, whole.second) == (9, None) and "train (no images are held out" in whole.name
