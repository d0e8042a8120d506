"""Predict first, look after: questions whose answers open once a prediction is recorded, and a score at the end.

Nothing waits for an answer: every cell runs whether or not a question was answered, and "Just show me" opens an answer
without scoring it. An answer that depends on a measurement is a function, called when the answer is shown.
"""

import html
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ipywidgets as widgets

from labkit.widgets.panel import CSS, live_text

WIDE = dict(width="auto")


class NotMeasured(Exception):
    """Raised by an answer that has not been measured yet; its message says what to run first."""


class Answer(NamedTuple):
    """The right option, and why."""

    option: str
    why: str


class Question:
    """One question: the state (``picked``, ``shown``) and its small view."""

    def __init__(self, text: str, options: Sequence[str], answer: Answer | Callable[[], Answer]) -> None:
        if not callable(answer) and answer.option not in options:
            raise ValueError(f"answer = {answer.option!r} is none of the options {list(options)}.")
        self.text, self.options, self._answer = text, list(options), answer
        self.picked: str | None = None
        self.shown = False
        self._radio = widgets.RadioButtons(options=self.options, value=None, layout=WIDE)
        self._record = widgets.Button(
            description="Record my prediction", button_style="primary", disabled=True, layout=WIDE
        )
        self._skip = widgets.Button(description="Just show me", layout=WIDE)
        self._reply = widgets.HTML(live_text(""))
        self._radio.observe(lambda change: setattr(self._record, "disabled", change.new is None), "value")
        self._record.on_click(lambda _: self.record(self._radio.value))
        self._skip.on_click(lambda _: self.show())
        heading = widgets.HTML(f"{CSS}<b>Predict.</b> {text}")
        buttons = widgets.HBox([self._record, self._skip])
        self.widget = widgets.VBox([heading, self._radio, buttons, self._reply])
        self.widget.add_class("labkit-panel")

    @property
    def answer(self) -> Answer:
        return self._answer() if callable(self._answer) else self._answer

    @property
    def right(self) -> bool | None:
        """Whether the recorded prediction holds; None without a prediction, and until its answer was measured."""
        try:
            return None if self.picked is None else self.picked == self.answer.option
        except (NotMeasured, NameError):
            return None

    def record(self, option: str) -> None:
        """Record a prediction, once, and open the answer."""
        if option not in self.options:
            raise ValueError(f"option = {option!r} is none of {self.options}.")
        if self.picked is not None or self.shown:
            return
        self.picked = option
        self._radio.disabled = self._record.disabled = True
        self._skip.description = "Show the answer"
        self.show()

    def show(self) -> None:
        """Open the answer. If it has to be measured first, say so and stay closed."""
        try:
            answer = self.answer
        except (NotMeasured, NameError) as missing:
            remedy = str(missing)
            if isinstance(missing, NameError):  # the cell that defines the answer's variables has not run yet
                remedy = "A cell below measures this: run it, then press again."
            recorded = "" if self.picked is None else f"Recorded: {html.escape(self.picked)}. "
            self._reply.value = live_text(f"<i>{recorded}{html.escape(remedy)}</i>")
            return
        verdict = "" if self.picked is None else ("You predicted it. " if self.right else "It came out differently. ")
        self._reply.value = live_text(f"{verdict}<b>{html.escape(answer.option)}.</b> {answer.why}")
        self.shown = self._radio.disabled = self._record.disabled = self._skip.disabled = True


class Predictions:
    """The questions of one notebook, in order: ``ask`` shows one, ``score`` closes the notebook.

    Asking the same text again (a cell that is run twice) starts that question afresh.
    """

    def __init__(self) -> None:
        self.questions: dict[str, Question] = {}

    def ask(
        self, text: str, options: Sequence[str], answer: Answer | tuple[str, str] | Callable[[], Answer]
    ) -> widgets.Widget:
        question = Question(text, options, answer if callable(answer) else Answer(*answer))
        self.questions[text] = question
        return question.widget

    def tally(self) -> tuple[int, int, list[Question]]:
        """Number of right predictions, number of recorded ones, and the questions whose prediction was wrong."""
        recorded = [q for q in self.questions.values() if q.right is not None]
        missed = [q for q in recorded if not q.right]
        return len(recorded) - len(missed), len(recorded), missed

    def score(self) -> widgets.Widget:
        """The share of predictions that held, and the others to try once more."""
        right, recorded, missed = self.tally()
        text = f"{right} of {recorded} recorded predictions held; there were {len(self.questions)} questions."
        if not recorded:
            text = "No prediction was recorded. Scroll up, pick before you look, and run this cell again."
        if missed:
            text += " Try the others again, now that you have seen the answers:"
        again = [Question(q.text, q.options, q._answer).widget for q in missed]
        return widgets.VBox([widgets.HTML(live_text(text)), *again])
