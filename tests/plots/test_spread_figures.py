"""Figures and words of tables of spread, from tables whose numbers are known."""

import pandas as pd
import pytest

from labkit.plots import colour, describe, lines_figure, similarity_figure

MEASURES = ["feature_norm", "effective_rank", "knn"]


@pytest.fixture
def table():
    """Two runs at three blocks; values tell where they are from."""
    rows = [
        dict(run=run, step=10, block=block, t=0.5, measure=measure, value=1000 * place + 10 * kind + block + 0.25)
        for place, run in enumerate(["dispersive", "baseline"])
        for block in (0, 2, 3)
        for kind, measure in enumerate(MEASURES)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def similarity():
    labels = pd.Index([("baseline", 0), ("baseline", 3), ("dispersive", 0), ("dispersive", 3)])
    values = [[1, 0.9, 0.4, 0.3], [0.9, 1, 0.2, 0.1], [0.4, 0.2, 1, 0.7], [0.3, 0.1, 0.7, 1]]
    return pd.DataFrame(values, index=labels, columns=labels)


def test_every_measure_has_a_pane_and_every_run_a_line_of_the_tables_values(table):
    plot = lines_figure(table, ["effective_rank", "knn"], "block", "title")
    assert plot.get_suptitle() == "title"
    assert [axes.get_title() for axes in plot.axes] == ["effective rank", "k-NN accuracy"]
    lines = [line for axes in plot.axes for line in axes.get_lines()]
    assert [line.get_label() for line in lines] == ["dispersive", "baseline"] * 2
    assert all(list(line.get_xdata()) == [0, 2, 3] for line in lines)
    assert [list(line.get_ydata()) for line in lines] == [
        [10.25, 12.25, 13.25],
        [1010.25, 1012.25, 1013.25],
        [20.25, 22.25, 23.25],
        [1020.25, 1022.25, 1023.25],
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


def test_axes_are_titled_and_scaled_by_what_they_hold(table):
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


def test_the_words_hold_every_number_of_the_lines(table):
    assert describe(lines_figure(table, ["effective_rank", "knn"], "block", "title")).splitlines() == [
        "title",
        "effective rank, along block 0, 2, 3:",
        "  dispersive 10.2, 12.2, 13.2",
        "  baseline 1,010, 1,012, 1,013",
        "k-NN accuracy, along block 0, 2, 3:",
        "  dispersive 20.2, 22.2, 23.2",
        "  baseline 1,020, 1,022, 1,023",
    ]


def test_lines_of_other_points_or_of_many_are_described_by_themselves(table):
    longer = pd.concat([table, table[table["run"] == "baseline"].assign(block=7)])
    words = describe(lines_figure(longer, ["knn"], "block", "title")).splitlines()
    assert words[1] == "k-NN accuracy:" and words[2] == "  dispersive (at 0, 2, 3) 20.2, 22.2, 23.2"
    many = pd.concat([table.assign(block=block, value=block) for block in range(100)])
    assert "  baseline 0 to 99" in describe(lines_figure(many, ["knn"], "block", "title"))


def test_similarities_stand_as_they_are_with_their_labels_on_both_sides(similarity):
    plot = similarity_figure(similarity, "title")
    (heat,) = plot.data
    assert heat.z.tolist() == similarity.to_numpy().tolist() and (heat.zmin, heat.zmax) == (0, 1)
    assert heat.x == heat.y == ("baseline 0", "baseline 3", "dispersive 0", "dispersive 3")
    assert plot.layout.xaxis.type == plot.layout.yaxis.type == "category"
    assert plot.layout.yaxis.autorange == "reversed", "the first row is at the top, as in the table"
    assert heat.texttemplate == "%{z:.2f}" and plot.layout.title.text == "title"
    edges = [(line.x0, line.y0, line.x1, line.y1) for line in plot.layout.shapes]
    assert edges == [(1.5, -0.5, 1.5, 3.5), (-0.5, 1.5, 3.5, 1.5)], "where one run ends"


def test_one_run_has_no_edge(similarity):
    one = similarity.loc[["baseline"], ["baseline"]]
    assert len(similarity_figure(one, "title").layout.shapes) == 0
