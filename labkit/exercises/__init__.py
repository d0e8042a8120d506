"""Exercises in which the reader writes the lab's mathematics, and checks that name the mistake.

    check("dispersive_loss", dispersive_loss)   a verdict: ``.passed``, and ``.text``, a sentence or two
    mine("dispersive_loss")                     the reader's function, once it has passed; the library's until then

Arguments are given in the order of the stub, since a reader may rename them.

``labkit.exercises.bug_hunt`` has eight sabotaged losses to diagnose.
"""

from collections.abc import Callable
from typing import Any

from labkit.checks import require
from labkit.exercises import features, flows, losses
from labkit.exercises.checking import Exercise, Verdict

EXERCISES: dict[str, Exercise] = flows.EXERCISES | losses.EXERCISES | features.EXERCISES
"""All exercises by name."""

_PASSED: dict[str, Callable[..., Any]] = {}


def exercise(name: str) -> Exercise:
    """An exercise by name.

    Raises:
        ConfigError: no such exercise.
    """
    require(name in EXERCISES, "exercise", name, f"choose one of {', '.join(EXERCISES)}")
    return EXERCISES[name]


def check(name: str, answer: Any) -> Verdict:
    """Compare an answer with the library; one that passes is kept for ``mine``.

    Args:
        name: the exercise.  answer: the reader's function, or class where the stub is one.

    Raises:
        ConfigError: no such exercise.
    """
    verdict = exercise(name).check(answer)
    if verdict.passed:
        _PASSED[name] = answer
    return verdict


def mine(name: str) -> Any:
    """The reader's answer once it has passed in this session, until then the library's: what a panel should run.

    Raises:
        ConfigError: no such exercise.
    """
    return _PASSED.get(name, exercise(name).oracle)


__all__ = ["EXERCISES", "Exercise", "Verdict", "check", "exercise", "mine"]
