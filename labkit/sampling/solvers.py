"""Solvers from noise at t = 0 to data at t = 1: a method is a class with one ``step``; ``Solver.states`` is the loop.

Ordinary differential equation, dx/dt = v(x, t), with steps of length h:

    euler           x ← x + h·v(x, t)                                                error O(h)
    heun            x ← x + h/2·(v(x, t) + v(x̂, t + h)),  x̂ = x + h·v(x, t)          error O(h²)
    dopri5          torchdiffeq's, which chooses its own steps
    meanflow        x ← x + h·u(x, t, h), u the average velocity over the step (Geng et al. 2025, section 4.3)

Stochastic equation with the same densities (SiT, section 2.2): the score s = ∇log p_t removes the noise that is added.

    dx = (v(x, t) + w(t)·s(x, t))·dt + √(2·w(t))·dW,  any w ≥ 0

    euler_maruyama  x ← x + h·drift(x, t) + √(2wh)·ε
    sde_heun        x ← x + √(2wh)·ε, then a step of Heun along the drift

Its last step, of length ``last``, adds no noise, as in SiT's release: along the drift (``mean``), to the data that the
velocity implies, x/α + σ²/α·s (``tweedie``), or along the velocity alone (``euler``). With ``none`` the steps end at
t = 1 − 0.001.

Forms of w, as in SiT's release (whose factor scales only the cosine of ``decreasing``; ``strength`` scales all of w):

    sigma        σ(t)                                constant   1
    sbdm         σ²·α′/α − σ·σ′, as in diffusion      linear     1 − t
    decreasing   (cos πt + 1)²/4                     bump       sin² πt
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import check_whole, require
from labkit.models.sizes import Family
from labkit.ops import expand_like
from labkit.paths import EDGE, Path
from labkit.schedule import Schedule

Velocity = Callable[..., Tensor]
Diffusion = Literal["sigma", "sbdm", "constant", "linear", "decreasing", "bump"]
LastStep = Literal["mean", "tweedie", "euler", "none"]
WHOLE = (0.0, 1.0)


class Problem(NamedTuple):
    """A field to follow, and what else some methods need."""

    field: Velocity
    """Velocity v(x, t), t of shape (B,); u(x, t, h) for meanflow; (x, timestep) → noise and variance, (B, 2C, …), for
    the samplers of DiT."""
    interval: tuple[float, float] = WHOLE
    """First and last time, 0 ≤ first < last ≤ 1: shorter where the velocity is singular at an end."""
    noise: Callable[[], Tensor] | None = None
    """Function that returns fresh N(0, 1) noise of the shape of x, called once per step."""
    path: Path | None = None
    """Path that converts velocity to score, for stochastic equations."""
    schedule: Schedule | None = None
    """Steps of a diffusion, all of which are taken; ``Schedule.respaced`` gives fewer."""
    clip: bool = False
    """Clamp the data that the predicted noise implies to [−1, 1] (DiT)."""


@dataclass
class Solver(ABC):
    """A method. Class attributes are its needs, further fields its own settings, named as in ``Sampler``."""

    families: ClassVar[tuple[Family, ...]] = ("SiT", "MeanFlow")
    """Families of models that it samples."""
    default_steps: ClassVar[int | None] = 50
    """Default number of steps; None: it chooses its own."""
    evaluations: ClassVar[int | None] = 1
    """Evaluations of the field in a step."""
    closing_steps: ClassVar[int] = 0
    """Steps beyond ``steps``, of one evaluation each."""

    problem: Problem
    steps: int

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Names of the method's own settings."""
        return tuple(field.name for field in fields(cls))[2:]

    def times(self) -> Sequence[float]:
        return grid(self.steps, self.problem.interval)

    def noise(self) -> Tensor:
        """Fresh N(0, 1) noise of the shape of x."""
        assert self.problem.noise is not None, f"{type(self).__name__} needs a problem with noise"
        return self.problem.noise()

    @abstractmethod
    def step(self, x: Float[Tensor, "batch ..."], now: float, then: float) -> Float[Tensor, "batch ..."]:
        """Step from x at one of ``times`` to x at the next."""

    def states(self, x: Float[Tensor, "batch ..."]) -> Iterator[tuple[float, Float[Tensor, "batch ..."]]]:
        """Yield (t, x) at each of ``times``: the noise x first and the sample last."""
        times = self.times()
        yield times[0], x
        for now, then in pairwise(times):
            x = self.step(x, now, then)
            yield then, x


def grid(steps: int, interval: tuple[float, float]) -> list[float]:
    """Evenly spaced times, steps + 1 of them, the first and last of the interval exactly."""
    first, last = interval
    return [first + (last - first) * k / steps for k in range(steps)] + [last]


