"""Conditions as they grow older: every seed, their mean, and the words."""

import pandas as pd
import pytest

from labkit.plots import PALETTE, ages_figure, ages_told

NAMES = {"off": "baseline", "on": "dispersive"}
TITLES = {"loss": "the loss", "copies": "copies"}


@pytest.fixture
def table():
    return pd.DataFrame(
        [
            {"condition": of, "seed": seed, "step": step, "measure": measure, "value": seed + step / 100 + shift + more}
            for of, shift in (("off", 0), ("on", 10))
            for seed in (3, 4)
            for step in (1000, 500)
            for measure, more in (("loss", 0), ("copies", 100))
        ]
    )


def test_every_seed_and_the_mean(table):
    plot = ages_figure(table, NAMES, TITLES, "ages")
    assert len(plot.data) == 2 * 2 * 3 and [note.text for note in plot.layout.annotations] == ["the loss", "copies"]
    first, second, mean = plot.data[:3]
    assert first.x == mean.x == (500, 1000)
    assert first.y == (8, 13) and second.y == (9, 14) and mean.y == (8.5, 13.5)
    assert mean.line.color == PALETTE["baseline"] and plot.data[5].line.color == PALETTE["dispersive"]
    assert plot.data[5].y == (18.5, 23.5) and plot.data[8].y == (108.5, 113.5)
    assert [trace.name for trace in plot.data if trace.showlegend] == ["baseline", "dispersive"]


def test_the_words_are_the_means(table):
    told = ages_told(table, NAMES, TITLES).splitlines()
    assert told[:3] == ["the loss, after 500, 1,000 steps:", "  baseline 8.5, 13.5", "  dispersive 18.5, 23.5"]
