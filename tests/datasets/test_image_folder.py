"""What a folder of images holds: stores and references take the same files, and state what they leave out."""

import contextlib
import hashlib
import os
import socket
from types import SimpleNamespace

import numpy as np
import pytest
from photos import image_folder
from PIL import Image

from labkit.checks import ConfigError
from labkit.datasets.folder import find_images
from labkit.datasets.sources import Preparation, list_images
from labkit.evaluation.references import open_reference


def touched(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(root):
    """Classes, names and notes of a listing for a store, after a check that a reference takes as many images."""
    listing = list_images(str(root), Preparation(size=8))
    assert listing.notes == open_reference(str(root), (3, 8, 8)).notes
    assert open_reference(str(root), (3, 8, 8)).count == len(listing.names)
    return listing.classes, listing.names, " ".join(listing.notes)


def test_images_count_at_any_depth_and_nothing_else_vanishes_without_a_word(tmp_path):
    image_folder(tmp_path, {"a": 1, "b/deep/er": 1, ".hidden": 1, "b/.thumbnails": 1, "a/@eaDir/000.png": 1})
    image_folder(tmp_path, {"__MACOSX/a": 1, "lost+found": 0, "$RECYCLE.BIN": 1})
    touched(tmp_path, "notes.txt", "a/Thumbs.db", "a/._x.jpg", "a/second.JPEG", "b/1.HEIC", "b/2.heic", "b/scan")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "a" / "socket.png"))  # a short path: longer ones cannot be bound
        classes, names, notes = listed(tmp_path)
    assert (classes, names) == (["a", "b"], ["a/000.png", "a/second.JPEG", "b/deep/er/000.png"])
    assert notes == (
        "not taken: system folders (4: $RECYCLE.BIN, …), hidden files and folders (3: .hidden, …), .heic files (2: "
        "b/1.HEIC, …), pipes, sockets and devices (2: a/pipe.jpg, …), .db files (1: a/Thumbs.db), "
        ".txt files (1: notes.txt), others (1)"
    )


def test_where_nothing_counts_the_refusal_says_what_there_is(tmp_path):
    touched(tmp_path, "a/1.heic", "a/2.heic", "b/3.jp2")
    for read in (listed, lambda root: open_reference(str(root), (3, 8, 8))):
        with pytest.raises(ConfigError, match=r"holds no images; not taken: \.heic files \(2: a/1.heic, …\), \.jp2"):
            read(tmp_path)
    image_folder(tmp_path, {"a/deep": 1})
    with pytest.raises(ConfigError, match=r"1 of its classes have no images \(b\); not taken: .*b/3.jp2"):
        listed(tmp_path)


def test_links_are_followed_once_and_those_that_lead_nowhere_or_back_are_reported(tmp_path):
    photos = image_folder(tmp_path / "photos", {"a": 1, "b": 1})
    more = image_folder(tmp_path / "more", {"x": 2, "y": 1})
    image_folder(tmp_path / "photos" / ".annex", {"c": 1})  # as in a repository of data
    for name, target in {
        "a/more": more,  # another folder of images
        "a/one.png": more / "y" / "000.png",
        "b/y": more / "y",  # counted by the link to its parent
        "c": photos / ".annex" / "c",  # a class
        "all": photos,
        "a/up": "..",
        "a/top": "/",
        "d": "/nowhere/d",
        "e": "e",
    }.items():
        (photos / name).symlink_to(target)
    classes, names, notes = listed(photos)
    assert classes == ["a", "b", "c"]
    more_names = ["a/more/x/000.png", "a/more/x/001.png", "a/more/y/000.png", "a/one.png"]
    assert names == ["a/000.png", *more_names, "b/000.png", "c/000.png"]
    assert notes == (
        "not taken: links to folders that are listed anyway (4: a/top, …), links that lead nowhere (2: d, …), "
        "hidden files and folders (1: .annex)"
    )


def test_a_linked_image_that_is_missing_is_named(tmp_path):
    image_folder(tmp_path, {"a": 1})
    (tmp_path / "a" / "gone.png").symlink_to("/nowhere/gone.png")
    assert list_images(str(tmp_path), Preparation(size=8)).names == ["a/000.png", "a/gone.png"]  # and later skipped
    with pytest.raises(ConfigError, match=r"a/gone.png cannot be read: No such file"):
        open_reference(str(tmp_path), (3, 8, 8))


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    image_folder(tmp_path, {"a": 1, "b/c": 1})

    def scandir(path):
        if path == tmp_path / "b" / "c":
            raise PermissionError(13, "Permission denied", str(path))
        return os.scandir(path)

    monkeypatch.setattr("labkit.datasets.folder.os", SimpleNamespace(path=os.path, scandir=scandir))
    with pytest.raises(ConfigError, match=r"^source = .*b/c cannot be read \(Permission denied\)"):
        list_images(str(tmp_path), Preparation(size=8))


def test_sub_folders_that_look_like_splits_are_mentioned(tmp_path):
    image_folder(tmp_path, {"bottle/train/good": 1, "bottle/test/broken": 1, "cable/train/good": 1})
    classes, names, notes = listed(tmp_path)
    assert (classes, len(names)) == (["bottle", "cable"], 3)
    assert notes == "taken together: folders that look like splits (test, train)"


def test_order_and_digest_are_those_of_earlier_versions_on_any_file_system(tmp_path, monkeypatch):
    """Stores that were prepared before links were followed go on with the same command."""
    image_folder(tmp_path, {"a": 2, "a b": 1, "a-1": 1, "b/c": 1, "b/c d": 1})
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "b" / "c.png")
    content = hashlib.sha256()
    for path in sorted(tmp_path.rglob("*.png")):
        content.update(path.relative_to(tmp_path).as_posix().encode())
        content.update(hashlib.sha256(path.read_bytes()).digest())

    @contextlib.contextmanager
    def scandir(path):
        with os.scandir(path) as entries:
            yield list(entries)[::-1]

    for system in (os, SimpleNamespace(path=os.path, scandir=scandir)):
        monkeypatch.setattr("labkit.datasets.folder.os", system)
        listing = list_images(str(tmp_path), Preparation(size=8))
        assert listing.names[2:] == ["a b/000.png", "a-1/000.png", "b/c d/000.png", "b/c.png", "b/c/000.png"]
        assert listing.digest == "4be4ee71e1894b7421fa42e682665ba3d3428bdc4e004cf5e4348baab2cf2bad"
        assert open_reference(str(tmp_path), (3, 8, 8)).digest == content.hexdigest()


def test_a_class_may_be_called_like_a_split(tmp_path):
    image_folder(tmp_path, {"bus": 1, "train": 1})
    assert listed(tmp_path)[0] == ["bus", "train"] and find_images(tmp_path, "source").notes == []
