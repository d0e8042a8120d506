"""A store: a folder of prepared images or latents, which training reads by memory map or keeps on the device.

store.json        contents of the store and the settings it was made with; ``complete`` once all files are there
shard-00000.npy   rows of the first images of the listing: uint8 pixels, (n, c, h, w), or mean and standard deviation of
                  latents as float16, (n, views, 2, c, h, w), where the second view is that of the flipped image
shard-00000.json  count, size and sha256 of the shard, the images that were skipped, and a digest of the sizes and times
                  of change of its images' files
labels.npy        int64, a class for each row
files.txt         path of each row's image below ``root`` of store.json, if the images came from a folder
"""

import copy
import hashlib
import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from tqdm.auto import tqdm

from labkit.checks import LabError
from labkit.datasets.base import AugmentationDraws, Files, Source, Split
from labkit.datasets.decode import BrokenImage, decode, pixel_limit
from labkit.disk import reading, user_path
from labkit.ops import to_floats
from labkit.runtime import cores, memory_for
from labkit.types import Batch

FORMAT = "labkit-store-1"
ABOUT = "store.json"
AT_ONCE = 4096  # rows, when all of them are copied to a device
SHOWN = 5  # classes and skipped images that ``describe`` names
AGAIN = "run its `labkit prepare` command again"  # which makes what is missing


class StoreError(LabError, RuntimeError):
    """A folder that is not a complete store of the right kind; the message says what to do."""


def npy(parts: list[np.ndarray]) -> list[bytes | memoryview]:
    """Pieces of an .npy file that holds the concatenation of arrays."""
    head, kind = io.BytesIO(), np.lib.format.header_data_from_array_1_0(parts[0])
    np.lib.format.write_array_header_1_0(head, kind | {"shape": (sum(map(len, parts)), *parts[0].shape[1:])})
    return [head.getvalue(), *(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data for part in parts)]


def read_about(folder: Path) -> dict[str, Any]:
    """Contents of store.json.

    Raises:
        StoreError: the folder holds no store, or one of another version.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise StoreError(f"{folder} is not a store (it has no {ABOUT}); make one with `labkit prepare SOURCE`.")
    try:
        with reading(path):
            about = json.loads(path.read_text(encoding="utf-8"))
        version = about["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is cut or was not written by labkit ({error}); copy that file again.") from error
    if version != FORMAT:
        raise StoreError(
            f"{folder} has format {version!r} and this version of labkit reads {FORMAT!r}; take the one that wrote it."
        )
    return about


def complete(folder: Path) -> dict[str, Any]:
    """Contents of store.json, after a check that every file of the store is there and has its size."""
    about = read_about(folder)
    if not about["complete"]:
        raise StoreError(f"{folder} is not complete; {AGAIN}, which goes on where it stopped.")
    for entry in (*about["shards"], *about["tables"]):
        path = folder / entry["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            fault = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise StoreError(f"{path} {fault}; copy that file again, or {AGAIN}, which makes it alone.")
    return about


def record_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"


def shard_record(folder: Path, number: int) -> dict[str, Any] | None:
    """Record of a shard; None if the shard is missing or cut."""
    try:
        record = json.loads(record_path(folder, number).read_text())
        whole = not record["count"] or (folder / record["file"]).stat().st_size == record["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def load_array(path: Path, **options: Any) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        StoreError: it is no such file.
    """
    try:
        with reading(path):
            return np.load(path, **options)
    except (FileNotFoundError, ValueError, EOFError) as error:
        raise StoreError(f"{path} cannot be read ({error}); copy that file again, or {AGAIN}.") from error


def read_names(folder: Path) -> list[str]:
    """Path of each row's image below the root."""
    return (folder / "files.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n")


def mapped(folder: Path, shard: dict[str, Any], about: dict[str, Any]) -> np.ndarray:
    """Items of a shard by memory map: one for each row, or one for each view of a row."""
    data = load_array(folder / shard["file"], mmap_mode="r")
    latents = about["kind"] == "latents"
    item = ((2,) if latents else ()) + tuple(about["shape"])
    views = ((1 + about["flips"]),) if latents else ()
    if data.shape != (shard["count"], *views, *item) or data.dtype != (np.float16 if latents else np.uint8):
        holds = f"it holds {data.dtype} {data.shape}"
        raise StoreError(f"{folder / shard['file']} is no shard of this store: {holds}; copy that file again.")
    return data.reshape(-1, *item)


