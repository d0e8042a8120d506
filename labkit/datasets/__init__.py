"""Data sets: embedded ones by name, others by the folder of a store that ``labkit prepare`` wrote."""

from typing import Literal

from labkit.checks import choose, require
from labkit.datasets.digits import digits
from labkit.datasets.images import Chance, Images, Source

Split = Literal["train", "held_out"]
EMBEDDED = {"digits": digits}


def load(name: str, split: Split = "train") -> Source:
    """A data set by the name that a config has for it.

    Args:
        name: of an embedded set.
        split: what a network may be trained on, or what it is measured against.

    Raises:
        ConfigError: there is no such data set or no such split.
    """
    choose(split, Split, "split")
    require(name in EMBEDDED, "dataset", name, f"choose {' or '.join(EMBEDDED)}")
    return EMBEDDED[name](split)


__all__ = ["EMBEDDED", "Chance", "Images", "Source", "Split", "digits", "load"]
