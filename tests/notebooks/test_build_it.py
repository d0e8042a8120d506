"""Sections *Build it*: a stub that waits, a folded solution that passes, and the minutes that the notebook promises."""

import re
from itertools import groupby

import pytest
import torch
from texts import NOTEBOOKS, cells, read, text_of

from labkit.exercises import EXERCISES, Verdict, exercise
from labkit.terminal import LINE

CHECK = re.compile(r'^check\("(\w+)", \w+\)$', re.MULTILINE)
FOLD = re.compile(r"<details><summary>A solution</summary>\n\n```python\n(.*)\n```\n\n</details>", re.DOTALL)


def _stubs():
    """(exercise, explanation, stub, solution) of each cell that ends in a check, by notebook."""
    for path in NOTEBOOKS:
        sources = ["".join(cell["source"]) for cell in read(path)]
        for why, stub, solution in zip(sources, sources[1:], sources[2:], strict=False):
            if name := CHECK.search(stub):
                yield pytest.param(name[1], why, stub, solution, id=f"{path.stem[:2]}-{name[1]}")


STUBS = list(_stubs())
MINUTES = re.compile(r"### Build it: .*\*\*(\d+) minutes to write · difficulty (?:●○○|●●○|●●●)\*\*", re.DOTALL)


def _verdict(source: str) -> Verdict:
    """The verdict on a cell, as if the reader had run it."""
    verdicts = []
    scope = {"torch": torch, "check": lambda name, answer: verdicts.append(exercise(name).check(answer))}
    exec(source, scope)
    return verdicts[0]


@pytest.mark.parametrize(("name", "why", "stub", "solution"), STUBS)
def test_a_stub_waits_and_its_solution_passes(name, why, stub, solution):
    assert MINUTES.fullmatch(why)
    waits = repr(_verdict(stub))
    assert waits.startswith("○ Still to be written")
    assert max(map(len, waits.splitlines())) <= LINE, "a notebook would break the line within a word"
    fold = FOLD.fullmatch(solution)
    assert _verdict(f"{fold[1]}\n{CHECK.search(stub)[0]}").passed


def test_each_exercise_has_one_stub():
    assert sorted(stub.values[0] for stub in STUBS) == sorted(EXERCISES)


def test_praise_promises_later_cells_only_where_some_run_the_answer():
    sources = [source for path in NOTEBOOKS for source in cells(path, "code") if "mine(" in source]
    used = {name for name in EXERCISES if any(f'"{name}"' in source for source in sources)}
    assert used == {name for name, each in EXERCISES.items() if each.used}


@pytest.mark.parametrize(("number", "stubs"), [(n, [*each]) for n, each in groupby(STUBS, lambda stub: stub.id[:2])])
def test_a_notebook_states_the_minutes_of_its_exercises(number, stubs):
    (minutes,) = re.findall(r"about (\d+) minutes more", text_of(number))
    assert abs(sum(int(MINUTES.fullmatch(stub.values[1])[1]) for stub in stubs) - int(minutes)) <= 2
