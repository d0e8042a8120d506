"""What training reads of a store: batches of pixels or latents, by memory map or resident on the device."""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from labkit.datasets.images import Chance, Source
from labkit.datasets.layout import ABOUT, StoreError, complete, load_array, mapped
from labkit.datasets.pictures import BrokenImage, decode
from labkit.runtime import cores
from labkit.types import Batch

AT_ONCE = 4096  # rows, where all of them are copied


class Files(Sequence[Path]):
    """Paths below a folder, made as they are asked for: a million of them would fill the memory."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> Path: ...
    @overload
    def __getitem__(self, row: slice) -> "Files": ...
    def __getitem__(self, row: int | slice) -> "Path | Files":
        return Files(self.root, self.names[row]) if isinstance(row, slice) else self.root / self.names[row]


class Store(Source):
    """What both kinds share: rows of one split, gathered from the shards. ``open_store`` makes them."""

    def __init__(self, folder: Path, about: dict[str, Any], rows: Int64[np.ndarray, " n"], resident: bool) -> None:
        self.folder, self.about = folder, about
        self.shape: tuple[int, int, int] = tuple(about["shape"])
        self.num_classes: int = about["num_classes"]
        self.views = 2 if about["kind"] == "latents" and about["flips"] else 1
        """Items that a row has in the shards."""
        self._rows, self.resident, self._device = rows, resident, torch.device("cpu")
        self._labels = torch.from_numpy(load_array(folder / "labels.npy")[rows])
        self._shards = [mapped(folder, shard, about) for shard in about["shards"]]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards[:-1])])
        self._held: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def to(self, device: torch.device) -> "Store":
        moved = copy.copy(self)
        moved._device = torch.device(device)
        if self.resident:
            moved._labels = self._labels.to(device)
            moved._held = self._copied(moved._device) if self._held is None else self._held.to(device)
        return moved

    @cached_property
    def files(self) -> Files | None:
        if self.about["root"] is None:
            return None
        text = (self.folder / "files.txt").read_text(encoding="utf-8", errors="surrogateescape")
        names = text.split("\n")
        return Files(Path(self.about["root"]), [names[row] for row in self._rows])

    def _items(self, rows: Int[Tensor, " b"], view: Int[Tensor, " b"] | None = None) -> Tensor:
        """What the shards hold for these rows, on the device and as compact as there."""
        if self._held is not None:
            items = rows.to(self._device) * self.views
            return self._held[items if view is None else items + view]
        items = self._rows[rows.numpy()] * self.views
        items = items if view is None else items + view.cpu().numpy()
        return torch.from_numpy(self._gathered(items)).to(self._device)

    def _gathered(self, items: Int64[np.ndarray, " b"]) -> np.ndarray:
        """Items of the files, read shard by shard and in the order that they lie in."""
        first = self._shards[0]
        out = np.empty((len(items), *first.shape[1:]), dtype=first.dtype)
        order = np.argsort(items)
        of = np.searchsorted(self._starts, items[order], side="right") - 1
        for number in np.unique(of):
            where = order[of == number]
            out[where] = self._shards[number][items[where] - self._starts[number]]
        return out

    def _copied(self, device: torch.device) -> Tensor:
        """All rows of the split."""
        items = (self._rows[:, None] * self.views + np.arange(self.views)).reshape(-1)
        first = torch.from_numpy(self._gathered(items[:1]))
        try:
            held = torch.empty((len(items), *first.shape[1:]), dtype=first.dtype, device=device)
        except RuntimeError as error:  # no memory, as a rule
            why = f"{first.nbytes * len(items) / 2**30:.1f} GiB: {str(error).splitlines()[0]}"
            raise StoreError(f"{self.folder} cannot be held on {device} ({why}); leave engine.resident off.") from error
        for start in range(0, len(items), AT_ONCE):
            held[start : start + AT_ONCE] = torch.from_numpy(self._gathered(items[start : start + AT_ONCE]))
        return held

    def _label(self, rows: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        return self._labels[rows.to(self._labels.device)].to(self._device)


class PixelStore(Store):
    """Images as they are: a batch is scaled to [-1, 1], and half of it flipped if the store says so."""

    @property
    def chancy(self) -> bool:
        return self.about["flips"]

    def batch(self, rows: Int[Tensor, " batch"], chance: Chance | None = None) -> Batch:
        x = _scaled(self._items(rows))
        if chance is not None and self.chancy:
            x = _flipped(x, chance)
        return Batch(x, self._label(rows))


class LatentStore(Store):
    """Latents of a VAE, drawn afresh from the posterior each time; half of them those of the flipped image.

    Without chance it gives the posterior's mean.
    """

    chancy = True

    def batch(self, rows: Int[Tensor, " batch"], chance: Chance | None = None) -> Batch:
        flips = chance is not None and self.views == 2
        posterior = self._items(rows, (chance.uniforms < 0.5).long() if flips else None)
        x, deviation = posterior.float().unbind(1)
        if chance is not None:
            x = x + deviation * chance.noise
        return Batch(x * self.about["scale"], self._label(rows))

    def pixels(self, rows: Int[Tensor, " b"], chance: Chance | None = None) -> Float[Tensor, "b 3 side side"]:
        """The images that the latents of ``batch`` were made from, flipped where those are; read from their files.

        Raises:
            StoreError: the store knows no files, or they are no longer where they were.
        """
        if self.files is None:
            raise StoreError(f"{self.folder} was not made from image files; prepare it from a folder of images.")
        x = _scaled(torch.from_numpy(np.stack(list(_readers().map(self._pixels, rows.tolist())))).to(self._device))
        return _flipped(x, chance) if chance is not None and self.views == 2 else x

    def _pixels(self, row: int) -> np.ndarray:
        try:
            return decode(self.files[row], self.about["size"]).pixels
        except (BrokenImage, OSError) as error:
            raise StoreError(
                f"{self.files[row]} could be read when {self.folder} was made, and now it cannot ({error}). If the "
                f'images have moved, write their new place as "root" into {self.folder / ABOUT}.'
            ) from error


def _scaled(x: Tensor) -> Float[Tensor, "b c h w"]:
    return x.float() / 127.5 - 1


def _flipped(x: Float[Tensor, "b c h w"], chance: Chance) -> Float[Tensor, "b c h w"]:
    """Mirrored from left to right where chance has it."""
    return torch.where((chance.uniforms < 0.5)[:, None, None, None], x.flip(-1), x)


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "labkit-images")


def open_store(folder: str | Path, split: str = "train", resident: bool = False) -> PixelStore | LatentStore:
    """A store as training reads it.

    Args:
        folder: where ``labkit prepare`` wrote it.
        split: ``held_out`` for the rows that were put aside, ``train`` for the others.
        resident: hold all rows where ``to`` puts them, instead of reading each batch from the files.

    Raises:
        StoreError: it is no store, not complete, of another version, a file is missing or cut, or it has no such split.
    """
    folder = Path(folder)
    about = complete(folder)
    if split == "held_out" and not about["held_out"]:
        raise StoreError(f"{folder} has no held-out images; prepare it anew with `--held-out N` to put some aside.")
    held_out = np.array(about["held_out"], dtype=np.int64)
    rows = held_out if split == "held_out" else np.setdiff1d(np.arange(about["count"]), held_out)
    return (LatentStore if about["kind"] == "latents" else PixelStore)(folder, about, rows, resident)
