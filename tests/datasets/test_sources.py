"""What a source gives, in which order, and how a bad one is refused: in one sentence, before anything is written."""

import contextlib
import io
import os
import re
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from photos import image_folder, noise
from PIL import Image

from labkit.checks import ConfigError
from labkit.datasets.decode import BrokenImage, decode
from labkit.datasets.sources import list_images


def listed(source, **settings):
    return list_images(str(source), **settings)


def refused(source, told, **settings):
    with pytest.raises(ConfigError, match=told) as error:
        listed(source, **settings)
    assert "\n" not in str(error.value)


# --- a folder


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path):
    image_folder(tmp_path, {"b": 2, "a": 3, "B10": 1, "B9": 1})
    found = listed(tmp_path)
    assert found.classes == ["B10", "B9", "a", "b"]
    assert found.labels.tolist() == [0, 1, 2, 2, 2, 3, 3]
    assert found.names[2:5] == ["a/000.png", "a/001.png", "a/002.png"]
    assert (found.root, found.file(3)) == (tmp_path.resolve(), tmp_path.resolve() / "a/001.png")


def test_one_folder_is_one_class(tmp_path):
    found = listed(image_folder(tmp_path, {"cats": 3}) / "cats")
    assert (list(found.classes), found.labels.tolist(), found.names[0]) == (["cats"], [0, 0, 0], "000.png")


def test_only_images_count_at_any_depth(tmp_path):
    image_folder(tmp_path, {"a": 1, "b/deep/er": 1, ".hidden": 1, "b/.hidden": 1})
    for name in ("notes.txt", "a/Thumbs.db", "a/._x.jpg", "a/.DS_Store", "b/list.csv"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "second.JPEG").write_bytes(b"x")
    assert listed(tmp_path).names == ["a/000.png", "a/second.JPEG", "b/deep/er/000.png"]


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    expected = listed(image_folder(tmp_path, {"a": 5, "b/c": 5, "b/a": 5})).names

    def backwards(top):
        for where, folders, files in os.walk(top):
            folders.reverse()
            yield where, folders, files[::-1]

    reversed_os = SimpleNamespace(path=os.path, walk=backwards, scandir=lambda top: list(os.scandir(top))[::-1])
    monkeypatch.setattr("labkit.datasets.sources.os", reversed_os)
    assert listed(tmp_path).names == expected


def test_the_digest_knows_names_and_classes(tmp_path):
    image_folder(tmp_path, {"a": 2, "b": 2})
    digests = {listed(tmp_path).digest}
    (tmp_path / "a/001.png").rename(tmp_path / "a/002.png")
    digests.add(listed(tmp_path).digest)
    (tmp_path / "a/002.png").rename(tmp_path / "b/002.png")
    digests.add(listed(tmp_path).digest)
    (tmp_path / "b/002.png").rename(tmp_path / "a/001.png")
    assert len(digests) == 3
    assert listed(tmp_path).digest in digests


def test_names_that_are_no_text(tmp_path):
    (tmp_path / "a").mkdir()
    with open(os.fsencode(tmp_path / "a") + b"/\xff\xe9.png", "wb") as file:
        Image.fromarray(noise(9, 9)).save(file, "PNG")
    assert decode(listed(tmp_path).file(0), 8).pixels.shape == (3, 8, 8)


