"""Settings of a preparation, and the images of its source: a folder, an .npz file or a Hugging Face data set."""

import hashlib
import io
import os
import re
import textwrap
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from labkit.checks import ConfigError, check_seed, choose, refuse, require, whole
from labkit.datasets.decode import BrokenImage

SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SPLITS = {"train", "training", "val", "valid", "validation", "test"}
Layout = Literal["NHWC", "NCHW"]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Settings of ``labkit prepare``: how images are cut and stored, and how their source is read."""

    size: int
    """Side in pixels of the square that is cut out of the centre of each image."""
    latents: str | None = None
    """VAE that encodes the images: a hub id such as stabilityai/sd-vae-ft-ema, or a folder. None keeps pixels."""
    channels: Literal[1, 3] = 3
    """Colour channels: 3, or 1 for grey."""
    flips: bool = True
    """Whether training may mirror images from left to right; latents are stored both ways. Not for digits or text."""
    held_out: int = 0
    """Number of images kept out of training, for evaluation; each class gives its share."""
    seed: int = 0
    """Seed of the choice of held-out images."""
    shard: int = 4096
    """Number of images in one file of the store."""
    batch: int = 32
    """Number of images that the VAE encodes at a time."""
    layout: Layout = "NHWC"
    """Order of the axes of the images in an .npz file: NHWC (channels last) or NCHW."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    subset: str | None = None
    """Subset (configuration) of a Hugging Face data set that has several."""
    image_column: str | None = None
    """Column of a Hugging Face data set that holds the images, if several do."""
    label_column: str | None = None
    """Column of a Hugging Face data set that holds the classes, if several do."""

    def __post_init__(self) -> None:
        for name, least in {"size": 1, "shard": 1, "batch": 1, "held_out": 0}.items():
            value = getattr(self, name)
            require(whole(value, least), name, value, f"take a whole number of at least {least}")
        require(self.channels in (1, 3), "channels", self.channels, "take 3 for colour or 1 for grey")
        require(isinstance(self.flips, bool), "flips", self.flips, "take True or False")
        check_seed(self.seed)
        choose(self.layout, Layout, "layout")
        grey = self.latents is not None and self.channels == 1
        require(not grey, "channels", self.channels, "a VAE encodes images of 3 channels")


@dataclass(frozen=True)
class Listing:
    """Labelled images in a fixed order."""

    labels: Int64[np.ndarray, " n"]
    classes: Sequence[str]
    file: Callable[[int], Any]
    """Function from an image's number to an argument of ``labkit.datasets.decode.decode``."""
    digest: str
    """Digest that changes when other images are listed."""
    names: Sequence[str] | None = None
    """Path of each image below ``root``, if there are files."""
    root: Path | None = None

    def name(self, number: int) -> str:
        return f"row {number}" if self.names is None else self.names[number]


def list_images(source: str, settings: Preparation) -> Listing:
    """The images of a source.

    Args:
        source: a folder whose sub-folders are classes, in the order of their names, or a folder of images of one class;
            an .npz file with uint8 images under ``x``, ``images`` or ``arr_0`` and, unless they are of one class,
            labels under ``y``, ``labels`` or ``arr_1``; a Hugging Face data set by its id, or the folder that its
            ``save_to_disk`` wrote.

    Raises:
        ConfigError: there is no such source, or its images and labels do not fit each other.
    """
    path = Path(source)
    if path.is_file():
        require(path.suffix == ".npz", "source", source, "a file must be an .npz; name the folder for images in files")
        listing = _npz(path, settings.layout)
    elif path.is_dir() and not any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        listing = _folder(path.resolve())
    else:
        id_like = path.is_dir() or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)
        require(bool(id_like), "source", source, "there is no such file or folder")
        listing = _hugging_face(source, settings)
    require(len(listing.labels) > 0, "source", source, "it holds no images")
    low, high = int(listing.labels.min()), int(listing.labels.max())
    numbered = f"its labels go from {low} to {high}; number the classes from 0"
    require(low >= 0 and high < len(listing.classes), "source", source, numbered)
    empty = np.flatnonzero(np.bincount(listing.labels, minlength=len(listing.classes)) == 0)
    first = ", ".join(str(listing.classes[c]) for c in empty[:5])
    require(len(empty) == 0, "source", source, f"{len(empty)} of its classes have no images ({first})")
    return listing


