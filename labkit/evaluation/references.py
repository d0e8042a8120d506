"""Real images that generated ones are measured against: ADM's .npz files, folders of images, the lab's data sets.

ADM's format (Dhariwal & Nichol 2021): ``arr_0`` holds uint8 images (n, h, w, 3), and a reference may hold the mean
``mu`` and covariance ``sigma`` of the Inception features of a whole data set, beside images or alone, and ``mu_s`` and
``sigma_s`` of their spatial features.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from labkit import datasets
from labkit.checks import ConfigError, require
from labkit.datasets.base import Split
from labkit.datasets.decode import BrokenImage, decode
from labkit.datasets.sources import SUFFIXES
from labkit.datasets.store import ABOUT, LatentStore, Store, read_about
from labkit.disk import user_path
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
    """SHA-256 of the files or the images."""
    count: int
    """Number of images, 0 where there are statistics alone."""
    read: Read | None = None
    """None where there are statistics alone."""
    statistics: tuple[Float[Tensor, " d"], Float[Tensor, "d d"]] | None = None
    """Mean and covariance of features."""
    spatial: tuple[Float[Tensor, " places"], Float[Tensor, "places places"]] | None = None
    """Mean and covariance of spatial features."""
    second: "Reference | None" = None
    """Other real images, with which the reference itself can be measured."""

    def batches(self, size: int, rows: Int[Tensor, " n"] | None = None) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """The images, or those of some rows, ``size`` at a time."""
        assert self.read is not None, f"{self.name} holds statistics and no images"
        for part in (torch.arange(self.count) if rows is None else rows).split(size):
            yield self.read(part)

    def images(self, rows: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "_ c h w"]:
        """All images, or those of some rows."""
        return torch.cat(list(self.batches(250, rows)))


def open_reference(name: str, shape: Shape) -> Reference:
    """A reference for images of this shape.

    Args:
        name: an .npz file in ADM's format; a folder of images, which are cropped and scaled as ``labkit prepare``
            does; an embedded data set or the folder of a store, of which the held-out images are taken, or all if there
            are none.
        shape: of the images to be measured; a reference of other images is refused.

    Raises:
        ConfigError: there is no such reference, it cannot be read, or does not fit.
        StoreError: the store is incomplete.
    """
    path = Path(name) if name in datasets.EMBEDDED else user_path(name, "reference")
    if name in datasets.EMBEDDED or (path / ABOUT).is_file():
        train = _split_of(name, "train", shape)
        if name not in datasets.EMBEDDED and not read_about(path)["held_out"]:
            return replace(train, name=f"{name}, train (no images are held out: copies of these score best)")
        return replace(_split_of(name, "held_out", shape), second=train)
    if path.is_dir():
        return _folder(path, shape)
    remedy = f"give an .npz file, a folder of images, a store, or one of {', '.join(datasets.EMBEDDED)}"
    require(path.is_file(), "reference", name, f"there is no such file, folder or data set; {remedy}")
    require(path.suffix == ".npz", "reference", name, remedy)
    return _npz(path, shape)


def _check_shape(name: str, images: tuple[int, ...], shape: Shape) -> None:
    fault = "its images are {}×{}×{}, and those to be measured {}×{}×{} (channels, height, width)"
    require(tuple(images) == shape, "reference", name, fault.format(*images, *shape) + "; prepare it at this size")


def _split_of(name: str, split: Split, shape: Shape) -> Reference:
    """One split of a data set; of latents, the images that they were made from."""
    source = datasets.load(name, split)
    latents = isinstance(source, LatentStore)
    label = f"{name}, {split}"
    _check_shape(label, (3, source.about["size"], source.about["size"]) if latents else source.shape, shape)

    def read(rows: Tensor) -> Tensor:
        return to_bytes(source.pixels(rows) if latents else source.batch(rows).x)

    if isinstance(source, Store):
        content = {key: source.about[key] for key in ("shards", "held_out")}
        digest = hashlib.sha256(f"{split} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()
    else:
        digest = hashlib.sha256(read(torch.arange(len(source))).numpy().data).hexdigest()
    return Reference(label, digest, len(source), read)


def _folder(root: Path, shape: Shape) -> Reference:
    images = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    files = sorted(path for path in images if path.is_file())
    require(len(files) > 0, "reference", str(root), "the folder holds no images")
    channels, height, width = shape
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode(errors="surrogateescape"))
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())

    def square(row: int) -> np.ndarray:
        try:
            decoded = decode(files[row], height, channels)
        except (BrokenImage, OSError) as error:
            raise ConfigError(f"reference = {str(root)!r}: {files[row]} cannot be read ({error}).") from error
        require(not decoded.enlarged, "reference", str(files[row]), f"it is smaller than {height}×{width} pixels")
        return decoded.pixels

    def read(rows: Tensor) -> Tensor:
        with ThreadPoolExecutor(cores()) as pool:
            return torch.from_numpy(np.stack(list(pool.map(square, rows.tolist()))))

    return Reference(str(root), digest.hexdigest(), len(files), read)


def _npz(path: Path, shape: Shape) -> Reference:
    name = str(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays, *known = (archive.get(key) for key in ("arr_0", "mu", "sigma", "mu_s", "sigma_s"))
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        fault = "cannot be read as an .npz file of plain arrays"
        raise ConfigError(f"reference = {name!r} {fault}: {error}") from error
    statistics, spatial = _statistics(name, *known[:2]), _statistics(name, *known[2:])
    has_images = arrays is not None
    require(has_images or statistics is not None, "reference", name, "it has neither images (arr_0) nor mu and sigma")
    reference = Reference(name, digest, 0, statistics=statistics, spatial=spatial)
    if has_images:
        images = _images(name, arrays, shape)
        reference = replace(reference, count=len(images), read=lambda rows: images[rows])
    return reference


def _images(name: str, arrays: Any, shape: Shape) -> UInt8[Tensor, "n c h w"]:
    """``arr_0`` as a tensor; grey images may be stored as three equal channels, as in an export."""
    valid = arrays.dtype == np.uint8 and arrays.ndim in (3, 4) and len(arrays) > 0
    require(valid, "reference", name, f"arr_0 is {arrays.dtype} {arrays.shape}; give uint8 images (n, h, w, 3)")
    x = torch.from_numpy(arrays if arrays.ndim == 4 else arrays[..., None]).permute(0, 3, 1, 2)
    if shape[0] == 1 and x.shape[1] == 3 and bool((x == x[:, :1]).all()):
        x = x[:, :1]
    _check_shape(name, tuple(x.shape[1:]), shape)
    return x


def _statistics(name: str, mean: Any, covariance: Any) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]] | None:
    if mean is None or covariance is None:
        return None
    square = mean.ndim == 1 and covariance.shape == (len(mean), len(mean))
    valid = square and mean.dtype.kind == covariance.dtype.kind == "f"
    fault = f"mu is {mean.dtype} {mean.shape} and sigma {covariance.dtype} {covariance.shape}; give (d,) and (d, d)"
    require(valid, "reference", name, fault)
    return torch.from_numpy(mean).double(), torch.from_numpy(covariance).double()
