"""Emoji in two drawing styles: 3,812 colour images of 32×32 on white, between the digits and ImageNet, offline.

Noto Color Emoji (Google, Apache License 2.0) and Twemoji (Twitter and contributors, CC BY 4.0), scaled down from two
npm packages by ``data/build_emoji.py``. That also says how a fifth was held out so that nothing on one side has a
near-duplicate on the other.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from labkit.checks import require
from labkit.datasets.images import Images
from labkit.runtime import data_dir

FILE = "emoji.npz"
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
"""Unicode's groups, in the order of the labels."""
EMOJI_STYLES = ("google", "twitter")


@dataclass(frozen=True)
class Emoji(Images):
    """Images with a second label."""

    style: Int[Tensor, " n"]
    """Who drew it: the number of one of ``EMOJI_STYLES``. The same emoji occurs in both, always in the same split."""


def emoji(split: Literal["train", "held_out"] = "train") -> Emoji:
    """3,056 training or 756 held-out emoji, (N, 3, 32, 32) in [-1, 1], labelled with their group, 0 to 8.

    Raises:
        FileNotFoundError: the file is missing; the message has two remedies.
    """
    require(split in ("train", "held_out"), "split", split, "choose 'train' or 'held_out'")
    return _load()[split == "held_out"]


@cache
def small_emoji(split: Literal["train", "held_out"] = "train") -> Emoji:
    """The same at half the side, (N, 3, 16, 16): each pixel the mean of four. What a laptop learns in minutes."""
    every = emoji(split)
    return Emoji(avg_pool2d(every.x, 2), every.y, every.num_classes, every.style)


@cache
def _load() -> tuple[Emoji, Emoji]:
    path = data_dir() / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; restore it with `git checkout data`, or make it again with "
            "`python data/build_emoji.py`."
        )
    with np.load(path, allow_pickle=False) as file:
        x, y, style, held_out = (torch.from_numpy(file[name]) for name in ("x", "y", "style", "held_out"))
    x = x.permute(0, 3, 1, 2).float() / 127.5 - 1
    sides = [x[rows].contiguous() for rows in (~held_out, held_out)]
    return tuple(
        Emoji(side, y[rows].long(), len(EMOJI_CLASSES), style[rows].long())
        for side, rows in zip(sides, (~held_out, held_out), strict=True)
    )