def test_folders_that_cannot_be_meant(tmp_path):
    refused(tmp_path / "not" / "there" / "x", "there is no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "it holds no images")
    image_folder(tmp_path / "hole", {"a": 1, "c": 1})
    for name in "bd":
        (tmp_path / "hole" / name).mkdir()
    refused(tmp_path / "hole", re.escape("2 of its classes have no images (b, d)"))
    image_folder(tmp_path / "loose", {"a": 1})
    (tmp_path / "loose" / "cover.jpg").write_bytes(b"x")
    refused(tmp_path / "loose", re.escape("1 images (cover.jpg) beside the folders of classes"))
    image_folder(tmp_path / "splits", {"train/a": 1, "val/a": 1})
    refused(tmp_path / "splits", f"no classes; name one of them, such as {tmp_path.resolve()}/splits/train")
    (tmp_path / "one.png").write_bytes(b"x")
    refused(tmp_path / "one.png", "name the folder for images in files")
    image_folder(tmp_path / "broken", {"a": 1})
    (tmp_path / "broken" / "a" / "b\nc.png").write_bytes(b"x")
    refused(tmp_path / "broken", "line break")


# --- an .npz file


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("x, y", [("x", "y"), ("images", "labels"), ("arr_0", "arr_1")])
def test_arrays_with_labels(tmp_path, x, y):
    images, labels = noise(5, 9, 9, 3), np.array([2, 0, 1, 1, 0], dtype=np.int32)
    found = listed(saved(tmp_path / "a.npz", **{x: images, y: labels}))
    assert (found.labels.tolist(), list(found.classes)) == ([2, 0, 1, 1, 0], ["0", "1", "2"])
    assert (found.names, found.root, found.name(3)) == (None, None, "row 3")
    for i in range(5):
        assert np.array_equal(decode(found.file(i), 9).pixels, images[i].transpose(2, 0, 1))


def test_arrays_in_other_shapes(tmp_path):
    images = noise(4, 9, 9, 3)
    first = saved(tmp_path / "a.npz", x=images.transpose(0, 3, 1, 2), y=np.array([[0], [1], [0], [1]]))
    refused(first, re.escape("shape (4, 3, 9, 9); give (n, h, w, 3), or say layout NCHW"))
    found = listed(first, layout="NCHW")
    assert np.array_equal(decode(found.file(2), 9).pixels, images[2].transpose(2, 0, 1))
    assert found.labels.tolist() == [0, 1, 0, 1]
    for grey in (images[..., 0], images[..., :1]):
        found = listed(saved(tmp_path / "grey.npz", images=grey))
        assert found.labels.tolist() == [0] * 4
        assert np.array_equal(decode(found.file(3), 9, channels=1).pixels[0], images[3, :, :, 0])


def test_the_digest_knows_pixels_and_labels(tmp_path):
    images, labels = noise(4, 9, 9, 3), np.array([0, 1, 0, 1])
    digests = [listed(saved(tmp_path / "a.npz", x=images, y=labels)).digest]
    digests += [listed(saved(tmp_path / "a.npz", x=images, y=1 - labels)).digest]
    images[3, 8, 8, 2] ^= 1
    digests += [listed(saved(tmp_path / "a.npz", x=images, y=labels)).digest]
    assert len(set(digests)) == 3


X = np.zeros((4, 9, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "arrays, told",
    [
        ({"x": X / 255}, "its images are float64; save them as uint8, 0 to 255"),
        ({"x": np.full(X.shape, np.nan, dtype=np.float32)}, "its images are float32"),
        ({"x": X.astype(np.int64)}, "its images are int64"),
        ({"x": X[..., :2]}, "its images have shape"),
        ({"x": X[0, 0, 0]}, "its images have shape"),
        ({"x": np.uint8(3)}, "its images have shape"),
        ({"pictures": X}, "it has no array named x, images or arr_0"),
        ({"x": X[:0]}, "it holds no images"),
        ({"x": X, "y": np.zeros(3, dtype=int)}, "it holds 4 images and 3 labels"),
        ({"x": X, "y": np.zeros((4, 10), dtype=int)}, "it holds 4 images and 40 labels"),
        ({"x": X, "y": np.array([0, 1, np.nan, 0])}, "its labels are float64; give whole numbers from 0"),
        ({"x": X, "y": np.array(["cat", "dog", "cat", "cat"])}, "its labels are <U3"),
        ({"x": X, "y": np.array([0, -1, 1, 0])}, "its labels go from -1 to 1"),
        ({"x": X, "y": np.array([0, 10**12, 1, 0])}, "its labels go from 0 to 10{12}"),
        ({"x": X, "y": np.array([1, 2, 3, 1])}, re.escape("1 of its classes have no images (0)")),
        ({"x": np.array([X, None], dtype=object)}, "cannot be read as an .npz file of plain arrays"),
    ],
)
def test_arrays_that_cannot_be_meant(tmp_path, arrays, told):
    refused(saved(tmp_path / "a.npz", **arrays), told)


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
def hub():
    return pytest.importorskip("datasets", reason="needs the package datasets")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for place in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        with contextlib.suppress(ImportError, AttributeError):  # where they are not installed
            monkeypatch.setattr(place, True)


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
    images = list(noise(4, 9, 9, 3))
    set_ = in_columns(hub, id=[7, 8, 9, 10], img=images, label=(["cat", "dog"], [1, 0, 0, 1]))
    set_.save_to_disk(tmp_path / "one")
    hub.DatasetDict({"train": set_, "test": set_.select([3, 0])}).save_to_disk(tmp_path / "two")
    for found in (listed(tmp_path / "one"), listed(tmp_path / "two")):
        assert (list(found.classes), found.labels.tolist()) == (["cat", "dog"], [1, 0, 0, 1])
        assert (found.names, found.root) == (None, None)
        assert all(np.array_equal(decode(found.file(i), 9).pixels, images[i].transpose(2, 0, 1)) for i in range(4))
    refused(tmp_path / "two", "1 of its classes have no images", split="test")
    refused(tmp_path / "two", "split = 'val' cannot be used.*train, test", split="val")


def test_columns_can_be_named(hub, tmp_path):
    left, right = list(noise(3, 9, 9, 3)), list(noise(3, 9, 9, 3))
    kinds = dict(fine=(["x", "y", "z"], [0, 1, 2]), coarse=(["a"], [0, 0, 0]), number=[1, 0, 1])
    in_columns(hub, left=left, right=right, **kinds).save_to_disk(tmp_path / "s")
    refused(tmp_path / "s", "image_column = None cannot be used.*left, right; name one")
    refused(tmp_path / "s", "image_column = 'fine' cannot be used", image_column="fine")
    refused(tmp_path / "s", "label_column = None cannot be used.*fine, coarse; name one", image_column="left")
    found = listed(tmp_path / "s", image_column="right", label_column="number")
    assert (found.labels.tolist(), list(found.classes)) == ([1, 0, 1], ["0", "1"])
    assert np.array_equal(decode(found.file(1), 9).pixels, right[1].transpose(2, 0, 1))
    refused(tmp_path / "s", "label_column = 'colour' cannot be used", image_column="left", label_column="colour")


def test_a_data_set_without_labels_or_images(hub, tmp_path):
    in_columns(hub, img=[noise(9, 9, 3), None]).save_to_disk(tmp_path / "a")
    found = listed(tmp_path / "a")
    assert (found.labels.tolist(), list(found.classes)) == ([0, 0], ["all"])
    with pytest.raises(BrokenImage, match="no image in this row"):
        found.file(1)
    in_columns(hub, n=[1, 2]).save_to_disk(tmp_path / "b")
    refused(tmp_path / "b", "none of its columns holds images: n")


def test_images_that_lie_outside(hub, tmp_path):
    picture = image_folder(tmp_path, {"a": 1}) / "a" / "000.png"
    set_ = hub.Dataset.from_dict({"image": [str(picture)]}, features=hub.Features({"image": hub.Image()}))
    set_.save_to_disk(tmp_path / "s")
    assert np.array_equal(decode(listed(tmp_path / "s").file(0), 8).pixels, decode(picture, 8).pixels)
    assert isinstance(listed(tmp_path / "s").file(0), str | io.BytesIO)


def test_a_data_set_that_cannot_be_had(hub, tmp_path):
    refused("nobody/nothing", "is no folder of images and no .npz file here, and cannot be had as a Hugging Face")
    (tmp_path / "state.json").write_text("{")
    refused(tmp_path, "cannot be had as a Hugging Face data set")


def test_the_package_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    refused("nobody/nothing", "needs the package datasets.*pip install datasets")
