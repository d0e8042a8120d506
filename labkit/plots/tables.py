"""Tables of metrics as people read them."""

from numbers import Integral
from typing import TYPE_CHECKING, Any

from labkit.metrics import metric, minus, three_digits

if TYPE_CHECKING:
    import pandas as pd


def metrics_table(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table as text: metrics by their titles, shares in percent, other numbers with three digits, "–" for NaN.

    Args:
        table: a column for each metric; other columns keep their name, and text stays text.
    """
    return table.apply(lambda column: column.map(lambda value: _shown(column.name, value))).rename(columns=_title)


def table_html(table: "pd.DataFrame") -> str:
    """The same as HTML, for panels and pages."""
    return metrics_table(table).to_html(border=0)


def _shown(name: str, value: Any) -> str:
    if value != value:
        return "–"
    if isinstance(value, Integral | str):
        return f"{value:,}" if isinstance(value, Integral) else value
    words = f"{value:.1%}" if metric(name).percent and not name.endswith("_excess") else three_digits(value)
    return minus(words)


def _title(name: str) -> str:
    title = metric(name).title
    return f"{title}, above real" if name.endswith("_excess") else title
