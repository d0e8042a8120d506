"""Texts of the notebooks and the README, and a test's parameters for the sentences in them that hold numbers."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
Sentences = Callable[[], str | tuple[str, ...]]
"""Computes a sentence, or several, as the text should have them."""


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
    """Parameters for a test of each sentence in its text; ``assert_said`` is the test."""
    return pytest.mark.parametrize(
        ("text", "sentence"), [(name, sentence) for name, those in sentences.items() for sentence in those]
    )


def assert_said(text: str, sentence: Sentences) -> None:
    """Whether a text has what is computed for it."""
    said = sentence()
    for one in (said,) if isinstance(said, str) else said:
        assert one in text_of(text), f"{text} does not say: {one}"
