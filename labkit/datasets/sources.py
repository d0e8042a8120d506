"""Settings of a preparation, and the images of its source: a folder, an .npz file or a Hugging Face data set."""

import io
import re
import textwrap
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from labkit.checks import ConfigError, check_flag, check_seed, check_whole, choose, refuse, require
from labkit.datasets.decode import BrokenImage
from labkit.datasets.folder import find_images, splits
from labkit.disk import sha256

IMAGES, LABELS = ("x", "images", "arr_0"), ("y", "labels", "arr_1")
"""Names of arrays in an .npz file."""
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
    bits: int | None = None
    """Bits that grey files of 16 bits really use, such as 12. None is all of them, unless the images are too dark."""
    max_pixels: int | None = None
    """Pixels of the largest image to be read. None is 179 million; a larger file may be meant to fill the memory."""
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
            check_whole(name, getattr(self, name), least)
        check_whole("max_pixels", self.max_pixels, optional=True)
        check_whole("bits", self.bits, 8, 16, optional=True)
        require(self.channels in (1, 3), "channels", self.channels, "take 3 for colour or 1 for grey")
        check_flag("flips", self.flips)
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
    notes: Sequence[str] = ()
    """What the source holds beside, and what may not be meant."""
    stored_in: Callable[[range], Iterable[str | Path]] = lambda _: ()
    """Function from images' numbers to the files they are read from; none where ``digest`` covers their pixels."""

    def name(self, number: int) -> str:
        return f"row {number}" if self.names is None else self.names[number]


def list_images(source: str, settings: Preparation) -> Listing:
    """The images of a source.

    Args:
        source: a folder whose sub-folders are classes, in the order of their names, or a folder of images of one class;
            an .npz file with uint8 images under ``x``, ``images`` or ``arr_0`` and, unless they are of one class,
            labels under ``y``, ``labels`` or ``arr_1``; an .npy file of images; a Hugging Face data
            set by its id, or the folder that its ``save_to_disk`` wrote.

    Raises:
        ConfigError: there is no such source, or its images and labels do not fit each other.
    """
    path = Path(source)
    if path.is_file():
        remedy = "a file must be an .npz or .npy; name the folder for images in files, and unpack an archive of them"
        require(is_archive(path), "source", source, remedy)
        listing = _npz(path, settings.layout)
    elif path.is_dir() and not any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        listing = _folder(path.resolve())
    else:
        id_like = path.is_dir() or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)
        require(bool(id_like), "source", source, "there is no such file or folder")
        listing = _hugging_face(source, settings)
    require(len(listing.labels) > 0, "source", source, "; ".join(["it holds no images", *listing.notes]))
    low, high = int(listing.labels.min()), int(listing.labels.max())
    numbered = f"its labels go from {low} to {high}; number the classes from 0"
    require(low >= 0 and high < len(listing.classes), "source", source, numbered)
    empty = np.flatnonzero(np.bincount(listing.labels, minlength=len(listing.classes)) == 0)
    first = ", ".join(str(listing.classes[c]) for c in empty[:5])
    fault = "; ".join([f"{len(empty)} of its classes have no images ({first})", *listing.notes])
    require(len(empty) == 0, "source", source, fault)
    return listing


def _folder(root: Path) -> Listing:
    images = find_images(root, "source")
    source, names = str(root), sorted(images.names, key=lambda name: (name.partition("/")[0], name))
    classes = sorted(name for name in images.folders if name and "/" not in name)
    loose = [name for name in names if "/" not in name]
    labels = [0] * len(names)
    if classes:
        beside = f"{len(loose)} images ({', '.join(loose[:3])})"
        require(not loose, "source", source, f"it holds {beside} beside the folders of classes; move them")
        parts = splits(classes)
        remedy = f"name one, such as {root / next(iter(parts.values()), '')}, or call them otherwise"
        refused = len(parts) > 1 or len(classes) == len(parts)
        require(not refused, "source", source, f"it holds splits ({', '.join(parts.values())}), no classes; {remedy}")
        number = {name: label for label, name in enumerate(classes)}
        labels = [number[name.partition("/")[0]] for name in names]
    broken = [name for name in names if "\n" in name]
    require(not broken, "source", source, f"the name of a file has a line break in it: {broken[:1]}; rename it")
    labels, classes = np.array(labels, dtype=np.int64), classes or [root.name]
    digest = sha256("\n".join(names), labels)

    def file(number: int) -> Path:
        return root / names[number]

    return Listing(labels, classes, file, digest, names, root, images.notes, lambda numbers: map(file, numbers))


