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
    assert images.x.shape == (len(images), *images.shape) == (count, 1, 8, 8)
    assert (images.x.dtype, images.y.dtype) == (torch.float32, torch.int64)
    assert (images.x.min().item(), images.x.max().item()) == (-1, 1)
    assert images.dimensions == (8, 1, 10)
    assert torch.equal(digits().x, digits("train").x)


def test_the_splits_divide_the_published_digits_class_by_class():
    pixels, labels = load_digits(return_X_y=True)
    published = [(*map(int, row), int(y)) for row, y in zip(pixels, labels, strict=True)]
    assert len(set(published)) == len(published)  # no image twice, so an image is as good as its index
    parts = []
    for split in ("train", "held_out"):
        images = digits(split)
        back = (images.x.flatten(1) + 1) * 8
        parts += [(*map(int, row), int(y)) for row, y in zip(back, images.y, strict=True)]
    assert sorted(parts) == sorted(published)
    held_out = torch.bincount(digits("held_out").y, minlength=10)
    share = torch.from_numpy(labels).bincount() * 500 / 1797
    assert ((held_out - share).abs() < 1).all()


def test_the_split_is_the_one_that_shipped_figures_were_measured_on():
    pixels = ((digits("held_out").x + 1) * 8).to(torch.uint8).flatten(1)
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16] == HELD_OUT


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("split", ["test", None])
def test_an_unknown_split_is_refused_with_the_splits(split):
    with pytest.raises(ConfigError, match=re.escape(f"split = {split!r}") + ".*train.*held_out"):
        digits(split)
