"""The emoji: counts of the packages they come from, twins on one side, no look-alike across the split."""

import hashlib
import importlib.util
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit import Trainer, recipes, runtime
from labkit.checks import ConfigError
from labkit.datasets import EMOJI_CLASSES, EMOJI_STYLES, emoji, load
from labkit.datasets import emoji as emoji_function
from labkit.models import build_model

GROUPS = {  # Unicode 16's, counted in emoji.json of the packages
    "Activities": 85,
    "Animals & Nature": 159,
    "Flags": 270,
    "Food & Drink": 131,
    "Objects": 264,
    "People & Body": 386,
    "Smileys & Emotion": 169,
    "Symbols": 224,
    "Travel & Places": 218,
}
SIDES = {"train": 3056, "held_out": 756}


@pytest.fixture(scope="module")
def file():
    with np.load(runtime.data_dir() / "emoji.npz", allow_pickle=False) as found:
        return dict(found)


@pytest.fixture(scope="module")
def builder():
    path = Path(__file__).parent.parent.parent / "data" / "build_emoji.py"
    spec = importlib.util.spec_from_file_location("build_emoji", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("split", SIDES)
def test_images_of_one_side(split):
    images = emoji(split)
    assert images.x.shape == (SIDES[split], 3, 32, 32)
    assert (images.shape, images.num_classes, len(images)) == ((3, 32, 32), 9, SIDES[split])
    assert images.x.dtype == torch.float32
    assert images.x.min() == -1
    assert images.x.max() == 1
    assert images.style.bincount().tolist() == [SIDES[split] // 2] * 2
    corners = images.x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners > 0.99).all(dim=1).double().mean() > 0.7  # drawn on white; squares and flags reach the corners
    assert load("emoji", split) is images


def test_at_half_the_side_every_pixel_is_the_mean_of_four():
    for split in SIDES:
        small, whole = load("emoji-16", split), emoji(split)
        assert small.shape == (3, 16, 16) and small.num_classes == whole.num_classes
        assert torch.equal(small.y, whole.y) and torch.equal(small.style, whole.style)
        four = [whole.x[..., i::2, j::2].double() for i in (0, 1) for j in (0, 1)]
        torch.testing.assert_close(small.x.double(), sum(four) / 4, rtol=0, atol=1e-6)


def test_every_group_is_there_in_both_styles():
    labels = torch.cat([emoji(split).y for split in SIDES])
    assert tuple(GROUPS) == EMOJI_CLASSES
    assert labels.bincount().tolist() == [2 * count for count in GROUPS.values()]
    assert EMOJI_STYLES == ("google", "twitter")
    for split in SIDES:
        images = emoji(split)
        for style in (0, 1):
            found = images.y[images.style == style].bincount(minlength=9)
            assert torch.equal(found, images.y.bincount() // 2)
    held_out = emoji("held_out").y.bincount() / labels.bincount()
    assert ((held_out > 0.18) & (held_out < 0.21)).all()  # a kinship may reach into another group


def test_the_first_images_are_of_all_kinds():
    """Whoever looks at the first hundred sees every class and both styles."""
    images = emoji("held_out")
    assert len(images.y[:100].unique()) == 9
    assert 30 < images.style[:100].sum() < 70


def test_twins_are_on_one_side(file):
    twins = Counter(zip(file["code_points"].tolist(), file["held_out"].tolist(), strict=True))
    assert len(twins) == 1906
    assert set(twins.values()) == {2}


def test_no_image_held_out_looks_like_one_to_train_on(file):
    """By plain differences, pixel by pixel, of 100 of those held out with all others of their style."""
    x = file["x"].astype(np.float32) / 127.5 - 1
    for row in np.flatnonzero(file["held_out"])[:100]:
        others = x[~file["held_out"] & (file["style"] == file["style"][row])]
        nearest = np.sqrt(((others - x[row]) ** 2).mean(axis=(1, 2, 3))).min()
        assert nearest >= 0.14, file["code_points"][row]


@pytest.mark.parametrize(
    ("a", "b", "kin"),
    [
        ("1F468-200D-1F33E", "1F9D1-200D-1F33E", True),  # a man who farms, a person who farms
        ("1F3C3-200D-2642-FE0F", "1F3C3-200D-2640-FE0F-200D-27A1-FE0F", True),  # runners, one to the right
        ("1F468-200D-1F9B0", "1F469-200D-1F9B3", True),  # hair
        ("1F468-200D-1F33E", "1F468-200D-1F373", False),  # a farmer, a cook
        ("1F600", "1F601", False),
    ],
)
def test_kin_by_code_points(builder, file, a, b, kin):
    assert (builder.bare(a) == builder.bare(b)) is kin
    of = dict(zip(file["code_points"].tolist(), file["kin"].tolist(), strict=True))
    if a in of and b in of and kin:
        assert of[a] == of[b]


def test_kinships_are_never_parted(builder, file):
    """A split of made-up families, and the one that ships."""
    kin, labels = np.repeat(np.arange(40), 3), np.tile([0, 1, 1], 40)
    side = builder.split(kin, labels)
    assert all(len(set(side[kin == family])) == 1 for family in kin)
    assert 0.1 < side.mean() <= 0.2
    assert all(len(set(file["held_out"][file["kin"] == family])) == 1 for family in set(file["kin"].tolist()))
    assert len(set(file["kin"].tolist())) == 1619


def test_look_alikes_are_kin(builder):
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[1] += 17  # 17 / 127.5 = 0.133
    images[2] += 40
    emoji_of = [{"unified": name} for name in ("A", "B", "C")]
    found = builder.kinships(emoji_of, [images])
    assert found[0] == found[1] != found[2]
    assert builder.distances(images)[0, 1] == pytest.approx(17 / 127.5)


def test_the_file_is_the_one_that_was_looked_at():
    content = (runtime.data_dir() / "emoji.npz").read_bytes()
    assert len(content) < 5.2e6
    assert hashlib.sha256(content).hexdigest().startswith("c4ece5159ef27c08")


def test_licences_lie_beside_it():
    told = (runtime.data_dir() / "README.md").read_text()
    assert all(words in told for words in ("Noto Color Emoji", "Twemoji", "Apache", "CC BY 4.0", "Changes:"))
    assert "Version 2.0, January 2004" in (runtime.data_dir() / "licenses" / "Apache-2.0.txt").read_text()


def test_bad_requests(unchecked, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="split = 'test'"):
        emoji_function("test")
    module = importlib.import_module("labkit.datasets.embedded")
    monkeypatch.setattr(module, "data_dir", lambda: tmp_path)
    module._emoji.cache_clear()
    with pytest.raises(FileNotFoundError, match=re.escape("python data/build_emoji.py")):
        emoji()
    module._emoji.cache_clear()


def test_the_recipe():
    config = recipes.emoji(steps=2, batch_size=4)
    reports = list(Trainer(config))
    assert reports[-1].step == 2
    network = build_model(config.model, 32, 3, 9, learn_sigma=False)
    assert (len(network.blocks), network.width, network.patch, network.side) == (6, 128, 4, 8)
