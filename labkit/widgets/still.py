"""Panels and questions as HTML that needs no kernel, for the book.

A panel becomes its settings in words, its figure and its sentence, as they are at that moment; a question becomes its
text and its options, with the answer in a fold. Figures are drawn by plotly's script, which the page has to bring.
"""

import html
import json
import time
from collections.abc import Iterable, Mapping

import ipywidgets as widgets
import psutil
from ipywidgets.widgets.widget import _instances
from plotly.basedatatypes import BaseFigure

from labkit.plots import describe
from labkit.widgets.panel import CONFIG
from labkit.widgets.prediction import Predictions, Question


def still_figure(plot: BaseFigure) -> str:
    """A plotly figure as a ``div`` with alternative text, and the call that draws it."""
    drawn = plot.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
    return f'<div class="labkit-figure" role="img" aria-label="{html.escape(describe(plot))}">{drawn}</div>'


def still_question(question: Question) -> str:
    """A question and its options; the fold holds the answer, or says what would measure it."""
    options = "".join(f"<li>{html.escape(option)}</li>" for option in question.options)
    _, outcome = question.look()
    return (
        f'<div class="labkit-question"><p><b>Predict.</b> {question.text}</p><ul>{options}</ul>'
        f"<details><summary>What came out</summary><p>{outcome}</p></details></div>"
    )


def still(widget: widgets.Widget, questions: Mapping[str, Question] | None = None) -> str:
    """A widget and all that is in it; buttons and bars are left out.

    Args:
        widget: of a cell.  questions: model id → the question whose widget that is.
    """
    questions = questions or {}
    if widget.model_id in questions:
        return still_question(questions[widget.model_id])
    if getattr(widget.layout, "display", None) == "none" or getattr(widget.layout, "visibility", None) == "hidden":
        return ""
    if isinstance(widget, BaseFigure):
        return still_figure(widget)
    if isinstance(widget, widgets.Box):
        kind = "labkit-row" if isinstance(widget, widgets.HBox) else "labkit-column"
        classes = " ".join((kind, *widget._dom_classes))
        return f'<div class="{classes}">{"".join(still(child, questions) for child in widget.children)}</div>'
    if isinstance(widget, widgets.HTML | widgets.HTMLMath):
        return f"<div>{widget.value}</div>" if widget.value else ""
    if isinstance(widget, widgets.ValueWidget) and getattr(widget, "description", ""):
        words = html.escape(widget.description), html.escape(_shown(widget))
        return '<span class="labkit-setting">{} <b>{}</b></span>'.format(*words)
    return ""


def _shown(control: widgets.ValueWidget) -> str:
    """The value of a control as a reader sees it."""
    if isinstance(control.value, bool):
        return "yes" if control.value else "no"
    if isinstance(getattr(control, "label", None), str):  # the text of the option that is chosen
        return control.label
    form = getattr(control, "readout_format", "")
    return format(control.value, form) if isinstance(control.value, int | float) else str(control.value)


def report(shown: Iterable[str], predictions: Predictions) -> str:
    """Record of a notebook that has just run, as JSON, for the book.

    Args:
        shown: model ids of the widgets that its cells show.  predictions: the notebook's.

    Returns:
        ``seconds`` since its kernel started, ``bytes`` that the largest of its processes held at its peak, and
        ``stills``, model id → HTML; a widget that was closed is not among them.
    """
    import resource  # which Windows lacks

    unit = 1024 if psutil.LINUX else 1
    peak = max(resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = time.time() - psutil.Process().create_time()
    questions = {question.widget.model_id: question for question in predictions.questions.values()}
    stills = {name: still(_instances[name], questions) for name in shown if name in _instances}
    return json.dumps({"seconds": seconds, "bytes": unit * peak, "stills": stills})
