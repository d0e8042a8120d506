"""Preparation of a store: images are listed, decoded on all cores, encoded to latents if wanted, and written as shards.

A shard holds a fixed range of the listing and depends on nothing else. A run that was killed goes on with the missing
shards, several processes (torchrun's ranks) share them, and the store comes out the same. The process that completes
the last shard writes the tables and marks the store as complete. Started again, a shard is made anew if the size or
time of one of its files has changed, or if an image that was skipped can be used now.
"""

import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from jaxtyping import Int64, UInt8
from tqdm.auto import tqdm

from labkit.checks import check_whole, refuse, require
from labkit.datasets.decode import BrokenImage, Square, darkness, decode, pixel_limit
from labkit.datasets.sources import Preparation, list_images
from labkit.datasets.store import ABOUT, FORMAT, StoreError, npy, read_about, read_names, record_path, shard_record
from labkit.datasets.vae import Codec
from labkit.disk import reason, replace_file, sha256, user_path
from labkit.distributed import launched, local_rank, place
from labkit.ops import to_floats
from labkit.runtime import cores, machine, memory_for


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

    Images that cannot be read are skipped, and listed with the reason in store.json. Those that were repaired or
    replaced since are read again.

    Args:
        source: a folder of images, an .npz file or a Hugging Face data set: see ``sources.list_images``.
        out: folder of the store.
        rank, ranks: make every ``ranks``-th shard from number ``rank`` on; by default as torchrun sets them. The store
            is complete when all ranks are done.
        progress: show a bar.
        settings: as in ``Preparation``: size, latents, channels, flips, held_out, …

    Raises:
        ConfigError: a setting that does not fit the images, or a source or VAE that cannot be read.
        StoreError: the folder holds something else, or a store of other settings; or all images of a class are broken.
        DiskError: nothing can be written there, or the disk is full.
    """
    preparation = Preparation(**settings)
    rank = place()[0] if rank is None else rank
    ranks = place()[1] if ranks is None else ranks
    check_whole("ranks", ranks)
    check_whole("rank", rank, 0, ranks - 1)
    source, out = user_path(source, "source"), user_path(out, "out")
    inside = source.is_dir() and out.resolve().is_relative_to(source.resolve())
    require(
        not inside, "out", str(out), "it lies in the folder of images, where it would count as images; name one outside"
    )
    remedy = f"take a smaller size (now {preparation.size}) or shard (now {preparation.shard})"
    with memory_for("the images of a shard", remedy), pixel_limit(preparation.max_pixels):
        Share(source.as_posix(), out, preparation, rank, ranks).make(progress)
    return out


class Share:
    """The shards of a store that one process makes: every ``ranks``-th from number ``rank`` on."""

    def __init__(self, source: str, out: Path, settings: Preparation, rank: int, ranks: int) -> None:
        self.out, self.settings, self.rank = out, settings, rank
        self.listing = list_images(source, settings)
        held_out_rows(self.listing.labels, settings.held_out, settings.seed)  # refuses too many before any work
        if settings.latents is not None and torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
        self.codec = None if settings.latents is None else Codec(settings.latents)
        side = settings.size
        self.shape = (settings.channels, side, side) if self.codec is None else self.codec.shape(side)
        self.shards = range(-(-len(self.listing.labels) // settings.shard))
        self.own = self.shards[rank::ranks]
        self.header = self._begin(source)

    def _begin(self, source: str) -> dict[str, Any]:
        """Claim the folder, or go on with it; return the first entries of store.json."""
        out, codec, settings = self.out, self.codec, asdict(self.settings)
        for name in ("batch", "max_pixels"):  # they change the speed, or which images are skipped, and not the others
            settings.pop(name)
        if settings["bits"] in (None, 16):
            settings.pop("bits")
        settings["source"] = str(Path(source).resolve()) if Path(source).exists() else source
        settings["latents"] = None if codec is None else codec.digest
        settings |= {"images": len(self.listing.labels), "listing": self.listing.digest}
        # Checked before store.json, which another rank may be writing now.
        others = out.exists() and (not out.is_dir() or any(f.name[0] != "." for f in out.iterdir()))
        if (out / ABOUT).exists():
            about = read_about(out)
            if about["settings"] == settings or about["complete"] or any(out.glob("shard-*")):
                self._check_same(about, settings)
                return {name: about[name] for name in ("format", "settings", "vae", "machine")}
        elif others:
            raise StoreError(f"{out} exists and is not a store; choose an empty or a new folder.")
        vae = codec and {"name": codec.source, "digest": codec.digest, "config": codec.config}
        about = {"format": FORMAT, "settings": settings, "vae": vae, "machine": machine()}
        self._write_about({**about, "complete": False})
        return about

    def _check_same(self, about: dict[str, Any], settings: dict[str, Any]) -> None:
        """Refuse to go on with a store of other settings or other images."""
        old = about["settings"]
        changed = [name for name in old | settings if old.get(name) != settings.get(name)]
        if changed and {*changed} <= {"images", "listing"}:
            use = "can be used as it is" if about["complete"] else "goes on with the first ones"
            raise StoreError(
                f"{settings['source']} holds other images than when {self.out} was begun ({self._difference(about)}). "
                f"That store {use}; prepare the present ones into another folder."
            )
        if changed:  # beside the listing, a digest that nobody chose
            values = [f"{name}: {old.get(name)!r} → {settings.get(name)!r}" for name in changed if name != "listing"]
            raise StoreError(
                f"{self.out} holds a store of other settings ({'; '.join(values)}); choose another folder, or the "
                "settings of this one."
            )

    def _difference(self, about: dict[str, Any]) -> str:
        """Images that were added or are gone since a store was complete, in words."""
        then, now = about["settings"]["images"], len(self.listing.labels)
        if self.listing.names is None or not about["complete"]:
            return f"{then} images then, {now} now" if then != now else f"{now} as before, and not the same"
        old = {*read_names(self.out), *(entry["path"] for entry in about["skipped"])}
        names = set(self.listing.names)
        sets = {"added": sorted(names - old), "gone": sorted(old - names)}
        return ", ".join(f"{len(paths)} {word}: {paths[0]}" for word, paths in sets.items() if paths)

    def _write_about(self, about: dict[str, Any]) -> None:
        text = json.dumps(about, indent=1, default=lambda number: number.item())
        replace_file(self.out / ABOUT, text.encode())

    def make(self, progress: bool) -> None:
        """Make this process's missing shards, then the tables if all shards are there."""
        outdated = [number for number in self.own if self._outdated(number)]
        for number in outdated:
            record_path(self.out, number).unlink()
        if outdated and progress and self.rank == 0:
            shards = f"{len(outdated)} of {len(self.shards)} shards"
            tqdm.write(f"{shards} hold images that were repaired or replaced since, and are made again.")
        missing = [number for number in self.own if shard_record(self.out, number) is None]
        total, left = (sum(len(self._range(n)) for n in numbers) for numbers in (self.own, missing))
        threads = max(cores() // launched()[0], 1)
        label = "preparing" if len(self.own) == len(self.shards) else f"preparing the share of rank {self.rank}"
        bar = tqdm(total=total, initial=total - left, desc=label, unit="image", disable=not progress or self.rank > 0)
        with bar, ThreadPoolExecutor(threads) as pool:
            for number in missing:
                self._make_shard(number, pool, bar)
        self._finish()

    def _outdated(self, number: int) -> bool:
        """Whether images of a shard were repaired or replaced since it was made."""
        record = shard_record(self.out, number)
        if record is None:
            return False
        changed = record.get("stamp") not in (None, self._stamp(number))
        return changed or any(isinstance(self._square(i), Square) for i, _ in record["skipped"])

    def _stamp(self, number: int) -> str:
        """Digest of the sizes and times of change of a shard's files."""
        stamps = []
        for path in self.listing.stored_in(self._range(number)):
            try:
                status = os.stat(path)
                stamps.append(f"{status.st_size} {status.st_mtime_ns},")
            except OSError:  # it will be skipped
                stamps.append("none,")
        return sha256(*stamps)

    def _range(self, number: int) -> range:
        """Numbers of a shard's images in the listing."""
        return range(len(self.listing.labels))[number * self.settings.shard : (number + 1) * self.settings.shard]

    def _make_shard(self, number: int, pool: ThreadPoolExecutor, bar: tqdm) -> None:
        rows, squares, parts, skipped, enlarged = self._range(number), [], [], [], 0
        self._check_memory(len(rows))
        stamp, brightest = self._stamp(number), []
        for i, square in self._decode_ahead(rows, pool):
            bar.update()
            if isinstance(square, BrokenImage):
                skipped.append((i, str(square)))
            else:
                squares.append(square.pixels)
                enlarged += square.enlarged
                brightest.append(square.brightest)
            if squares and (len(squares) == self.settings.batch or i == rows[-1]):
                parts.append(self._encode(np.stack(squares)))
                squares = []
        dark = None if self.settings.bits else darkness(brightest)
        if dark is not None:
            remedy = "say how many they use, as in --bits 12, or take them as they are by --bits 16"
            refuse("bits", None, f"{dark}; {remedy}; colours need to be saved with 8 bits a channel")
        record: dict[str, Any] = {"file": f"shard-{number:05d}.npy", "count": sum(map(len, parts))}
        if parts:
            record |= self._write(record["file"], *npy(parts))
        record |= {"enlarged": enlarged, "skipped": skipped, "stamp": stamp}
        replace_file(record_path(self.out, number), json.dumps(record).encode())

    def _check_memory(self, count: int) -> None:
        """Refuse a shard whose images do not fit into the memory; of latents, only those in hand are held as pixels."""
        size, channels = self.settings.size, self.settings.channels
        need = (count if self.codec is None else min(count, 2 * self.settings.batch)) * size**2 * channels / 2**30
        free = psutil.virtual_memory().available / 2**30
        fault = f"{count} images of a shard need {need:,.1f} GiB of memory, and {free:,.1f} are free"
        require(
            need < free, "size", size, f"{fault}; take a smaller size or a smaller shard (now {self.settings.shard})"
        )

    def _decode_ahead(self, rows: range, pool: ThreadPoolExecutor) -> Iterator[tuple[int, Square | BrokenImage]]:
        """Numbers and squares of images in order, decoded in advance while others are encoded."""
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
            return decode(self.listing.file(i), self.settings.size, self.settings.channels, self.settings.bits)
        except BrokenImage as broken:
            return broken
        except OSError as error:
            name = self.listing.name(i)
            raise StoreError(
                f"{name} could not be read because of the disk, the network or the system "
                f"({reason(Path(name), error)}). When that works again, the same command goes on."
            ) from error

    def _encode(self, squares: UInt8[np.ndarray, "b c h w"]) -> np.ndarray:
        """Items of a shard: pixels, (b, c, h, w), or latents, (b, views, 2, c, h, w)."""
        if self.codec is None:
            return squares
        x = to_floats(torch.from_numpy(squares).to(self.codec.device))
        with memory_for("the VAE's encoder", f"take a smaller batch (now {self.settings.batch})"):
            views = [torch.stack(self.codec.encode(view), dim=1) for view in (x, x.flip(-1))[: 1 + self.settings.flips]]
        latents = torch.stack(views, dim=1).half()
        if not latents.isfinite().all():
            raise StoreError(f"The VAE {self.codec.source} gives latents that are not finite; check its weights.")
        return latents.cpu().numpy()

    def _write(self, name: str, *data: bytes | memoryview) -> dict[str, Any]:
        """Write a file; return its size and checksum."""
        replace_file(self.out / name, *data)
        return {"bytes": (self.out / name).stat().st_size, "sha256": sha256(*data)}

    def _finish(self) -> None:
        """Write the tables and mark the store as complete, unless shards of other processes are still missing."""
        records = [record for number in self.shards if (record := shard_record(self.out, number)) is not None]
        if len(records) < len(self.shards):
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
                **self.header,
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
                "notes": list(listing.notes),
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
                "Repair or replace one of them; the same command then goes on."
            )


def held_out_rows(labels: Int64[np.ndarray, " n"], count: int, seed: int = 0) -> Int64[np.ndarray, " count"]:
    """Held-out rows in order: from each class its share, rounded up or down, and never all of its images.

    Each class draws a random order and one u ~ U[0, 1); row r of its n gets the key (r + u)/n. The ``count`` rows with
    the smallest keys are held out.

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
    require(count <= most, "held_out", count, f"take at most {most}, which leaves an image of each class")
    return np.sort(np.argsort(keys, kind="stable")[:count])
