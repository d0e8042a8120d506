"""The atlas's explorer: every position of its controls is a condition that was measured.

Seeds stand as dots, λ × τ as a heat map, samples come from the same noise, and a button trains a condition for real.
"""

import html
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure
from traitlets import Enum, Int, Unicode, observe
from traitlets import Float as FloatTrait

from labkit.experiments.atlas import COORDINATES, DATASETS, VARIANTS, Atlas, Band
from labkit.experiments.rerun import Rerun
from labkit.experiments.statistics import describe_row, side
from labkit.metrics import metric, minus
from labkit.plots import PALETTE, fade, figure, picture, style_digits
from labkit.widgets.panel import Buttons, Panel, choice, dropdown, look
from labkit.widgets.runner import RunnerState

if TYPE_CHECKING:
    import pandas as pd

MEASURES = (
    "frechet",
    "frechet_pixels",
    "kernel_distance",
    "precision",
    "recall",
    "agreement",
    "memorisation",
    "loss_held_out",
    "loss_gap",
    "feature_norm",
    "effective_rank",
)
NAMES = dict(lam="λ", tau="τ", variant="variant", block="block", alpha="α", noise="second view")
NAMES |= dict(model="model", dataset="data", also="besides")
PLANE = dict(variant="infonce_l2", block="1", alpha=0.0, noise="one view", dataset="digits", also="nothing else")
"""The other coordinates of the heat map over λ and τ; there is one for each model."""
FIRST = "coarse-dispersive"
"""The condition shown at first: for its model, every cell of the paper's λ × τ was measured."""


class Ablations(RunnerState[Rerun]):
    """Coordinates in, the measured condition nearest to them out; the coordinates then are that condition's.

    Args:
        atlas: by default the shipped one.
        out: folder of the runs that are trained here.
        steps: length of these runs; by default that of the atlas's, and shorter runs cannot be compared.
    """

    lam, tau, alpha = FloatTrait(), FloatTrait(), FloatTrait()
    variant, block, noise = Unicode(), Unicode(), Unicode()
    model, dataset, also = Unicode(), Unicode(), Unicode()
    measure = Enum(MEASURES, "frechet")
    seed = Int(100, min=0)
    """Seed of the run that is trained here; the atlas has small ones."""

    def __init__(self, atlas: Atlas | None = None, out: Path | None = None, steps: int | None = None) -> None:
        super().__init__()
        self.atlas, self.out, self.steps = atlas or Atlas.load(), out, steps
        self._band, self._difference = cache(self.atlas.band), cache(self.atlas.difference)  # sliders do not wait
        self._moving = False
        self.go_to(FIRST)

    @observe(*COORDINATES)
    def _snap(self, change: Any) -> None:
        """Go to the nearest condition that has the value that was just set; the others follow."""
        if not self._moving:
            wanted = {name: getattr(self, name) for name in COORDINATES}
            self.go_to(self.atlas.snap(wanted, change.name), wanted)

    def go_to(self, condition: str, wanted: Mapping[str, Any] | None = None) -> None:
        """Show a condition by its name; ``also_moved`` names what it has in place of the ``wanted`` coordinates."""
        self.atlas.step(condition)  # refuses a name that the atlas does not have
        at = self.atlas.points[condition]
        others = [f"{NAMES[name]} = {word(at[name])}" for name, value in (wanted or {}).items() if at[name] != value]
        self.condition, self.also_moved, self._moving = condition, ", ".join(others), True
        try:
            with self.hold_trait_notifications():
                for name in COORDINATES:
                    self.set_trait(name, at[name])
        finally:
            self._moving = False

    @property
    def baseline(self) -> str:
        return self.atlas.baseline(self.condition)

    @property
    def measured(self) -> bool:
        """Whether the metric has a meaning for this condition."""
        return self.measure in self.atlas.measures(self.condition)

    def band(self, condition: str) -> Band:
        """Mean and interval over seeds of the metric, at the block that this condition regularizes."""
        return self._band(condition, self.measure, block=self.atlas.block(self.condition))

    def describe(self) -> str:
        """Mean, interval and seeds of the metric here, and its difference from the baseline, in words."""
        name, atlas = metric(self.measure).label, self.atlas
        if not self.measured:
            return f"{name} has no meaning for {html.escape(atlas.title(self.condition))}."
        title = f"<b>{html.escape(atlas.title(self.condition))}</b> ({html.escape(self.condition)} in the atlas)"
        text = f"{title}. {name}: {_describe_band(self.band(self.condition))}"
        real = atlas.real(self.condition, self.measure)
        text += f"; real images {real:.3g}. " if real is not None else ". "
        if self.condition == self.baseline:
            return text + "This is a baseline: choose a λ above 0 to see what dispersion changed."
        row = self._difference(self.condition, self.measure)
        verdict = side(row)
        if verdict != "no difference shown":
            verdict = ("smaller" if row["difference"] < 0 else "larger") + " by more than seeds alone explain"
        other = _describe_band(self.band(self.baseline))
        return text + f"Its baseline: {other}. Difference by seed {describe_row(row)}: <b>{verdict}</b>."

    @property
    def mine(self) -> Rerun | None:
        """The reader's own run that was started last."""
        return self.runner.loop

    def _make(self) -> Rerun:
        out = (self.out or Path("runs")) / f"{self.condition}-seed{self.seed}"
        return Rerun(self.atlas, self.condition, self.seed, out, self.steps)

    def _record(self, report: Any) -> None:
        if report.step % 50 == 0:
            self.changed()

    def progress(self) -> str:
        """Progress or verdict of the reader's own run, in words."""
        if self.runner.status == "failed":
            return f"Failed: {self.runner.error}"
        if self.mine is None:
            return f"about a minute on two cores: {self.atlas.step(self.condition):,} steps and 500 samples"
        text = f"{self.atlas.title(self.mine.condition)}: {self.mine.describe()}"
        return text if self.runner.status != "stopped" or self.mine.rows else f"{text} Stopped and saved."


