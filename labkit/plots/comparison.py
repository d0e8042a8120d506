"""The figures of a comparison: curves, samples from the same noise, spread by block, cost. All are static."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from labkit.experiments.compare import ComparisonResult
from labkit.metrics import BASE_LOSSES, minus
from labkit.plots.digits import sheet
from labkit.plots.spread import lines_figure
from labkit.plots.theme import PALETTE, colour

if TYPE_CHECKING:
    import pandas as pd

    from labkit.plots.static import StaticFigure

SPREAD = ("feature_norm", "mean_pairwise_distance", "effective_rank", "uniformity")


def curves_figure(histories: Mapping[str, "pd.DataFrame"], block: int, floor: float) -> "StaticFigure":
    """Losses and geometry of the regularized block over training.

    Args:
        histories: name → tidy metrics (columns step, name, value), as ``Run.metrics`` gives them.
        block: the metered block.  floor: least value of its Dispersive Loss; −inf for none.
    """
    from labkit.plots.static import metric_figure

    logged = {name for history in histories.values() for name in history["name"].unique()}
    base = next((term for term in BASE_LOSSES if term in logged), "velocity")
    terms = [base, *(f"block{block}.{meter}" for meter in ("dispersive", "feature_norm", "effective_rank"))]
    plot, panes = metric_figure("What training did: losses above, features below", terms, "step", 560, rows=2)
    for term, axes in panes:
        for name, history in histories.items():
            rows = history[history["name"] == term]
            axes.plot(rows["step"], rows["value"], label=name, color=colour(name))
    dispersive = plot.axes[1]
    dispersive.set_title(f"{dispersive.get_title()} at block {block}, trained on or not")
    if math.isfinite(floor):
        dispersive.axhline(floor, color=PALETTE["quiet"], linestyle=":")
        at = dict(xy=(1, floor), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points")
        dispersive.annotate(minus(f"floor {floor:.2f}"), **at, ha="right")
    return plot


def samples_figure(result: ComparisonResult, count: int = 40) -> "StaticFigure":
    """Samples of each run from the same noise and labels, side by side."""
    brief = len(result.evaluations) > 2
    gap = "\n" if brief else " "
    sheets = {
        f"{name}:{gap}{_quality(result, name, brief)}": evaluation.samples.x[:count]
        for name, evaluation in result.evaluations.items()
    }
    return sheets_figure("Same noise, same labels, different model", sheets, len(sheets), 10)


def sheets_figure(
    title: str, sheets: Mapping[str, Float[Tensor, "n c h w"]], across: int = 3, columns: int = 9
) -> "StaticFigure":
    """Sheets of images in [-1, 1], each under its name.

    Args:
        title: what the figure asks or shows.  sheets: name → images, the same number in each.
        across: sheets side by side.  columns: images side by side in a sheet.
    """
    from labkit.plots.static import WIDTH, static_figure

    rows, lines = -(-len(sheets) // across), -(-max(map(len, sheets.values())) // columns)
    plot, panes = static_figure(title, rows, across, 40 + rows * (30 + WIDTH * lines // (columns * across)))
    for axes, (name, images) in zip(panes, sheets.items(), strict=False):  # the last row may be shorter
        axes.imshow(sheet(images, columns), interpolation="none")
        axes.set_title(name)
    for axes in plot.axes:
        axes.set_axis_off()
    return plot


def _quality(result: ComparisonResult, name: str, brief: bool) -> str:
    """The one number that says most of a run's samples, in words."""
    metrics, count = result.evaluations[name].metrics, len(result.evaluations[name].samples.y)
    if "agreement" in metrics:
        return f"{metrics['agreement'].value:.1%} {'' if brief else f'of {count} recognised '}as requested"
    return f"Fréchet distance {metrics[result.distance].value:.2f}"


def spread_figure(result: ComparisonResult) -> "StaticFigure":
    """Geometry of every block's features: does regularizing one block change the others?"""
    import pandas as pd

    title = "Do the other blocks follow? Features of held-out images at t = 0.5"
    rows = [
        (name, block, meter, metrics[meter])
        for name, blocks in result.geometry.items()
        for block, metrics in blocks.items()
        for meter in SPREAD
    ]
    return lines_figure(pd.DataFrame(rows, columns=["run", "block", "measure", "value"]), SPREAD, "block", title)


def cost_figure(result: ComparisonResult) -> "StaticFigure":
    """Training rate of each run, as measured while they shared the machine."""
    from labkit.plots.static import static_figure

    title = "Does the loss slow training down? Side by side on this machine"
    plot, (axes,) = static_figure(title, 1, 1, 110 + 40 * len(result.costs))
    for name, cost in result.costs.items():
        bar = axes.barh(name, cost.images_per_second, color=colour(name), label=name)
        words = f"{cost.images_per_second:,.0f} images/s · {cost.seconds:.0f} s for {cost.steps:,} steps"
        axes.bar_label(bar, [words], label_type="center", color="white")
    axes.invert_yaxis()
    axes.set_xlabel("training images per second (more is cheaper)")
    axes.grid(axis="y", visible=False)
    return plot
