"""Checks of settings: a bad one is refused with its name, its value, and what is allowed."""

import math
from numbers import Integral, Real
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


def choose(value: Any, kind: Any, name: str) -> Any:
    """Return a value that is one of a Literal's strings, and refuse any other."""
    require(value in get_args(kind), name, value, f"choose one of {', '.join(get_args(kind))}")
    return value


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse a value that is not a whole number of at least ``least``."""
    require(whole(value, least), name, value, f"take a whole number of at least {least}")


def check_number(
    name: str, value: Any, least: float | None = None, most: float | None = None, *, ends: str = "[]"
) -> None:
    """Refuse a value that is not a finite number from ``least`` to ``most``; "(" or ")" in ``ends`` exclude an end."""
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    fits = finite(value) and low <= value <= high
    fits = fits and not (ends[0] == "(" and value == low) and not (ends[1] == ")" and value == high)
    lower = f"{'above' if ends[0] == '(' else 'of at least'} {least}"
    number = "number" if finite(value) else "finite number"
    require(fits, name, value, f"take a {number} {lower if most is None else f'in {ends[0]}{least}, {most}{ends[1]}'}")


def check_seed(seed: int) -> None:
    require(whole(seed, 0) and seed < 2**63, "seed", seed, "take a whole number from 0 to 2⁶³ − 1")


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
