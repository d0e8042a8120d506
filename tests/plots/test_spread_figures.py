"""Lines along blocks and steps, and similarities, from tables whose numbers are given."""

import pandas as pd
import pytest

from labkit.plots import PALETTE, ages_figure, colour, describe, lines_figure, similarity_figure

MEASURES = ["feature_norm", "effective_rank", "knn"]


@pytest.fixture
def table():
    """Two runs at three blocks; no two values are alike."""
    rows = [
        dict(run=run, step=10, block=block, t=0.5, measure=measure, value=1000 * place + 10 * kind + block + 0.25)
        for place, run in enumerate(["dispersive", "baseline"])
        for block in (0, 2, 3)
        for kind, measure in enumerate(MEASURES)
    ]
    return pd.DataFrame(rows)


def test_every_measure_has_a_pane_and_every_run_a_line_of_the_tables_values(table):
    plot = lines_figure(table, ["effective_rank", "knn"], "block", "title")
    assert describe(plot).splitlines() == [
        "title",
        "effective rank, along block 0, 2, 3:",
        "  dispersive 10.2, 12.2, 13.2",
        "  baseline 1,010, 1,012, 1,013",
        "k-NN accuracy, along block 0, 2, 3:",
        "  dispersive 20.2, 22.2, 23.2",
        "  baseline 1,020, 1,022, 1,023",
    ]


def test_runs_differ_in_colour_and_dash_and_are_named_once_even_where_one_lacks_a_measure(table):
    some = table[(table["measure"] != "feature_norm") | (table["run"] == "baseline")]
    for shown in (table, some):
        plot = lines_figure(shown, MEASURES, "block", "title")
        lines = [line for axes in plot.axes for line in axes.get_lines()]
        looks = {(line.get_label(), line.get_color(), line.get_linestyle()) for line in lines}
        runs = list(dict.fromkeys(shown["run"]))
        assert looks == {(run, colour(run), dash) for run, dash in zip(runs, ("-", "--"), strict=True)}
        assert sorted(text.get_text() for text in plot.legends[0].texts) == ["baseline", "dispersive"]


def test_axes_are_titled_and_scaled_by_their_metric(table):
    norm, rank, knn = lines_figure(table, MEASURES, "block", "title").axes
    assert [axes.get_xlabel() for axes in (norm, rank, knn)] == ["block"] * 3 and list(norm.get_xticks()) == [0, 2, 3]
    assert (norm.get_yscale(), rank.get_yscale()) == ("log", "linear")
    assert knn.yaxis.get_major_formatter()(0.25) == "25%" and knn.get_ylim()[0] == 0
    assert lines_figure(table, ["knn"], "t", "title").axes[0].get_xlabel() == "time t"


def test_steps_stand_in_order_and_evenly_whichever_run_has_them(table):
    table = table[table["block"] == 0]
    some = [table[table["run"] == "baseline"].assign(step=step) for step in (100, 3000)]
    (axes,) = lines_figure(pd.concat([*some, table.assign(step=400)]), ["knn"], "step", "title").axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "400", "3,000"]
    places = axes.transData.transform([(step, 0) for step in (100, 400, 3000)])[:, 0]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])


def test_lines_with_x_of_their_own_or_many_points_are_described_by_themselves(table):
    longer = pd.concat([table, table[table["run"] == "baseline"].assign(block=7)])
    words = describe(lines_figure(longer, ["knn"], "block", "title")).splitlines()
    assert words[1:3] == ["k-NN accuracy:", "  dispersive (at 0, 2, 3) 20.2, 22.2, 23.2"]
    many = pd.concat([table.assign(block=block, value=block) for block in range(100)])
    assert "  baseline 0 to 99" in describe(lines_figure(many, ["knn"], "block", "title"))


def test_ages_show_every_seed_and_describe_the_mean():
    table = pd.DataFrame(
        [
            dict(condition=name, seed=seed, step=step, measure=measure, value=seed + step / 100 + shift + more)
            for name, shift in (("off", 0), ("on", 10))
            for seed in (3, 4)
            for step in (1000, 500)
            for measure, more in (("loss_held_out", 0), ("memorisation", 100))
        ]
    )
    plot = ages_figure(table, {"off": "baseline", "on": "dispersive"}, ["loss_held_out", "memorisation"], "ages")
    first, second, mean, *_, other = plot.axes[0].get_lines()
    assert [list(line.get_ydata()) for line in (first, second, mean)] == [[8, 13], [9, 14], [8.5, 13.5]]
    assert (mean.get_color(), other.get_color()) == (PALETTE["baseline"], PALETTE["dispersive"])
    assert [text.get_text() for text in plot.legends[0].texts] == ["baseline", "dispersive"]
    assert describe(plot).splitlines() == [
        "ages",
        "loss on held-out images, along step 500, 1,000:",
        "  baseline 8.5, 13.5",
        "  dispersive 18.5, 23.5",
        "near training images, along step 500, 1,000:",
        "  baseline 108, 114",
        "  dispersive 118, 124",
    ]


def test_similarities_stand_as_they_are_with_their_labels_on_both_sides():
    labels = pd.Index([("baseline", 0), ("baseline", 3), ("dispersive", 0), ("dispersive", 3)])
    values = [[1, 0.9, 0.4, 0.3], [0.9, 1, 0.2, 0.1], [0.4, 0.2, 1, 0.7], [0.3, 0.1, 0.7, 1]]
    table = pd.DataFrame(values, index=labels, columns=labels)
    plot = similarity_figure(table, "title")
    (heat,) = plot.data
    assert heat.z.tolist() == table.to_numpy().tolist() and (heat.zmin, heat.zmax) == (0, 1)
    assert heat.x == heat.y == ("baseline 0", "baseline 3", "dispersive 0", "dispersive 3")
    assert plot.layout.xaxis.type == plot.layout.yaxis.type == "category"
    assert plot.layout.yaxis.autorange == "reversed", "the first row is at the top, as in the table"
    assert [(line.x0, line.x1) for line in plot.layout.shapes] == [(1.5, 1.5), (0, 1)], "where one run ends"
    one = table.loc[["baseline"], ["baseline"]]
    assert len(similarity_figure(one, "title").layout.shapes) == 0
