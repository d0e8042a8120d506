"""λ of a regularizer over training: a number, times a factor that is piecewise linear in the step.

A schedule is a tuple of knots (step, factor); between two knots the factor is on the line between them, before the
first and after the last it stays. Steps count from 0, the first optimizer step.

    ()                              λ all the time
    warm_up(1000)                   from λ/1000 to λ over the first 1,000 steps
    burst(20)                       λ for the first 20 steps, then 0
    late(500)                       0 for the first 500 steps, then λ
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.checks import check_number, check_whole, finite, require, whole

Schedule = tuple[tuple[int, float], ...]


def warm_up(steps: int) -> Schedule:
    """λ/steps at the first step, λ from the last of ``steps`` on."""
    check_whole("steps", steps)
    return ((0, 1 / steps), (steps - 1, 1.0)) if steps > 1 else ()


def burst(steps: int) -> Schedule:
    """λ for the first ``steps`` steps, then 0."""
    check_whole("steps", steps)
    return ((steps - 1, 1.0), (steps, 0.0))


def late(steps: int) -> Schedule:
    """0 for the first ``steps`` steps, then λ."""
    check_whole("steps", steps)
    return ((steps - 1, 0.0), (steps, 1.0))


def value_at(knots: Schedule, step: float) -> float:
    """The factor at a step; 1 where there are no knots."""
    steps, factors = zip(*(knots or ((0, 1.0),)), strict=True)
    return float(np.interp(step, steps, factors))


def paint(knots: Schedule, first: int, last: int, factor: float) -> Schedule:
    """The schedule with another factor at the steps first … last − 1, and at all other steps as it was."""
    check_whole("first", first, 0)
    check_whole("last", last, first + 1, why="above the first")
    inside = {first: factor, last - 1: factor}
    edges = {step: value_at(knots, step) for step in (first - 1, last) if step >= 0}
    kept = {step: value for step, value in knots or ((0, 1.0),) if step < first or step >= last}
    return _without_needless(sorted((kept | edges | inside).items()))


def _without_needless(knots: list[tuple[int, float]]) -> Schedule:
    """The knots without those that lie on the line between their neighbours, or beside an end that stays level."""
    kept: list[tuple[int, float]] = []
    for number, (step, value) in enumerate(knots):
        rest = [*kept[-1:], *knots[number + 1 : number + 2]]
        if not rest or value_at(tuple(rest), step) != value:
            kept.append((step, value))
    return tuple(kept)


def check_weight(settings: Any, group: str) -> None:
    """Refuse a ``lam`` or ``schedule`` of frozen settings that cannot work; turn the schedule into a tuple of pairs.

    Raises:
        ConfigError: λ below 0 or not finite; no pairs of a whole step and a finite factor of at least 0, or steps that
            do not grow.
    """
    knots, name = settings.schedule, f"{group}.schedule"
    check_number(f"{group}.lam", settings.lam, least=0, optional=True, why="or None for off")
    pairs = isinstance(knots, Sequence) and all(isinstance(knot, Sequence) and len(knot) == 2 for knot in knots)
    allowed = "give pairs of a step and a factor, such as ((0, 0), (1000, 1)), with factors of at least 0"
    require(pairs and all(whole(s, 0) and finite(f) and f >= 0 for s, f in knots), name, knots, allowed)
    require(all(one[0] < other[0] for one, other in pairwise(knots)), name, knots, "its steps have to grow")
    object.__setattr__(settings, "schedule", tuple((int(step), float(factor)) for step, factor in knots))


def describe_schedule(knots: Schedule) -> str:
    """A schedule in words; empty where λ stays."""
    if not knots:
        return ""
    for shape, words in ((warm_up, "warmed up over"), (burst, "on for the first"), (late, "off for the first")):
        steps = knots[-1][0] + (shape is warm_up)
        if len(knots) == 2 and steps > 0 and shape(steps) == knots:
            return f"λ {words} {steps} steps"
    return "λ × " + ", ".join(f"{factor:g} at step {step}" for step, factor in knots)


class Weight(nn.Module):
    """λ at a step, as a tensor, so that another λ or schedule of as many knots does not compile the objective again.

    Args:
        lam: λ.  schedule: its knots.
    """

    lam: Tensor
    steps: Tensor
    factors: Tensor

    def __init__(self, lam: float, schedule: Schedule) -> None:
        super().__init__()
        steps, factors = zip(*(schedule or ((0, 1.0),)), strict=True)
        for name, values in {"lam": lam, "steps": steps, "factors": factors}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    def forward(self, step: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """λ · (f₀ + Σ_k (f_k − f_{k−1}) · clamp((step − s_{k−1})/(s_k − s_{k−1}), 0, 1)), in float64."""
        share = ((step - self.steps[:-1]) / self.steps.diff()).clamp(0, 1)
        return self.lam * (self.factors[0] + (share * self.factors.diff()).sum())
