"""The panel pattern: controls bound to a state, drawing in place, the latest request wins, closing leaves nothing."""

import threading

import plotly.graph_objects as go
from ipywidgets.widgets.widget import _instances
from traitlets import Float, HasTraits

from labkit.widgets.panel import Panel, log_slider, slider


class State(HasTraits):
    size = Float(1.0)


def make(draw, name="test", state=None):
    plot = go.Figure(go.Scatter(x=[0, 1], y=[0, 1]))
    return Panel(name, state or State(), {"size": slider("size", 0, 10, 0.1)}, plot, draw, "a line")


def double(state, plot):
    plot.data[0].y = [0, 2 * state.size]
    return f"twice {state.size:g}"


def test_state_slider_and_figure_follow_each_other():
    panel = make(double)
    panel.state.size = 3.0
    assert panel.controls["size"].value == 3.0 and panel.figure.data[0].y == (0, 6.0)
    panel.controls["size"].value = 4.0
    assert panel.state.size == 4.0 and "twice 4" in panel.sentence.value


def test_the_sentence_is_announced_and_the_figure_described():
    panel = make(double)
    assert 'aria-live="polite"' in panel.sentence.value
    assert 'aria-label="a line"' in panel.widget.children[0].value


def test_a_panel_of_the_same_name_closes_the_earlier_and_leaks_no_widget():
    make(double).close()
    before = set(_instances)
    first = make(double)
    closed = []
    first.on_close = lambda: closed.append(True)
    second = make(double)
    assert first.closed and closed and not second.closed
    second.close()
    assert set(_instances) == before


def test_a_closed_panel_draws_no_more():
    drawn = []
    panel = make(lambda state, plot: drawn.append(state.size) or "")
    panel.close()
    panel.state.size = 9.0
    assert drawn == [1.0]


def test_while_one_thread_draws_only_the_latest_request_is_drawn_after():
    inside, go_on, drawn = threading.Event(), threading.Event(), []

    def slow(state, plot):
        drawn.append(state.size)
        if state.size == 2.0:
            inside.set()
            assert go_on.wait(20)
        return ""

    panel = make(slow)
    worker = threading.Thread(target=lambda: setattr(panel.state, "size", 2.0))
    worker.start()
    assert inside.wait(20)
    for size in (3.0, 4.0, 5.0):
        panel.state.size = size  # returns at once: the other thread will draw
    go_on.set()
    worker.join(20)
    assert drawn == [1.0, 2.0, 5.0]


def test_a_drawing_that_fails_says_so_and_the_next_one_works():
    def fragile(state, plot):
        if state.size > 5:
            raise ArithmeticError("size too large")
        return "fine"

    panel = make(fragile)
    panel.state.size = 6.0
    assert "size too large" in panel.sentence.value
    panel.state.size = 2.0
    assert "fine" in panel.sentence.value


def test_log_slider_spans_its_decades():
    tau = log_slider("τ", -1, 1)
    assert tau.min == -1 and tau.max == 1 and tau.base == 10
