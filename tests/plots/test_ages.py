"""Conditions as they grow older: every seed and their mean."""

import pandas as pd
import pytest

from labkit.plots import PALETTE, ages_figure, describe

NAMES = {"off": "baseline", "on": "dispersive"}
MEASURES = ["loss_held_out", "memorisation"]


@pytest.fixture
def table():
    return pd.DataFrame(
        [
            {"condition": of, "seed": seed, "step": step, "measure": measure, "value": seed + step / 100 + shift + more}
            for of, shift in (("off", 0), ("on", 10))
            for seed in (3, 4)
            for step in (1000, 500)
            for measure, more in zip(MEASURES, (0, 100), strict=True)
        ]
    )


def test_every_seed_and_the_mean(table):
    plot = ages_figure(table, NAMES, MEASURES, "ages")
    loss, copies = plot.axes
    assert [axes.get_title() for axes in plot.axes] == ["loss on held-out images", "near training images"]
    first, second, mean, *_, other = loss.get_lines()
    assert list(first.get_xdata()) == list(mean.get_xdata()) == [500, 1000]
    assert [list(line.get_ydata()) for line in (first, second, mean)] == [[8, 13], [9, 14], [8.5, 13.5]]
    assert (mean.get_color(), other.get_color()) == (PALETTE["baseline"], PALETTE["dispersive"])
    assert list(other.get_ydata()) == [18.5, 23.5] and list(copies.get_lines()[2].get_ydata()) == [108.5, 113.5]
    assert [text.get_text() for text in plot.legends[0].texts] == ["baseline", "dispersive"]


def test_the_words_are_the_means_without_the_seeds(table):
    assert describe(ages_figure(table, NAMES, MEASURES, "ages")).splitlines()[:4] == [
        "ages",
        "loss on held-out images, along step 500, 1,000:",
        "  baseline 8.5, 13.5",
        "  dispersive 18.5, 23.5",
    ]
