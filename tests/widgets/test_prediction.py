"""Questions: an answer opens once a prediction is recorded, and only one counts."""

import pytest

from labkit.widgets import Answer, NotMeasured, Predictions
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
