"""Images become a store: listed, decoded on all cores, encoded if latents are wanted, and written shard by shard.

A shard holds what a fixed range of the listing gives, so each can be made by itself: a run that was killed goes on with
those that are missing, several processes (torchrun's ranks) take turns, and the store is the same whatever happened.
Whichever process finds all shards there writes the tables and declares the store complete.
"""

import os
from pathlib import Path
from typing import Any

from labkit.checks import require, whole
from labkit.datasets.layout import StoreError
from labkit.datasets.making import Making
from labkit.datasets.preparation import Preparation
from labkit.disk import DiskError


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    rank: int | None = None,
    ranks: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Path:
    """Write a store of images, or go on with one that was begun; gives its folder.

    Images that cannot be read are skipped, and listed with the reason in store.json.

    Args:
        source: a folder of images, an .npz file or a Hugging Face data set, as ``labkit.datasets.listing.find`` says.
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
    asked = Preparation(**settings)
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    ranks = int(os.environ.get("WORLD_SIZE", 1)) if ranks is None else ranks
    require(whole(ranks, 1), "ranks", ranks, "take a whole number of at least 1")
    require(whole(rank, 0) and rank < ranks, "rank", rank, f"take one of 0 to {ranks - 1}")
    where, out = str(source), Path(out)
    inside = Path(where).is_dir() and out.resolve().is_relative_to(Path(where).resolve())
    require(not inside, "out", str(out), "it lies in the folder of images, where it would be taken for some; move it")
    try:
        Making(where, out, asked, rank, ranks).run(progress)
    except DiskError as error:
        raise StoreError(f"{error} Make room or check the folder; the same command then goes on.") from error
    return out
