"""Panels on training: controls, buttons, a bar, and a figure of curves and samples that follows."""

import html
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import get_args

import ipywidgets as widgets
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure, BasePlotlyType, BaseTraceType
from torch import Tensor

from labkit import datasets
from labkit.checks import LabError
from labkit.config import Config
from labkit.losses import dispersive_floor
from labkit.losses.dispersive import KNOBS
from labkit.metrics import BASE_LOSSES, distance_density, mean_pairwise_distance, metric, minus
from labkit.objective import metered_floor, regularized_blocks
from labkit.plots import PALETTE, colour, distances_axes, draw_distances, figure, scale_axis, table_html
from labkit.process import base_term
from labkit.projection import Pca
from labkit.time_sampling import Noise
from labkit.training import Job
from labkit.widgets.live import BLOCK_METRICS, BRANCHES, LiveTraining, TrainingState
from labkit.widgets.painter import painter
from labkit.widgets.panel import Buttons, Panel, choice, dropdown, log_slider, look, slider
from labkit.widgets.watch import Watch

REPELS = {"dispersive", "contrastive"}
USUAL = ("dispersive", "feature_norm", "effective_rank", "gradient_cosine", "gradient_ratio")
INSIDE = {"lam": "λ over the steps", "cloud": "features on two common axes", "distances": "distances of two samples"}
"""Panes that show something else than a logged metric."""
RULED = ("dispersive", "distances")
"""Panes with a dotted rule beside the lines of the runs."""
POINTS = 2000  # drawn of a curve, at most
ACROSS = 3  # panes in a row, at most
Lines = Mapping[str, BaseTraceType]  # run → its trace
Values = dict[str, dict[str, float]]  # metric → run → its last value
FORK_INKS = [PALETTE[name] for name in ("contrastive", "accent", "gold", "sky", "ink", "quiet")]


def _control(trait: str, state: TrainingState) -> widgets.Widget:
    """The control of a trait; sliders do not redraw while they are dragged, since only Start reads them."""
    make = {
        "images": lambda: dropdown("images", list(state.traits()["images"].values), "180px"),
        "lam": lambda: slider("λ (paper: 0.5)", 0, 2, 0.05, live=False),
        "tau": lambda: log_slider("τ (paper: 0.5)", -1.3, 1.0, live=False),
        "variant": lambda: dropdown("variant", list(KNOBS)),
        "margin": lambda: log_slider("margin ε (ours: 1)", -1, 1, live=False),
        "alpha": lambda: slider("α, weight of alignment", 0, 1, 0.05, live=False),
        "noise": lambda: dropdown("second view's noise", list(get_args(Noise))),
        "max_gap": lambda: slider("largest gap in t", 0, 1, 0.01, live=False),
        "block": lambda: widgets.IntSlider(min=0, max=3, description="block (paper: depth/4)", **look()),
        "steps": lambda: widgets.IntSlider(
            min=min(50, state.steps), max=4 * state.steps, step=50, description="steps", **look()
        ),
        "seed": lambda: widgets.BoundedIntText(min=0, max=9999, description="seed", **look()),
        "branch": lambda: dropdown("fork", list(state.configs), "220px"),
        "at": lambda: widgets.BoundedIntText(min=0, max=10**7, description="at step (0: now)", **look("190px")),
        "over": lambda: dropdown("against", ["steps", "samples"], "180px"),
        "letter": lambda: choice("loss", list(state.traits()["letter"].values)),
        "log": lambda: widgets.Checkbox(description="loss on a log scale", indent=False),
    }
    return make[trait]()


