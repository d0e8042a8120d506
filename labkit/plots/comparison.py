"""The figures of a comparison: curves, samples from the same noise, spread by block, cost."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from labkit.experiments.compare import ComparisonResult
from labkit.plots.digits import picture, style_digits
from labkit.plots.theme import PALETTE, colour, figure

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    "feature_norm": "feature norm ‖z‖/√P",
    "mean_pairwise_distance": "mean pairwise distance /√P",
    "effective_rank": "effective rank",
    "uniformity": "uniformity (log)",
}


BASES = {  # the base loss of each kind of model
    "velocity": "velocity loss (mean squared error)",
    "noise": "noise loss (mean squared error)",
    "score": "score loss (mean squared error, times σ²)",
    "average_velocity": "average velocity's error (mean squared)",
}


def curves_figure(histories: Mapping[str, "pd.DataFrame"], block: int, floor: float) -> go.Figure:
    """Losses and geometry of the regularized block over training.

    Args:
        histories: name → tidy metrics (columns step, name, value), as ``Run.metrics`` gives them.
        block: the metered block.  floor: of its Dispersive Loss; −inf for none.
    """
    logged = {name for history in histories.values() for name in history["name"].unique()}
    base = next((term for term in BASES if term in logged), "velocity")
    panes = {
        base: BASES[base],
        f"block{block}.dispersive": f"Dispersive Loss at block {block}, trained on or not",
        f"block{block}.feature_norm": f"feature norm ‖z‖/√P at block {block}",
        f"block{block}.effective_rank": f"effective rank at block {block}",
    }
    plot = figure(
        "What training did: losses above, features below",
        2,
        2,
        560,
        subplot_titles=list(panes.values()),
        vertical_spacing=0.16,
    )
    for place, term in enumerate(panes):
        row, col = place // 2 + 1, place % 2 + 1
        for name, history in histories.items():
            rows = history[history["name"] == term]
            line = go.Scatter(
                x=rows["step"],
                y=rows["value"],
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                mode="lines",
                line=dict(color=colour(name), width=1.8),
            )
            plot.add_trace(line, row, col)
        plot.update_xaxes(title_text="step", row=row, col=col)
    if math.isfinite(floor):
        label = dict(annotation_text=f"floor {floor:.2f}", annotation_position="top right")
        plot.add_hline(floor, line=dict(dash="dot", color=PALETTE["quiet"]), row=1, col=2, **label)
    return plot


def samples_figure(result: ComparisonResult, count: int = 40) -> go.Figure:
    """Samples of each run from the same noise and labels, side by side."""
    names = list(result.evaluations)
    plot = figure(
        "Same noise, same labels, different model",
        1,
        len(names),
        330,
        horizontal_spacing=0.03,
        subplot_titles=[f"{name}: {_quality(result, name, brief=len(names) > 2)}" for name in names],
    )
    for col, name in enumerate(names, 1):
        plot.add_trace(go.Image(source=picture(result.evaluations[name].samples.x[:count], 10)), 1, col)
        style_digits(plot, 1, col)
    return plot


def _quality(result: ComparisonResult, name: str, brief: bool) -> str:
    """What can be said of a run's samples at a glance."""
    metrics, count = result.evaluations[name].metrics, len(result.evaluations[name].samples.y)
    if "agreement" in metrics:
        return f"{metrics['agreement'].value:.1%} {'' if brief else f'of {count} read '}as asked"
    return f"Fréchet distance {metrics[result.distance].value:.2f}"


def spread_figure(result: ComparisonResult) -> go.Figure:
    """Geometry of every block's features: does what one block was told carry over to the others?"""
    meters = list(LABELS)
    plot = figure(
        "Do the other blocks follow? Features of held-out images at t = 0.5",
        1,
        len(meters),
        340,
        subplot_titles=[LABELS[m] for m in meters],
        horizontal_spacing=0.06,
    )
    for col, meter in enumerate(meters, 1):
        for name, blocks in result.geometry.items():
            plot.add_trace(
                go.Scatter(
                    x=[str(block) for block in blocks],
                    y=[metrics[meter] for metrics in blocks.values()],
                    name=name,
                    legendgroup=name,
                    showlegend=col == 1,
                    mode="lines+markers",
                    marker=dict(color=colour(name), size=8),
                    line=dict(color=colour(name)),
                ),
                1,
                col,
            )
        plot.update_xaxes(title_text="block", row=1, col=col)
        if meter != "uniformity":
            plot.update_yaxes(rangemode="tozero", row=1, col=col)
    plot.update_layout(legend=dict(y=1.1))
    return plot


def cost_figure(result: ComparisonResult) -> go.Figure:
    """Training rate of each run, as measured while they shared the machine."""
    plot = figure("Does the loss slow training down? Side by side on this machine", height=230)
    for name, cost in result.costs.items():
        plot.add_trace(
            go.Bar(
                y=[name],
                x=[cost.images_per_second],
                orientation="h",
                marker_color=colour(name),
                showlegend=False,
                text=f"{cost.images_per_second:,.0f} images/s · {cost.seconds:.0f} s for {cost.steps:,} steps",
                textposition="inside",
                insidetextanchor="start",
            )
        )
    plot.update_xaxes(title_text="training images per second (more is cheaper)", rangemode="tozero")
    return plot
