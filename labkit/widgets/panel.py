"""The pattern that every panel follows: a state, controls bound to it, one figure, one sentence.

The state has traits and knows nothing of widgets: a test sets a value and looks at what follows. The view binds a
control to each trait and calls ``draw(state, figure)``, which changes the figure in place and returns the sentence that
says in words what the figure shows.
"""

import copy
import html
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure
from traitlets import HasTraits, link

from labkit.checks import LabError
from labkit.widgets.figure import Figure

Draw = Callable[[Any, BaseFigure], str]

CSS = """<style>
.labkit-panel { border: 1px solid var(--jp-border-color2, #e3e3e3); border-radius: 8px; container-type: inline-size; }
.labkit-panel { padding: 10px 14px; margin: 4px 0; }
.labkit-panel .jupyter-widgets { max-width: 100%; }
.labkit-panel .jupyter-button { flex-shrink: 0; }
.labkit-panel .widget-radio-box label { display: flex; flex-direction: row-reverse; justify-content: flex-end; }
.labkit-panel .widget-radio-box label { height: auto; line-height: 1.5; }
.labkit-panel .widget-radio-box input { flex: none; }
.labkit-panel .widget-readout { font-variant-numeric: tabular-nums; }
.labkit-text, .labkit-panel .dataframe { line-height: 1.45; color: var(--jp-content-font-color1, #222); }
.labkit-text { overflow-wrap: anywhere; }
.labkit-panel .dataframe { display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
.labkit-panel .dataframe :is(th, td) { padding: 1px 14px 1px 0; text-align: right; }
@container (max-width: 500px) {
  .labkit-panel .widget-inline-hbox { flex-wrap: wrap; height: auto; }
  .labkit-panel .widget-inline-hbox > select { height: var(--jp-widgets-inline-height); }
  .labkit-panel .widget-inline-hbox > .widget-label { flex: 1 0 100%; text-align: left; }
}
/* A figure is as wide as its words need, and scrolls where the page is narrower. */
.labkit-figure, .jp-OutputArea-child:has(> .jp-RenderedPlotly) { overflow-x: auto; }
.labkit-figure > :is(.js-plotly-plot, img), .jp-RenderedPlotly { min-width: 760px; }
/* Chromium left out the texts of some figures that were drawn while their cell was skipped, off the screen. */
.jp-Cell:has(.labkit-panel) { content-visibility: visible !important; }
/* Figures are drawn on white. A dark theme turns light and dark over and leaves hues as they are. */
[data-jp-theme-light="false"] :is(.labkit-figure > .js-plotly-plot, .labkit-light,
  .jp-RenderedPlotly:has(.main-svg[style*="background: white"])) {
  color: #222; filter: invert(0.93) hue-rotate(180deg);
}
/* Printed sentences break between words. */
.jp-OutputArea-output.jp-RenderedText pre { word-break: break-word; }
[data-jp-theme-light="true"] .labkit-page { color-scheme: light; }
[data-jp-theme-light="false"] .labkit-page { color-scheme: dark; }
</style>"""
"""The look of panels, questions and figures. It follows the theme of JupyterLab and the width of the page."""
ICONS = dict(start="play", pause="pause", fork="code-fork", resume="forward", stop="stop")
CONFIG = {"displayModeBar": False, "responsive": True}
"""Plotly's settings of a figure in a panel."""


class State(HasTraits):
    """State of a panel: traits in, everything else out."""

    changed: Callable[[], None] = staticmethod(lambda: None)
    """Called when something in the background has news; the panel puts its redraw here."""

    def unused(self) -> set[str]:
        """Traits that change nothing as the others stand; their controls are greyed out."""
        return set()

    def close(self) -> None:
        """End what runs in the background; called when the panel is closed."""


def look(width: str = "330px") -> dict[str, dict[str, str]]:
    """Arguments of a control: its label takes the room that it needs. Plain dicts, because Layouts are widgets too."""
    return dict(style=dict(description_width="initial"), layout=dict(width=width))


