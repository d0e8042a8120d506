"""Many samples of a run, drawn shard by shard, so that a job of hours goes on after a kill and ranks share it.

A shard holds the samples of a fixed range of numbers, drawn in the same batches by any process: neither the number of
ranks nor an interruption changes a bit of an image.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from labkit.datasets.store import npy
from labkit.disk import reading, replace_file, replacing
from labkit.ops import to_bytes
from labkit.sampling import SampleError, check_finite
from labkit.training import Samples

Draw = Callable[[range, Int[Tensor, " n"]], Samples]
"""Samples of these numbers and labels."""
AGAIN = "move it away, and the same command draws these samples again and no others"


class Shards:
    """The files ``samples-00000.npy``, … of a folder: uint8 (n, c, h, w), a record beside each.

    Args:
        folder: holds these samples alone.  labels: one a sample.  size: samples in one file.
    """

    def __init__(self, folder: Path, labels: Int[Tensor, " n"], size: int) -> None:
        self.folder, self.labels, self.size = folder, labels, size

    @cached_property
    def ranges(self) -> list[range]:
        """Numbers of the samples of each shard."""
        count = len(self.labels)
        return [range(first, min(first + self.size, count)) for first in range(0, count, self.size)]

    def path(self, number: int) -> Path:
        return self.folder / f"samples-{number:05d}.npy"

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not there; a shard that is there is complete."""
        return [number for number in range(len(self.ranges)) if not self.path(number).exists()]

    def left(self, rank: int, ranks: int) -> list[int]:
        """Numbers of the missing shards of a rank's share: each ``ranks``-th shard from number ``rank`` on."""
        return [number for number in self.missing if number % ranks == rank]

    def samples(self, numbers: Iterable[int]) -> int:
        """Samples in the shards with these numbers."""
        return sum(len(self.ranges[number]) for number in numbers)

    def make(self, draw: Draw, decode: Callable[[Tensor], Tensor], rank: int, ranks: int, progress: bool) -> None:
        """Draw the missing shards of this rank's share."""
        left = self.left(rank, ranks)
        total, todo = self.samples(range(len(self.ranges))[rank::ranks]), self.samples(left)
        label = "sampling" if ranks == 1 else f"sampling the share of rank {rank}"
        with tqdm(total=total, initial=total - todo, desc=label, unit="image", disable=not progress or rank > 0) as bar:
            for number in left:
                numbers = self.ranges[number]
                samples = draw(numbers, self.labels[numbers.start : numbers.stop])
                self._write(number, decode(samples.x), samples.settings["nfe"])
                bar.update(len(numbers))

    def _write(self, number: int, x: Float[Tensor, "n c h w"], evaluations: int) -> None:
        check_finite(x, self.ranges[number].start)
        record = {"nfe": evaluations, "first": self.ranges[number].start, "count": len(x)}
        replace_file(self.path(number).with_suffix(".json"), json.dumps(record).encode())
        replace_file(self.path(number), *npy([to_bytes(x).numpy()]))  # last: now the shard is there

    def evaluations(self) -> float:
        """Evaluations of the network a sample: the mean over the shards, which differ under dopri5 only."""
        records = [json.loads(self.path(n).with_suffix(".json").read_text()) for n in range(len(self.ranges))]
        mean = sum(record["nfe"] * record["count"] for record in records) / len(self.labels)
        return int(mean) if mean == int(mean) else mean

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """The images in their order, at most ``size`` at a time."""
        for number in range(len(self.ranges)):
            yield from torch.from_numpy(self._read(number)).split(size)

    def _read(self, number: int) -> UInt8[np.ndarray, "n c h w"]:
        path = self.path(number)
        try:
            with reading(path):
                x = np.load(path)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise SampleError(f"{path} cannot be read ({error}); {AGAIN}.") from error
        if x.dtype != np.uint8 or x.ndim != 4 or len(x) != len(self.ranges[number]):
            raise SampleError(f"{path} holds {x.dtype} {x.shape}, not these samples; {AGAIN}.")
        return x

    def export(self, path: Path) -> None:
        """Write all as an .npz in ADM's format: ``arr_0`` uint8 (n, h, w, 3), ``arr_1`` labels; grey three times.

        One shard is in memory at a time; the file appears whole or not at all.
        """
        shape = (len(self.labels), *self._read(0).shape[2:], 3)
        with replacing(path, int(np.prod(shape))) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                header = {"shape": shape, "fortran_order": False, "descr": "|u1"}
                np.lib.format.write_array_header_1_0(file, header)
                for number in range(len(self.ranges)):
                    x = self._read(number).transpose(0, 2, 3, 1)
                    file.write(np.broadcast_to(x, (len(x), *shape[1:])).tobytes())
            with archive.open("arr_1.npy", "w") as file:
                np.lib.format.write_array(file, self.labels.numpy())
