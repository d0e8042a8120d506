"""Many samples of a run, made shard by shard, so that a job of hours goes on after a kill and ranks share it.

A shard holds the samples of a fixed range of numbers, made in the same batches whoever makes it: neither the number of
ranks nor an interruption changes a bit of an image.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from labkit.datasets.store import npy
from labkit.disk import DiskError, replace_file, unwritten
from labkit.metrics.extractors import to_bytes
from labkit.training import Samples
from labkit.types import LabError

Draw = Callable[[range, Int[Tensor, " n"]], Samples]
"""Samples of these numbers and labels."""


class SampleError(LabError, RuntimeError):
    """Samples that cannot be used; the message says what to do."""


class Shards:
    """The files ``samples-00000.npy``, … of a folder: uint8 (n, c, h, w), a record beside each.

    Args:
        folder: of these samples alone.  labels: one a sample.  size: samples of one file.
    """

    def __init__(self, folder: Path, labels: Int[Tensor, " n"], size: int) -> None:
        self.folder, self.labels, self.size = folder, labels, size

    @cached_property
    def ranges(self) -> list[range]:
        count = len(self.labels)
        return [range(first, min(first + self.size, count)) for first in range(0, count, self.size)]

    def path(self, number: int) -> Path:
        return self.folder / f"samples-{number:05d}.npy"

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not there; what is there is whole."""
        return [number for number in range(len(self.ranges)) if not self.path(number).exists()]

    def make(self, draw: Draw, decode: Callable[[Tensor], Tensor], rank: int, ranks: int, progress: bool) -> None:
        """Make what is missing of this rank's share, each ``ranks``-th shard from number ``rank`` on."""
        own = range(len(self.ranges))[rank::ranks]
        missing = set(self.missing)
        left = [number for number in own if number in missing]
        total, todo = (sum(len(self.ranges[number]) for number in numbers) for numbers in (own, left))
        label = "sampling" if ranks == 1 else f"sampling the share of rank {rank}"
        with tqdm(total=total, initial=total - todo, desc=label, unit="image", disable=not progress or rank > 0) as bar:
            for number in left:
                numbers = self.ranges[number]
                samples = draw(numbers, self.labels[numbers.start : numbers.stop])
                self._write(number, decode(samples.x), samples.settings["nfe"])
                bar.update(len(numbers))

    def _write(self, number: int, x: Float[Tensor, "n c h w"], evaluations: int) -> None:
        if not x.isfinite().all():
            first = self.ranges[number].start + int((~x.isfinite().flatten(1).all(dim=1)).nonzero()[0])
            raise SampleError(f"Sample {first} is not finite: has the run diverged? Choose an earlier step.")
        record = {"nfe": evaluations, "first": self.ranges[number].start, "count": len(x)}
        mark = f".{os.getpid()}"
        replace_file(self.path(number).with_suffix(".json"), json.dumps(record).encode(), mark=mark)
        replace_file(self.path(number), *npy([to_bytes(x).numpy()]), mark=mark)  # last: now the shard is there

    def evaluations(self) -> float:
        """Of the network a sample: the mean over the shards, which only differ under dopri5."""
        records = [json.loads(self.path(n).with_suffix(".json").read_text()) for n in range(len(self.ranges))]
        total = sum(record["nfe"] * record["count"] for record in records) / len(self.labels)
        return int(total) if total == int(total) else total

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """The images in their order, at most ``size`` at a time."""
        for number in range(len(self.ranges)):
            yield from torch.from_numpy(self._read(number)).split(size)

    def _read(self, number: int) -> UInt8[np.ndarray, "n c h w"]:
        path = self.path(number)
        try:
            x = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise SampleError(f"{path} cannot be read ({error}); remove it and ask again.") from error
        if x.dtype != np.uint8 or x.ndim != 4 or len(x) != len(self.ranges[number]):
            told = f"it holds {x.dtype} {x.shape}; remove it and ask again"
            raise SampleError(f"{path} is none of these samples: {told}.")
        return x

    def export(self, path: Path) -> None:
        """Write all as an .npz in ADM's format: ``arr_0`` uint8 (n, h, w, 3), ``arr_1`` labels; grey thrice.

        A shard at a time; the file appears whole or not at all.
        """
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                    shape = (len(self.labels), *_colour(self._read(0)).shape[1:])
                    _head(file, shape, np.dtype(np.uint8))
                    for number in range(len(self.ranges)):
                        file.write(_colour(self._read(number)).tobytes())
                with archive.open("arr_1.npy", "w") as file:
                    np.lib.format.write_array(file, self.labels.numpy())
            os.replace(part, path)
        except OSError as error:
            raise DiskError(unwritten(path, len(self.labels) * 3 * self._read(0)[0, 0].size, error)) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


def _colour(x: UInt8[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    x = x.transpose(0, 2, 3, 1)
    return np.broadcast_to(x, (*x.shape[:3], 3))


def _head(file: Any, shape: tuple[int, ...], kind: np.dtype) -> None:
    about = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(kind)}
    np.lib.format.write_array_header_1_0(file, about)
