"""Settings of a sampler: one object for notebooks, evaluation and command line."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from labkit.checks import as_interval, check_number, check_whole, choose, require
from labkit.models.sizes import Family
from labkit.paths import EDGE
from labkit.sampling.diffusion import DIFFUSION_SOLVERS
from labkit.sampling.guidance import Channels
from labkit.sampling.solvers import FLOW_SOLVERS, WHOLE, Diffusion, LastStep, Problem, Solver
from labkit.schedule import STEPS as STEPS_OF_DIT

SOLVERS: dict[str, type[Solver]] = FLOW_SOLVERS | DIFFUSION_SOLVERS
"""Methods by name; the attributes of each class are what it needs."""
Method = Literal[*SOLVERS]  # pyrefly: ignore[invalid-literal] the table of solvers is the one list of methods
METHODS: dict[Family, tuple[str, ...]] = {
    family: tuple(name for name, solver in SOLVERS.items() if family in solver.families) for family in get_args(Family)
}
"""Methods for each family of models, the default first."""


@dataclass(frozen=True)
class Sampler:
    """Settings for sampling images from noise. A setting that the method does not use is refused."""

    method: Method | None = None
    """ODE solvers: heun, euler, dopri5. SDE solvers: euler_maruyama, sde_heun. DiT models: ddim, ancestral.
    MeanFlow models: meanflow, or an ODE or SDE solver. None is the family's default: heun, ddim or meanflow."""
    steps: int | None = None
    """Number of steps. None is 50 (ODE solvers, ddim), 250 (SDE solvers, ancestral) or 1 (meanflow)."""
    guidance: float | None = None
    """Scale of classifier-free guidance: 0 unconditional, 1 conditional, above 1 follows the label more closely. None
    is 1."""
    channels: Channels | None = None
    """Channels that are guided. The released samplers of DiT and SiT guide the first three of a latent's four. None is
    all."""
    guidance_interval: tuple[float, float] = WHOLE
    """First and last time of the guidance, from 0 (noise) to 1 (data); for DiT, of its 1,000 steps. At other times it
    is 1. REPA's best figures take 0.3 to 1 (written 0 to 0.7 there, since it counts from the data)."""
    diffusion: Diffusion = "sigma"
    """Strength of the SDE's noise as a function of time."""
    strength: float = 1.0
    """Factor of the SDE's noise; 0 adds none."""
    last: float = 0.04
    """Length of the SDE's last step, which adds no noise; all steps together have length 1."""
    last_step: LastStep = "mean"
    """The SDE's last step: along its drift (mean), to the data that the velocity implies (tweedie), along the velocity
    alone (euler), or none."""
    eta: float = 0.0
    """Fresh noise of ddim, from 0 (none) to 1 (as much as ancestral)."""
    clip: bool = False
    """Clamp the predicted image to [−1, 1] at every step. For predictions of noise or score, and not for latents."""
    rtol: float = 1e-3
    """Relative error that dopri5 tolerates in a step."""
    atol: float = 1e-6
    """Absolute error that dopri5 tolerates in a step."""

    def __post_init__(self) -> None:
        choose(self.method, Method, "method", optional=True)
        check_whole("steps", self.steps, optional=True)
        choose(self.channels, Channels, "channels", optional=True)
        choose(self.diffusion, Diffusion, "diffusion")
        choose(self.last_step, LastStep, "last_step")
        object.__setattr__(self, "guidance_interval", as_interval("guidance_interval", self.guidance_interval))
        check_number("guidance", self.guidance, least=0, optional=True)
        check_number("strength", self.strength, least=0)
        check_number("last", self.last, least=EDGE, below=1)
        check_number("eta", self.eta, least=0, most=1)
        check_number("rtol", self.rtol, above=0)
        check_number("atol", self.atol, above=0)

    def filled(self, family: Family) -> "Sampler":
        """The same settings, with those that are None filled in for a family of models.

        Raises:
            ConfigError: a method of another family, or a setting that the method does not use.
        """
        methods = METHODS[family]
        method = methods[0] if self.method is None else self.method
        require(method in methods, "method", method, f"{family} models are sampled by {', '.join(methods)}")
        default = SOLVERS[method].default_steps
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            users = [user for user, solver in SOLVERS.items() if name in solver.settings()]
            fits = not users or method in users or value == field.default
            require(fits, name, value, f"{method} does not use it; it is for {' and '.join(users)}")
        require(default is not None or self.steps is None, "steps", self.steps, f"{method} chooses its own; set rtol")
        steps = default if self.steps is None else self.steps
        fits = family != "DiT" or (steps is not None and 2 <= steps <= STEPS_OF_DIT)
        require(fits, "steps", steps, f"DiT takes 2 to {STEPS_OF_DIT}")
        guidance = 1.0 if self.guidance is None else float(self.guidance)
        bounded = self.guidance_interval != WHOLE
        require(not bounded or guidance != 1, "guidance_interval", self.guidance_interval, "guidance is 1; set it, too")
        ending = self.last_step != "none" or self.last == type(self).last
        require(ending, "last", self.last, "there is no last step; leave it out, or choose another last_step")
        chosen = {"method": method, "steps": steps, "guidance": guidance, "channels": self.channels or "all"}
        return dataclasses.replace(self, **chosen)

    def describe(self, family: Family) -> str:
        """Settings in words, for a caption."""
        filled = self.filled(family)
        steps = "" if filled.steps is None else f" with {filled.steps} step{'s' if filled.steps > 1 else ''}"
        return f"{filled.method}{steps}, {describe_guidance(filled.record())}"

    @property
    def solver_class(self) -> type[Solver]:
        """Class of the method, which is ``filled``."""
        assert self.method is not None, "fill the settings in first: Sampler.filled"
        return SOLVERS[self.method]

    @property
    def total_steps(self) -> int:
        """Steps of one batch; dopri5 counts as one, since it does not report its own."""
        closing = 0 if self.last_step == "none" else self.solver_class.closing_steps
        return (self.steps or 1) + closing

    @property
    def evaluations(self) -> int:
        """Evaluations of the field for a sample; about 100 for dopri5, which takes as many as it needs."""
        each = self.solver_class.evaluations
        return 100 if each is None else each * (self.steps or 1) + self.total_steps - (self.steps or 1)

    def solver(self, problem: Problem) -> Solver:
        """Solver of a problem with these settings, which are ``filled``."""
        return self.solver_class(problem, self.steps or 1, **self._own())

    def record(self) -> dict[str, Any]:
        """Settings that matter, by name; they are ``filled``."""
        own, others = self._own(), {"clip": True} if self.clip else {}
        if own.get("last_step") == "mean":
            del own["last_step"]
        if self.guidance != 1:
            others |= {} if self.channels == "all" else {"channels": self.channels}
            others |= {} if self.guidance_interval == WHOLE else {"guidance_interval": self.guidance_interval}
        return {"method": self.method, "steps": self.steps, "guidance": self.guidance, **own, **others}

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.solver_class.settings()}


def describe_guidance(record: dict[str, Any]) -> str:
    """The guidance of a sampler's record in words: scale, channels and times."""
    channels = " on three channels" if record.get("channels") == "first_three" else ""
    first, last = record.get("guidance_interval", WHOLE)
    times = "" if (first, last) == WHOLE else f" from t = {first:g} to {last:g}"
    return f"guidance {record['guidance']:g}{channels}{times}"
