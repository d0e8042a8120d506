"""The atlas by questions: every difference that answers one, with its interval."""

from typing import TYPE_CHECKING

import ipywidgets as widgets
from plotly.basedatatypes import BaseFigure
from traitlets import HasTraits, Unicode, observe

from labkit.experiments.atlas import Atlas
from labkit.metrics import metric
from labkit.plots.findings import describe_findings, draw_findings, findings_figure
from labkit.widgets.panel import STYLE, Panel

if TYPE_CHECKING:
    import pandas as pd


class Questions(HasTraits):
    """A question and a measure in, the differences that answer it out."""

    question, measure = Unicode(), Unicode("frechet")

    def __init__(self, atlas: Atlas | None = None, **traits: str) -> None:
        self.atlas = atlas or Atlas.load()
        super().__init__(**{"question": next(iter(self.asked)), **traits})

    @property
    def asked(self) -> dict[str, str]:
        """Question → its words, of those that have an answer."""
        known = set(self.atlas.findings["question"])
        return {name: words for name, words in self.atlas.questions.items() if name in known}

    def measures(self) -> list[str]:
        rows = self.atlas.findings
        return list(dict.fromkeys(rows.loc[rows["question"] == self.question, "measure"]))

    @observe("question")
    def _measured(self, change: object) -> None:
        if self.measure not in self.measures():
            self.measure = self.measures()[0]

    def rows(self) -> "pd.DataFrame":
        rows = self.atlas.findings
        return rows[(rows["question"] == self.question) & (rows["measure"] == self.measure)]


def questions_panel(state: Questions | None = None, name: str = "questions") -> Panel:
    """Intervals of one question's differences; colours say on which side of 0 they lie."""
    state = state or Questions()
    plot = findings_figure("")
    known = [(metric(name).label, name) for name in dict.fromkeys(state.atlas.findings["measure"])]
    controls = {
        "question": widgets.Dropdown(
            options=[(words, of) for of, words in state.asked.items()],
            description="question",
            style=STYLE,
            layout=dict(width="620px"),
        ),
        "measure": widgets.Dropdown(options=known, description="show", style=STYLE, layout=dict(width="450px")),
    }

    def draw(state: Questions, plot: BaseFigure) -> str:
        rows = state.rows()
        plot.layout.title.text = state.asked[state.question]
        if not len(rows):
            return f"{metric(state.measure).label} was not asked of this question: choose another."
        draw_findings(plot, rows, metric(state.measure).label)
        return describe_findings(rows)

    alt = "One line a condition: the mean difference from its baseline and its 95 % interval, around a line at 0."
    return Panel(name, state, controls, plot, draw, alt)
