"""Settings of SiT's flow and of MeanFlow's; DiT's diffusion has none. A model's family says which of them it trains.

SiT-B/2        a flow: along a path from noise to data, the network predicts velocity, noise or score
DiT-B/2        diffusion in 1,000 steps: noise, and its variance
MeanFlow-B/2   the average velocity between two times, with which one step leads from noise to data
"""

from dataclasses import dataclass
from typing import Literal

from labkit.checks import choose, finite, require

PathName = Literal["linear", "gvp", "vp"]
Predicted = Literal["velocity", "noise", "score"]
Weighting = Literal["none", "velocity", "likelihood"]


@dataclass(frozen=True)
class Flow:
    """SiT's transport; the paper of the Dispersive Loss takes the defaults."""

    path: PathName = "linear"
    prediction: Predicted = "velocity"
    weighting: Weighting = "none"
    """Of the squared error of noise or score: by what makes it that of the velocity, or the bound on the likelihood."""

    def __post_init__(self) -> None:
        choose(self.path, PathName, "flow.path")
        choose(self.prediction, Predicted, "flow.prediction")
        choose(self.weighting, Weighting, "flow.weighting")
        require(
            self.weighting == "none" or self.prediction != "velocity",
            "flow.weighting",
            self.weighting,
            "the error of a velocity needs none; it is for prediction = noise or score",
        )


@dataclass(frozen=True)
class MeanFlow:
    """MeanFlow's times, weight and guidance (Geng et al. 2025); the defaults are those of its ImageNet runs.

    A pair of times is drawn logit-normal and sorted, t ≤ s. Most samples train at s = t, where the average velocity is
    the velocity itself; a fixed share of each batch trains over a span.
    """

    share: float = 0.25
    """Share of samples with s > t, in (0, 1]."""
    mean: float = 0.4
    """Of the times' logit; above 0, near the data, in our direction of time."""
    deviation: float = 1.0
    """Of the times' logit, above 0."""
    power: float = 1.0
    """p ≥ 0 of the weight 1/(e + c)^p, where e is a sample's summed squared error: 0 is none."""
    constant: float = 0.01
    """c > 0 of the weight."""
    guidance: float = 1.0
    """ω > 0: the velocity that is trained on is ω·v + κ·u(x, t, t | y) + (1 − ω − κ)·u(x, t, t | no label). With κ = 0
    this is classifier-free guidance of scale ω, in the one step."""
    mixing: float = 0.0
    """κ, 0 ≤ κ < 1: with it the scale is ω/(1 − κ)."""

    def __post_init__(self) -> None:
        def check(name: str, ok: bool, allowed: str) -> None:
            value = getattr(self, name)
            require(finite(value) and ok, f"meanflow.{name}", value, allowed)

        for name in ("share", "mean", "deviation", "power", "constant", "guidance", "mixing"):
            check(name, True, "take a finite number")
        check("share", 0 < self.share <= 1, "take a share above 0, and at most 1")
        check("deviation", self.deviation > 0, "it must be above 0")
        check("power", self.power >= 0, "it must be at least 0")
        check("constant", self.constant > 0, "it must be above 0")
        check("guidance", self.guidance > 0, "it must be above 0; 1 is none")
        check("mixing", 0 <= self.mixing < 1, "take a share from 0 to below 1")

    @property
    def guided(self) -> bool:
        """Whether the target is another than the velocity of the path."""
        return (self.guidance, self.mixing) != (1.0, 0.0)
