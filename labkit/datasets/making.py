"""How one process makes its share of a store, shard by shard; see ``labkit.datasets.prepare``."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from tqdm.auto import tqdm

from labkit.checks import ConfigError, require
from labkit.datasets.codec import Codec
from labkit.datasets.layout import ABOUT, FORMAT, StoreError, made, npy, read_about
from labkit.datasets.listing import find
from labkit.datasets.pictures import BrokenImage, Square, decode
from labkit.datasets.preparation import Preparation
from labkit.disk import replace_file
from labkit.runtime import cores, device, machine


class Making:
    """The making of one store by one process.

    Args:
        source, out, asked: as in ``prepare``.  rank, ranks: which share of the shards.
    """

    def __init__(self, source: str, out: Path, asked: Preparation, rank: int, ranks: int) -> None:
        self.out, self.asked, self.rank = out, asked, rank
        self.listing = find(source, asked)
        held_out_rows(self.listing.labels, asked.held_out, asked.seed)  # too many are refused before any work
        self.codec = None if asked.latents is None else Codec(asked.latents, _own_device())
        self.shape = (asked.channels, asked.size, asked.size) if self.codec is None else self.codec.shape(asked.size)
        self.shards = range(-(-len(self.listing.labels) // asked.shard))
        self.own = self.shards[rank::ranks]
        self.began = self._begin(source)

    def _settings(self, source: str) -> dict[str, Any]:
        """All that decides on what the store will hold, as JSON has it."""
        settings: dict[str, Any] = asdict(self.asked)
        settings.pop("batch")  # of speed alone
        settings["source"] = str(Path(source).resolve()) if Path(source).exists() else source
        settings["latents"] = self.codec and self.codec.digest
        settings |= {"images": len(self.listing.labels), "listing": self.listing.digest}
        return settings

    def _begin(self, source: str) -> dict[str, Any]:
        """Claim the folder, or find that it is ours; gives what its store.json says from the start."""
        out, codec, settings = self.out, self.codec, self._settings(source)
        # Looked at first, since another rank may be claiming it just now.
        others = out.exists() and (not out.is_dir() or any(f.name[0] != "." for f in out.iterdir()))
        if (out / ABOUT).exists():
            about = read_about(out)
            old = about["settings"]
            changed = [f"{name}: {old.get(name)!r} → {v!r}" for name, v in settings.items() if old.get(name) != v]
            if changed:
                raise StoreError(
                    f"{out} holds a store of other settings ({'; '.join(changed)}); choose another folder, or those "
                    "settings."
                )
            return {name: about[name] for name in ("format", "settings", "vae", "machine")}
        if others:
            raise StoreError(f"{out} exists and is not a store; choose an empty or a new folder.")
        vae = codec and {"name": codec.source, "digest": codec.digest, "config": codec.config}
        about = {"format": FORMAT, "settings": settings, "vae": vae, "machine": machine()}
        self._write_about({**about, "complete": False})
        return about

    def _write_about(self, about: dict[str, Any]) -> None:
        text = json.dumps(about, indent=1, default=lambda number: number.item())
        replace_file(self.out / ABOUT, text.encode(), mark=f".{self.rank}")

    def run(self, progress: bool) -> None:
        """Make this process's shards, and what is left when all are there."""
        left = [number for number in self.own if made(self.out, number) is None]
        total, todo = (sum(len(self._range(n)) for n in numbers) for numbers in (self.own, left))
        threads = max(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)
        label = "preparing" if len(self.own) == len(self.shards) else f"preparing the share of rank {self.rank}"
        bar = tqdm(total=total, initial=total - todo, desc=label, unit="image", disable=not progress or self.rank > 0)
        with bar, ThreadPoolExecutor(threads) as pool:
            for number in left:
                self._make(number, pool, bar)
        self._finish()

    def _range(self, number: int) -> range:
        """Of the listing."""
        return range(len(self.listing.labels))[number * self.asked.shard : (number + 1) * self.asked.shard]

    def _make(self, number: int, pool: ThreadPoolExecutor, bar: tqdm) -> None:
        skipped: list[tuple[int, str]] = []
        squares, parts, enlarged = [], [], 0
        for i, found in self._decoded(self._range(number), pool):
            bar.update()
            if isinstance(found, BrokenImage):
                skipped.append((i, str(found)))
                continue
            squares.append(found.pixels)
            enlarged += found.enlarged
            if len(squares) == self.asked.batch:
                parts.append(self._encoded(np.stack(squares)))
                squares = []
        if squares:
            parts.append(self._encoded(np.stack(squares)))
        record: dict[str, Any] = {"file": f"shard-{number:05d}.npy", "count": sum(map(len, parts))}
        if parts:
            record |= self._write(record["file"], *npy(parts))
        record |= {"enlarged": enlarged, "skipped": skipped}
        replace_file(self.out / f"shard-{number:05d}.json", json.dumps(record).encode())

    def _decoded(self, rows: range, pool: ThreadPoolExecutor) -> Iterator[tuple[int, Square | BrokenImage]]:
        """Images of the listing in its order, decoded ahead while others are encoded."""
        waiting = deque()
        for i in rows:
            waiting.append((i, pool.submit(self._square, i)))
            if len(waiting) > 2 * self.asked.batch + cores():
                first, future = waiting.popleft()
                yield first, future.result()
        for i, future in waiting:
            yield i, future.result()

    def _square(self, i: int) -> Square | BrokenImage:
        try:
            return decode(self.listing.file(i), self.asked.size, self.asked.channels)
        except BrokenImage as broken:
            return broken
        except OSError as error:
            raise StoreError(
                f"{self.listing.name(i)} could not be read, and not by its own fault ({error}); when the disk or the "
                "network is well again, the same command goes on."
            ) from error

    def _encoded(self, squares: UInt8[np.ndarray, "b c h w"]) -> np.ndarray:
        """What goes into a shard: (b, c, h, w), or (b, views, 2, c, h, w)."""
        if self.codec is None:
            return squares
        x = torch.from_numpy(squares).to(self.codec.device).float() / 127.5 - 1
        try:
            views = [torch.stack(self.codec.encode(view), dim=1) for view in (x, x.flip(-1))[: 1 + self.asked.flips]]
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"batch = {self.asked.batch} is too large for the memory of the GPU.") from error
        latents = torch.stack(views, dim=1).half()
        if not latents.isfinite().all():
            raise StoreError(f"The VAE {self.codec.source} gives latents that are not finite; are its weights whole?")
        return latents.cpu().numpy()

    def _write(self, name: str, *data: bytes | np.ndarray) -> dict[str, Any]:
        """Write a file and give its size and checksum."""
        digest = hashlib.sha256()
        for piece in data:
            digest.update(piece)
        replace_file(self.out / name, *data, mark=f".{self.rank}")
        return {"bytes": (self.out / name).stat().st_size, "sha256": digest.hexdigest()}

    def _finish(self) -> None:
        """Write the tables and declare the store complete, unless shards of other processes are still missing."""
        records = [made(self.out, number) for number in self.shards]
        if not all(records):
            return
        listing, asked = self.listing, self.asked
        skipped = {i: why for record in records for i, why in record["skipped"]}
        kept = np.setdiff1d(np.arange(len(listing.labels)), np.array(list(skipped), dtype=np.int64))
        labels = listing.labels[kept]
        self._check(labels, skipped)
        files = {"labels.npy": npy([labels])}
        if listing.names is not None:
            files["files.txt"] = ["\n".join(listing.names[i] for i in kept).encode("utf-8", "surrogateescape")]
        tables = [{"file": name, **self._write(name, *data)} for name, data in files.items()]
        self._write_about(
            {
                **self.began,
                "complete": True,
                "kind": "pixels" if self.codec is None else "latents",
                "size": asked.size,
                "shape": self.shape,
                "flips": asked.flips,
                "scale": self.codec and self.codec.scale,
                "count": len(kept),
                "num_classes": len(listing.classes),
                "classes": list(listing.classes),
                "root": listing.root and str(listing.root),
                "enlarged": sum(record["enlarged"] for record in records),
                "skipped": [{"path": listing.name(i), "why": why} for i, why in skipped.items()],
                "tables": tables,
                "shards": [{k: r[k] for k in ("file", "count", "bytes", "sha256")} for r in records if r["count"]],
                "held_out": held_out_rows(labels, asked.held_out, asked.seed).tolist(),
            }
        )

    def _check(self, labels: Int64[np.ndarray, " n"], skipped: dict[int, str]) -> None:
        """Refuse a store without a single image of some class."""
        left = np.bincount(labels, minlength=len(self.listing.classes))
        for label in np.flatnonzero(left == 0)[:1]:
            i, why = next((i, why) for i, why in skipped.items() if self.listing.labels[i] == label)
            raise StoreError(
                f"No image of class {self.listing.classes[label]!r} can be used ({self.listing.name(i)}: {why}). "
                f"Repair or replace them, remove {self.out} and prepare it anew."
            )


def _own_device() -> torch.device:
    """The GPU that torchrun meant for this process, the only one, or the processor."""
    usual = device()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if usual.type == "cuda" else usual


def held_out_rows(labels: Int64[np.ndarray, " n"], count: int, seed: int = 0) -> Int64[np.ndarray, " count"]:
    """Rows put aside, in order: of each class its share, rounded one way or the other, and never all of a class.

    Row number r of a class's n, in an order drawn by chance, gets the key (r + u)/n with one u ~ U[0, 1) a class. The
    rows of the smallest keys go: as many of each class as its share of the threshold tells.

    Raises:
        ConfigError: there are not so many.
    """
    draw = np.random.default_rng(seed)
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        keys[rows] = (np.arange(len(rows)) + draw.random()) / len(rows)
        keys[rows[-1]] = np.inf
    most = int(np.isfinite(keys).sum())
    require(count <= most, "held_out", count, f"at most {most} can go, so that an image of each class is left")
    return np.sort(np.argsort(keys, kind="stable")[:count])
