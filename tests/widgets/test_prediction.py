"""Questions: an answer opens once a prediction is recorded, and only one counts."""

import pytest

from labkit.widgets import Answer, NotMeasured, Panel, Predictions, force_panel
from labkit.widgets.prediction import Question

TEXT, OPTIONS = "What happens?", ["up", "down"]


def test_the_answer_is_closed_until_a_prediction_is_recorded():
    question = Question(TEXT, OPTIONS, Answer("up", "because"))
    assert "because" not in question._reply.value and question._record.disabled
    question._radio.value = "down"
    assert not question._record.disabled and "because" not in question._reply.value
    question._record.click()
    assert "because" in question._reply.value and question.right is False
    question.record("up")
    assert question.picked == "down", "only the first prediction counts"


@pytest.mark.parametrize("first", ["the question", "the panel"])
def test_a_panel_says_its_finding_once_its_question_is_answered(monkeypatch, first):
    monkeypatch.setattr(Panel, "_revealed", set())
    make = lambda: force_panel("once")  # noqa: E731
    panel = make() if first == "the panel" else None
    predictions = Predictions()
    predictions.ask(TEXT, OPTIONS, ("up", "because"), panel="once")
    if panel:
        assert panel.figure.layout.title.text.endswith("?")
    predictions.questions[TEXT]._skip.click()
    panel = panel or make()
    assert panel.figure.layout.title.text == panel.finding


def test_showing_without_a_prediction_scores_nothing():
    question = Question(TEXT, OPTIONS, Answer("up", "because"))
    question._skip.click()
    assert "because" in question._reply.value and question.right is None
    question.record("up")
    assert question.picked is None


def test_an_answer_that_must_be_measured_waits_for_the_measurement():
    measured = {}

    def answer():
        if not measured:
            raise NotMeasured("Run section 3 first.")
        return Answer("down", f"it is {measured['value']}")

    question = Question(TEXT, OPTIONS, answer)
    question.record("down")
    assert "Run section 3 first" in question._reply.value and "Recorded: down" in question._reply.value
    measured["value"] = 7
    question._skip.click()
    assert "it is 7" in question._reply.value and question.right


def test_an_answer_defined_in_a_later_cell_is_not_an_error():
    question = Question(TEXT, OPTIONS, lambda: defined_later())  # noqa: F821
    question._skip.click()
    assert "A cell below" in question._reply.value


@pytest.mark.parametrize("options, answer", [(OPTIONS, Answer("sideways", "")), ([], Answer("up", ""))])
def test_an_answer_outside_the_options_is_a_mistake(options, answer):
    with pytest.raises(ValueError, match="none of the options"):
        Question(TEXT, options, answer)


def test_the_score_counts_recorded_predictions_and_offers_the_wrong_ones_again():
    predictions = Predictions()
    for text, pick in (("a", "up"), ("b", "down"), ("c", None)):
        predictions.ask(text, OPTIONS, ("up", ""))
        if pick:
            predictions.questions[text].record(pick)
    right, recorded, missed = predictions.tally()
    assert (right, recorded, [q.text for q in missed]) == (1, 2, ["b"])
    score = predictions.score()
    assert "1 of 2" in score.children[0].value and len(score.children) == 2
    for text in ("a", "b"):  # cells that are run again
        predictions.ask(text, OPTIONS, ("up", ""))
    assert predictions.tally() == (0, 0, []) and "No prediction" in predictions.score().children[0].value


def test_predictions_are_kept_and_asked_again_in_the_next_notebook(tmp_path):
    first, measured = Predictions("02", tmp_path), {}

    def answer():
        if not measured:
            raise NotMeasured("Run section 3 first.")
        return Answer("down", "it was <measured>")

    for text, pick in (("right", "up"), ("missed", "down"), ("skipped", None)):
        first.ask(text, OPTIONS, ("up", "because"))
        question = first.questions[text]
        question._because.value = " I < you "
        question.record(pick) if pick else question.show()
    first.ask("late", OPTIONS, answer)
    first.questions["late"].record("up")
    assert "not measured yet" in first.page().value and "I &lt; you" in first.page().value
    measured[0] = True
    first.score()

    second = Predictions("03", tmp_path)  # in another kernel
    assert {text: entry.option for text, entry in second.kept()["02"].items()} == {
        "right": "up",
        "missed": "up",
        "late": "down",
    }
    assert "Nothing to repeat" in Predictions("02", tmp_path).review().value, "its own are asked again by its score"
    again = second.review()
    assert len(again.children) == 1 + 2 and "02" in again.children[1].children[0].value
    radio, _, buttons, reply = again.children[1].children[1:]
    radio.value = "up"
    buttons.children[0].click()
    assert "because" in reply.value and len(second.review().children) == 1 + 1


def test_what_was_predicted_rightly_the_last_time_is_not_asked_again(tmp_path):
    first, measured = Predictions("02", tmp_path), set()
    for text in ("missed", "measured"):
        first.ask(text, OPTIONS, lambda text=text: Answer("up", "") if text in measured else pending())
        first.questions[text].record("down")
        measured.add(text)
    again = first.score().children[1:]
    assert len(again) == 2, "both were wrong"
    for view in again:
        view.children[1].value = "up"
        view.children[3].children[0].click()
    first.questions["missed"].show()  # late: its answer was not measured when it was recorded
    assert len(first.score().children) == 1 and "0 of 2" in first.score().children[0].value, "a cell that is run again"
    assert "Nothing to repeat" in Predictions("03", tmp_path).review().value
    first.ask("missed", OPTIONS, ("up", ""))  # its cell is run again, and the answer forgotten
    first.questions["missed"].record("down")
    assert len(first.score().children) == 2 and len(Predictions("03", tmp_path).review().children) == 2


def pending():
    raise NotMeasured("Run section 3 first.")


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 3}'])
def test_progress_that_cannot_be_read_or_written_stops_nobody(tmp_path, content):
    (tmp_path / "02.json").write_text(content)
    predictions = Predictions("03", tmp_path)
    assert "Nothing to repeat" in predictions.review().value and "No prediction" in predictions.page().value
    blocked = Predictions("03", tmp_path / "02.json" / "below a file")
    blocked.ask(TEXT, OPTIONS, ("up", "because"))
    blocked.questions[TEXT].record("up")
    assert "You predicted it" in blocked.questions[TEXT]._reply.value