def word(value: Any) -> str:
    """Value of a coordinate for people."""
    return f"{value:g}" if isinstance(value, float) else (VARIANTS | DATASETS).get(value, str(value))


def _describe_band(band: Band) -> str:
    if band.n < 2:
        return f"{band.mean:.3g} (one seed)"
    return f"{band.mean:.3g} [{band.low:.3g}, {band.high:.3g}], n = {band.n}"


@cache
def grid(atlas: Atlas, measure: str, model: str) -> "pd.DataFrame":
    """One row for each measured cell of λ × τ: its condition, mean difference from the baseline, n, and its verdict."""
    import pandas as pd

    rows = []
    for name, at in atlas.points.items():
        if at["lam"] and at.items() >= {**PLANE, "model": model}.items() and measure in atlas.measures(name):
            row = atlas.difference(name, measure)
            rows.append((at["lam"], at["tau"], name, row["difference"], row["n"], side(row) != "no difference shown"))
    columns = ["lam", "tau", "condition", "difference", "n", "sure"]
    return pd.DataFrame(rows, columns=columns).sort_values(["lam", "tau"])


def ablations_panel(state: Ablations | None = None, name: str = "ablations") -> Panel:
    """Seeds as dots, λ × τ as a heat map, samples of the same noise, and a button that trains it for real."""
    state = state or Ablations()
    buttons = Buttons(state, start="Run this cell for real")
    seed = widgets.BoundedIntText(min=0, max=10**6, description="seed", **look("150px"))
    drawn: dict[str, Any] = {}

    def draw(state: Ablations, plot: BaseFigure) -> str:
        buttons.refresh(state.progress())
        key = (state.condition, state.measure, state.mine is not None and len(state.mine.rows), state.also_moved)
        if drawn.get("key") != key:  # one move sets many controls, and each of them wants a redraw
            drawn.update(key=key, sentence=_draw(state, plot))
        return drawn["sentence"]

    alt = "Dots of two conditions by seed, a heat map over λ and τ, and samples of both from the same noise."
    widgets.link((state, "seed"), (seed, "value"))
    return Panel(name, state, _controls(state.atlas), _lay_out(state), draw, alt, extra=[buttons.row(seed)])


def _controls(atlas: Atlas) -> dict[str, widgets.Widget]:
    def values(name: str) -> list[tuple[str, float]]:
        return [(f"{value:g}", value) for value in atlas.choices(name)]

    def menu(name: str, width: str = "250px") -> widgets.Dropdown:
        return dropdown(NAMES[name], [(word(value), value) for value in atlas.choices(name)], width)

    return {
        "measure": dropdown("show", [(metric(name).label, name) for name in MEASURES], "480px"),
        "lam": choice("λ (0: baseline)", values("lam")),
        "tau": choice("τ", [("none" if value == 0 else text, value) for text, value in values("tau")]),
        "alpha": choice("α, positive pair", values("alpha")),
        "variant": menu("variant"),
        "block": menu("block", "170px"),
        "noise": menu("noise"),
        "model": menu("model"),
        "dataset": menu("dataset"),
        "also": menu("also", "330px"),
    }


