"""The state of the atlas's explorer: every position of its controls is a condition that was measured."""

import html
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Enum, HasTraits, Int, Unicode, observe
from traitlets import Float as FloatTrait

from labkit.experiments.atlas import Atlas, Band
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
COORDINATES = ("lam", "tau", "variant", "block", "alpha", "noise", "model", "dataset", "also")
NAMES = {
    "lam": "λ",
    "tau": "τ",
    "alpha": "α",
    "variant": "variant",
    "block": "block",
    "noise": "second view",
    "model": "model",
    "dataset": "data",
    "also": "besides",
}
PLANE = {
    "variant": "infonce_l2",
    "block": "1",
    "alpha": 0.0,
    "noise": "one view",
    "dataset": "digits",
    "also": "nothing else",
}
"""Where the heat map over λ and τ lies, for each model."""
FIRST = "coarse-dispersive"
"""What is shown at first: of this model all cells of the paper's λ × τ are measured."""


class Ablations(HasTraits):
    """Coordinates in, the measured condition nearest to them out; the coordinates then are that condition's.

    Args:
        atlas: by default the shipped one.
        out: folder of the runs that are trained here.
        steps: of these; by default as many as in the atlas, of which fewer cannot be compared.
    """

    lam, tau, alpha = FloatTrait(), FloatTrait(), FloatTrait()
    variant, block, noise = Unicode(), Unicode(), Unicode()
    model, dataset, also = Unicode(), Unicode(), Unicode()
    measure = Enum(MEASURES, "frechet")
    seed = Int(100, min=0)
    """Of the run that is trained here; the atlas has small ones."""

    def __init__(self, atlas: Atlas | None = None, out: Path | None = None, steps: int | None = None) -> None:
        super().__init__()
        self.atlas, self.out, self.steps = atlas or Atlas.load(), out, steps
        self.runner = Runner(on_status=lambda status: self.changed(), on_report=self._take)
        self.mine: Rerun | None = None
        self.changed: Callable[[], None] = lambda: None
        self._snapping = False
        self.go_to(FIRST)

    @observe(*COORDINATES)
    def _snap(self, change: Any) -> None:
        """Go to the nearest condition that has the value that was just set; the others follow."""
        if self._snapping:
            return
        wanted = {name: getattr(self, name) for name in COORDINATES}
        self.condition = self.atlas.snap(wanted, change.name)
        at = self.atlas.points[self.condition]
        others = [f"{NAMES[name]} = {_word(at[name])}" for name in COORDINATES if at[name] != wanted[name]]
        self.moved_too = ", ".join(others)
        self._place(at)

    def go_to(self, condition: str) -> None:
        """Show a condition by its name."""
        self.atlas.step(condition)  # refuses what there is not
        self.condition, self.moved_too = condition, ""
        self._place(self.atlas.points[condition])

    def _place(self, at: Mapping[str, Any]) -> None:
        """Let every coordinate say where we are."""
        self._snapping = True
        try:
            with self.hold_trait_notifications():
                for name in COORDINATES:
                    self.set_trait(name, at[name])
        finally:
            self._snapping = False

    @property
    def baseline(self) -> str:
        return self.atlas.baseline(self.condition)

    def told(self) -> str:
        """What was measured here, in words: mean, interval, seeds, and the difference from the baseline."""
        name, atlas, block = metric(self.measure).label, self.atlas, self.atlas.block(self.condition)
        if self.measure not in atlas.measures(self.condition):
            return f"{name}: it has no meaning for {self.condition}."
        found = band_of(atlas, self.condition, self.measure, block)
        about = ", ".join(f"{NAMES[c]} = {_word(getattr(self, c))}" for c in COORDINATES)
        words = f"<b>{html.escape(self.condition)}</b> ({about}). {name}: {_band(found)}"
        real = atlas.real(self.condition, self.measure)
        words += f"; real images {real:.3g}. " if real is not None else ". "
        if self.condition == self.baseline:
            return words + "This is a baseline: choose a λ above 0 to see what dispersion changed."
        row = difference_of(atlas, self.condition, self.measure)
        other = band_of(atlas, self.baseline, self.measure, block)
        judged = side(row)
        if judged != "no difference shown":
            judged = ("smaller" if row["difference"] < 0 else "larger") + ", beyond what seeds alone do"
        return words + f"Its baseline: {_band(other)}. Difference by seed {describe_row(row)}: <b>{judged}</b>."

    def _prepare(self) -> Rerun:
        out = (self.out or Path("runs")) / f"{self.condition}-seed{self.seed}"
        return Rerun(self.atlas, self.condition, self.seed, out, self.steps)

    def start(self) -> None:
        """Train the condition that is shown, in the background."""
        if not self.runner.busy:
            self.mine = self._prepare()
            self.runner.restart(self.mine)

    def wait(self) -> Rerun:
        """The run: trained here and now if nobody pressed the button, else when that training ends."""
        if self.mine is None:
            self.mine = self._prepare()
            self.runner.loop = self.mine
        self.runner.wait()
        return self.mine

    def _take(self, report: Any) -> None:
        if report.step % 50 == 0:
            self.changed()


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _band(found: Any) -> str:
    if found.n < 2:
        return f"{found.mean:.3g} (one seed)"
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}], n = {found.n}"


@cache
def band_of(atlas: Atlas, condition: str, measure: str, block: int) -> Band:
    """What ``Atlas.band`` says, looked up once: sliders do not wait."""
    return atlas.band(condition, measure, block=block)


@cache
def difference_of(atlas: Atlas, condition: str, measure: str) -> "pd.Series":
    return atlas.difference(condition, measure)


@cache
def grid_of(atlas: Atlas, measure: str, model: str) -> "pd.DataFrame":
    """λ × τ: the mean difference from the baseline, where it was measured (InfoNCE-L2, the usual block, digits)."""
    import pandas as pd

    rows = []
    for name, at in atlas.points.items():
        if at["lam"] and at.items() >= {**PLANE, "model": model}.items() and measure in atlas.measures(name):
            row = difference_of(atlas, name, measure)
            rows.append(
                {
                    "lam": at["lam"],
                    "tau": at["tau"],
                    "condition": name,
                    "difference": row["difference"],
                    "n": row["n"],
                    "sure": side(row) != "no difference shown",
                }
            )
    columns = ["lam", "tau", "condition", "difference", "n", "sure"]
    return pd.DataFrame(rows, columns=columns).sort_values(["lam", "tau"])