def describe(folder: Path) -> str:
    """Contents of a store in words, with the images that were skipped."""
    about = read_about(folder)
    if not about["complete"]:
        return f"This share of {folder} is made; the store is complete when the other processes have made theirs."
    kind = f"{'images' if about['kind'] == 'pixels' else 'latents'} of {'×'.join(map(str, about['shape']))}"
    kind += f", of images of {about['size']} pixels" if about["kind"] == "latents" else ""
    names = ", ".join([*about["classes"][:SHOWN], *["…"][: about["num_classes"] > SHOWN]])
    text = f"{folder} holds {about['count']} {kind}, in {_number(about['num_classes'], 'class')} ({names})"
    text += f", {len(about['held_out'])} of them held out." if about["held_out"] else "."
    text += "".join(f"\n{note[0].upper()}{note[1:]}." for note in about.get("notes", ()))  # older stores have none
    if about["enlarged"]:
        text += f"\n{_number(about['enlarged'], 'image')} had to be enlarged to {about['size']} pixels."
    if about["skipped"]:
        first = "\n".join(f"    {entry['path']}: {entry['why']}" for entry in about["skipped"][:SHOWN])
        many = _number(len(about["skipped"]), "image")
        text += f'\n{many} could not be used; {folder / ABOUT} lists all under "skipped":\n{first}'
    return text.encode(errors="backslashreplace").decode()  # a file's name may be no valid text


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def verify(folder: str | Path, progress: bool = False) -> int:
    """Read all of a store and compare it with its checksums; return the number of its images.

    Raises:
        StoreError: as ``open_store``, or files whose contents have changed; all of these are named.
    """
    folder = user_path(folder, "verify")
    about = complete(folder)
    entries = [*about["shards"], *about["tables"]]
    damaged = []
    for entry in tqdm(entries, desc="verifying", unit="file", disable=not progress):
        with open(folder / entry["file"], "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                damaged.append(entry["file"])
    if damaged:
        raise StoreError(
            f"{folder} is corrupted; these files do not match their checksums: {', '.join(damaged)}. Move them "
            f"away and {AGAIN}, which makes these alone, or copy them again from where they are whole."
        )
    return about["count"]


class Store(Source):
    """Rows of one split, gathered from the shards; ``open_store`` returns one of the two kinds."""

    def __init__(self, folder: Path, about: dict[str, Any], rows: Int64[np.ndarray, " n"], resident: bool) -> None:
        self.folder, self.about = folder, about
        self.shape: tuple[int, int, int] = tuple(about["shape"])
        self.num_classes: int = about["num_classes"]
        self.augments: bool = about["kind"] == "latents" or about["flips"]
        self.views = 2 if about["kind"] == "latents" and about["flips"] else 1
        """Number of items of a row in the shards."""
        self._rows, self.resident, self._device = rows, resident, torch.device("cpu")
        self._labels = torch.from_numpy(load_array(folder / "labels.npy")[rows])
        self._shard = lru_cache(_most_shards())(lambda number: mapped(folder, about["shards"][number], about))
        """Items of a shard, which is opened when it is read: a system may allow fewer open files than there are."""
        counts = [len(self._shard(number)) for number in range(len(about["shards"]))]
        self._starts = np.cumsum([0, *counts[:-1]])
        self._held: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def to(self, device: torch.device) -> "Store":
        moved = copy.copy(self)
        moved._device = torch.device(device)
        if self.resident:
            moved._labels = self._labels.to(device)
            moved._held = self._copy_to(moved._device) if self._held is None else self._held.to(device)
        return moved

    @cached_property
    def files(self) -> Files | None:
        if self.about["root"] is None:
            return None
        names = read_names(self.folder)
        return Files(Path(self.about["root"]), [names[row] for row in self._rows])

    def _items(self, rows: Int[Tensor, " b"], view: Int[Tensor, " b"] | None = None) -> Tensor:
        """Items of these rows on the device, of the type that the shards have."""
        if self._held is not None:
            items = rows.to(self._device) * self.views
            return self._held[items if view is None else items + view]
        items = self._rows[rows.numpy()] * self.views
        items = items if view is None else items + view.cpu().numpy()
        return torch.from_numpy(self._gather(items)).to(self._device)

    def _gather(self, items: Int64[np.ndarray, " b"]) -> np.ndarray:
        """Items of the files, read shard by shard in the order of the files."""
        first = self._shard(0)
        out = np.empty((len(items), *first.shape[1:]), dtype=first.dtype)
        order = np.argsort(items)
        shards = np.searchsorted(self._starts, items[order], side="right") - 1
        for number in np.unique(shards):
            places = order[shards == number]
            out[places] = self._shard(int(number))[items[places] - self._starts[number]]
        return out

    def _copy_to(self, device: torch.device) -> Tensor:
        """All items of the split, on a device."""
        items = (self._rows[:, None] * self.views + np.arange(self.views)).reshape(-1)
        first = torch.from_numpy(self._gather(items[:1]))
        size = f"{first.nbytes * len(items) / 2**30:.1f} GiB"
        with memory_for(f"all of {self.folder} on {device}, {size}", "leave engine.resident off"):
            held = torch.empty((len(items), *first.shape[1:]), dtype=first.dtype, device=device)
        for start in range(0, len(items), AT_ONCE):
            held[start : start + AT_ONCE] = torch.from_numpy(self._gather(items[start : start + AT_ONCE]))
        return held

    def _label(self, rows: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        return self._labels[rows.to(self._labels.device)].to(self._device)


class PixelStore(Store):
    """Images, which a batch scales to [-1, 1], and half of which it flips if the store was prepared with flips."""

    def batch(self, rows: Int[Tensor, " batch"], draws: AugmentationDraws | None = None) -> Batch:
        x = to_floats(self._items(rows))
        if draws is not None and self.augments:
            x = _flipped(x, draws)
        return Batch(x, self._label(rows))


class LatentStore(Store):
    """Latents of a VAE: a batch draws them from the posterior, half of them from that of the flipped image.

    Without random numbers a batch holds the posterior's mean.
    """

    def batch(self, rows: Int[Tensor, " batch"], draws: AugmentationDraws | None = None) -> Batch:
        view = None if draws is None or self.views == 1 else (draws.uniforms < 0.5).long()
        posterior = self._items(rows, view)
        x, deviation = posterior.float().unbind(1)
        if draws is not None:
            x = x + deviation * draws.noise
        return Batch(x * self.about["scale"], self._label(rows))

    def pixels(self, rows: Int[Tensor, " b"], draws: AugmentationDraws | None = None) -> Float[Tensor, "b 3 side side"]:
        """Images of the latents that ``batch`` returns, flipped where those are, read from their files.

        Raises:
            StoreError: the store was not made from files, or they have moved.
        """
        files = self.files
        if files is None:
            raise StoreError(f"{self.folder} was not made from image files; prepare it from a folder of images.")
        with pixel_limit(sys.maxsize):  # they were all read when the store was made
            images = list(_readers().map(self._pixels, [files[row] for row in rows.tolist()]))
        x = to_floats(torch.from_numpy(np.stack(images)).to(self._device))
        return _flipped(x, draws) if draws is not None and self.views == 2 else x

    def _pixels(self, file: Path) -> np.ndarray:
        try:
            return decode(file, self.about["size"], bits=self.about["settings"].get("bits")).pixels
        except (BrokenImage, OSError) as error:
            raise StoreError(
                f"{file} could be read when {self.folder} was made, but not now ({error}). If the images "
                f'have moved, write their new folder as "root" into {self.folder / ABOUT}.'
            ) from error


def _flipped(x: Float[Tensor, "b c h w"], draws: AugmentationDraws) -> Float[Tensor, "b c h w"]:
    """Images mirrored from left to right where the uniform number is below 1/2."""
    return torch.where((draws.uniforms < 0.5)[:, None, None, None], x.flip(-1), x)


def _most_shards() -> int:
    """Shards that a store may keep open: a third of the files that the process may."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4096 if most == resource.RLIM_INFINITY else max(most // 3, 1)


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "labkit-images")


def open_store(folder: str | Path, split: Split = "train", resident: bool = False) -> PixelStore | LatentStore:
    """A store, ready for training.

    Args:
        folder: folder that ``labkit prepare`` wrote.
        split: ``held_out`` for the rows that are kept out of training, else ``train``.
        resident: keep all rows on the device of ``to``, instead of reading each batch from the files.

    Raises:
        StoreError: it is no store, not complete, of another version, a file is missing or cut, or it has no such split.
    """
    folder = user_path(folder, "folder")
    about = complete(folder)
    if split == "held_out" and not about["held_out"]:
        remedy = "compare with others (labkit evaluate --reference), or prepare a second store with `--held-out N`"
        raise StoreError(f"{folder} has no held-out images; {remedy}.")
    held_out = np.array(about["held_out"], dtype=np.int64)
    rows = held_out if split == "held_out" else np.setdiff1d(np.arange(about["count"]), held_out)
    return (LatentStore if about["kind"] == "latents" else PixelStore)(folder, about, rows, resident)
