"""Drive a notebook in JupyterLab as a reader does, and read back plots and texts: never pixels.

    lab.open("00_start_here.ipynb")
    lab.run_all()
    cell = lab.find_cell("SpringPanel(")
    before = lab.plots(cell)[0]["traces"][0]["x"]
    lab.drag_slider("λ", 0.9, within=cell)
    lab.wait_plot(cell, lambda plot: plot["traces"][0]["x"] != before)

Every wait ends with its condition; a timeout is only the bound after which the test fails, and says what it waited for.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Locator, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from server import Server

HELPERS = Path(__file__).with_name("lab.js").read_text()
# Messages of JupyterLab itself that say nothing about a notebook.
HARMLESS = re.compile(r"favicon|ERR_INTERNET_DISCONNECTED")
# The page may still be handling an update or an event of a figure when that is closed, and says so.
LATE = re.compile(r"Error setting state|no comm channel")
POLL_MS = 150  # between two reads of a page; each read costs the page CPU time
PATIENCE = 120.0  # seconds: the upper bound of every wait that names no other
# Closing a panel ends the threads behind it.
FORGET = """
from ipywidgets import Widget
from labkit.widgets.panel import Panel
for panel in [*Panel._open.values()]:
    panel.close()
Widget.close_all()
get_ipython().reset()
"""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_workspaces = itertools.count(1)


class LabPage:
    """One browser tab of JupyterLab on `server`. Cells are counted from 0, markdown cells included."""

    def __init__(self, browser: Browser, server: Server, width: int = 1280, height: int = 900):
        self.server = server
        # One for all tabs, which share what is cached; frames follow JupyterLab's theme, as none is emulated.
        context = (browser.contexts or [browser.new_context(color_scheme="null")])[0]
        self.page: Page = context.new_page()
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.set_default_timeout(PATIENCE * 1000)
        self.console_errors: list[str] = []
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))

    @property
    def faults(self) -> list[str]:
        """Errors in the console, except those of figures that were closed."""
        return [error for error in self.console_errors if not LATE.search(error)]

    def _note_console(self, message) -> None:
        text = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not HARMLESS.search(text):
            self.console_errors.append(text)

    # -- opening and running ----------------------------------------------------------------------------

    def open(self, notebook: str, timeout: float = 2 * PATIENCE, *, in_notebook_7: bool = False) -> LabPage:
        """Open `notebook` (relative to the server's root); its kernel is idle on return.

        In a new workspace of JupyterLab, or in Notebook 7.
        """
        place = "notebooks" if in_notebook_7 else f"lab/workspaces/test-{next(_workspaces)}/tree"
        address = f"{self.server.url}/{place}/{quote(notebook)}"
        self.page.goto(f"{address}?reset&token={self.server.token}", wait_until="domcontentloaded")
        self._settle(notebook, timeout)
        if self.page.locator(".jp-Dialog").count():
            raise AssertionError(f"a dialog blocks {notebook}: {self.page.locator('.jp-Dialog').inner_text()!r}")
        return self

    def show(self, notebook: dict | Path) -> None:
        """Show other cells in the open notebook, whose file they replace; its kernel goes on, with nothing in it."""
        self.kernel_eval(FORGET)
        here = self.server.root / self.page.evaluate("() => lab.path()")
        here.write_text(json.dumps(notebook) if isinstance(notebook, dict) else notebook.read_text())
        self.page.evaluate("() => lab.revert()")
        self.console_errors.clear()

    def reload(self, timeout: float = 2 * PATIENCE) -> None:
        """Load the page again, as a reader does who closed it; the kernel goes on meanwhile."""
        self.page.reload(wait_until="domcontentloaded")
        self._settle("the notebook", timeout)

    def _settle(self, notebook: str, timeout: float) -> None:
        self.page.wait_for_function("() => window.jupyterapp", timeout=timeout * 1000)
        self.page.evaluate(HELPERS)
        self._wait("lab.ready()", timeout, f"{notebook} is open and its kernel idle")

    def _wait(self, condition: str, timeout: float, what: str) -> None:
        try:
            self.page.wait_for_function(f"() => {condition}", timeout=timeout * 1000, polling=POLL_MS)
        except PlaywrightTimeout:
            dialog = " / ".join(self.page.locator(".jp-Dialog").all_inner_texts())
            raise AssertionError(f"not within {timeout:.0f} s: {what}. {dialog}") from None

    def command(self, identifier: str, **arguments) -> None:
        """Start a JupyterLab command, for instance "notebook:run-all-cells"; `wait_idle` waits for its end."""
        self.page.evaluate("([id, args]) => lab.command(id, args)", [identifier, arguments])

    def wait_idle(self, timeout: float = PATIENCE) -> None:
        """Until every command started here has ended and the kernel is idle."""
        self._wait("lab.idle()", timeout, "every cell has run and the kernel is idle")

    def add_cell(self, source: str) -> int:
        """Append a code cell; returns its index."""
        return self.page.evaluate("source => lab.addCell(source)", source)

    def start_cell(self, index: int) -> None:
        """Run one cell and return at once."""
        self.page.evaluate("i => lab.runCell(i)", index)

    def run_cell(self, index: int, timeout: float = PATIENCE) -> None:
        """Run one cell to its end."""
        self.start_cell(index)
        self.wait_idle(timeout)

    def run_cells(self, indices: Iterable[int], timeout: float = PATIENCE) -> None:
        """Run cells one after another; `timeout` holds for each."""
        for index in indices:
            self.run_cell(index, timeout)

    def run_all(self, timeout: float = 5 * PATIENCE) -> None:
        """Run every cell, as the menu entry does, to the end."""
        self.command("notebook:run-all-cells")
        self.wait_idle(timeout)

    def restart_kernel(self) -> None:
        """At once, whatever runs."""
        self.page.evaluate("() => lab.restart()")
        self.wait_idle()

    def interrupt_kernel(self) -> None:
        """Interrupt it, as the stop button of the toolbar does."""
        self.page.evaluate("() => lab.interrupt()")

    def kernel_eval(self, code: str) -> str:
        """Run `code` in the notebook's kernel without adding a cell; returns what it printed, stripped.

        It queues behind a running cell. Raises RuntimeError with the traceback when the code fails.
        """
        result = self.page.evaluate("code => lab.evaluate(code)", code)
        if result["failed"]:
            raise RuntimeError(_ANSI.sub("", result["failed"]))
        return result["text"].strip()

    # -- reading ----------------------------------------------------------------------------------------

    def cells(self) -> list[tuple[str, str]]:
        """(type, source) of every cell; the type is "code", "markdown" or "raw"."""
        return [tuple(cell) for cell in self.page.evaluate("() => lab.sources()")]

    def find_cell(self, text: str) -> int:
        """Index of the one code cell whose source contains `text`."""
        cells = [i for i, (kind, source) in enumerate(self.cells()) if kind == "code" and text in source]
        if len(cells) != 1:
            raise AssertionError(f"{text!r} is in the code cells {cells}, not in exactly one")
        return cells[0]

    def cell(self, index: int) -> Locator:
        """The cell's element (`[data-windowed-list-index]` counts like the notebook does)."""
        return self.page.locator(f".jp-Notebook:visible .jp-Cell[data-windowed-list-index='{index}']")

    def output(self, index: int) -> Locator:
        """The element that holds a code cell's outputs."""
        return self.cell(index).locator(".jp-Cell-outputWrapper")

    def cell_errors(self) -> list[str]:
        """One traceback for each cell that failed, with the cell's index."""
        errors = self.page.evaluate("() => lab.errors()")
        return [f"cell {e['cell']}: " + _ANSI.sub("", e["traceback"]) for e in errors]

    def plots(self, where: int | Locator) -> list[dict]:
        """State of the drawn plotly figures in a cell or element, in order.

        Each is {title, axes: {xaxis: {title, range}, …}, annotations, width, height, traces}; a trace has
        name, type, visible, xaxis, yaxis, x, y, z, text, color (of its markers), arrays as plain lists.
        """
        root = self.output(where) if isinstance(where, int) else where
        return root.first.evaluate("root => lab.plots(root)")

    def wait_plot(self, where: int | Locator, until: Callable = bool, timeout: float = PATIENCE, nth: int = 0) -> dict:
        """The state of figure `nth` of a cell, scrolled to, as soon as `until(state)` holds."""
        (self.output(where) if isinstance(where, int) else where).scroll_into_view_if_needed()
        return self.wait_for(
            lambda: next((p for p in self.plots(where)[nth : nth + 1] if until(p)), None),
            timeout,
            f"figure {nth} in {where} is as expected",
        )

    def wait_for(self, probe: Callable, timeout: float = PATIENCE, what: str = "the condition holds"):
        """Call `probe` until it returns something true, and return that; AssertionError after `timeout`."""
        deadline = time.monotonic() + timeout
        while not (result := probe()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:.0f} s: {what}")
            self.page.wait_for_timeout(POLL_MS)  # lets the page live on meanwhile
        return result

    # -- acting -----------------------------------------------------------------------------------------

    def _in(self, within: int | Locator | None) -> Locator | Page:
        return self.page if within is None else self.output(within) if isinstance(within, int) else within

    def widget(self, label: str, within: int | Locator | None = None) -> Locator:
        """The ipywidget (slider, dropdown, …) whose description is `label`, or begins with it as a word."""
        name = self.page.locator(".widget-label", has_text=re.compile(rf"^\s*{re.escape(label)}(?!\w)"))
        return self._in(within).locator(".widget-inline-hbox", has=name).first

    def drag_slider(self, label: str, fraction: float, within: int | Locator | None = None, steps: int = 10) -> str:
        """Drag a slider's handle with the mouse to `fraction` (0 left, 1 right); returns the value shown."""
        slider = self.widget(label, within)
        slider.locator(".noUi-handle").hover()  # scrolls there and waits until the layout has come to rest
        self.page.mouse.down()
        slider.locator(".noUi-active").wait_for()
        track = slider.locator(".noUi-base").bounding_box()
        self.page.mouse.move(track["x"] + fraction * track["width"], track["y"] + 2, steps=steps)
        self.page.mouse.up()
        return self.slider_value(label, within)

    def press_slider(self, label: str, key: str, times: int = 1, within: int | Locator | None = None) -> str:
        """Press "ArrowRight", "ArrowLeft", "Home", … on a slider's handle; returns the value shown."""
        handle = self.widget(label, within).locator(".noUi-handle")
        for _ in range(times):
            handle.press(key)
        return self.slider_value(label, within)

    def slider_value(self, label: str, within: int | Locator | None = None) -> str:
        """The number a slider shows beside it, as text."""
        return self.widget(label, within).locator(".widget-readout").inner_text().strip()

    def click(self, button: str, within: int | Locator | None = None) -> None:
        """Click the widget button that bears exactly this text, as soon as it is enabled."""
        exact = re.compile(rf"^\s*{re.escape(button)}\s*$")
        self._in(within).locator("button.jupyter-button", has_text=exact).first.click()

    def choose(self, option: str, within: int | Locator | None = None) -> None:
        """Pick the radio button that bears exactly this text."""
        exact = re.compile(rf"^\s*{re.escape(option)}\s*$")
        self._in(within).locator(".widget-radio-box label", has_text=exact).first.click()

    def text(self, css: str, within: int | Locator | None = None) -> str:
        """The visible text of the first element that matches."""
        return self._in(within).locator(css).first.inner_text()

    def slider_to_redraw_ms(self, label: str, within: int | Locator, moves: int = 10, quiet=150) -> list[float]:
        """Milliseconds from each of `moves` arrow keys on a slider to the last redraw of the first figure.

        A move is over when the figure has not been redrawn for `quiet` ms (150), so several partial redraws count
        as one slow one. Keys turn back half way, so that the slider does not run into its end.
        """
        root, times = self._in(within), []
        figure = root.locator(".js-plotly-plot").first
        for move in range(moves):
            figure.evaluate("(div, quiet) => lab.arm(div, quiet)", quiet)
            self.press_slider(label, "ArrowRight" if move < moves / 2 else "ArrowLeft", within=within)
            self._wait("lab.settled()", PATIENCE, f"the figure is redrawn after move {move} of {label!r}")
            times.append(self.page.evaluate("() => lab.elapsed()"))
        return times

    # -- looking ----------------------------------------------------------------------------------------

    def wait_still(self, quiet_ms: float = 500, at_most: float = 20) -> None:
        """Until nothing in the notebook has changed for `quiet_ms`; live figures never rest, so at most so many s."""
        self.page.evaluate("([quiet, most]) => lab.still(quiet, most)", [quiet_ms, at_most * 1000])

    def screenshot(self, path: Path | str) -> Path:
        """The whole window as a PNG."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
        return Path(path)

    def close(self) -> None:
        """End the notebook's kernel and close the tab."""
        try:
            self.page.evaluate("() => window.lab && lab.shutDown()")
        finally:
            self.page.close()
