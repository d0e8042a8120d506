"""The atlas by questions: every difference that answers one, with its interval."""

from typing import TYPE_CHECKING

from plotly.basedatatypes import BaseFigure
from traitlets import Int, Unicode, observe

from labkit.experiments.atlas import Atlas
from labkit.metrics import metric
from labkit.plots.findings import count_findings, describe_findings, draw_findings, findings_figure
from labkit.widgets.panel import Panel, State, dropdown

if TYPE_CHECKING:
    import pandas as pd


class Questions(State):
    """A question, a metric and a training step in, the differences that answer it out."""

    question, measure = Unicode(), Unicode("frechet")
    step = Int(0)
    """0 stands for all steps that the question compares."""

    def __init__(self, atlas: Atlas | None = None, **traits: str | int) -> None:
        self.atlas = atlas or Atlas.load()
        answered = set(self.atlas.findings["question"])
        self.texts = {name: text for name, text in self.atlas.questions.items() if name in answered}
        """Question → its text, where there is an answer."""
        super().__init__(**{"question": next(iter(self.texts)), **traits})

    def measures(self) -> list[str]:
        """Metrics in which the question has an answer."""
        rows = self.atlas.findings
        return list(dict.fromkeys(rows.loc[rows["question"] == self.question, "measure"]))

    @observe("question")
    def _fall_back(self, change: object) -> None:
        if self.measure not in self.measures():
            self.measure = self.measures()[0]

    def rows(self) -> "pd.DataFrame":
        """The differences, a row each; none where the metric or the step does not answer this question."""
        rows = self.atlas.findings
        rows = rows[(rows["question"] == self.question) & (rows["measure"] == self.measure)]
        return rows[rows["step"] == self.step] if self.step else rows

    def named(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """Rows with conditions named for people, without the first words that all of these names have in common.

        A baseline that differs from its condition in nothing else is named "its baseline".
        """
        columns = "condition", "against"
        titles = {
            condition: self.atlas.title(condition).split(", ") for column in columns for condition in rows[column]
        }
        first = {title[0] for title in titles.values()}
        short = {condition: ", ".join(title[1:] if len(first) == 1 else title) for condition, title in titles.items()}

        def name_baseline(own: str, base: str) -> str:
            others_alike = {*titles[base]} <= {*titles[own], "baseline"}
            return "its baseline" if "baseline" in titles[base] and others_alike else short[base]

        against = list(map(name_baseline, rows["condition"], rows["against"]))
        return rows.assign(condition=rows["condition"].map(short), against=against)


def questions_panel(state: Questions | None = None, name: str = "questions") -> Panel:
    """Intervals of one question's differences; colours say on which side of 0 they lie."""
    state = state or Questions()
    plot = findings_figure("")
    measures = [(metric(name).label, name) for name in dict.fromkeys(state.atlas.findings["measure"])]
    steps = sorted({*state.atlas.findings["step"].dropna()})
    controls = {
        "question": dropdown("question", [(text, name) for name, text in state.texts.items()], "620px"),
        "measure": dropdown("show", measures, "450px"),
        "step": dropdown("after", [("all steps", 0), *((f"{step:,} steps", step) for step in steps)], "200px"),
    }

    def draw(state: Questions, plot: BaseFigure) -> str:
        rows = state.rows()
        plot.layout.title.text = state.texts[state.question]
        if not len(rows):
            wanted = f"{metric(state.measure).label}{f' after {state.step:,} steps' if state.step else ''}"
            return f"{wanted} was not compared for this question: choose another metric, or all steps."
        named = state.named(rows)
        draw_findings(plot, named, metric(state.measure).label)
        words = f"<details><summary>in words</summary>{describe_findings(named)}</details>"
        return f"{count_findings(named)}.{words}"

    alt = "One line a condition: the mean difference from its baseline and its 95 % interval, around a line at 0."
    return Panel(name, state, controls, plot, draw, alt)
