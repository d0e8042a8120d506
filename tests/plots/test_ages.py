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
    assert len(plot.data) == 2 * 2 * 3 and [note.text for note in plot.layout.annotations] == [
        "loss on held-out images",
        "near training images",
    ]
    first, second, mean = plot.data[:3]
    assert first.x == mean.x == (500, 1000)
    assert first.y == (8, 13) and second.y == (9, 14) and mean.y == (8.5, 13.5)
    assert mean.line.color == PALETTE["baseline"] and plot.data[5].line.color == PALETTE["dispersive"]
    assert plot.data[5].y == (18.5, 23.5) and plot.data[8].y == (108.5, 113.5)
    assert [trace.name for trace in plot.data if trace.showlegend] == ["baseline", "dispersive"]


def test_the_words_are_the_means_without_the_seeds(table):
    assert describe(ages_figure(table, NAMES, MEASURES, "ages")).splitlines()[:4] == [
        "ages",
        "loss on held-out images, along step 500, 1,000:",
        "  baseline 8.5, 13.5",
        "  dispersive 18.5, 23.5",
    ]
