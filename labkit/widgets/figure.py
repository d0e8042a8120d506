"""A figure of plotly as a widget that a slow or busy browser does not lose.

plotly's own ``FigureWidget`` carries the library, 5 MB of script, in every figure, and a browser compiles it each time.
If that takes longer than 2 s, anywidget gives the figure up: it draws the frame, but hears nothing from the kernel any
more, not even the data. Here all figures of a page share one copy of the library, and what the kernel says while it
loads waits for it (``figure.js``).
"""

from pathlib import Path

import anywidget
import plotly.graph_objects as go
from traitlets import Unicode, default


class Library(anywidget.AnyWidget):
    """The script of plotly's widget, sent to the page once; ``Library.shared()`` is the one of this kernel."""

    _esm = "export default {}"
    script = Unicode().tag(sync=True)
    _shared: "Library | None" = None

    @classmethod
    def shared(cls) -> "Library":
        if cls._shared is None or cls._shared.comm is None:  # closed, with all widgets of a notebook
            cls._shared = cls(script=str(go.FigureWidget._esm))
        return cls._shared


class Figure(go.FigureWidget):
    """A copy of a figure, shown as the last value of a cell or inside a panel; changes of it follow on the page."""

    _esm = Path(__file__).with_name("figure.js")
    _library = Unicode().tag(sync=True)

    @default("_library")
    def _reference(self) -> str:
        return f"IPY_MODEL_{Library.shared().model_id}"
