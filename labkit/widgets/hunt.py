"""The bug hunt: trainings that differ in their regularizer alone, which is sabotaged; one at a time is looked at."""

from collections.abc import Mapping

from traitlets import Enum

from labkit.config import Config
from labkit.exercises.bug_hunt import SABOTAGES
from labkit.training.history import Curve
from labkit.widgets.live import LiveTraining
from labkit.widgets.panel import Panel
from labkit.widgets.training import training_panel

RIGHT = ("baseline", "dispersive")


class Hunt(LiveTraining):
    """A letter in; the run with that sabotaged loss, beside one with the right loss and one with none.

    Args:
        config: of the right loss; all runs have it, in memory.
    """

    letter = Enum(list(SABOTAGES), "A")

    def __init__(self, config: Config) -> None:
        every = {"baseline": config.baseline(), "dispersive": config, **dict.fromkeys(map(_title, SABOTAGES), config)}
        own = {_title(letter): {"dispersive": each.loss} for letter, each in SABOTAGES.items()}
        super().__init__(lambda state: every, own=lambda state: own, steps=config.steps)

    @property
    def configs(self) -> Mapping[str, Config]:
        every = super().configs
        return {name: every[name] for name in (*RIGHT, _title(self.letter))}

    def curve(self, run: str, metric: str) -> Curve:
        """As of other trainings, but the Dispersive Loss is what the run's own code says that it is."""
        own = self.logged(run, metric)
        return own if metric == "dispersive" and len(own.steps) else super().curve(run, metric)


def _title(letter: str) -> str:
    return f"loss {letter}"


def hunt_panel(state: Hunt, name: str = "hunt") -> Panel:
    """Curves and features of the three runs, and their samples.

    Args:
        state: what trains.  name: name of the panel; making it again stops the training of the earlier one.
    """
    panes = ("velocity", "dispersive", "gradient_ratio", "feature_norm", "effective_rank", "distances")
    return training_panel(name, state, ("letter",), "What is wrong with this loss?", panes)
