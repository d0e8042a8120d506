"""The embedded sets: counts, ranges and types of each split; the digits are the published ones, split once for all."""

import hashlib
import re

import pytest
import torch
from sklearn.datasets import load_digits

from labkit import datasets, runtime
from labkit.checks import ConfigError
from labkit.datasets import digits, embedded, emoji, load

SETS = {  # images to train on and held out, shape, classes
    "digits": (1297, 500, (1, 8, 8), 10),
    "letters": (26208, 2912, (1, 16, 16), 26),
    "emoji": (3056, 756, (3, 32, 32), 9),
    "emoji-16": (3056, 756, (3, 16, 16), 9),
}
HELD_OUT = "6b259e4b4d2cd106"  # digits as bytes, in order, on which the shipped figures were measured


@pytest.mark.parametrize("name", SETS)
def test_each_split_has_its_count_range_and_types(name):
    *counts, shape, classes = SETS[name]
    for split, count in zip(("train", "held_out"), counts, strict=True):
        images = load(name, split)
        assert images.x.shape == (len(images), *images.shape) == (count, *shape)
        assert (images.x.dtype, images.y.dtype) == (torch.float32, torch.int64)
        assert images.x.max() == 1 and images.x.min() < -0.99
        assert images.dimensions == (shape[1], shape[0], classes) and len(images.y.unique()) == classes
        assert load(name, split) is images  # read once


def test_smaller_sets_are_parts_of_the_larger_ones():
    for name, count in {"digits": 200, "letters": 520}.items():
        few, whole = load(f"{name}-few"), load(name)
        assert len(few) == count and few.y.bincount(minlength=few.num_classes).min() > 8
        assert torch.equal(few.x, whole.x[:count]) and torch.equal(few.y, whole.y[:count])
        assert torch.equal(load(f"{name}-few", "held_out").x, load(name, "held_out").x)
    small, images = load("emoji-16"), emoji()
    assert torch.equal(small.y, images.y) and torch.equal(small.style, images.style)
    four = [images.x[..., i::2, j::2].double() for i in (0, 1) for j in (0, 1)]
    torch.testing.assert_close(small.x.double(), sum(four) / 4, rtol=0, atol=1e-6)


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
    held_out = digits("held_out")
    share = torch.from_numpy(labels).bincount() * 500 / 1797
    assert ((torch.bincount(held_out.y, minlength=10) - share).abs() < 1).all()
    content = ((held_out.x + 1) * 8).to(torch.uint8).flatten(1).numpy().tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == HELD_OUT


@pytest.mark.parametrize("name", ["digits", "letters", "emoji"])
def test_an_unknown_split_and_a_missing_file_are_refused(name, unchecked, monkeypatch, tmp_path):
    for split in ("test", None):
        with pytest.raises(ConfigError, match=re.escape(f"split = {split!r}") + ".*train.*held_out"):
            getattr(datasets, name)(split)
    if name != "digits":  # which scikit-learn has
        monkeypatch.setattr(runtime, "data_dir", lambda: tmp_path)
        monkeypatch.setattr(embedded, "_shipped", embedded._shipped.__wrapped__)
        with pytest.raises(FileNotFoundError, match=re.escape(f"python data/build_{name}.py")):
            getattr(datasets, name)()
