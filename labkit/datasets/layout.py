"""The folder of a store: what lies where, and how one finds out whether it is whole.

store.json        what it holds and how it came about; ``complete`` once all of it is there
shard-00000.npy   rows of the first images that were listed: uint8 pixels, (n, c, h, w), or the mean and deviation of
                  latents as float16, (n, views, 2, c, h, w), of the image as it is and, the second view, flipped
shard-00000.json  count, size and sha256 of the shard, and the images that were skipped on the way
labels.npy        int64, a class a row
files.txt         path of each row's image below ``root`` of store.json, if they came from a folder
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from labkit.types import LabError

FORMAT = "labkit-store-1"
ABOUT = "store.json"
SHOWN = 5  # skipped images
AGAIN = "run the `labkit prepare` command that began it again"


class StoreError(LabError, RuntimeError):
    """A folder that is not the store one asked for; the message says what it is and what to do."""


def npy(parts: list[np.ndarray]) -> list[bytes | np.ndarray]:
    """An .npy file of arrays that follow one another, in pieces."""
    head, kind = io.BytesIO(), np.lib.format.header_data_from_array_1_0(parts[0])
    np.lib.format.write_array_header_1_0(head, kind | {"shape": (sum(map(len, parts)), *parts[0].shape[1:])})
    return [head.getvalue(), *(np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts)]


def read_about(folder: Path) -> dict[str, Any]:
    """What store.json says.

    Raises:
        StoreError: the folder holds no store, or one of another version.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise StoreError(f"{folder} is not a store (it has no {ABOUT}); make one with `labkit prepare SOURCE`.")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        found = about["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is cut or was not written by labkit ({error}).") from error
    if found != FORMAT:
        raise StoreError(f"{folder} has format {found!r} and this version of labkit reads {FORMAT!r}: prepare it anew.")
    return about


def complete(folder: Path) -> dict[str, Any]:
    """What store.json says of a store whose every file has its size."""
    about = read_about(folder)
    if not about["complete"]:
        raise StoreError(f"{folder} is not complete; {AGAIN}, and it goes on where it stopped.")
    for entry in (*about["shards"], *about["tables"]):
        path = folder / entry["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            fault = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise StoreError(f"{path} {fault}; copy the store again, or {AGAIN}.")
    return about


def made(folder: Path, number: int) -> dict[str, Any] | None:
    """What a shard's record says; None if the shard is not there, or not whole."""
    try:
        record = json.loads((folder / f"shard-{number:05d}.json").read_text())
        whole = not record["count"] or (folder / record["file"]).stat().st_size == record["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def load_array(path: Path, **how: Any) -> np.ndarray:
    """What an .npy file holds.

    Raises:
        StoreError: it is none.
    """
    try:
        return np.load(path, **how)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path} cannot be read ({error}); copy the store again, or {AGAIN}.") from error


def mapped(folder: Path, shard: dict[str, Any], about: dict[str, Any]) -> np.ndarray:
    """A shard as items: one a row, or one for each view of it."""
    data = load_array(folder / shard["file"], mmap_mode="r")
    latents = about["kind"] == "latents"
    item = ((2,) if latents else ()) + tuple(about["shape"])
    views = ((1 + about["flips"]),) if latents else ()
    if data.shape != (shard["count"], *views, *item) or data.dtype != (np.float16 if latents else np.uint8):
        raise StoreError(f"{folder / shard['file']} is no shard of this store: it holds {data.dtype} {data.shape}.")
    return data.reshape(-1, *item)


def describe(folder: Path) -> str:
    """What a store holds, in words, and what became of the images that it does not hold."""
    about = read_about(folder)
    if not about["complete"]:
        return f"This share of {folder} is made; the store is complete when the other processes have made theirs."
    shape = "×".join(map(str, about["shape"]))
    kind = {"pixels": f"images of {shape}", "latents": f"latents of {shape}, of images of {about['size']} pixels"}
    told = f"{folder} holds {about['count']} {kind[about['kind']]}, in {_number(about['num_classes'], 'class')}"
    told += f", {len(about['held_out'])} of them held out." if about["held_out"] else "."
    if about["enlarged"]:
        told += f"\n{_number(about['enlarged'], 'image')} had to be enlarged to {about['size']} pixels."
    if about["skipped"]:
        first = "\n".join(f"    {entry['path']}: {entry['why']}" for entry in about["skipped"][:SHOWN])
        many = _number(len(about["skipped"]), "image")
        told += f'\n{many} could not be used; {folder / ABOUT} lists all under "skipped":\n{first}'
    return told.encode(errors="backslashreplace").decode()  # names of files may be no text


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def verify(folder: str | Path, progress: bool = False) -> int:
    """Read all of a store and compare it with its checksums; gives the number of its images.

    Raises:
        StoreError: as ``open_store``, or files are not what was written; all of these are named.
    """
    folder = Path(folder)
    about = complete(folder)
    entries = [*about["shards"], *about["tables"]]
    bad = []
    for entry in tqdm(entries, desc="verifying", unit="file", disable=not progress):
        with open(folder / entry["file"], "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                bad.append(entry["file"])
    if bad:
        raise StoreError(
            f"{folder} is corrupted: {', '.join(bad)} {'does' if len(bad) == 1 else 'do'} not match the checksum. "
            f"Remove {'it' if len(bad) == 1 else 'them'} and {AGAIN}, or copy the store again."
        )
    return about["count"]
