"""Data sets: embedded ones by name, others as a store, the folder that ``labkit prepare`` writes."""

from labkit.checks import choose
from labkit.datasets.base import AugmentationDraws, Images, Source, Split
from labkit.datasets.embedded import EMBEDDED, EMOJI_CLASSES, EMOJI_STYLES, digits, emoji, letters
from labkit.datasets.identity import DataIdentity, check_place, identify, present
from labkit.datasets.prepare import prepare
from labkit.datasets.sources import Preparation
from labkit.datasets.store import StoreError, describe, open_store, verify
from labkit.datasets.vae import Codec


def load(name: str, split: Split = "train", resident: bool = False) -> Source:
    """A data set by its name in a config.

    Args:
        name: an embedded set, or the folder of a store.
        split: ``train``, or ``held_out`` for evaluation.
        resident: keep all rows of a store on the device, instead of reading each batch from files.

    Raises:
        ConfigError: there is no such data set or no such split.
        StoreError: the folder is not a complete store, or has no such split.
    """
    choose(split, Split, "split")
    if name in EMBEDDED:
        return EMBEDDED[name](split)
    return open_store(check_place(name), split, resident)


__all__ = [
    "EMBEDDED",
    "EMOJI_CLASSES",
    "EMOJI_STYLES",
    "AugmentationDraws",
    "Codec",
    "DataIdentity",
    "Images",
    "Preparation",
    "Source",
    "Split",
    "StoreError",
    "describe",
    "digits",
    "emoji",
    "identify",
    "letters",
    "load",
    "open_store",
    "prepare",
    "present",
    "verify",
]
