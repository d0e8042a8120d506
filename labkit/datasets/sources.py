"""Where images come from: a folder, an .npz file, or a Hugging Face data set, as one list in an order that stays."""

import hashlib
import io
import os
import re
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from labkit.checks import ConfigError, require
from labkit.datasets.decode import BrokenImage

SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SPLITS = {"train", "training", "val", "valid", "validation", "test"}
Layout = Literal["NHWC", "NCHW"]


@dataclass(frozen=True)
class Listing:
    """Labelled images in a fixed order."""

    labels: Int64[np.ndarray, " n"]
    classes: Sequence[str]
    file: Callable[[int], Any]
    """Number → the argument of ``labkit.datasets.decode.decode``."""
    digest: str
    """Changes when other images are listed."""
    names: Sequence[str] | None = None
    """Each image's path below ``root``, where there are files."""
    root: Path | None = None

    def name(self, number: int) -> str:
        return f"row {number}" if self.names is None else self.names[number]


def list_images(
    source: str,
    layout: Layout = "NHWC",
    split: str = "train",
    subset: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Listing:
    """The images of a source.

    Args:
        source: a folder whose sub-folders are classes, in the order of their names, or one folder of images of one
            class; an .npz file with uint8 images under ``x``, ``images`` or ``arr_0`` and, unless they are of one
            class, labels under ``y``, ``labels`` or ``arr_1``; a Hugging Face data set by its id, or the folder that
            its ``save_to_disk`` wrote.
        layout: order of the axes of an .npz file's images.
        split, subset, image_column, label_column: those of a Hugging Face data set.

    Raises:
        ConfigError: there is no such source, or its images and labels do not fit each other.
    """
    path = Path(source)
    if path.is_file():
        require(path.suffix == ".npz", "source", source, "a file must be an .npz; name the folder for images in files")
        listing = _npz(path, layout)
    elif path.is_dir() and not any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        listing = _folder(path.resolve())
    else:
        id_like = path.is_dir() or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)
        require(bool(id_like), "source", source, "there is no such file or folder")
        listing = _hugging_face(source, split, subset, image_column, label_column)
    _check_labels(source, listing)
    return listing


def _check_labels(source: str, listing: Listing) -> None:
    require(len(listing.labels) > 0, "source", source, "it holds no images")
    low, high = int(listing.labels.min()), int(listing.labels.max())
    numbered = f"its labels go from {low} to {high}; number the classes from 0"
    require(low >= 0 and high < len(listing.classes), "source", source, numbered)
    empty = np.flatnonzero(np.bincount(listing.labels, minlength=len(listing.classes)) == 0)
    first = ", ".join(str(listing.classes[c]) for c in empty[:5])
    require(len(empty) == 0, "source", source, f"{len(empty)} of its classes have no images ({first})")


def _digest(*parts: str | bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") if isinstance(part, str) else part)
    return digest.hexdigest()


def _folder(root: Path) -> Listing:
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    loose = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and _is_image(entry.name))
    source = str(root)
    if not classes:
        return _files_listing(root, loose, np.zeros(len(loose), dtype=np.int64), [root.name])
    require(
        not loose,
        "source",
        source,
        f"it holds {len(loose)} images ({', '.join(loose[:3])}) beside the folders of classes; move them",
    )
    splits = {name.lower() for name in classes} <= SPLITS
    require(not splits, "source", source, f"its folders are no classes; name one of them, such as {root / classes[0]}")
    names, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(_below(root, root / name))
        names += files
        labels += [label] * len(files)
    return _files_listing(root, names, np.array(labels, dtype=np.int64), classes)


def _is_image(name: str) -> bool:
    return name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES


