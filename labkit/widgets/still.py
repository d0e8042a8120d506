"""Panels and questions as HTML that needs no kernel, for the book.

A panel becomes its settings in words, its figure and its sentence, as they are at that moment; a question becomes its
text and its options, with the answer in a fold. Figures are drawn by plotly's script, which the page has to bring.
"""

import html
import json
import re
import time
from collections.abc import Iterable, Mapping

import ipywidgets as widgets
import psutil
from ipywidgets.widgets.widget import _instances
from plotly.basedatatypes import BaseFigure

from labkit.widgets.prediction import NotMeasured, Predictions, Question

CONFIG = {"displayModeBar": False, "responsive": True}
SETTING = '<span class="labkit-setting">{} <b>{}</b></span>'
FIGURE = '<div class="labkit-figure" role="img" aria-label="{}">{}</div>'
QUESTION = (
    '<div class="labkit-question"><p><b>Predict.</b> {}</p><ul>{}</ul>'
    "<details><summary>What came out</summary><p>{}</p></details></div>"
)


def describe_plot(plot: BaseFigure) -> str:
    """Alternative text of a plotly figure: its title, and the names of panes, axes and traces."""
    names = {
        "panes": [note.text for note in plot.layout.annotations],
        "axes": [axis.title.text for axis in (*plot.select_xaxes(), *plot.select_yaxes())],
        "shown": [trace.name for trace in plot.data],
    }
    texts = {
        what: ", ".join(dict.fromkeys(_plain(text) for text in all_texts if text)) for what, all_texts in names.items()
    }
    details = "; ".join(f"{what}: {text}" for what, text in texts.items() if text)
    title = " ".join(text for text in (plot.layout.title.text, plot.layout.title.subtitle.text) if text)
    return f"{_plain(title)} ({details})"


def _plain(text: str) -> str:
    """Text without tags, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def still_figure(plot: BaseFigure) -> str:
    """A plotly figure as a ``div`` with alternative text, and the call that draws it."""
    drawn = plot.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
    return FIGURE.format(html.escape(describe_plot(plot)), drawn)


def still_question(question: Question) -> str:
    """A question and its options; the fold holds the answer, or says what would measure it."""
    try:
        answer = question.answer
        outcome = f"<b>{html.escape(answer.option)}.</b> {answer.why}"
    except NotMeasured as missing:
        outcome = html.escape(str(missing))
    options = "".join(f"<li>{html.escape(option)}</li>" for option in question.options)
    return QUESTION.format(question.text, options, outcome)


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
        return SETTING.format(html.escape(widget.description), html.escape(_shown(widget)))
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
