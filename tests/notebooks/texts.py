"""Texts of the notebooks and the README, and a test's parameters for the sentences in them that hold numbers."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
Sentences = Callable[[], str | tuple[str, ...]]
"""Function that computes a sentence, or several, as a text should have them."""


def read(path: Path) -> list[dict]:
    """All cells of a notebook."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def cells(path: Path, kind: str) -> list[str]:
    """The sources of all cells of a kind."""
    return ["".join(cell["source"]) for cell in read(path) if cell["cell_type"] == kind]


def text_of(name: str) -> str:
    """All text of the notebook with this number, or of the README in one line."""
    if name == "README":
        return " ".join((FOLDER.parent / "README.md").read_text(encoding="utf-8").split())
    (path,) = FOLDER.glob(f"{name}_*.ipynb")
    return "\n".join(cells(path, "markdown"))


def measured(sentences: Mapping[str, Iterable[Sentences]]) -> pytest.MarkDecorator:
    """Parameters for a test of each sentence in its text; ``assert_in_text`` is the test."""
    return pytest.mark.parametrize(
        ("text", "sentence"), [(name, sentence) for name, those in sentences.items() for sentence in those]
    )


def assert_in_text(text: str, sentence: Sentences) -> None:
    """Fail unless a text has the sentences that are computed for it."""
    computed = sentence()
    for expected in (computed,) if isinstance(computed, str) else computed:
        assert expected in text_of(text), f"{text} lacks: {expected}"