def slider(label: str, low: float, high: float, step: float, live: bool = True) -> widgets.FloatSlider:
    """A linear slider; ``live`` redraws while it is dragged."""
    return widgets.FloatSlider(min=low, max=high, step=step, description=label, continuous_update=live, **look())


def log_slider(label: str, low: float, high: float, live: bool = True, form: str = ".2g") -> widgets.FloatLogSlider:
    """A slider over powers of ten from 10**low to 10**high, for quantities like τ whose ratio matters."""
    return widgets.FloatLogSlider(
        min=low, max=high, step=0.02, description=label, continuous_update=live, readout_format=form, **look()
    )


def choice(label: str, options: Sequence[Any]) -> widgets.SelectionSlider:
    """A slider that snaps to the given values, or (text, value) pairs."""
    return widgets.SelectionSlider(options=options, description=label, **look())


def dropdown(label: str, options: Sequence[Any], width: str = "330px") -> widgets.Dropdown:
    """A menu of values, or (text, value) pairs."""
    return widgets.Dropdown(options=options, description=label, **look(width))


def row(*parts: widgets.Widget) -> widgets.HBox:
    """Widgets side by side, in several lines where the page is narrow."""
    return widgets.HBox(parts, layout=dict(flex_flow="row wrap", align_items="center", grid_gap="0 8px"))


def live_text(text: str) -> str:
    """HTML that screen readers announce when it changes."""
    return f'<div class="labkit-text" role="status" aria-live="polite">{text}</div>'


class Buttons:
    """A button for each action of a state, with a status text beside them.

    Args:
        state: has ``actions``: name → function, which may refuse by a ``LabError`` or ``OSError``; and
            ``unavailable()``: name → why an action cannot be used now, or "".
        texts: name → the text of its button, in place of the usual one.
    """

    def __init__(self, state: State, **texts: str) -> None:
        self.state, self.status, self._refusal = state, widgets.HTML(), ""
        self.buttons = {}
        for name in state.actions:
            button = widgets.Button(description=texts.get(name, name.capitalize()), icon=ICONS[name])
            button.button_style = "primary" if name == "start" else ""
            button.layout.width, button.layout.min_width = "auto", "148px"
            button.on_click(lambda _, name=name: self._use(name))
            self.buttons[name] = button

    def row(self, *between: widgets.Widget) -> widgets.HBox:
        """Buttons, what stands ``between``, and the status."""
        return row(*self.buttons.values(), *between, self.status)

    def _use(self, name: str) -> None:
        self.buttons[name].disabled, self.status.value, self._refusal = True, live_text("One moment…"), ""
        try:
            self.state.actions[name]()
        except (LabError, OSError) as error:
            self._refusal = f"<b>{html.escape(str(error))}</b> "
        self.state.changed()

    def refresh(self, status: str) -> None:
        """Grey out what cannot be used now, and show a status."""
        reasons = self.state.unavailable()
        for name, button in self.buttons.items():
            button.disabled, button.tooltip = bool(reasons[name]), reasons[name]
        self.status.value = live_text(self._refusal + html.escape(status))


class Fit(anywidget.AnyWidget):
    """An invisible line as wide as its panel.

    Figures fit their width when the window is resized; this makes them do so, too, when the panel appears or changes
    its width.
    """

    _esm = """
    function render({ el }) {
      let width = 0;
      const observer = new ResizeObserver(() => {
        if (el.clientWidth === width) return;
        width = el.clientWidth;
        window.dispatchEvent(new Event("resize"));
      });
      observer.observe(el);
      return () => observer.disconnect();
    }
    export default { render };
    """


