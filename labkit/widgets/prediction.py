"""Predict first, look after: questions whose answers open once a prediction is recorded, and a score at the end.

Nothing waits for an answer: every cell runs whether or not a question was answered, and "Just show me" opens an answer
without scoring it. An answer that depends on a measurement is a function, called when the answer is shown.

What a reader predicted is kept in ``runs/progress``, a file for each notebook, so that the next notebook can ask again
what came out differently.
"""

import contextlib
import html
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets

from labkit.disk import DiskError, replace_file
from labkit.runtime import runs_dir
from labkit.widgets.panel import CSS, Panel, live_text, row
from labkit.widgets.unknown_names import explain_unknown_names

WIDE = dict(width="auto")


class NotMeasured(Exception):
    """Raised by an answer that has not been measured yet; its message says what to run first."""


class Answer(NamedTuple):
    """The right option, and why."""

    option: str
    why: str


class Entry(NamedTuple):
    """A recorded prediction, as it is kept."""

    options: list[str]
    picked: str
    because: str
    option: str | None
    """The right option; None until it was measured."""
    why: str

    @property
    def right(self) -> bool | None:
        """Whether the prediction holds; None until its answer was measured."""
        return None if self.option is None else self.picked == self.option


class Question:
    """One question: the state (``picked``, ``because``, ``shown``) and its small view.

    Args:
        text: the question.  options: answers to choose from.  answer: the right one, or a function that measures it.
        changed: called with this question when a prediction is recorded, and when its answer opens.
    """

    def __init__(
        self,
        text: str,
        options: Sequence[str],
        answer: Answer | Callable[[], Answer],
        changed: "Callable[[Question], None]" = lambda question: None,
    ) -> None:
        if not callable(answer) and answer.option not in options:
            raise ValueError(f"answer = {answer.option!r} is none of the options {list(options)}.")
        self.text, self.options, self._answer = text, list(options), answer
        self.picked: str | None = None
        self.shown, self._changed = False, changed
        self._radio = widgets.RadioButtons(options=self.options, value=None, layout=WIDE)
        self._record = widgets.Button(
            description="Record my prediction", button_style="primary", disabled=True, layout=WIDE
        )
        self._skip = widgets.Button(description="Just show me", layout=WIDE)
        self._because = widgets.Text(placeholder="Because … (a line for yourself)", layout=dict(width="100%"))
        self._reply = widgets.HTML(live_text(""))
        self._radio.observe(lambda change: setattr(self._record, "disabled", change.new is None), "value")
        self._record.on_click(lambda _: self.record(self._radio.value))
        self._skip.on_click(lambda _: self.show())
        heading = widgets.HTML(f'{CSS}<div class="labkit-text"><b>Predict.</b> {text}</div>')
        buttons = row(self._record, self._skip)
        self.widget = widgets.VBox([heading, self._radio, self._because, buttons, self._reply])
        self.widget.add_class("labkit-panel")

    @property
    def answer(self) -> Answer:
        return self._answer() if callable(self._answer) else self._answer

    def look(self) -> tuple[Answer | None, str]:
        """The answer, None until it was measured; and as HTML the answer and why, or what to run first."""
        try:
            answer = self.answer
        except NotMeasured as missing:
            return None, html.escape(str(missing))
        except NameError:  # the cell that defines the answer's variables has not run yet
            return None, "A cell below measures this: run it, then press again."
        return answer, f"<b>{html.escape(answer.option)}.</b> {answer.why}"

    @property
    def entry(self) -> Entry | None:
        """What is kept of a recorded prediction; None without one."""
        if self.picked is None:
            return None
        answer, _ = self.look()
        option, why = answer or (None, "")
        return Entry(self.options, self.picked, self._because.value.strip(), option, why)

    @property
    def right(self) -> bool | None:
        """Whether the recorded prediction holds; None without a prediction, and until its answer was measured."""
        entry = self.entry
        return None if entry is None else entry.right

    def record(self, option: str) -> None:
        """Record a prediction, once, and open the answer."""
        if option not in self.options:
            raise ValueError(f"option = {option!r} is none of {self.options}.")
        if self.picked is not None or self.shown:
            return
        self.picked = option
        self._radio.disabled = self._record.disabled = self._because.disabled = True
        self._skip.description = "Show the answer"
        self._changed(self)
        self.show()

    def show(self) -> None:
        """Open the answer. If it has to be measured first, say so and stay closed."""
        answer, outcome = self.look()
        if answer is None:
            recorded = "" if self.picked is None else f"Recorded: {html.escape(self.picked)}. "
            self._reply.value = live_text(f"<i>{recorded}{outcome}</i>")
            return
        verdict = "You predicted it. " if self.picked == answer.option else "It came out differently. "
        self._reply.value = live_text(outcome if self.picked is None else verdict + outcome)
        self.shown = self._radio.disabled = self._record.disabled = self._skip.disabled = True
        self._because.disabled = True
        self._changed(self)


