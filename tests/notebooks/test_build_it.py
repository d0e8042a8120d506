"""Sections *Build it*: a stub that waits, a folded solution that passes, and the minutes that the exercise states."""

import json
import re

import pytest
import torch
from texts import FOLDER, NOTEBOOKS

from labkit.exercises import EXERCISES, Verdict, exercise

CHECK = re.compile(r'^check\("(\w+)", \w+\)$', re.MULTILINE)
FOLD = re.compile(r"<details><summary>A solution</summary>\n\n```python\n(.*)\n```\n\n</details>", re.DOTALL)


def _stubs():
    """(notebook, exercise, explanation, stub, solution) of each cell that ends in a check."""
    for path in NOTEBOOKS:
        sources = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        for why, stub, solution in zip(sources, sources[1:], sources[2:], strict=False):
            if name := CHECK.search(stub):
                yield pytest.param(name[1], why, stub, solution, id=f"{path.stem[:2]}-{name[1]}")


STUBS = list(_stubs())


def _verdict(source: str) -> Verdict:
    """The verdict on a cell, as if the reader had run it."""
    verdicts = []
    scope = {"torch": torch, "check": lambda name, answer: verdicts.append(exercise(name).check(answer))}
    exec(source, scope)
    return verdicts[0]


@pytest.mark.parametrize(("name", "why", "stub", "solution"), STUBS)
def test_a_stub_waits_and_its_solution_passes(name, why, stub, solution):
    assert why.startswith("### Build it: ")
    minutes, difficulty = exercise(name).minutes, exercise(name).difficulty
    assert why.endswith(f"**{minutes} minutes to write · difficulty {'●' * difficulty:○<3}**")
    assert _verdict(stub).key == "empty"
    fold = FOLD.fullmatch(solution)
    assert _verdict(f"{fold[1]}\n{CHECK.search(stub)[0]}").passed


def test_praise_promises_later_cells_only_where_some_run_the_answer():
    sources = [
        "".join(cell["source"])
        for path in NOTEBOOKS
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code" and "mine(" in "".join(cell["source"])
    ]
    used = {name for name in EXERCISES if any(f'"{name}"' in source for source in sources)}
    assert used == {name for name, each in EXERCISES.items() if each.used}


@pytest.mark.parametrize("number", ["01", "02", "04", "05", "08", "09"])
def test_a_notebook_has_all_its_exercises_and_states_their_minutes(number):
    mine = {name: each for name, each in EXERCISES.items() if each.notebook == number}
    assert set(mine) == {stub.values[0] for stub in STUBS if stub.id.startswith(number)}
    (path,) = FOLDER.glob(f"{number}_*.ipynb")
    (minutes,) = re.findall(r"about (\d+) minutes more", "".join(json.loads(path.read_text())["cells"][0]["source"]))
    assert abs(sum(each.minutes for each in mine.values()) - int(minutes)) <= 2
