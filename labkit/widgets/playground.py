"""The dispersion playground in a notebook: the first part of the explorer's page, in a frame of its own."""

import html
from typing import Any

from labkit.experiments.playground import Playground
from labkit.plots.explorer_page import explorer_page

FRAME = (
    '<iframe class="labkit-page" title="Dispersion playground" sandbox="allow-scripts" srcdoc="{}" '
    'style="width: 100%; height: 1600px; border: 0"></iframe>'
)


class _Playground:
    """Result of ``playground``; a front end without a browser shows ``describe()``."""

    def __init__(self) -> None:
        self.contents = Playground.load()

    def describe(self) -> str:
        """Origin, and all trainings after their last step as a table."""
        last = self.contents.ages[-1]
        return f"{self.contents.describe()} After {last:,} steps:\n{self.contents.table(last).round(3).to_string()}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        page = html.escape(explorer_page(None, self.contents))
        return {"text/html": FRAME.format(page), "text/plain": self.describe()}


def playground() -> _Playground:
    """λ, τ, α, variant and training step move pictures of trained features; all is looked up, without the kernel."""
    return _Playground()