def training_panel(
    name: str,
    state: TrainingState,
    sliders: Sequence[str],
    title: str,
    panes: Sequence[str] | None = None,
    marks: Mapping[str, tuple[float, str]] | None = None,
) -> Panel:
    """Buttons and a live figure: for one run its loss and samples, for several all metrics, samples below.

    Args:
        name: name of the panel; making it again stops the training of the earlier one.
        state: what trains.  sliders: the traits of ``state`` that get a control.
        title: what the figure asks or shows.  panes: names of metrics, the base loss and the usual ones by default.
        marks: pane → height of a dotted line across it, and the line's name.
    """
    base = base_term(next(iter(state.configs.values())))
    panes = panes or ((base,) if len(state.configs) == 1 else (base, *USUAL))
    plot = _lay_out(state, panes, title)
    for pane, (height, text) in (marks or {}).items():
        row_before, column_before = divmod(list(panes).index(pane), _across(panes))
        label = dict(text=text, textposition="end", font_color=PALETTE["quiet"])
        line = dict(color=PALETTE["quiet"], width=1.5, dash="dot")
        plot.add_hline(height, line=line, label=label, row=row_before + 1, col=column_before + 1)
    state.shows_features = not {"cloud", "distances"}.isdisjoint(panes)
    forks: tuple[str, ...] = ()
    if isinstance(state, LiveTraining) and state.out is not None:
        forks, state.branch = ("branch", "at"), next(iter(state.configs))
    controls = {trait: _control(trait, state) for trait in (*(name for name in sliders if name != "painted"), *forks)}
    buttons = Buttons(state)
    bar = widgets.FloatProgress(min=0, max=1, layout=dict(width="330px"))
    numbers, sheets = widgets.HTML(), widgets.HTML()

    def draw(state: TrainingState, plot: BaseFigure) -> str:
        buttons.refresh(state.describe())
        bar.value = state.share_done
        menu, runs = controls.get("branch"), tuple(state.configs)
        if menu is not None and menu.options != runs:
            chosen = menu.value
            menu.options = runs  # which chooses the first
            menu.value = chosen if chosen in runs else runs[0]
        sheets.value = _sheets(state)
        values = _draw(state, plot, panes)
        begun = [run for run in runs if any(run in own for own in values.values())]
        numbers.value = _table(values, begun)
        return _sentence(state, plot, begun)

    alt = "Training curves that grow while the model trains."
    extra = [buttons.row(bar)]
    if "painted" in sliders:
        extra.append(painter(state))
    return Panel(name, state, controls, plot, draw, alt, extra, [numbers, sheets])


def watch_panel(run: Watch | Job | str | Path, title: str | None = None, name: str = "watch") -> Panel:
    """A run's curves and newest samples, which follow while it trains in another process, with Stop and Resume.

    Args:
        run: a job, the folder of a run, or a ``Watch`` with settings of its own.
        title: what the figure asks.  name: name of the panel; making it again closes the earlier one.
    """
    state = run if isinstance(run, Watch) else Watch(run)
    title = title or f"What has the run “{state.name}” learnt so far?"
    panes = (base_term(state.job.config), "dispersive", "feature_norm")
    panel = training_panel(name, state, ("over", "log"), title, panes)
    if state.state == "running":
        state.start()
    return panel


