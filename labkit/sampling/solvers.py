"""Solvers from noise at t = 0 to data at t = 1: a method is a class with one ``step``; ``Solver.states`` is the loop.

Along a velocity, dx/dt = v(x, t), with h the length of a step:

    euler           x ← x + h·v(x, t)                                                error O(h)
    heun            x ← x + h/2·(v(x, t) + v(x̂, t + h)),  x̂ = x + h·v(x, t)          error O(h²)
    dopri5          torchdiffeq's, which chooses its own steps
    meanflow        x ← x + h·u(x, t, h), u the average velocity over the step (Geng et al. 2025, section 4.3)

By a stochastic equation with the same densities (SiT, section 2.2): noise goes in, the score s = ∇log p_t takes it out.

    dx = (v(x, t) + w(t)·s(x, t))·dt + √(2·w(t))·dW,  any w ≥ 0

    euler_maruyama  x ← x + h·drift(x, t) + √(2wh)·ε
    sde_heun        x ← x + √(2wh)·ε, then a step of Heun along the drift

Forms of w, those of SiT's release (its factor scales the cosine of ``decreasing`` alone, ours all of w):

    sigma        σ(t)                                constant   1
    sbdm         σ²·α′/α − σ·σ′, diffusion's own      linear     1 − t
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

from labkit.checks import choose, finite, require, whole
from labkit.models.sizes import Family
from labkit.ops import expand_like
from labkit.paths import EDGE, Path
from labkit.schedule import Schedule

Velocity = Callable[..., Tensor]
Diffusion = Literal["sigma", "sbdm", "constant", "linear", "decreasing", "bump"]
WHOLE = (0.0, 1.0)


class Problem(NamedTuple):
    """A field to follow, and whatever else some methods need."""

    field: Velocity
    """Velocity v(x, t), t of shape (B,); of meanflow u(x, t, h); of DiT (x, timestep) → noise and variance, (B, 2C, …).
    """
    interval: tuple[float, float] = WHOLE
    """First and last time, 0 ≤ first < last ≤ 1: shorter where the velocity is singular at an end."""
    noise: Callable[[], Tensor] | None = None
    """Gives fresh N(0, 1) of the shape of x, a call a step."""
    path: Path | None = None
    """The path from which velocity and score follow from each other; for stochastic equations."""
    schedule: Schedule | None = None
    """DiT's steps, all of which are taken; ``Schedule.respaced`` gives fewer."""
    clip: bool = False
    """DiT: keep the data that the predicted noise implies within [−1, 1]."""


@dataclass
class Solver(ABC):
    """A method. Class attributes say what it needs, further fields are settings of its own, named as in ``Sampler``."""

    families: ClassVar[tuple[Family, ...]] = ("SiT", "MeanFlow")
    """Kinds of model that it samples."""
    default_steps: ClassVar[int | None] = 50
    """None: it chooses its own."""
    evaluations: ClassVar[int | None] = 1
    """Evaluations of the field in a step."""
    closing_steps: ClassVar[int] = 0
    """Steps beyond ``steps``, of one evaluation each."""
    draws_noise: ClassVar[bool] = False
    """Whether it may call ``Problem.noise``."""

    problem: Problem
    steps: int | None

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """The names of its own settings."""
        return tuple(field.name for field in fields(cls))[2:]

    def times(self) -> Sequence[float]:
        return grid(self.steps, self.problem.interval)

    @abstractmethod
    def step(self, x: Float[Tensor, "batch ..."], now: float, then: float) -> Float[Tensor, "batch ..."]:
        """From x at one of ``times`` to x at the next."""

    def states(self, x: Float[Tensor, "batch ..."]) -> Iterator[tuple[float, Float[Tensor, "batch ..."]]]:
        """Yield (t, x) at each of ``times``: the noise x first and the sample last."""
        times = self.times()
        yield times[0], x
        for now, then in pairwise(times):
            x = self.step(x, now, then)
            yield then, x


def grid(steps: int, interval: tuple[float, float]) -> list[float]:
    """steps + 1 times from the first to the last, both exactly."""
    first, last = interval
    return [first + (last - first) * k / steps for k in range(steps)] + [last]


