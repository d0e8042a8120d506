"""Which sampler, with which settings: one object for notebooks, protocol and command line."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from labkit.checks import choose, finite, require, whole
from labkit.models.sizes import Family
from labkit.paths import EDGE
from labkit.sampling.guidance import Channels
from labkit.sampling.sde import Diffusion
from labkit.schedule import STEPS as STEPS_OF_DIT

Method = Literal["euler", "heun", "dopri5", "euler_maruyama", "sde_heun", "ancestral", "ddim", "meanflow"]
FLOW: tuple[Method, ...] = ("heun", "euler", "dopri5", "euler_maruyama", "sde_heun")
METHODS: dict[Family, tuple[Method, ...]] = {"SiT": FLOW, "DiT": ("ddim", "ancestral"), "MeanFlow": ("meanflow", *FLOW)}
"""The samplers of each kind of model, its usual one first."""
STEPS: dict[Method, int | None] = {
    "euler": 50,
    "heun": 50,
    "dopri5": None,
    "euler_maruyama": 250,
    "sde_heun": 250,
    "ancestral": 250,
    "ddim": 50,
    "meanflow": 1,
}
"""Steps where none are asked for; dopri5 chooses its own."""
SDE = ("diffusion", "strength", "last")
OWN: dict[Method, tuple[str, ...]] = {
    "dopri5": ("rtol", "atol"),
    "euler_maruyama": SDE,
    "sde_heun": SDE,
    "ddim": ("eta",),
}
"""Settings that only some methods have."""


@dataclass(frozen=True)
class Sampler:
    """How to get from noise to images; what a method has no use for is refused."""

    method: Method | None = None
    """By ODE: heun, euler, dopri5. By SDE: euler_maruyama, sde_heun. Of DiT: ddim, ancestral. In few steps: meanflow.
    None is the model's usual one: heun, ddim or meanflow."""
    steps: int | None = None
    """Intervals of the solver. None is 50; 250 with fresh noise at each step; 1 of meanflow; dopri5 chooses its own."""
    guidance: float = 1.0
    """1 is the plain conditional model, 0 the unconditional one, above 1 is classifier-free guidance."""
    channels: Channels = "all"
    """Which are guided; the released samplers guide the first three of a latent's four."""
    diffusion: Diffusion = "sigma"
    """Form of the noise of an SDE."""
    strength: float = 1.0
    """Its factor."""
    last: float = 0.04
    """Length of an SDE's last step, which adds no noise."""
    eta: float = 0.0
    """η of ddim, 0 to 1: how much fresh noise, none to ancestral's."""
    clip: bool = False
    """Keep the data that a prediction of noise or score implies within [−1, 1], for images in pixels: near t = 0 it is
    the network's error times many. Latents have no such bounds."""
    rtol: float = 1e-3
    """What a step of dopri5 may err by, relative."""
    atol: float = 1e-6
    """And absolute."""

    def __post_init__(self) -> None:
        if self.method is not None:
            choose(self.method, Method, "method")
        require(self.steps is None or whole(self.steps, 1), "steps", self.steps, "take a whole number of at least 1")
        require(
            finite(self.guidance) and self.guidance >= 0,
            "guidance",
            self.guidance,
            "take a number of at least 0, 1 for none",
        )
        choose(self.channels, Channels, "channels")
        choose(self.diffusion, Diffusion, "diffusion")
        for name in ("strength", "last", "eta", "rtol", "atol"):
            value = getattr(self, name)
            require(finite(value) and value >= 0, name, value, "take a number of at least 0")
        require(self.eta <= 1, "eta", self.eta, "take a number from 0 to 1")
        require(EDGE <= self.last < 1, "last", self.last, f"take a length from {EDGE} to below 1")
        for name in ("rtol", "atol"):
            require(getattr(self, name) > 0, name, getattr(self, name), "take a small number above 0")

    def of(self, family: Family) -> "Sampler":
        """The same with method and steps filled in for a kind of model; what does not fit it is refused."""
        known = METHODS[family]
        method = known[0] if self.method is None else self.method
        require(method in known, "method", method, f"{family} models are sampled by {', '.join(known)}")
        for name in {name for own in OWN.values() for name in own}:
            value, usual = getattr(self, name), getattr(Sampler, name)
            users = " and ".join(m for m, own in OWN.items() if name in own)
            require(name in OWN.get(method, ()) or value == usual, name, value, f"{method} has none; it is {users}'s")
        usual = STEPS[method]
        require(usual is not None or self.steps is None, "steps", self.steps, f"{method} chooses its own; say rtol")
        steps = usual if self.steps is None else self.steps
        few = family != "DiT" or 2 <= steps <= STEPS_OF_DIT
        require(few, "steps", steps, f"take 2 to {STEPS_OF_DIT} of DiT's steps")
        return dataclasses.replace(self, method=method, steps=steps)

    def told(self, family: Family) -> str:
        """The settings as words for a caption."""
        filled = self.of(family)
        steps = "" if filled.steps is None else f" with {filled.steps} step{'s' if filled.steps > 1 else ''}"
        return f"{filled.method}{steps}, guidance {filled.guidance:g}"

    def record(self) -> dict[str, Any]:
        """What matters to a method that is filled in, by name."""
        own = {name: getattr(self, name) for name in OWN.get(self.method, ())} | ({"clip": True} if self.clip else {})
        channels = {} if self.guidance == 1 or self.channels == "all" else {"channels": self.channels}
        return {"method": self.method, "steps": self.steps, "guidance": float(self.guidance), **channels, **own}
