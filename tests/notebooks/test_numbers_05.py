"""Numbers and comparisons in the texts of notebook 05, computed again, and the answer that the reader's run gives."""

import ast
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_notebooks import FOLDER, cells

from labkit.training.history import Curve
from labkit.widgets import Answer, NotMeasured, Partners

(NOTEBOOK,) = FOLDER.glob("05_*.ipynb")


def distances_at_rest():
    partners, others = zip(*(Partners(alpha=alpha).rest().distances for alpha in (0.0, 0.25, 1.0)), strict=True)
    near, far = Partners.distances(Partners().start)
    done = (partners[0] - partners[1]) / (partners[0] - partners[2])
    return (
        f"partners end {partners[0] / near:.2f} times as far",
        f"At α = 1 they end at {partners[2] / near:.2f} times that distance",
        f"end {others[2] / far:.2f} times as far apart as they began, and this hardly depends on α "
        f"({others[0] / far:.2f} times at α = 0)",
        f"partners at {partners[0]:.2f} without alignment and at {partners[2]:.2f} with all of it, and nearly half of "
        f"that way ({done:.0%}) is already done".replace("%", " %"),
    )


@pytest.mark.parametrize("sentences", [distances_at_rest])
def test_what_the_notebook_says_is_what_was_measured(sentences):
    text = "\n".join(cells(NOTEBOOK, "markdown"))
    for sentence in sentences():
        assert sentence in text


@pytest.fixture
def rank_answer():
    """The notebook's function, as a reader's run of 400 steps calls it, and what that run has logged of the rank."""
    tree = ast.parse("\n".join(cell for cell in cells(NOTEBOOK, "code") if "%pip" not in cell))
    wanted = [
        node
        for node in tree.body
        if getattr(node, "name", "") == "rank_answer" or "WHEN" in [getattr(t, "id", "") for t in _targets(node)]
    ]
    logged = {"dispersive": [60, 80, 90, 90], "contrastive": [60, 70, 30, 20]}
    steps = np.array([1, 100, 300, 500])
    state = SimpleNamespace(
        configs={"contrastive": SimpleNamespace(steps=500)},
        curve=lambda run, metric: Curve(steps[: len(logged[run])], np.array(logged[run], float)),
        last_step=lambda run: int(steps[len(logged[run]) - 1]) if logged[run] else 0,
    )
    scope = {"Answer": Answer, "NotMeasured": NotMeasured, "pd": pd, "state": state}
    exec(compile(ast.Module(wanted, []), str(NOTEBOOK), "exec"), scope)
    return scope["rank_answer"], logged


def _targets(node):
    return getattr(node, "targets", [])


def test_the_rank_is_read_off_the_readers_whole_curve(rank_answer):
    answer, logged = rank_answer
    assert answer().option == "between steps 100 and 400"
    assert "at step 300" in answer().why and "at step 500 the contrastive run's effective rank is 20" in answer().why
    logged["contrastive"] = [60, 70, 60, 50]
    assert answer().option == "later, or not at all"
    for logged["contrastive"] in ([60, 70], []):
        with pytest.raises(NotMeasured, match="Let it finish"):
            answer()
