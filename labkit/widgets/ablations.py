"""The atlas's explorer: every position of its controls is a condition that was measured."""

import html
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Enum, HasTraits, Int, Unicode, observe
from traitlets import Float as FloatTrait

from labkit.experiments.atlas import DATASETS, VARIANTS, Atlas, Band
from labkit.experiments.rerun import Rerun
from labkit.experiments.statistics import describe_row, side
from labkit.metrics import metric
from labkit.widgets.runner import Runner

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
COORDINATES = tuple(NAMES)
PLANE = dict(variant="infonce_l2", block="1", alpha=0.0, noise="one view", dataset="digits", also="nothing else")
"""The other coordinates of the heat map over λ and τ; there is one for each model."""
FIRST = "coarse-dispersive"
"""The condition shown at first: for its model, every cell of the paper's λ × τ was measured."""


class Ablations(HasTraits):
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
        self.runner: Runner[Rerun] = Runner(on_status=lambda status: self.changed(), on_report=self._report)
        self.unavailable = self.runner.unavailable
        self.changed: Callable[[], None] = lambda: None  # the view puts its redraw here
        self._moving = False
        self.go_to(FIRST)

    @observe(*COORDINATES)
    def _snap(self, change: Any) -> None:
        """Go to the nearest condition that has the value that was just set; the others follow."""
        if self._moving:
            return
        wanted = {name: getattr(self, name) for name in COORDINATES}
        self.condition = self.atlas.snap(wanted, change.name)
        at = self.atlas.points[self.condition]
        others = [f"{NAMES[name]} = {word(at[name])}" for name in COORDINATES if at[name] != wanted[name]]
        self._move(", ".join(others))

    def go_to(self, condition: str) -> None:
        """Show a condition by its name."""
        self.atlas.step(condition)  # refuses a name that the atlas does not have
        self.condition = condition
        self._move("")

    def _move(self, also_moved: str) -> None:
        """Let every coordinate be the condition's."""
        self.also_moved, self._moving = also_moved, True
        try:
            with self.hold_trait_notifications():
                for name in COORDINATES:
                    self.set_trait(name, self.atlas.points[self.condition][name])
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
        return _band(self.atlas, condition, self.measure, self.atlas.block(self.condition))

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
        row = _difference(atlas, self.condition, self.measure)
        verdict = side(row)
        if verdict != "no difference shown":
            verdict = ("smaller" if row["difference"] < 0 else "larger") + " by more than seeds alone explain"
        other = _describe_band(self.band(self.baseline))
        return text + f"Its baseline: {other}. Difference by seed {describe_row(row)}: <b>{verdict}</b>."

    @property
    def mine(self) -> Rerun | None:
        """The reader's own run that was started last."""
        return self.runner.loop

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        return {"start": lambda: self.runner.begin(self._make), "stop": self.runner.stop}

    def wait(self) -> Rerun:
        """The reader's own run: trained here and now if nobody pressed the button, else when that training ends."""
        self.runner.wait(self._make)
        assert self.mine is not None  # ``wait`` has made it
        return self.mine

    def _make(self) -> Rerun:
        out = (self.out or Path("runs")) / f"{self.condition}-seed{self.seed}"
        return Rerun(self.atlas, self.condition, self.seed, out, self.steps)

    def _report(self, report: Any) -> None:
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


@cache  # sliders do not wait
def _band(atlas: Atlas, condition: str, measure: str, block: int) -> Band:
    return atlas.band(condition, measure, block=block)


@cache
def _difference(atlas: Atlas, condition: str, measure: str) -> "pd.Series":
    return atlas.difference(condition, measure)


@cache
def grid(atlas: Atlas, measure: str, model: str) -> "pd.DataFrame":
    """One row for each measured cell of λ × τ: its condition, mean difference from the baseline, n, and its verdict."""
    import pandas as pd

    rows = []
    for name, at in atlas.points.items():
        if at["lam"] and at.items() >= {**PLANE, "model": model}.items() and measure in atlas.measures(name):
            row = _difference(atlas, name, measure)
            rows.append((at["lam"], at["tau"], name, row["difference"], row["n"], side(row) != "no difference shown"))
    columns = ["lam", "tau", "condition", "difference", "n", "sure"]
    return pd.DataFrame(rows, columns=columns).sort_values(["lam", "tau"])
