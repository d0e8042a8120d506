"""The images of a source and their order, and how a bad source is refused: in one line, before anything is written."""

import io
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from photos import image_folder, noise
from PIL import Image

from labkit.checks import ConfigError
from labkit.datasets.decode import BrokenImage, decode
from labkit.datasets.sources import Preparation, list_images


def listed(source, **settings):
    return list_images(str(source), Preparation(size=9, **settings))


def refused(source, message, **settings):
    with pytest.raises(ConfigError, match=message) as error:
        listed(source, **settings)
    assert "\n" not in str(error.value)


# --- a folder


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path):
    image_folder(tmp_path, {"b": 2, "a": 3, "B10": 1, "B9": 1})
    listing = listed(tmp_path)
    assert listing.classes == ["B10", "B9", "a", "b"]
    assert listing.labels.tolist() == [0, 1, 2, 2, 2, 3, 3]
    assert listing.names[2:5] == ["a/000.png", "a/001.png", "a/002.png"]
    assert (listing.root, listing.file(3)) == (tmp_path.resolve(), tmp_path.resolve() / "a/001.png")
    one = listed(tmp_path / "a")
    assert (list(one.classes), one.labels.tolist(), one.names[0]) == (["a"], [0, 0, 0], "000.png")


@pytest.mark.parametrize(
    ("images", "others", "message"),
    [
        ({}, [], "it holds no images"),
        ({"a": 1, "c": 1}, ["b/", "d/"], r"2 of its classes have no images \(b, d\)"),
        ({"a": 1}, ["cover.jpg"], r"1 images \(cover.jpg\) beside the folders of classes"),
        ({"train": 1}, [], "no classes; name one, such as .*/photos/train"),
        ({"train/a": 1, "val/a": 1}, [], "no classes; name one, such as .*/photos/train"),
        ({"Training": 1, "test_images": 1, "extra": 1}, [], r"splits \(Training, test_images\), no classes"),
        ({"train2017": 1, "val2017": 1, "people": 1}, [], r"splits \(train2017, val2017\), no classes"),
        ({"a": 1}, ["a/b\nc.png"], "line break"),
    ],
)
def test_folders_that_cannot_be_meant(tmp_path, images, others, message):
    root = image_folder(tmp_path / "photos", images)
    root.mkdir(exist_ok=True)
    for name in others:
        (root / name).mkdir() if name[-1] == "/" else (root / name).write_bytes(b"x")
    refused(root, message)


def test_files_that_cannot_be_meant(tmp_path):
    refused(tmp_path / "not" / "there" / "x", "there is no such file or folder")
    (tmp_path / "one.png").write_bytes(b"x")
    refused(tmp_path / "one.png", "name the folder for images in files")


# --- an .npz file


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def same_pixels(listing, images, **options):
    return all(np.array_equal(decode(listing.file(i), 9, **options).pixels, image) for i, image in enumerate(images))


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("images", "labels"), ("arr_0", "arr_1")])
def test_arrays_with_labels(tmp_path, x, y):
    images, labels = noise(5, 9, 9, 3), np.array([2, 0, 1, 1, 0], dtype=np.int32)
    listing = listed(saved(tmp_path / "a.npz", **{x: images, y: labels}))
    assert (listing.labels.tolist(), list(listing.classes)) == ([2, 0, 1, 1, 0], ["0", "1", "2"])
    assert (listing.names, listing.root, listing.name(3)) == (None, None, "row 3")
    assert same_pixels(listing, images.transpose(0, 3, 1, 2))


def test_arrays_in_other_shapes(tmp_path):
    images = noise(4, 9, 9, 3)
    first = saved(tmp_path / "a.npz", x=images.transpose(0, 3, 1, 2), y=np.array([[0], [1], [0], [1]]))
    refused(first, r"shape \(4, 3, 9, 9\).*--layout NCHW")
    listing = listed(first, layout="NCHW")
    assert same_pixels(listing, images.transpose(0, 3, 1, 2))
    assert listing.labels.tolist() == [0, 1, 0, 1]
    for grey in (images[..., 0], images[..., :1]):
        listing = listed(saved(tmp_path / "grey.npz", images=grey))
        assert listing.labels.tolist() == [0] * 4
        assert same_pixels(listing, images[:, None, :, :, 0], channels=1)


def test_the_digest_depends_on_pixels_and_labels(tmp_path):
    images, labels = noise(4, 9, 9, 3), np.array([0, 1, 0, 1])
    changed = images.copy()
    changed[3, 8, 8, 2] ^= 1
    pairs = (images, labels), (images, 1 - labels), (changed, labels)
    assert len({listed(saved(tmp_path / "a.npz", x=x, y=y)).digest for x, y in pairs}) == 3


