"""Three embedded data sets, which need no network: handwritten digits, capital letters and emoji.

Digits: 1,797 real 8×8 images from 43 writers, the test part of UCI's *Optical Recognition of Handwritten Digits* as
scikit-learn ships it (CC BY 4.0). 500 of them, about 50 of each class, are held out by a fixed stratified draw.

Letters: A to Z of free fonts as 16×16 images, white on black, cut by ``data/build_letters.py`` out of a Debian package.
Whole families of fonts are held out, and no font has a near-duplicate in the other split.

Emoji: 3,812 colour images of 32×32 on white in two drawing styles, Noto Color Emoji (Google, Apache License 2.0) and
Twemoji (Twitter and contributors, CC BY 4.0), scaled down from two npm packages by ``data/build_emoji.py``, which also
describes how a fifth is held out so that no image has a near-duplicate in the other split.

No generator and no classifier of the lab trains on held-out images; samples are compared with them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from labkit.checks import choose
from labkit.datasets.base import Images, Split
from labkit.ops import to_floats
from labkit.runtime import shipped_path

EMOJI_CLASSES = (
    "Activities",
    "Animals & Nature",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
"""Unicode's groups of emoji, in the order of the labels."""
EMOJI_STYLES = ("google", "twitter")


def digits(split: Split = "train") -> Images:
    """1,297 training or 500 held-out digits, (N, 1, 8, 8) in [-1, 1], classes 0 to 9."""
    return _digits()[choose(split, Split, "split")]


def few_digits(split: Split = "train") -> Images:
    """The first 200 training digits, about 20 of each class, or the held-out ones of ``digits``."""
    return _first(digits(split), 200 if split == "train" else None)


def unlabelled_digits(split: Split = "train") -> Images:
    """The digits as a single class, so that no label tells which digit an image shows."""
    images = digits(split)
    return Images(images.x, torch.zeros_like(images.y), num_classes=1)


@dataclass(eq=False)
class Emoji(Images):
    """Images with a second label."""

    style: Int[Tensor, " n"]
    """Number of the style in ``EMOJI_STYLES``. An emoji occurs in both styles, always in the same split."""


def emoji(split: Split = "train") -> Emoji:
    """3,056 training or 756 held-out emoji, (N, 3, 32, 32) in [-1, 1], labelled with their group, 0 to 8.

    Raises:
        FileNotFoundError: the file is missing; the message has two remedies.
    """
    return _shipped("emoji")[choose(split, Split, "split")]


@cache
def small_emoji(split: Split = "train") -> Emoji:
    """Emoji at half the side, (N, 3, 16, 16), each pixel the mean of four, for minutes of training on a laptop."""
    images = emoji(split)
    return Emoji(avg_pool2d(images.x, 2), images.y, images.num_classes, images.style)


def letters(split: Split = "train") -> Images:
    """26,208 training or 2,912 held-out letters, (N, 1, 16, 16) in [-1, 1], classes 0 (A) to 25 (Z).

    Raises:
        FileNotFoundError: the file is missing; the message has two remedies.
    """
    return _shipped("letters")[choose(split, Split, "split")]


def few_letters(split: Split = "train") -> Images:
    """The first 520 training letters, about 20 of each class, or the held-out ones of ``letters``."""
    return _first(letters(split), 520 if split == "train" else None)


def _first(images: Images, count: int | None) -> Images:
    return Images(images.x[:count], images.y[:count], images.num_classes)


@cache
def _digits() -> dict[str, Images]:
    """Digits by split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1  # 0 … 16 → −1 … 1
    y = torch.from_numpy(labels).long()
    parts = train_test_split(range(len(labels)), test_size=500, stratify=labels, random_state=0)
    return {split: Images(x[rows], y[rows], 10) for split, rows in zip(get_args(Split), parts, strict=True)}


@cache
def _shipped(name: str) -> dict[str, Any]:
    """Images of a file in ``data/``, by split."""
    with np.load(shipped_path(f"{name}.npz", f"build_{name}.py"), allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in ("x", "y", "held_out", "style") if key in file}
    x = to_floats(arrays["x"].permute(0, 3, 1, 2).contiguous())
    y, held_out, num_classes = arrays["y"].long(), arrays["held_out"], int(arrays["y"].max()) + 1
    kind, more = (Emoji, [arrays["style"].long()]) if "style" in arrays else (Images, [])
    sides = {"train": ~held_out, "held_out": held_out}
    return {split: kind(x[rows], y[rows], num_classes, *(z[rows] for z in more)) for split, rows in sides.items()}


EMBEDDED = {
    "digits": digits,
    "digits-few": few_digits,
    "digits-unlabelled": unlabelled_digits,
    "letters": letters,
    "letters-few": few_letters,
    "emoji": emoji,
    "emoji-16": small_emoji,
}
"""Embedded data sets by their names in a config."""
