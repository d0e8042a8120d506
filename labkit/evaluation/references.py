"""What generated images are measured against: ADM's .npz files, folders of images, the lab's data sets.

ADM's format (Dhariwal & Nichol 2021): ``arr_0`` holds uint8 images (n, h, w, 3), and a reference may hold the mean
``mu`` and covariance ``sigma`` of the Inception features of a whole data set, beside images or alone.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from labkit import datasets
from labkit.checks import ConfigError, require
from labkit.datasets.decode import BrokenImage, decode
from labkit.datasets.sources import SUFFIXES
from labkit.datasets.store import ABOUT, LatentStore, Store
from labkit.metrics.extractors import to_bytes
from labkit.runtime import cores

Shape = tuple[int, int, int]
"""Channels, height and width."""
Read = Callable[[Int[Tensor, " n"]], UInt8[Tensor, "n c h w"]]
"""Images by their row numbers."""


@dataclass(frozen=True)
class Reference:
    """Images, or statistics of them, or both."""

    name: str
    digest: str
    """Of the files or the images."""
    count: int
    """Images at hand, 0 where there are statistics alone."""
    read: Read | None = None
    statistics: tuple[Float[Tensor, " d"], Float[Tensor, "d d"]] | None = None
    """Mean and covariance of features."""
    second: "Reference | None" = None
    """Other real images, which the reference's own can be measured with."""

    def batches(self, size: int, rows: Int[Tensor, " n"] | None = None) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """The images, or those of some rows, ``size`` at a time."""
        for part in (torch.arange(self.count) if rows is None else rows).split(size):
            yield self.read(part)


def open_reference(name: str, shape: Shape) -> Reference:
    """A reference for images of this shape.

    Args:
        name: an .npz file in ADM's format; a folder of images, which are cut to size as ``labkit prepare`` does; an
            embedded data set or the folder of a store, of which the held-out images are taken.
        shape: of the images to be measured; a reference of other images is refused.

    Raises:
        ConfigError: there is no such reference, it cannot be read, or does not fit.
        StoreError: the store is not whole or has no held-out images.
    """
    path = Path(name)
    if name in datasets.EMBEDDED or (path / ABOUT).is_file():
        held_out, train = (_of_source(f"{name}, {split}", name, split, shape) for split in ("held_out", "train"))
        return Reference(held_out.name, held_out.digest, held_out.count, held_out.read, second=train)
    if path.is_dir():
        return _of_folder(path, shape)
    known = f"give an .npz file, a folder of images, a store, or one of {', '.join(datasets.EMBEDDED)}"
    require(path.is_file(), "reference", name, f"there is no such file, folder or data set; {known}")
    require(path.suffix == ".npz", "reference", name, f"{known}")
    return _of_npz(path, shape)


def _fits(name: str, found: tuple[int, ...], shape: Shape) -> None:
    told = "its images are {}×{}×{}, and those to be measured {}×{}×{} (channels, height, width)"
    require(tuple(found) == shape, "reference", name, told.format(*found, *shape) + "; prepare it at this size")


def _of_source(told: str, name: str, split: str, shape: Shape) -> Reference:
    """One split of a data set; of latents, the images that they were made from."""
    source = datasets.load(name, split)
    latents = isinstance(source, LatentStore)
    _fits(name, (3, source.about["size"], source.about["size"]) if latents else source.shape, shape)

    def read(rows: Tensor) -> Tensor:
        return pixels(source, rows)

    if isinstance(source, Store):
        about = {key: source.about[key] for key in ("shards", "held_out")}
        digest = hashlib.sha256(f"{split} {json.dumps(about, sort_keys=True)}".encode()).hexdigest()
    else:
        digest = hashlib.sha256(read(torch.arange(len(source))).numpy()).hexdigest()
    return Reference(told, digest, len(source), read)


def pixels(source: datasets.Source, rows: Int[Tensor, " n"]) -> UInt8[Tensor, "n c h w"]:
    """Images of a data set; of latents, those that they were made from."""
    return to_bytes(source.pixels(rows) if isinstance(source, LatentStore) else source.batch(rows).x)


def _of_folder(root: Path, shape: Shape) -> Reference:
    found = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    files = sorted(path for path in found if path.is_file())
    require(len(files) > 0, "reference", str(root), "the folder holds no images")
    channels, height, width = shape
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode(errors="surrogateescape"))
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())

    def square(row: int) -> np.ndarray:
        try:
            found = decode(files[row], height, channels)
        except (BrokenImage, OSError) as error:
            raise ConfigError(f"reference = {str(root)!r}: {files[row]} cannot be read ({error}).") from error
        require(not found.enlarged, "reference", str(files[row]), f"it is smaller than {height}×{width} pixels")
        return found.pixels

    def read(rows: Tensor) -> Tensor:
        with ThreadPoolExecutor(cores()) as pool:
            return torch.from_numpy(np.stack(list(pool.map(square, rows.tolist()))))

    return Reference(str(root), digest.hexdigest(), len(files), read)


def _of_npz(path: Path, shape: Shape) -> Reference:
    name = str(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, mean, covariance = (archive.get(key) for key in ("arr_0", "mu", "sigma"))
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        told = "cannot be read as an .npz file of plain arrays"
        raise ConfigError(f"reference = {name!r} {told}: {error}") from error
    images = None if images is None else _images(name, images, shape)
    statistics = None if mean is None or covariance is None else _statistics(name, mean, covariance)
    some = images is not None or statistics is not None
    require(some, "reference", name, "it has neither images (arr_0) nor statistics (mu and sigma)")
    read = None if images is None else (lambda rows: images[rows])
    return Reference(name, digest, 0 if images is None else len(images), read, statistics)


def _images(name: str, images: Any, shape: Shape) -> UInt8[Tensor, "n c h w"]:
    """``arr_0``; of grey images it may hold three equal channels, as an export does."""
    kind = f"{images.dtype} {images.shape}"
    right = images.dtype == np.uint8 and images.ndim in (3, 4) and len(images) > 0
    require(right, "reference", name, f"arr_0 is {kind}; give uint8 images (n, h, w, 3)")
    x = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
    if shape[0] == 1 and x.shape[1] == 3 and bool((x == x[:, :1]).all()):
        x = x[:, :1]
    _fits(name, tuple(x.shape[1:]), shape)
    return x


def _statistics(name: str, mean: Any, covariance: Any) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    square = mean.ndim == 1 and covariance.shape == (len(mean), len(mean))
    right = square and mean.dtype.kind == covariance.dtype.kind == "f"
    told = f"mu is {mean.dtype} {mean.shape} and sigma {covariance.dtype} {covariance.shape}; give (d,) and (d, d)"
    require(right, "reference", name, told)
    return torch.from_numpy(mean).double(), torch.from_numpy(covariance).double()
