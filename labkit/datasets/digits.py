"""The handwritten digits that ship with scikit-learn: 1,797 real 8×8 images from 43 writers, offline.

500 of them, about 50 of each class, are held out by a fixed stratified draw. No generator and no classifier of the lab
trains on those; quality is measured against them.
"""

from functools import cache
from typing import Literal

import torch

from labkit.checks import require
from labkit.datasets.images import Images

HELD_OUT = 500


FEW = 200


def digits(split: Literal["train", "held_out"] = "train") -> Images:
    """1,297 training or 500 held-out digits, (N, 1, 8, 8) in [-1, 1], classes 0 to 9.

    Source: the test part of UCI's *Optical Recognition of Handwritten Digits* as packaged by scikit-learn (CC BY 4.0).
    """
    require(split in ("train", "held_out"), "split", split, "choose 'train' or 'held_out'")
    return _load(split)


def few_digits(split: Literal["train", "held_out"] = "train") -> Images:
    """The same with the first 200 training digits alone, about 20 of each class; the held-out ones are the same."""
    every = digits(split)
    return every if split == "held_out" else Images(every.x[:FEW], every.y[:FEW], every.num_classes)


def unlabelled_digits(split: Literal["train", "held_out"] = "train") -> Images:
    """The same digits as a single class: nobody is told which digit an image shows."""
    every = digits(split)
    return Images(every.x, torch.zeros_like(every.y), num_classes=1)


@cache
def _load(split: str) -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    rows = range(len(labels))
    chosen = train_test_split(rows, test_size=HELD_OUT, stratify=labels, random_state=0)[split == "held_out"]
    x = torch.from_numpy(images[chosen]).float().reshape(-1, 1, 8, 8) / 8 - 1  # 0 … 16 → −1 … 1
    return Images(x, torch.from_numpy(labels[chosen]).long(), num_classes=10)