def at(t: float, x: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """The same time for every sample."""
    return torch.full((x.shape[0],), t, device=x.device, dtype=x.dtype)


def euler(velocity: Velocity, x: Tensor, now: float, then: float) -> Tensor:
    return x + (then - now) * velocity(x, at(now, x))


def heun(velocity: Velocity, x: Tensor, now: float, then: float) -> Tensor:
    slope = velocity(x, at(now, x))
    slope = (slope + velocity(x + (then - now) * slope, at(then, x))) / 2
    return x + (then - now) * slope


class Euler(Solver):
    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        return euler(self.problem.field, x, now, then)


class Heun(Solver):
    evaluations = 2

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        return heun(self.problem.field, x, now, then)


class MeanFlow(Solver):
    families, default_steps = ("MeanFlow",), 1

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        return x + (then - now) * self.problem.field(x, at(now, x), at(then - now, x))


@dataclass
class Dopri5(Solver):
    """A single step over the whole interval, in as many evaluations as the tolerances need.

    torchdiffeq chooses inner steps for the whole batch, so a sample depends on its batch, within the tolerances.
    """

    default_steps, evaluations = None, None
    rtol: float
    atol: float

    def times(self) -> Sequence[float]:
        return self.problem.interval

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        from torchdiffeq import odeint

        precise = torch.float32 if x.device.type == "mps" else torch.float64
        ends = torch.tensor((now, then), device=x.device, dtype=precise)
        inside = {"step_t": ends[1:]}  # else it steps beyond the end, where VP's velocity is NaN, and back

        def field(t: Tensor, x: Tensor) -> Tensor:
            return self.problem.field(x, t.to(x.dtype).expand(len(x)))

        return odeint(field, x, ends, rtol=self.rtol, atol=self.atol, method="dopri5", options=inside)[-1]


@dataclass
class EulerMaruyama(Solver):
    """Euler's method with noise; a closing step of length ``last`` adds none, so that none is left at t = 1.

    SiT's release counts grid points: its 250 steps are 249 here, and the closing one.
    """

    default_steps, closing_steps = 250, 1
    diffusion: Diffusion
    strength: float
    last: float
    last_step: LastStep

    @property
    def path(self) -> Path:
        assert self.problem.path is not None, f"{type(self).__name__} needs a problem with a path"
        return self.problem.path

    def times(self) -> Sequence[float]:
        first = self.problem.interval[0]
        if self.diffusion == "sbdm" and self.path.name != "vp":
            first = max(first, EDGE)  # sbdm is infinite where α = 0
        if self.last_step == "none":
            return grid(self.steps, (first, 1 - EDGE))
        require(first < 1 - self.last, "last", self.last, f"take a length below {1 - first:g}, that of the interval")
        return [*grid(self.steps, (first, 1 - self.last)), 1.0]

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        if then == 1:
            return self.close(x, now)
        return euler(self.drift, x, now, then) + self.kick(x, now, then)

    def close(self, x: Tensor, now: float) -> Tensor:
        """The last step, without noise."""
        if self.last_step == "tweedie":
            t = at(now, x)
            return self.path.convert(self.problem.field(x, t), "velocity", "data", x, t)
        return euler(self.drift if self.last_step == "mean" else self.problem.field, x, now, 1.0)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        v = self.problem.field(x, t)
        return v + self.w(t, x) * self.path.convert(v, "velocity", "score", x, t)

    def kick(self, x: Tensor, now: float, then: float) -> Tensor:
        return (2 * (then - now) * self.w(at(now, x), x)).sqrt() * self.noise()

    def w(self, t: Tensor, x: Tensor) -> Tensor:
        return self.strength * diffusion(self.diffusion, self.path, expand_like(t, x))


class SdeHeun(EulerMaruyama):
    evaluations = 2

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        if then == 1:
            return self.close(x, now)
        return heun(self.drift, x + self.kick(x, now, then), now, then)


def diffusion(form: Diffusion, path: Path, t: Tensor) -> Tensor:
    """w(t) of one form, at times of any shape."""
    if form in ("sigma", "sbdm"):
        c = path.coefficients(t)
        return c.sigma if form == "sigma" else c.sigma**2 * c.d_alpha / c.alpha - c.sigma * c.d_sigma
    return {
        "constant": torch.ones_like(t),
        "linear": 1 - t,
        "decreasing": (torch.cos(math.pi * t) + 1) ** 2 / 4,
        "bump": torch.sin(math.pi * t) ** 2,
    }[form]


FLOW_SOLVERS: dict[str, type[Solver]] = {
    "meanflow": MeanFlow,
    "heun": Heun,
    "euler": Euler,
    "dopri5": Dopri5,
    "euler_maruyama": EulerMaruyama,
    "sde_heun": SdeHeun,
}
"""Solvers by name; the first that serves a family is its default."""


def states(
    velocity: Velocity, x0: Float[Tensor, "batch ..."], steps: int, method: str = "heun"
) -> Iterator[tuple[float, Float[Tensor, "batch ..."]]]:
    """Yield (t, x) at each of steps + 1 evenly spaced times, for any velocity.

    Args:
        velocity: v(x, t) with t of shape (B,); for ``meanflow`` the average velocity u(x, t, h) over a step h.
        x0: noise.  steps: at least 1.
        method: ``heun``, ``euler`` or ``meanflow``, which need nothing but a velocity.

    Raises:
        ConfigError: a setting that cannot work.
    """
    plain = [name for name, solver in FLOW_SOLVERS.items() if not solver.settings()]
    require(method in plain, "method", method, f"choose one of {', '.join(plain)}")
    check_whole("steps", steps)
    return FLOW_SOLVERS[method](Problem(velocity), steps).states(x0)
