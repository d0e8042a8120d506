"""Images become a store: listed, decoded on all cores, encoded if latents are wanted, and written shard by shard.

A shard holds what a fixed range of the listing gives, so each can be made by itself: a run that was killed goes on with
those that are missing, several processes (torchrun's ranks) take turns, and the store is the same whatever happened.
Whichever process finds all shards there writes the tables and declares the store complete.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from tqdm.auto import tqdm

from labkit.checks import ConfigError, check_seed, choose, require, whole
from labkit.datasets.decode import BrokenImage, Square, decode
from labkit.datasets.sources import Layout, list_images
from labkit.datasets.store import ABOUT, FORMAT, StoreError, npy, read_about, shard_record
from labkit.datasets.vae import Codec
from labkit.disk import DiskError, replace_file
from labkit.runtime import cores, device, machine


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
        require(isinstance(self.flips, bool), "flips", self.flips, "say True or False")
        check_seed(self.seed)
        choose(self.layout, Layout, "layout")
        grey = self.latents is not None and self.channels == 1
        require(not grey, "channels", self.channels, "a VAE encodes images of 3 channels")


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    rank: int | None = None,
    ranks: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Path:
    """Write a store of images, or go on with one that was begun; return its folder.

    Images that cannot be read are skipped, and listed with the reason in store.json.

    Args:
        source: a folder of images, an .npz file or a Hugging Face data set: see ``sources.list_images``.
        out: folder of the store.
        rank, ranks: make each ``ranks``-th shard from number ``rank`` on; by default as torchrun set them. The store is
            complete when the last of them is done.
        progress: show a bar.
        settings: as in ``Preparation``: size, latents, channels, flips, held_out, …

    Raises:
        ConfigError: a setting that does not fit the images, or a source or a VAE that cannot be read.
        StoreError: the folder holds something else, or a store of other settings; all images of a class are broken; the
            disk is full.
    """
    preparation = Preparation(**settings)
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    ranks = int(os.environ.get("WORLD_SIZE", 1)) if ranks is None else ranks
    require(whole(ranks, 1), "ranks", ranks, "take a whole number of at least 1")
    require(whole(rank, 0) and rank < ranks, "rank", rank, f"take one of 0 to {ranks - 1}")
    where, out = str(source), Path(out)
    inside = Path(where).is_dir() and out.resolve().is_relative_to(Path(where).resolve())
    require(not inside, "out", str(out), "it lies in the folder of images, where it would be taken for some; move it")
    try:
        Share(where, out, preparation, rank, ranks).make(progress)
    except DiskError as error:
        raise StoreError(f"{error} Make room or check the folder; the same command then goes on.") from error
    return out


class Share:
    """One process's share of a store: each ``ranks``-th shard from number ``rank`` on."""

    def __init__(self, source: str, out: Path, settings: Preparation, rank: int, ranks: int) -> None:
        self.out, self.settings, self.rank = out, settings, rank
        s = settings
        self.listing = list_images(source, s.layout, s.split, s.subset, s.image_column, s.label_column)
        held_out_rows(self.listing.labels, s.held_out, s.seed)  # too many are refused before any work
        self.codec = None if s.latents is None else Codec(s.latents, _own_device())
        self.shape = (s.channels, s.size, s.size) if self.codec is None else self.codec.shape(s.size)
        self.shards = range(-(-len(self.listing.labels) // s.shard))
        self.own = self.shards[rank::ranks]
        self.began = self._begin(source)

    def _settings(self, source: str) -> dict[str, Any]:
        """All settings that the contents of the store depend on, as JSON has them."""
        settings: dict[str, Any] = asdict(self.settings)
        settings.pop("batch")  # a matter of speed alone
        settings["source"] = str(Path(source).resolve()) if Path(source).exists() else source
        settings["latents"] = self.codec and self.codec.digest
        settings |= {"images": len(self.listing.labels), "listing": self.listing.digest}
        return settings

    def _begin(self, source: str) -> dict[str, Any]:
        """Claim the folder, or go on with it; return the first entries of store.json."""
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

    def make(self, progress: bool) -> None:
        """Make this process's shards, and the tables when all shards are there."""
        left = [number for number in self.own if shard_record(self.out, number) is None]
        total, todo = (sum(len(self._range(n)) for n in numbers) for numbers in (self.own, left))
        threads = max(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)
        label = "preparing" if len(self.own) == len(self.shards) else f"preparing the share of rank {self.rank}"
        bar = tqdm(total=total, initial=total - todo, desc=label, unit="image", disable=not progress or self.rank > 0)
        with bar, ThreadPoolExecutor(threads) as pool:
            for number in left:
                self._make_shard(number, pool, bar)
        self._finish()

    def _range(self, number: int) -> range:
        """Numbers of a shard's images in the listing."""
        return range(len(self.listing.labels))[number * self.settings.shard : (number + 1) * self.settings.shard]

    def _make_shard(self, number: int, pool: ThreadPoolExecutor, bar: tqdm) -> None:
        skipped: list[tuple[int, str]] = []
        squares, parts, enlarged = [], [], 0
        for i, square in self._decoded(self._range(number), pool):
            bar.update()
            if isinstance(square, BrokenImage):
                skipped.append((i, str(square)))
                continue
            squares.append(square.pixels)
            enlarged += square.enlarged
            if len(squares) == self.settings.batch:
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
            if len(waiting) > 2 * self.settings.batch + cores():
                first, future = waiting.popleft()
                yield first, future.result()
        for i, future in waiting:
            yield i, future.result()

    def _square(self, i: int) -> Square | BrokenImage:
        try:
            return decode(self.listing.file(i), self.settings.size, self.settings.channels)
        except BrokenImage as broken:
            return broken
        except OSError as error:
            raise StoreError(
                f"{self.listing.name(i)} could not be read, and not by its own fault ({error}); when the disk or the "
                "network is well again, the same command goes on."
            ) from error

    def _encoded(self, squares: UInt8[np.ndarray, "b c h w"]) -> np.ndarray:
        """Items of a shard: pixels, (b, c, h, w), or latents, (b, views, 2, c, h, w)."""
        if self.codec is None:
            return squares
        x = torch.from_numpy(squares).to(self.codec.device).float() / 127.5 - 1
        try:
            views = [torch.stack(self.codec.encode(view), dim=1) for view in (x, x.flip(-1))[: 1 + self.settings.flips]]
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"batch = {self.settings.batch} is too large for the memory of the GPU.") from error
        latents = torch.stack(views, dim=1).half()
        if not latents.isfinite().all():
            raise StoreError(f"The VAE {self.codec.source} gives latents that are not finite; are its weights whole?")
        return latents.cpu().numpy()

    def _write(self, name: str, *data: bytes | np.ndarray) -> dict[str, Any]:
        """Write a file; return its size and checksum."""
        digest = hashlib.sha256()
        for piece in data:
            digest.update(piece)
        replace_file(self.out / name, *data, mark=f".{self.rank}")
        return {"bytes": (self.out / name).stat().st_size, "sha256": digest.hexdigest()}

    def _finish(self) -> None:
        """Write the tables and declare the store complete, unless shards of other processes are still missing."""
        records = [shard_record(self.out, number) for number in self.shards]
        if not all(records):
            return
        listing, settings = self.listing, self.settings
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
                "size": settings.size,
                "shape": self.shape,
                "flips": settings.flips,
                "scale": self.codec and self.codec.scale,
                "count": len(kept),
                "num_classes": len(listing.classes),
                "classes": list(listing.classes),
                "root": listing.root and str(listing.root),
                "enlarged": sum(record["enlarged"] for record in records),
                "skipped": [{"path": listing.name(i), "why": why} for i, why in skipped.items()],
                "tables": tables,
                "shards": [{k: r[k] for k in ("file", "count", "bytes", "sha256")} for r in records if r["count"]],
                "held_out": held_out_rows(labels, settings.held_out, settings.seed).tolist(),
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
    """Held-out rows, in order: each class gives its share, rounded one way or the other, and never all of its images.

    Row number r of a class's n, in an order drawn by chance, gets the key (r + u)/n with one u ~ U[0, 1) a class. The
    rows of the smallest keys go, which takes from each class its share.

    Raises:
        ConfigError: ``count`` would take all images of a class.
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