X = np.zeros((4, 9, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X / 255}, "its images are float64; save them as uint8"),
        ({"x": X[..., :2]}, "its images have shape"),
        ({"x": np.uint8(3)}, "its images have shape"),
        ({"x": X[0, ..., 0]}, "its images have shape"),
        ({"x": X[0]}, r"\(9, 9, 3\) looks like a single image; .*x\[None\]"),
        ({"x": X[0].T}, r"\(3, 9, 9\) looks like a single image"),
        ({"x": X[0, ..., :1]}, r"\(9, 9, 1\) looks like a single image"),
        ({"x_train": X, "y_train": X}, "x, images or arr_0: it has x_train, y_train; save the images as x"),
        ({"x": X[:0]}, "no images"),
        ({"x": X, "y": np.zeros((4, 10), dtype=int)}, "4 images and 40 labels"),
        ({"x": X, "y": np.array([0, 1, np.nan, 0])}, "its labels are float64; give whole numbers"),
        ({"x": X, "y": np.array([0, -1, 1, 0])}, "its labels go from -1 to 1"),
        ({"x": X, "y": np.array([0, 10**12, 1, 0])}, "its labels go from 0 to 10{12}"),
        ({"x": X, "y": np.array([1, 2, 3, 1])}, r"1 of its classes have no images \(0\)"),
        ({"x": np.array([X, None], dtype=object)}, "cannot be read as an .npz file of plain arrays"),
    ],
)
def test_arrays_that_cannot_be_meant(tmp_path, arrays, message):
    refused(saved(tmp_path / "a.npz", **arrays), message)


def test_a_damaged_npz(tmp_path):
    whole = saved(tmp_path / "a.npz", x=noise(4, 9, 9, 3)).read_bytes()
    for data in (b"", b"no zip", whole[:500], whole.replace(b"\x93NUMPY", b"\x93NUMBY")):
        (tmp_path / "b.npz").write_bytes(data)
        refused(tmp_path / "b.npz", "cannot be read as an .npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("x.npy", b"cut")
    refused(tmp_path / "b.npz", "cannot be read as an .npz")


# --- a Hugging Face data set


@pytest.fixture
def hub(no_network):
    return pytest.importorskip("datasets", reason="needs the package datasets")


def in_columns(hub, **columns):
    """Images are given as arrays, labels of a class as (names, numbers)."""
    features, values = {}, {}
    for name, value in columns.items():
        if isinstance(value, tuple):
            features[name], values[name] = hub.ClassLabel(names=value[0]), value[1]
        elif isinstance(value[0], np.ndarray):
            features[name], values[name] = hub.Image(), [v if v is None else Image.fromarray(v) for v in value]
        else:
            features[name], values[name] = hub.Value("int64"), value
    return hub.Dataset.from_dict(values, features=hub.Features(features))


def test_a_saved_data_set(hub, tmp_path):
    images = noise(4, 9, 9, 3)
    rows = in_columns(hub, id=[7, 8, 9, 10], img=list(images), label=(["cat", "dog"], [1, 0, 0, 1]))
    rows.save_to_disk(tmp_path / "one")
    hub.DatasetDict({"train": rows, "test": rows.select([3, 0])}).save_to_disk(tmp_path / "two")
    for listing in (listed(tmp_path / "one"), listed(tmp_path / "two")):
        assert (list(listing.classes), listing.labels.tolist()) == (["cat", "dog"], [1, 0, 0, 1])
        assert (listing.names, listing.root) == (None, None)
        assert same_pixels(listing, images.transpose(0, 3, 1, 2))
        assert [Path(file).suffix for file in listing.stored_in(range(4))] == [".arrow"]  # replaced with the rest
    refused(tmp_path / "two", "1 of its classes have no images", split="test")
    refused(tmp_path / "two", "split = 'val' .*train, test", split="val")


def test_columns_can_be_named(hub, tmp_path):
    left, right = noise(2, 3, 9, 9, 3)
    kinds = dict(fine=(["x", "y", "z"], [0, 1, 2]), coarse=(["a"], [0, 0, 0]), number=[1, 0, 1])
    folder = tmp_path / "s"
    in_columns(hub, left=list(left), right=list(right), **kinds).save_to_disk(folder)
    refused(folder, "image_column = None .*left, right; name one")
    refused(folder, "image_column = 'fine' ", image_column="fine")
    refused(folder, "label_column = None .*fine, coarse; name one", image_column="left")
    refused(folder, "label_column = 'colour' ", image_column="left", label_column="colour")
    listing = listed(folder, image_column="right", label_column="number")
    assert (listing.labels.tolist(), list(listing.classes)) == ([1, 0, 1], ["0", "1"])
    assert same_pixels(listing, right.transpose(0, 3, 1, 2))


def test_a_data_set_without_labels_or_images(hub, tmp_path):
    in_columns(hub, img=[noise(9, 9, 3), None]).save_to_disk(tmp_path / "a")
    listing = listed(tmp_path / "a")
    assert (listing.labels.tolist(), list(listing.classes)) == ([0, 0], ["all"])
    with pytest.raises(BrokenImage, match="no image in this row"):
        listing.file(1)
    in_columns(hub, n=[1, 2]).save_to_disk(tmp_path / "b")
    refused(tmp_path / "b", "none of its columns holds images: n")


def test_images_that_lie_outside(hub, tmp_path):
    picture = image_folder(tmp_path, {"a": 1}) / "a" / "000.png"
    rows = hub.Dataset.from_dict({"image": [str(picture)]}, features=hub.Features({"image": hub.Image()}))
    rows.save_to_disk(tmp_path / "s")
    file = listed(tmp_path / "s").file(0)
    assert isinstance(file, str | io.BytesIO)
    assert np.array_equal(decode(file, 8).pixels, decode(picture, 8).pixels)


def test_a_data_set_that_cannot_be_loaded(hub, tmp_path, monkeypatch):
    refused("nobody/nothing", "neither a folder of images nor an .npz file .*Hugging Face")
    (tmp_path / "state.json").write_text("{")
    refused(tmp_path, "cannot be loaded as a Hugging Face data set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("nobody/nothing", re.escape("`pip install datasets`"))
