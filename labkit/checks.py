"""Checks of settings: a bad one is refused with its name, its value, and what is allowed."""

import math
from numbers import Integral, Real
from operator import ge, gt, le, lt
from typing import Any, NoReturn, get_args


class LabError(Exception):
    """An error that a person can put right; the message is one sentence that says what is wrong and what to do."""


class ConfigError(LabError, ValueError):
    """A setting that cannot work. The message names the field, its value and what is allowed."""


def refuse(name: str, value: Any, allowed: str) -> NoReturn:
    raise ConfigError(f"{name} = {value!r} cannot be used: {allowed}.")


def require(ok: bool, name: str, value: Any, allowed: str) -> None:
    if not ok:
        refuse(name, value, allowed)


def choose(value: Any, kind: Any, name: str, *, optional: bool = False) -> Any:
    """Return a value that is one of a Literal's strings, or None where it is ``optional``, and refuse any other."""
    fits = value in get_args(kind) or (optional and value is None)
    require(fits, name, value, f"choose one of {', '.join(get_args(kind))}")
    return value


def check_flag(name: str, value: Any) -> None:
    require(isinstance(value, bool), name, value, "say True or False")


def check_whole(
    name: str, value: Any, least: int = 1, most: int | None = None, *, optional: bool = False, why: str = ""
) -> None:
    """Refuse a value that is not a whole number from ``least`` to ``most``, or None where it is ``optional``.

    ``why`` ends the message with the reason.
    """
    fits = whole(value, least) and (most is None or value <= most)
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    require(fits or (optional and value is None), name, value, f"take a whole number {limits}{why and f', {why}'}")


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    optional: bool = False,
    why: str = "",
) -> None:
    """Refuse a value that is not a finite number within the given bounds, or None where it is ``optional``.

    ``why`` ends the message with the reason.
    """
    every = [("above", gt, above), ("of at least", ge, least), ("below", lt, below), ("at most", le, most)]
    bounds = [(words, compare, bound) for words, compare, bound in every if bound is not None]
    fits = finite(value) and all(compare(value, bound) for _, compare, bound in bounds)
    limits = " and ".join(f"{words} {bound}" for words, _, bound in bounds)
    allowed = f"take a finite number {limits}".rstrip() + (why and f", {why}")
    require(fits or (optional and value is None), name, value, allowed)


def check_seed(seed: Any, *, optional: bool = False) -> None:
    fits = (whole(seed, 0) and seed < 2**63) or (optional and seed is None)
    require(fits, "seed", seed, "take a whole number from 0 to 2⁶³ − 1")


def finite(value: Any) -> bool:
    """Whether a value is a real number, numpy's included, and neither a bool nor NaN nor infinite."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def whole(value: Any, at_least: int) -> bool:
    """Whether a value is a whole number, numpy's included, that is large enough."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= at_least


def as_interval(name: str, value: Any) -> tuple[float, float]:
    """First and last of two times within [0, 1], in this order; anything else is refused."""
    ends = as_tuple(value)
    fits = len(ends) == 2 and all(map(finite, ends)) and 0 <= ends[0] < ends[1] <= 1
    require(fits, name, value, "give the first and the last time, within 0 to 1")
    return float(ends[0]), float(ends[1])


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A list, a range or a single value as a tuple, since frozen settings hold no lists."""
    return tuple(value) if isinstance(value, (tuple, list, range)) else (value,)