class Panel:
    """A figure with its controls and its sentence; displayed by being the last value of a cell.

    Args:
        name: unique in a notebook. Making a panel of the same name again closes the earlier one.
        state: the model; each name in ``controls`` is one of its traits.
        controls: trait → widget.
        plot: the figure to show, as ``draw`` will update it.
        draw: (state, figure) → the sentence; called at once, and whenever a controlled trait changes.
        alt: alternative text: what the figure is, for readers who cannot see it.
        extra: further widgets under the controls.  below: those under the figure.
        finding: title of the figure once ``reveal`` was called; until then it is a question.
    """

    _open: ClassVar[dict[str, "Panel"]] = {}
    _revealed: ClassVar[set[str]] = set()

    def __init__(
        self,
        name: str,
        state: State,
        controls: Mapping[str, widgets.Widget],
        plot: go.Figure,
        draw: Draw,
        alt: str,
        extra: Sequence[widgets.Widget] = (),
        below: Sequence[widgets.Widget] = (),
        finding: str = "",
    ) -> None:
        if name in Panel._open:
            Panel._open[name].close()
        self.name, self.state, self.controls, self._draw, self.finding = name, state, dict(controls), draw, finding
        if finding and name in Panel._revealed:
            plot.layout.title.text = finding
        self.sentence = widgets.HTML(live_text(self._show(plot)))
        self.figure = Figure(plot)
        self.figure._config = CONFIG
        self._lock, self._stale, self.closed = threading.Lock(), False, False
        self._links = [link((state, trait), (control, "value")) for trait, control in self.controls.items()]
        described = widgets.HTML(f'<div role="img" aria-label="{html.escape(alt)}"></div>{CSS}')
        parts = [described, row(*self.controls.values()), *extra, self.figure, Fit(), *below, self.sentence]
        self.widget = widgets.VBox(parts)
        self.widget.add_class("labkit-panel")
        state.observe(self.redraw, names=list(self.controls))
        state.changed = self.redraw
        Panel._open[name] = self

    @classmethod
    def reveal(cls, name: str) -> None:
        """Let a panel's title say what it shows, now and whenever it is made: the question about it was answered."""
        cls._revealed.add(name)
        panel = cls._open.get(name)
        if panel is not None and panel.finding:
            panel.figure.layout.title.text = panel.finding
            panel._remember()

    def redraw(self, change: object = None) -> None:
        """Draw the state as it is now. If another thread is drawing, it draws once more instead: the latest wins."""
        self._stale = True
        while self._stale and not self.closed and self._lock.acquire(blocking=False):
            try:
                self._stale = False
                with self.figure.batch_update():
                    sentence = self._show(self.figure)
                self.sentence.value = live_text(sentence)
                self._remember()
            except Exception as error:  # shown to the reader; a training that draws goes on
                self.sentence.value = live_text(f"<b>This could not be drawn:</b> {html.escape(str(error))}")
                logging.getLogger(__name__).exception("Panel %r could not be drawn", self.name)
            finally:
                self._lock.release()

    def _show(self, plot: BaseFigure) -> str:
        """Show the state in the figure and in the controls; returns the sentence."""
        unused = self.state.unused()
        for trait, control in self.controls.items():
            control.disabled = trait in unused
        return self._draw(self.state, plot)

    def _remember(self) -> None:
        """Let a page that is reloaded get the figure as it is now; plotly hands out what was first displayed."""
        for name, now in (("_widget_data", self.figure._data), ("_widget_layout", self.figure._layout_obj._props)):
            self.figure._trait_values[name] = copy.deepcopy(now)  # not sent: the open page has it already

    def close(self) -> None:
        """Remove the panel's widgets from the page and from the kernel."""
        if self.closed:
            return
        self.closed = True  # first: what stops now must not draw on widgets that are about to go
        self.state.close()
        self.state.unobserve(self.redraw, names=list(self.controls))
        for bond in self._links:
            bond.unlink()
        _close_all(self.widget)
        if Panel._open.get(self.name) is self:
            del Panel._open[self.name]

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)


def _close_all(widget: widgets.Widget) -> None:
    """Close a widget, its children, and the layouts and styles that are widgets of their own."""
    for part in (*getattr(widget, "children", ()), getattr(widget, "style", None), getattr(widget, "layout", None)):
        if isinstance(part, widgets.Widget):
            _close_all(part)
    widget.close()
