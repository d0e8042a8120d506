"""The digits: real, scaled, and split once for all."""

import hashlib
import re

import pytest
import torch
from sklearn.datasets import load_digits

from labkit.checks import ConfigError
from labkit.datasets import digits

HELD_OUT = "6b259e4b4d2cd106"  # of the pixels as bytes, in order


@pytest.mark.parametrize(("split", "count"), [("train", 1297), ("held_out", 500)])
def test_each_split_has_its_count_range_and_types(split, count):
    images = digits(split)
    assert len(images) == count
    assert images.x.shape == (count, 1, 8, 8)
    assert (images.x.dtype, images.y.dtype) == (torch.float32, torch.int64)
    assert (images.x.min().item(), images.x.max().item()) == (-1, 1)
    assert (images.num_classes, images.size, images.channels) == (10, 8, 1)


def test_the_splits_share_no_image_and_lose_none():
    pixels, labels = load_digits(return_X_y=True)
    whole = [(*map(int, row), int(y)) for row, y in zip(pixels, labels, strict=True)]
    assert len(set(whole)) == len(whole)  # no image twice, so an image is as good as its index
    parts = {}
    for split in ("train", "held_out"):
        images = digits(split)
        back = (images.x.flatten(1) + 1) * 8
        parts[split] = [(*map(int, row), int(y)) for row, y in zip(back, images.y, strict=True)]
    assert not set(parts["train"]) & set(parts["held_out"])
    assert sorted(parts["train"] + parts["held_out"]) == sorted(whole)


def test_every_class_is_held_out_in_its_share():
    held_out = torch.bincount(digits("held_out").y, minlength=10)
    whole = held_out + torch.bincount(digits("train").y, minlength=10)
    assert ((held_out - whole * 500 / 1797).abs() < 1).all()


def test_the_split_is_the_one_that_shipped_figures_were_measured_on():
    images = digits("held_out")
    pixels = ((images.x + 1) * 8).to(torch.uint8).flatten(1)
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16] == HELD_OUT


def test_training_digits_are_the_default():
    assert torch.equal(digits().x, digits("train").x)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("split", ["test", "", None])
def test_an_unknown_split_is_refused_with_the_known_ones(split):
    with pytest.raises(ConfigError, match=re.escape(f"split = {split!r}") + ".*train.*held_out"):
        digits(split)