def _digest(*parts: str | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") if isinstance(part, str) else part.data)
    return digest.hexdigest()


def _folder(root: Path) -> Listing:
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    loose = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and _is_image(entry.name))
    source, names, labels = str(root), loose, [0] * len(loose)
    if classes:
        images = f"{len(loose)} images ({', '.join(loose[:3])})"
        require(not loose, "source", source, f"it holds {images} beside the folders of classes; move them")
        splits = {name.lower() for name in classes} <= SPLITS
        require(not splits, "source", source, f"its folders are no classes; name one, such as {root / classes[0]}")
        for label, name in enumerate(classes):
            files = sorted(_below(root, root / name))
            names += files
            labels += [label] * len(files)
    broken = [name for name in names if "\n" in name]
    require(not broken, "source", source, f"the name of a file has a line break in it: {broken[:1]}")
    labels, classes = np.array(labels, dtype=np.int64), classes or [root.name]
    return Listing(labels, classes, lambda i: root / names[i], _digest("\n".join(names), labels), names, root)


def _is_image(name: str) -> bool:
    return name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES


def _below(root: Path, folder: Path) -> Iterator[str]:
    """Paths of all images in a folder and its sub-folders, relative to the root."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        prefix = Path(parent).relative_to(root).as_posix()
        yield from (f"{prefix}/{name}" for name in files if _is_image(name))


def _npz(path: Path, layout: Layout) -> Listing:
    source = str(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = (_member(archive, keys) for keys in (("x", "images", "arr_0"), ("y", "labels", "arr_1")))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"source = {source!r} cannot be read as an .npz file of plain arrays: {error}") from error
    if images is None:
        refuse("source", source, "it has no array named x, images or arr_0")
    kind = images.dtype
    require(kind == np.uint8, "source", source, f"its images are {kind}; save them as uint8, whose range is 0 to 255")
    if images.ndim == 4 and layout == "NCHW":
        images = images.transpose(0, 2, 3, 1)
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    require(fits, "source", source, f"its images have shape {images.shape}; give (n, h, w, 3), or set layout = NCHW")
    labels = _whole_numbers(source, np.zeros(len(images), int) if labels is None else labels.reshape(-1))
    same = len(images) == len(labels)
    require(same, "source", source, f"it holds {len(images)} images and {len(labels)} labels; give as many of each")
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
    """Numbers as names of classes without names, at most as many as there are images."""
    return [str(c) for c in range(min(labels.max(initial=-1) + 1, len(labels)))]


def _hugging_face(source: str, settings: Preparation) -> Listing:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"source = {source!r} is neither a folder of images nor an .npz file here; as a Hugging Face data set it "
            "needs the package datasets, which is not installed: `pip install datasets`."
        ) from None
    rows = _load(datasets, source, settings)
    features = rows.features
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image = _column(source, "image_column", settings.image_column, pictures, pictures)
    if image is None:
        refuse("source", source, f"none of its columns holds images: {', '.join(features)}")
    named = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label = _column(source, "label_column", settings.label_column, list(features), named)
    labels = _whole_numbers(source, np.zeros(len(rows), int) if label is None else np.asarray(rows[label][:]))
    classes = ["all"] if label is None else getattr(features[label], "names", None) or _numbered(labels)
    raw = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    lock = threading.Lock()

    def file(number: int) -> Any:
        with lock:
            item = raw[number][image]
        if item is None or (item["bytes"] is None and item["path"] is None):
            raise BrokenImage("there is no image in this row")
        return item["path"] if item["bytes"] is None else io.BytesIO(item["bytes"])

    return Listing(labels, classes, file, _digest(image, str(label), labels))


def _load(datasets: Any, source: str, settings: Preparation) -> Any:
    """One split of a data set from disk or hub."""
    try:
        if not Path(source).is_dir():
            return datasets.load_dataset(source, settings.subset, split=settings.split)
        loaded = datasets.load_from_disk(source)
    except Exception as error:  # the package raises all kinds: no network, no such set, a torn file
        raise ConfigError(
            f"source = {source!r} is neither a folder of images nor an .npz file here, and cannot be loaded as a "
            f"Hugging Face data set. {type(error).__name__}: {textwrap.shorten(str(error), 200)}"
        ) from error
    if not isinstance(loaded, dict):
        return loaded
    require(settings.split in loaded, "split", settings.split, f"{source} has {', '.join(loaded)}")
    return loaded[settings.split]


def _column(source: str, option: str, name: str | None, columns: list[str], usual: list[str]) -> str | None:
    """The column of this name, else the only usual one."""
    require(name is None or name in columns, option, name, f"{source} has {', '.join(columns) or 'none'}")
    require(name is not None or len(usual) < 2, option, name, f"{source} has {', '.join(usual)}; name one")
    return name or next(iter(usual), None)