def _lay_out(state: Ablations) -> go.Figure:
    panes = ["each dot a seed; lines join the same seed", "λ × τ: mean difference from the baseline"]
    panes += ["baseline", "this condition, same noise"]
    spacing = dict(row_heights=[0.74, 0.26], vertical_spacing=0.22, horizontal_spacing=0.13)
    plot = figure("What did it change, seed by seed?", 2, 2, 520, subplot_titles=panes, **spacing)
    seeds, cells = dict(row=1, col=1, showlegend=False), dict(row=1, col=2)
    plot.add_scatter(mode="lines", line=dict(color=fade(PALETTE["quiet"], 0.5), width=1), hoverinfo="skip", **seeds)
    dots = dict(mode="markers", hovertemplate="seed %{text}: %{x:.4g}<extra></extra>")
    plot.add_scatter(marker=dict(color=PALETTE["baseline"], size=9), **dots, **seeds)
    plot.add_scatter(marker=dict(color=PALETTE["dispersive"], size=9), **dots, **seeds)
    star = dict(color=PALETTE["ink"], size=14, symbol="star")
    plot.add_scatter(marker=star, mode="markers", hoverinfo="x", **seeds)
    dotted = dict(line=dict(color=PALETTE["quiet"], dash="dot"), marker=dict(size=12, opacity=0))  # off the pane's edge
    plot.add_scatter(mode="lines+markers", **dotted, **seeds)
    plot.add_heatmap(showscale=False, zmid=0, texttemplate="%{text}", hoverinfo="skip", xgap=2, ygap=2, **cells)
    ring = dict(symbol="square-open", size=56, color=PALETTE["ink"], line=dict(width=3))
    plot.add_scatter(mode="markers", marker=ring, showlegend=False, hoverinfo="skip", **cells)
    for col in (1, 2):
        plot.add_trace(go.Image(source=_sheet(state.atlas, state.condition), hoverinfo="skip"), 2, col)
        style_digits(plot, 2, col)
    ticks = dict(tickvals=[0, 1, 2], ticktext=["this condition", "baseline", "your run"])
    return plot.update_yaxes(range=[-0.7, 2.6], **ticks, row=1, col=1).update_layout(margin_b=10)


def _draw(state: Ablations, plot: BaseFigure) -> str:
    atlas, measure = state.atlas, state.measure
    lines, base_dots, dots, star, dotted, heat, ring, *sheets = plot.data
    values = dict(state.band(state.condition).values) if state.measured else {}
    compared = state.measured and state.condition != state.baseline
    base = dict(state.band(state.baseline).values) if compared else {}
    both = sorted(values.keys() & base.keys())
    lines.x, lines.y = [x for s in both for x in (base[s], values[s], None)], [1, 0, None] * len(both)
    for trace, seeds, height in ((dots, values, 0), (base_dots, base, 1)):
        trace.x, trace.y, trace.text = [*seeds.values()], [height] * len(seeds), [*map(str, seeds)]
    mine = state.mine
    value = mine.value(measure) if mine is not None and mine.condition == state.condition else None
    star.x, star.y = ([], []) if value is None else ([value], [2])
    real = atlas.real(state.condition, measure)
    dotted.x, dotted.y = ([], []) if real is None else ([real] * 2, [-0.5, 2.5])
    title = metric(measure).label + ("" if real is None else " (dotted: real images)")
    plot.update_xaxes(title_text=title, row=1, col=1)
    _draw_grid(state, heat, ring)
    for trace, condition in zip(sheets, (state.baseline, state.condition), strict=True):
        trace.source = _sheet(atlas, condition)
    moved = f"Nothing else was measured there, so {state.also_moved} changed too. " if state.also_moved else ""
    return moved + state.describe()


@cache
def _sheet(atlas: Atlas, condition: str) -> str:
    return picture(atlas.sheet(condition), 10)


def _draw_grid(state: Ablations, heat: Any, ring: Any) -> None:
    cells = grid(state.atlas, state.measure, state.model)
    marks = cells["sure"].map({True: "*", False: ""}).astype(str)
    words = cells["difference"].map(_two_digits) + marks + "<br>n = " + cells["n"].astype(str)
    values = cells.pivot(index="lam", columns="tau", values="difference").astype(object)
    text = cells.assign(text=words).pivot(index="lam", columns="tau", values="text").fillna("")
    good, bad, neither = PALETTE["sky"], PALETTE["gold"], PALETTE["quiet"]
    ends = {-1: (good, bad), 0: (neither, neither), 1: (bad, good)}[metric(state.measure).direction]
    heat.x, heat.y = [f"τ = {v:g}" for v in values.columns], [f"λ = {v:g}" for v in values.index]
    heat.z, heat.text = values.where(values.notna(), None).values.tolist(), text.values.tolist()
    heat.colorscale = [[0, ends[0]], [0.5, "#FFFFFF"], [1, ends[1]]]
    at = state.atlas.points[state.condition]
    inside = state.condition in set(cells["condition"])
    ring.x, ring.y = ([f"τ = {at['tau']:g}"], [f"λ = {at['lam']:g}"]) if inside else ([], [])


def _two_digits(value: float) -> str:
    """Two digits with a sign: +0.70, −17."""
    return minus(f"{value:+#.2g}".rstrip("."))
