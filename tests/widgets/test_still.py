"""Panels and questions without a kernel: what they show stays, what would need one goes."""

import json

import ipywidgets as widgets
import pytest
from plotly.graph_objects import FigureWidget

from labkit.plots import describe
from labkit.widgets import Answer, NotMeasured, Predictions, force_panel
from labkit.widgets.panel import choice, log_slider, row, slider
from labkit.widgets.prediction import Question
from labkit.widgets.still import report, still, still_question

OPTIONS = ["it grows", "it <falls>"]


def test_a_panel_keeps_settings_figure_and_sentence_as_they_are_now():
    panel = force_panel("still")
    panel.state.tau = 2.0
    page = still(panel.widget)
    assert "τ" in page and "<b>2</b>" in page, "the setting, as its slider shows it"
    assert panel.sentence.value in page and "With τ = 2 the push is strongest" in page
    assert page.count("Plotly.newPlot(") == 1 and '"responsive": true' in page
    assert f'role="img" aria-label="{panel.figure.layout.title.text}' in page


@pytest.mark.parametrize(
    ("control", "shown"),
    [
        (slider("w", 0, 3, 0.1), "w <b>0.00</b>"),
        (log_slider("τ", -1, 1), "τ <b>1</b>"),
        (choice("step", [("half way", 5), ("end", 9)]), "step <b>half way</b>"),
        (widgets.Checkbox(True, description="log"), "log <b>yes</b>"),
        (widgets.BoundedIntText(3, description="a < b"), "a &lt; b <b>3</b>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_control_becomes_its_name_and_value(control, shown):
    assert shown in still(row(control))


def test_what_needs_a_kernel_or_is_hidden_leaves_nothing():
    hidden = slider("hidden", 0, 1, 0.1)
    hidden.layout.display = "none"
    parts = [widgets.Button(description="Start"), widgets.FloatProgress(), hidden, widgets.HTML("")]
    assert still(widgets.VBox(parts)) == '<div class="labkit-column"></div>'


def test_the_answer_of_a_question_is_in_a_fold():
    page = still_question(Question("What happens?", OPTIONS, Answer("it <falls>", "Since <b>two</b> act.")))
    before, fold = page.split("<details>")
    assert "What happens?" in before and "<li>it grows</li><li>it &lt;falls&gt;</li>" in before
    assert "<b>it &lt;falls&gt;.</b> Since <b>two</b> act." in fold.split("</details>")[0]


def test_a_question_that_nothing_has_measured_names_what_would():
    def answer():
        raise NotMeasured("Train for longer than 20 steps.")

    page = still_question(Question("What happens?", OPTIONS, answer))
    assert "Train for longer than 20 steps." in page.split("<details>")[1]


def test_a_figure_is_described_by_its_title_panes_axes_and_traces():
    plot = FigureWidget()
    plot.update_layout(
        title_text="Does it<br>grow?", xaxis_title_text="step", annotations=[dict(text="left <i>pane</i>")]
    )
    plot.add_scatter(y=[1, 2], name="norm")
    assert describe(plot) == "Does it grow? (panes: left pane; axes: step; shown: norm)"


def test_the_report_of_a_notebook_has_its_cost_and_its_widgets_but_no_closed_one():
    predictions, panel = Predictions(), force_panel("still")
    question = predictions.ask("What happens?", OPTIONS, ("it grows", "So it is."))
    closed = widgets.HTML("gone")
    names = [widget.model_id for widget in (question, panel.widget, closed)]
    closed.close()
    kept = json.loads(report(names, predictions))
    assert list(kept["stills"]) == names[:2] and "<details>" in kept["stills"][names[0]]
    assert kept["seconds"] > 0 and 1e7 < kept["bytes"] < 1e12, "this process, in bytes"