def at(t: float, x: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """One time for every sample."""
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
    """One step over the whole interval, in as many evaluations as the tolerances take.

    Its inner steps are chosen for the whole batch at once, so that a sample depends a little, within the tolerances, on
    those that are drawn with it.
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
        inside = {"step_t": ends[1:]}  # else it looks beyond the end and comes back, where VP's velocity is no number

        def field(t: Tensor, x: Tensor) -> Tensor:
            return self.problem.field(x, t.to(x.dtype).expand(len(x)))

        return odeint(field, x, ends, rtol=self.rtol, atol=self.atol, method="dopri5", options=inside)[-1]


@dataclass
class EulerMaruyama(Solver):
    """Its closing step, of length ``last``, goes along the drift without noise, so that none is left at t = 1."""

    default_steps, closing_steps, draws_noise = 250, 1, True
    diffusion: Diffusion
    strength: float
    last: float

    def times(self) -> Sequence[float]:
        first = self.problem.interval[0]
        if self.diffusion == "sbdm" and self.problem.path.name != "vp":
            first = max(first, EDGE)  # where α = 0, sbdm is infinite
        require(first < 1 - self.last, "last", self.last, f"take a length below {1 - first:g}, where sampling starts")
        return [*grid(self.steps, (first, 1 - self.last)), 1.0]

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        x_next = euler(self.drift, x, now, then)
        return x_next if then == 1 else x_next + self.kick(x, now, then)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        v = self.problem.field(x, t)
        return v + self.w(t, x) * self.problem.path.convert(v, "velocity", "score", x, t)

    def kick(self, x: Tensor, now: float, then: float) -> Tensor:
        return (2 * (then - now) * self.w(at(now, x), x)).sqrt() * self.problem.noise()

    def w(self, t: Tensor, x: Tensor) -> Tensor:
        return self.strength * diffusion(self.diffusion, self.problem.path, expand_like(t, x))


class SdeHeun(EulerMaruyama):
    evaluations = 2

    def step(self, x: Tensor, now: float, then: float) -> Tensor:
        if then == 1:
            return euler(self.drift, x, now, then)
        return heun(self.drift, x + self.kick(x, now, then), now, then)


def diffusion(form: Diffusion, path: Path, t: Tensor) -> Tensor:
    """w(t) of a form, at times of any shape."""
    choose(form, Diffusion, "diffusion")
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
"""By name; of those that serve a family, the first is its usual one."""


def states(
    velocity: Velocity,
    x0: Float[Tensor, "batch ..."],
    steps: int,
    method: str = "heun",
    interval: tuple[float, float] = WHOLE,
) -> Iterator[tuple[float, Float[Tensor, "batch ..."]]]:
    """Yield (t, x) at each of steps + 1 grid points: solvers without a network, for any velocity.

    Args:
        velocity: v(x, t) with t of shape (B,); for ``meanflow`` the average velocity u(x, t, h) over a step h.
        x0: noise.  steps: at least 1.
        method: ``heun``, ``euler`` or ``meanflow``: those that need nothing but a velocity.
        interval: first and last time, 0 ≤ first < last ≤ 1.

    Raises:
        ConfigError: a setting that cannot work.
    """
    plain = [name for name, solver in FLOW_SOLVERS.items() if not solver.settings()]
    require(method in plain, "method", method, f"choose one of {', '.join(plain)}")
    require(whole(steps, 1), "steps", steps, "take a whole number of at least 1")
    inside = len(interval) == 2 and all(map(finite, interval)) and 0 <= interval[0] < interval[1] <= 1
    require(inside, "interval", interval, "give the first and the last time, within 0 to 1")
    return FLOW_SOLVERS[method](Problem(velocity, interval), steps).states(x0)


def integrate(
    velocity: Velocity, x0: Tensor, steps: int, method: str = "heun", interval: tuple[float, float] = WHOLE
) -> Tensor:
    """The last state of ``states``: the sample."""
    *_, (_, x) = states(velocity, x0, steps, method, interval)
    return x