class Predictions:
    """The questions of one notebook, in order: ``ask`` shows one, ``score`` closes the notebook.

    Asking the same text again (a cell that is run twice) starts that question afresh. Once there are ``Predictions``, a
    cell that uses a name before another cell has defined it says which cells to run.

    Args:
        notebook: its number, under which predictions are kept; without one they are forgotten.
        folder: of the files, by default ``progress`` among the reader's own runs.
    """

    def __init__(self, notebook: str = "", folder: Path | None = None) -> None:
        explain_unknown_names()
        self.questions: dict[str, Question] = {}
        self.notebook, self.folder = notebook, folder or runs_dir() / "progress"

    def ask(
        self,
        text: str,
        options: Sequence[str],
        answer: Answer | tuple[str, str] | Callable[[], Answer],
        panel: str = "",
    ) -> widgets.Widget:
        """Ask a question; a ``panel`` of this name gets its finding as title when the answer opens."""

        def changed(question: Question) -> None:
            self._keep(question, self.notebook, late=question.shown)
            if question.shown and panel:
                Panel.reveal(panel)

        question = Question(text, options, answer if callable(answer) else Answer(*answer), changed)
        self.questions[text] = question
        return question.widget

    def _keep(self, question: Question, notebook: str, text: str | None = None, late: bool = False) -> None:
        """Keep what was recorded of a question, under its text or the one that it had in its own notebook.

        A ``late`` call adds what was measured since; it leaves a question alone that was answered otherwise since.
        """
        entry, text = question.entry, text or question.text
        if not notebook or entry is None:
            return
        entries = self.kept().get(notebook, {})
        if late and text in entries and entries[text].picked != entry.picked:
            return
        entries[text] = entry
        content = json.dumps({key: kept._asdict() for key, kept in entries.items()}, indent=1, ensure_ascii=False)
        with contextlib.suppress(DiskError):  # a full disk must not keep an answer closed
            replace_file(self.folder / f"{notebook}.json", content.encode())

    def kept(self) -> dict[str, dict[str, Entry]]:
        """Notebook → question → the prediction that was last recorded; a file that cannot be read counts as none."""
        kept = {}
        for file in sorted(self.folder.glob("[0-9]*.json")):
            with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
                entries = json.loads(file.read_text(encoding="utf-8"))
                kept[file.stem] = {text: Entry(**entry) for text, entry in entries.items()}
        return kept

    def review(self, count: int = 2) -> widgets.Widget:
        """A few predictions of other notebooks that came out differently, to be made once more."""
        again = []
        for notebook, text, entry in self._entries():
            if len(again) < count and notebook != self.notebook and entry.right is False:
                answer = Answer(entry.option or "", entry.why)
                keep = partial(self._keep, notebook=notebook, text=text)
                again.append(Question(f"(from notebook {notebook}) {text}", entry.options, answer, keep).widget)
        if not again:
            nothing = "Nothing to repeat: none of your predictions in other notebooks came out differently."
            return widgets.HTML(CSS + live_text(nothing))
        heading = widgets.HTML(CSS + live_text("<b>Once more.</b> You predicted these differently when you met them:"))
        return widgets.VBox([heading, *again])

    def _entries(self) -> list[tuple[str, str, Entry]]:
        return [(notebook, text, entry) for notebook, kept in self.kept().items() for text, entry in kept.items()]

    def page(self) -> widgets.Widget:
        """Every prediction that was kept, beside what came out."""
        lines = [_cells("th", "notebook", "question", "you predicted", "what came out")]
        for notebook, text, entry in self._entries():
            picked = f"{entry.picked} — because {entry.because}" if entry.because else entry.picked
            outcome = "✓" if entry.right else entry.option or "not measured yet"
            lines.append(_cells("td", notebook, text, picked, outcome))
        if len(lines) == 1:
            return widgets.HTML(live_text("No prediction has been recorded in any notebook yet."))
        return widgets.HTML(f"<table>{''.join(lines)}</table>")

    def tally(self) -> tuple[int, int, list[Question]]:
        """Number of right predictions, number of recorded ones, and the questions whose prediction was wrong."""
        recorded = [q for q in self.questions.values() if q.right is not None]
        for question in recorded:
            self._keep(question, self.notebook, late=True)  # its answer may have been measured since
        missed = [q for q in recorded if not q.right]
        return len(recorded) - len(missed), len(recorded), missed

    def score(self) -> widgets.Widget:
        """The share of predictions that held, and the others to try once more, until they are right."""
        right, recorded, missed = self.tally()
        last = self.kept().get(self.notebook, {})
        again = [q for q in missed if q.text not in last or not last[q.text].right]
        text = f"{right} of {recorded} recorded predictions held; there were {len(self.questions)} questions."
        if not recorded:
            text = "No prediction was recorded. Scroll up, pick before you look, and run this cell again."
        if again:
            text += " Try the others again, now that you have seen the answers:"
        keep = partial(self._keep, notebook=self.notebook)
        questions = [Question(q.text, q.options, q._answer, keep).widget for q in again]
        return widgets.VBox([widgets.HTML(live_text(text)), *questions])


def _cells(tag: str, *texts: str) -> str:
    """A line of a table."""
    cells = (f"<{tag} style='text-align:left;padding:4px 10px'>{html.escape(text)}</{tag}>" for text in texts)
    return f"<tr>{''.join(cells)}</tr>"