def _lay_out(state: TrainingState, panes: Sequence[str], title: str) -> go.Figure:
    """The empty figure: in each pane lines for the runs and for forks to come, and what is drawn beside them."""
    columns = _across(panes)
    rows = -(-len(panes) // columns)
    spacing = dict(horizontal_spacing=0.07, vertical_spacing=0.32 / rows)
    plot = figure(title, rows, columns, 125 + 215 * rows, subplot_titles=[" "] * len(panes), **spacing)
    for number, name in enumerate(panes):
        place = dict(row=number // columns + 1, col=number % columns + 1)
        for run in range(BRANCHES):
            plot.add_scatter(mode="markers" if name == "cloud" else "lines", legendgroup=str(run), **place)
        if name in RULED:
            dots = dict(color=PALETTE["quiet"], width=1.5, dash="dot")
            plot.add_scatter(mode="lines", line=dots, **place)
        if name == "cloud":
            plot.update_traces(marker=dict(size=5, opacity=0.55), **place)
            plot.update_xaxes(showticklabels=False, **place)
            across = plot.get_subplot(**place).xaxis.plotly_name.replace("axis", "")
            plot.update_yaxes(showticklabels=False, scaleanchor=across, **place)
        elif name == "distances":
            distances_axes(plot, **place)
        else:
            scale_axis(plot, name, **place)
        if name == "lam":
            plot.update_yaxes(rangemode="tozero", **place)
    key = dict(orientation="h", x=0, xanchor="left", y=0, yref="container", yanchor="bottom")  # six runs are wide
    return plot.update_traces(showlegend=False).update_layout(showlegend=True, legend=key, margin=dict(b=95))


def _across(panes: Sequence[str]) -> int:
    """Number of panes in a row: of four, none stands alone."""
    return 2 if len(panes) == 4 else min(len(panes), ACROSS)


def _inks(state: TrainingState) -> dict[str, str]:
    """Run → its colour: its own, or one that is still free for a fork, and for a name that has no colour."""
    runs = state.configs
    own = {run: colour(run) for run in runs if run not in state.parents}
    if len(own) == 1:
        own = {run: colour(next(iter(runs[run].regularizers), "baseline")) for run in own}
    free = (ink for ink in FORK_INKS if ink not in own.values())
    for place, (run, ink) in enumerate(own.items()):
        if ink in list(own.values())[:place]:
            own[run] = next(free)
    return own | {run: next(free) for run in runs if run in state.parents}


def _sheets(state: TrainingState) -> str:
    """The newest samples of every run, and where forks come from, as HTML."""
    parts = []
    for run, ink in _inks(state).items():
        if run in state.sheets:
            step, source = state.sheets[run]
            title = f"<b style='color:{ink}'>{html.escape(state.describe_sheet(run))}</b>, step {step:,}"
            origin = f"<br>{html.escape(_origin(state, run))}" if run in state.parents else ""
            image = f'<img src="{source}" alt="Samples of {html.escape(run)} at step {step}" style="max-width:100%">'
            parts.append(f'<figure style="margin:0"><figcaption>{title}{origin}</figcaption>{image}</figure>')
    return f'<div class="labkit-light" style="display:flex;flex-wrap:wrap;gap:10px 24px">{"".join(parts)}</div>'


def _origin(state: TrainingState, run: str) -> str:
    words = state.parents[run].describe().replace("dispersive.lam:", "λ").replace("dispersive.tau:", "τ")
    return f"forked from {words}"


def _draw(state: TrainingState, plot: BaseFigure, panes: Sequence[str]) -> Values:
    """Show curves, floor, features and titles; returns the last values of the runs that have some."""
    configs, inks, traces = state.configs, _inks(state), iter(plot.data)
    last: Values = {}
    for number, (name, title) in enumerate(zip(panes, plot.layout.annotations, strict=True)):
        lines = [next(traces) for _ in range(BRANCHES)]
        rule = next(traces) if name in RULED else None
        used = dict(zip(configs, lines, strict=False))
        for line in lines[len(configs) :]:  # of runs that another Start had
            line.x, line.y, line.showlegend = [], [], False
        for run, line in used.items():
            line.name, line.showlegend = run, number == 0 and len(configs) > 1
            line.line.color = line.marker.color = inks[run]
            has_own_ink = inks[run] == colour(run) != PALETTE["ink"]  # other runs may lie on one of those
            line.line.dash = "solid" if has_own_ink or run in (*state.parents, next(iter(inks))) else "dash"
        title.text = INSIDE.get(name) or _title(list(configs.values()), name)
        if name == "cloud":
            _draw_cloud(state, used)
        elif name == "distances":
            last["mean_pairwise_distance"] = _draw_distances(state, used, rule)
        else:
            last[name] = _draw_curves(state, name, used, rule)
            if metric(name).log:
                logged = [value for run in configs for value in state.curve(run, name).values]  # not yet in the lines
                _limit(plot.layout["yaxis" + lines[0].yaxis[1:]], logged)
            plot.layout["xaxis" + lines[0].xaxis[1:]].title.text = "samples seen" if state.over == "samples" else "step"
        if name in BASE_LOSSES:
            plot.layout["yaxis" + lines[0].yaxis[1:]].type = "log" if state.log else "linear"
    return {name: own for name, own in last.items() if own}


def _table(values: Values, runs: Sequence[str]) -> str:
    """A row for each run and a column for each metric, as HTML; nothing without runs."""
    import pandas as pd

    return table_html(pd.DataFrame(values).reindex(runs)) if runs else ""


def _sentence(state: TrainingState, plot: BaseFigure, runs: Sequence[str]) -> str:
    """How old the runs are, where forks come from, and the floor that is drawn; the numbers stand in the table."""
    ages: dict[str, list[str]] = {}
    for run in runs:
        last = state.last_step(run)
        drawn = f"; samples drawn at step {state.sheets[run][0]:,}" if run in state.sheets else ""
        origin = f" ({_origin(state, run)})" if run in state.parents else ""
        age = f"at step {last:,}, {last * state.configs[run].batch_size:,} samples seen{drawn}"
        ages.setdefault(age, []).append(run + origin)
    sentences = [f"{', '.join(names)} {age}." for age, names in ages.items()]
    sentences += [f"Dispersive Loss: {rule.name}." for rule in plot.data if (rule.name or "").startswith("floor")]
    return " ".join(map(html.escape, sentences)) or "No curve yet."


def _title(configs: Sequence[Config], name: str) -> str:
    """Title of a metric's pane."""
    title = metric(name).label
    if name in BLOCK_METRICS:
        blocks = {regularized_blocks(config)[0] for config in configs}
        title += f" at block {blocks.pop()}" if len(blocks) == 1 else " at the metered block"
    trained = any(REPELS & {*config.regularizers} for config in configs)
    return title if trained or name != "dispersive" else f"{title}, not trained on"


def _draw_curves(state: TrainingState, name: str, lines: Lines, rule: BaseTraceType | None) -> dict[str, float]:
    """Curves of a metric, or of λ, and a floor; returns the last value of each run, none of λ."""
    configs, end, last = state.configs, 0, {}
    floor, floor_name = _floor(list(configs.values()))
    for run, line in lines.items():
        curve = (state.lam_at(run) if name == "lam" else state.curve(run, name)).thinned(POINTS)
        x = (curve.steps * (configs[run].batch_size if state.over == "samples" else 1)).tolist()
        line.x, line.y = x, curve.values.tolist()
        if x and name != "lam":
            end = max(end, x[-1])
            last[run] = float(curve.values[-1])
    if rule is not None:
        shown = bool(end and floor_name)
        rule.x, rule.y = ([0, end], [floor] * 2) if shown else ([], [])
        rule.name, rule.showlegend = floor_name if shown else "", shown
    return last


def _limit(axis: BasePlotlyType, values: Sequence[float]) -> None:
    """Let a log axis end four powers of ten under the highest value: lower ones would press all others together."""
    above = [value for value in values if value > 0]
    limited = bool(above) and min(above) < 1e-4 * max(above)
    axis.autorange = not limited
    if limited:
        axis.range = [math.log10(1e-4 * max(above)), math.log10(1.5 * max(above))]


def _draw_cloud(state: TrainingState, lines: Lines) -> None:
    """Features of every run on the principal axes of them all, so that sizes compare."""
    there = [run for run in lines if run in state.clouds]
    placed = dict(zip(there, _places(tuple(state.clouds[run][1] for run in there)), strict=True))
    for run, line in lines.items():
        places = placed.get(run, [])
        line.x, line.y = [x for x, _ in places], [y for _, y in places]


@lru_cache(maxsize=2)  # a training redraws far more often than its features change
def _places(clouds: tuple[Tensor, ...]) -> list[list[list[float]]]:
    """Places of features on the principal axes of them all."""
    axes = Pca.fit({str(number): z for number, z in enumerate(clouds)}) if clouds else None
    return [axes.transform(z).tolist() for z in clouds] if axes else []


_density = lru_cache(maxsize=2 * BRANCHES)(distance_density)


def _draw_distances(state: TrainingState, lines: Lines, rule: BaseTraceType | None) -> dict[str, float]:
    """The distribution of distances between two samples, and √τ; returns each run's mean distance."""
    clouds = {run: state.clouds[run][1] for run in lines if run in state.clouds}
    taus = {tau for config in state.configs.values() if (tau := config.repelling.arguments.get("tau"))}
    draw_distances(lines, rule, {run: _density(cloud) for run, cloud in clouds.items()}, taus)
    return {run: mean_pairwise_distance(z) for run, z in clouds.items()}


def _floor(configs: Sequence[Config]) -> tuple[float, str]:
    """Least value of the Dispersive Loss, if all runs that repel have the same, and its name; −inf and "" if not."""
    repelling = [config for config in configs if REPELS & {*config.regularizers}]
    floors = {_floor_of(config) for config in repelling or configs}
    if len(floors) > 1 or (floor := floors.pop()) == -math.inf:
        return -math.inf, ""
    batch, value = configs[0].batch_size, minus(f"{floor:.2f}")
    return floor, f"floor −log {batch} = {value}" if floor == -math.log(batch) else f"floor {value}"


@lru_cache
def _floor_of(config: Config) -> float:
    """Floor of the metered Dispersive Loss, over a whole batch. Only the covariance's depends on the images' size."""
    if config.repelling.variant != "covariance":
        return dispersive_floor(config.batch_size, **config.repelling.arguments)
    try:
        return metered_floor(config, datasets.load(config.dataset).dimensions[0])
    except (LabError, OSError):  # the data are on another machine
        return -math.inf
