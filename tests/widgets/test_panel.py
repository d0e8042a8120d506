"""The pattern of all panels: controls bound to a state, drawing in place, closing leaves nothing."""

import pickle
import threading

import plotly.graph_objects as go
import pytest
from ipywidgets.widgets.widget import _instances
from traitlets import Float

from labkit.widgets import (
    Scale,
    cloud_panel,
    force_panel,
    interpolant_panel,
    partners_panel,
    scale_panel,
    secant_panel,
    springs_panel,
    variants_panel,
    views_panel,
)
from labkit.widgets.figure import Figure, Library
from labkit.widgets.panel import Panel, State, slider
from labkit.widgets.scale import MINE

ALL_PANELS = {
    springs_panel: {"lam": 1.5, "tau": 2.0},
    force_panel: {"tau": 2.0},
    cloud_panel: {"scale": 0.3, "tau": 2.0, "features": 4},
    interpolant_panel: {"t": 0.6},
    variants_panel: {"scale": 0.3, "stretch": 0.8, "tau": 2.0, "margin": 0.5},
    views_panel: {"noise": "restricted", "max_gap": 0.4, "t": 0.2},
    partners_panel: {"alpha": 0.3, "lam": 0.9, "tau": 2.0, "variant": "hinge", "margin": 0.5},
    secant_panel: {"jumps": 4, "t": 0.3, "s": 0.8, "start": 2},
    lambda: scale_panel(Scale(5e10, 16.0)): dict(
        size="XL", patch=8, family="MeanFlow", batch=64, precision="float32", machine=MINE, tflops=7, utilisation=0.8
    ),
}


@pytest.mark.parametrize("make, moves", ALL_PANELS.items())
def test_every_control_of_every_panel_moves_figure_and_sentence_and_leaks_no_widget(make, moves):
    make().close()
    before = set(_instances)
    panel = make()
    opened = set(_instances)
    assert moves.keys() == panel.controls.keys()
    for trait, value in moves.items():
        shown, sentence = pickle.dumps(panel.figure.to_dict()), panel.sentence.value
        panel.controls[trait].value = value
        assert getattr(panel.state, trait) == pytest.approx(value)
        assert pickle.dumps(panel.figure.to_dict()) != shown and panel.sentence.value != sentence, trait
        assert "could not be drawn" not in panel.sentence.value
    assert set(_instances) == opened
    again = make()
    assert panel.closed
    again.close()
    assert set(_instances) == before


class Size(State):
    size = Float(1.0)


def make(draw):
    plot = go.Figure(go.Scatter(x=[0, 1], y=[0, 1]))
    return Panel("test", Size(), {"size": slider("size", 0, 10, 0.1)}, plot, draw, "a line")


def test_state_slider_and_figure_follow_each_other():
    def double(state, plot):
        plot.data[0].y = [0, 2 * state.size]
        return f"twice {state.size:g}"

    panel = make(double)
    panel.state.size = 3.0
    assert panel.controls["size"].value == 3.0 and panel.figure.data[0].y == (0, 6.0)
    panel.controls["size"].value = 4.0
    assert panel.state.size == 4.0 and "twice 4" in panel.sentence.value
    assert 'aria-live="polite"' in panel.sentence.value and 'aria-label="a line"' in panel.widget.children[0].value


def test_figures_share_one_copy_of_the_plot_library_which_comes_back_when_all_widgets_were_closed():
    one, two = Figure({"data": [{"y": [1, 2]}]}), Figure()
    library = Library.shared()
    assert one._library == two._library == f"IPY_MODEL_{library.model_id}"
    assert len(library.script) > 1e6 > 300 * len(str(one._esm)), "a figure's own script is a small part of plotly's"
    library.close()
    assert Figure()._library != one._library
    assert Library.shared().script == library.script


def test_a_closed_panel_draws_no_more():
    drawn, closed = [], []
    panel = make(lambda state, plot: drawn.append(state.size) or "")
    panel.state.close = lambda: closed.append(True)
    panel.close()
    panel.close()
    panel.state.size = 9.0
    assert drawn == [1.0] and closed == [True]


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
