"""The clock of the benchmarks: seconds of a call, and of calls that take turns; and the machine that they are of.

Turns, since the speed of a machine drifts: one that slows down half-way is then unfair to none of what is compared.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from labkit.runtime import machine

FOREVER = 10**9  # steps of a training that the benchmark leaves


def now() -> float:
    """Seconds, when a GPU has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], Any], calls: int = 1) -> float:
    """Seconds a call, over some calls one after another."""
    began = now()
    for _ in range(calls):
        work()
    return (now() - began) / calls


def in_turns(works: Mapping[str, Callable[[], Any]], turns: int, calls: int = 1) -> dict[str, list[float]]:
    """Name → seconds a call in each turn, after a turn that warms up and is not counted."""
    rounds = [{name: seconds(work, calls) for name, work in works.items()} for _ in range(turns + 1)]
    return {name: [each[name] for each in rounds[1:]] for name in works}


def about() -> str:
    """Processor, GPU, versions and commit, as text."""
    facts = machine()
    return f"{facts['processor']}; GPU {facts['gpu']}; torch {facts['torch']}; commit {facts['commit']}"