def _below(root: Path, folder: Path) -> Iterator[str]:
    """Paths of all images in a folder and its sub-folders, relative to the root."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        place = Path(where).relative_to(root).as_posix()
        yield from (f"{place}/{name}" for name in files if _is_image(name))


def _files_listing(root: Path, names: list[str], labels: Int64[np.ndarray, " n"], classes: list[str]) -> Listing:
    broken = [name for name in names if "\n" in name]
    require(not broken, "source", str(root), f"the name of a file has a line break in it: {broken[:1]}")
    return Listing(labels, classes, lambda i: root / names[i], _digest("\n".join(names), labels), names, root)


def _npz(path: Path, layout: Layout) -> Listing:
    source = str(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = (_member(archive, keys) for keys in (("x", "images", "arr_0"), ("y", "labels", "arr_1")))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"source = {source!r} cannot be read as an .npz file of plain arrays: {error}") from error
    require(images is not None, "source", source, "it has no array named x, images or arr_0")
    require(
        images.dtype == np.uint8,
        "source",
        source,
        f"its images are {images.dtype}; save them as uint8, 0 to 255, so that their range is no guess",
    )
    if images.ndim == 4 and layout == "NCHW":
        images = images.transpose(0, 2, 3, 1)
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    require(fits, "source", source, f"its images have shape {images.shape}; give (n, h, w, 3), or say layout NCHW")
    labels = np.zeros(len(images), dtype=np.int64) if labels is None else labels
    labels = _whole_numbers(source, labels.reshape(-1))
    same = len(images) == len(labels)
    require(same, "source", source, f"it holds {len(images)} images and {len(labels)} labels")
    images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    return Listing(labels, _numbered(labels), lambda i: images[i], _digest(np.ascontiguousarray(images), labels))


def _member(archive: Any, keys: Sequence[str]) -> np.ndarray | None:
    member = next((archive[key] for key in keys if key in archive), None)
    if isinstance(member, bytes):
        raise ValueError(f"one of {', '.join(keys)} is no array")
    return member


def _whole_numbers(source: str, labels: np.ndarray) -> Int64[np.ndarray, " n"]:
    kind = labels.dtype
    require(np.issubdtype(kind, np.integer), "source", source, f"its labels are {kind}; give whole numbers from 0")
    return labels.astype(np.int64)


def _numbered(labels: Int64[np.ndarray, " n"]) -> list[str]:
    """Numbers as names of classes without names; no more of them than there are images."""
    return [str(c) for c in range(min(labels.max(initial=-1) + 1, len(labels)))]


def _hugging_face(
    source: str, split: str, subset: str | None, image_column: str | None, label_column: str | None
) -> Listing:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"source = {source!r} is no folder of images and no .npz file here; as a Hugging Face data set it needs "
            "the package datasets, which is not installed: `pip install datasets`."
        ) from None
    rows = _load(datasets, source, split, subset)
    features = rows.features
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image = _column(source, "image_column", image_column, pictures, pictures)
    require(image is not None, "source", source, f"none of its columns holds images: {', '.join(features)}")
    named = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label = _column(source, "label_column", label_column, list(features), named)
    labels = np.zeros(len(rows), dtype=np.int64)
    classes: Sequence[str] = ["all"]
    if label is not None:
        labels = _whole_numbers(source, np.asarray(rows[label][:]))
        classes = getattr(features[label], "names", None) or _numbered(labels)
    raw = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    taking = threading.Lock()

    def file(number: int) -> Any:
        with taking:
            item = raw[number][image]
        if item is None or (item["bytes"] is None and item["path"] is None):
            raise BrokenImage("there is no image in this row")
        return item["path"] if item["bytes"] is None else io.BytesIO(item["bytes"])

    return Listing(labels, classes, file, _digest(image, str(label), labels))


def _load(datasets: Any, source: str, split: str, subset: str | None) -> Any:
    """One split of a data set from disk or hub."""
    try:
        if not Path(source).is_dir():
            return datasets.load_dataset(source, subset, split=split)
        loaded = datasets.load_from_disk(source)
    except Exception as error:  # loading raises of all kinds: no network, no such set, a torn file
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"source = {source!r} is no folder of images and no .npz file here, and cannot be had as a Hugging Face "
            f"data set. {type(error).__name__}: {why}"
        ) from error
    if isinstance(loaded, dict):
        require(split in loaded, "split", split, f"{source} has {', '.join(loaded)}")
        loaded = loaded[split]
    return loaded


def _column(source: str, option: str, wanted: str | None, columns: list[str], usual: list[str]) -> str | None:
    """The column that is named, or the only usual one."""
    require(wanted is None or wanted in columns, option, wanted, f"{source} has {', '.join(columns) or 'none'}")
    require(wanted is not None or len(usual) < 2, option, wanted, f"{source} has {', '.join(usual)}; name one")
    return wanted or next(iter(usual), None)
