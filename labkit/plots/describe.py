"""Any static figure in words, for readers who do not see it and for logs. What moves says itself what it shows."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, SupportsFloat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 20  # points; of longer lines the ends are given


def describe(figure: "Figure") -> str:
    """Title, panes, and the values of every named line and bar in them.

    Returns:
        A line for the title, each pane and each series; of more than ``FEW`` points the first and the last. Of images
        and of lines without a name there are no numbers.
    """
    return "\n".join([figure.get_suptitle(), *(line for axes in figure.axes for line in _pane(axes))])


def _pane(axes: "Axes") -> list[str]:
    named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    places = {tuple(line.get_xdata()) for line in named}
    same = len(places) == 1  # said once
    title = axes.get_title() or axes.get_xlabel()
    along = f", along {axes.get_xlabel()} {_values(places.pop())}" if same else ""
    at = {line: "" if same else f"(at {_values(line.get_xdata())}) " for line in named}
    series = [(line.get_label(), at[line], line.get_ydata()) for line in named]
    series += [(bar.get_label(), "", bar.datavalues) for bar in axes.containers]
    return [title + along + (":" if series else ""), *(f"  {name} {where}{_values(y)}" for name, where, y in series)]


def _values(values: Iterable[SupportsFloat]) -> str:
    numbers = [f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in values]
    return ", ".join(numbers) if len(numbers) <= FEW else f"{numbers[0]} to {numbers[-1]}"
