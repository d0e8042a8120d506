"""The emoji: counts of the packages they come from, both styles in one split, no look-alike across the split."""

import hashlib
from collections import Counter

import build_emoji as builder
import numpy as np
import pytest
import torch

from labkit import runtime
from labkit.datasets import EMOJI_CLASSES, emoji

COUNTS = [85, 159, 270, 131, 264, 386, 169, 224, 218]  # of Unicode 16's groups, in emoji.json of the packages
SIDES = ("train", "held_out")


@pytest.fixture(scope="module")
def file():
    with np.load(runtime.data_dir() / "emoji.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("split", SIDES)
def test_each_split_has_both_styles_of_each_group_on_white(split):
    images = emoji(split)
    for style in (0, 1):
        in_style = images.y[images.style == style].bincount(minlength=9)
        assert torch.equal(in_style, images.y.bincount() // 2)
    corners = images.x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners > 0.99).all(dim=1).double().mean() > 0.7  # drawn on white; squares and flags reach the corners


def test_groups_are_unicodes_and_each_gives_its_share_to_the_held_out():
    labels = torch.cat([emoji(split).y for split in SIDES])
    assert labels.bincount().tolist() == [2 * count for count in COUNTS] and len(EMOJI_CLASSES) == len(COUNTS)
    held_out = emoji("held_out")
    share = held_out.y.bincount() / labels.bincount()
    assert ((share > 0.18) & (share < 0.21)).all()  # a kinship may reach into another group
    assert len(held_out.y[:100].unique()) == 9  # the first hundred show every class and both styles
    assert 30 < held_out.style[:100].sum() < 70


def test_no_held_out_image_looks_like_one_to_train_on(file):
    """By plain differences, pixel by pixel, of 100 of those held out with all others of their style."""
    x = file["x"].astype(np.float32) / 127.5 - 1
    for row in np.flatnonzero(file["held_out"])[:100]:
        others = x[~file["held_out"] & (file["style"] == file["style"][row])]
        nearest = np.sqrt(((others - x[row]) ** 2).mean(axis=(1, 2, 3))).min()
        assert nearest >= 0.14, file["code_points"][row]


def test_relatives_by_code_points_and_look_alikes_are_kin():
    for a, b, kin in [
        ("1F468-200D-1F33E", "1F9D1-200D-1F33E", True),  # a man who farms, a person who farms
        ("1F3C3-200D-2642-FE0F", "1F3C3-200D-2640-FE0F-200D-27A1-FE0F", True),  # runners, one to the right
        ("1F468-200D-1F9B0", "1F469-200D-1F9B3", True),  # hair
        ("1F468-200D-1F33E", "1F468-200D-1F373", False),  # a farmer, a cook
    ]:
        assert (builder.bare(a) == builder.bare(b)) is kin
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[1] += 17  # 17 / 127.5 = 0.133
    images[2] += 40
    families = builder.kinships([{"unified": name} for name in ("A", "B", "C")], [images])
    assert families[0] == families[1] != families[2]
    assert builder.distances(images)[0, 1] == pytest.approx(17 / 127.5)


def test_families_and_both_styles_of_an_emoji_are_never_parted(file):
    """A split of made-up families, and the one that ships."""
    kin, labels = np.repeat(np.arange(40), 3), np.tile([0, 1, 1], 40)
    side = builder.split(kin, builder.HELD_OUT, labels)
    assert all(len(set(side[kin == family])) == 1 for family in kin)
    assert 0.1 < side.mean() <= 0.2
    families = set(zip(file["kin"].tolist(), file["held_out"].tolist(), strict=True))
    assert len(families) == len(set(file["kin"].tolist())) == 1619
    styles = Counter(zip(file["code_points"].tolist(), file["held_out"].tolist(), strict=True))
    assert len(styles) == 1906 and set(styles.values()) == {2}


def test_the_file_and_its_licences():
    folder = runtime.data_dir()
    content = (folder / "emoji.npz").read_bytes()
    assert len(content) < 5.2e6
    assert hashlib.sha256(content).hexdigest().startswith("c4ece5159ef27c08")
    text = (folder / "README.md").read_text()
    assert all(words in text for words in ("Noto Color Emoji", "Twemoji", "Apache", "CC BY 4.0", "Changes:"))
    assert "Version 2.0, January 2004" in (folder / "licenses" / "Apache-2.0.txt").read_text()