def is_archive(path: Path) -> bool:
    return path.suffix.lower() in (".npz", ".npy")


def read_arrays(path: Path, field: str, names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of these names in an .npz file, and the names of the others; an .npy file holds arr_0.

    Args:
        field: the setting that names the file, for a message.

    Raises:
        ConfigError: the file cannot be read as arrays of plain numbers.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"arr_0": loaded}, []
        with loaded as archive:
            arrays = {name: archive[name] for name in names if name in archive}
            others = [name for name in archive.files if name not in names]
        if none := [name for name, array in arrays.items() if isinstance(array, bytes)]:
            raise ValueError(f"{', '.join(none)} is no array")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{field} = {str(path)!r} cannot be read as an .npz file of plain arrays: {error}") from error
    return arrays, others


def image_stack(field: str, name: str, images: np.ndarray, layout: Layout = "NHWC") -> UInt8[np.ndarray, "n h w c"]:
    """Images of an array with 1, 3 or 4 channels, the last of which is opacity.

    Raises:
        ConfigError: they are not uint8, a single image, or of a shape that holds no images.
    """
    kind, shape = images.dtype, images.shape
    require(kind == np.uint8, field, name, f"its images are {kind}; save them as uint8, whose range is 0 to 255")
    single = images.ndim == 3 and (shape[2] in (1, 3, 4) or shape[0] == 3)
    remedy = "give an array of images, such as x[None]; grey ones as (n, h, w, 1)"
    require(not single, field, name, f"its array of shape {shape} looks like a single image; {remedy}")
    if images.ndim == 4 and layout == "NCHW":
        images = images.transpose(0, 2, 3, 1)
    images = images[..., None] if images.ndim == 3 else images
    fits = images.ndim == 4 and images.shape[3] in (1, 3, 4)
    remedy = "give (n, h, w, 3), or turn (n, 3, h, w) into a store with `labkit prepare --layout NCHW`"
    require(fits, field, name, f"its images have shape {shape}; {remedy}")
    require(len(images) > 0, field, name, "it holds no images")
    return images


def _npz(path: Path, layout: Layout) -> Listing:
    source = str(path)
    arrays, others = read_arrays(path, "source", (*IMAGES, *LABELS))
    images, labels = (next((arrays.pop(name) for name in names if name in arrays), None) for names in (IMAGES, LABELS))
    others = [*arrays, *others]
    if images is None:
        remedy = f"it has {', '.join(others) or 'none'}; save the images as x and their classes as y"
        refuse("source", source, f"it has no array named x, images or arr_0: {remedy}")
    images = image_stack("source", source, images, layout)
    labels = _whole_numbers(source, np.zeros(len(images), int) if labels is None else labels.reshape(-1))
    same = len(images) == len(labels)
    require(same, "source", source, f"it holds {len(images)} images and {len(labels)} labels; give as many of each")
    digest, grey = sha256(np.ascontiguousarray(images), labels), images.shape[3] == 1
    notes = [f"not taken: arrays ({', '.join(others)})"] if others else []
    return Listing(labels, _numbered(labels), lambda i: images[i, ..., 0] if grey else images[i], digest, notes=notes)


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
        refuse("source", source, f"none of its columns holds images: {', '.join(features)}; name another data set")
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

    tables = [entry["filename"] for entry in rows.cache_files]
    return Listing(labels, classes, file, sha256(image, str(label), labels), stored_in=lambda _: tables)


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
