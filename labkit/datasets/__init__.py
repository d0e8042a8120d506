"""Data sets: embedded ones by name, others by the folder of a store that ``labkit prepare`` wrote."""

from pathlib import Path
from typing import Literal

from labkit.checks import choose, require
from labkit.datasets.codec import Codec
from labkit.datasets.digits import digits, few_digits, unlabelled_digits
from labkit.datasets.emoji import EMOJI_CLASSES, EMOJI_STYLES, emoji, small_emoji
from labkit.datasets.images import Chance, Images, Source
from labkit.datasets.layout import StoreError, describe, verify
from labkit.datasets.preparation import Preparation
from labkit.datasets.prepare import prepare
from labkit.datasets.store import open_store

Split = Literal["train", "held_out"]
EMBEDDED = {
    "digits": digits,
    "digits-few": few_digits,
    "digits-unlabelled": unlabelled_digits,
    "emoji": emoji,
    "emoji-16": small_emoji,
}


def load(name: str, split: Split = "train", resident: bool = False) -> Source:
    """A data set by the name that a config has for it.

    Args:
        name: of an embedded set, or the folder of a store.
        split: what a network may be trained on, or what it is measured against.
        resident: hold the whole of a store where its batches are wanted.

    Raises:
        ConfigError: there is no such data set or no such split.
        StoreError: the folder is not a whole store, or has no such split.
    """
    choose(split, Split, "split")
    if name in EMBEDDED:
        return EMBEDDED[name](split)
    choices = f"choose {' or '.join(EMBEDDED)}, or the folder of a store, which `labkit prepare` makes of your images"
    require(Path(name).exists(), "dataset", name, choices)
    return open_store(name, split, resident)


__all__ = [
    "EMBEDDED",
    "EMOJI_CLASSES",
    "EMOJI_STYLES",
    "Chance",
    "Codec",
    "Images",
    "Preparation",
    "Source",
    "Split",
    "StoreError",
    "describe",
    "digits",
    "emoji",
    "load",
    "open_store",
    "prepare",
    "verify",
]
