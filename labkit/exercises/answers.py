"""The code of an answer: with or without its docstrings, and whether a line of it still waits for the reader."""

import ast
import inspect
from textwrap import dedent
from typing import Any


def source(answer: Any) -> str:
    """Code of a function or class."""
    return dedent(inspect.getsource(answer)).strip()


def _documented(code: str) -> list[Any]:
    """Functions and classes with a docstring, the last first, so that lines can be deleted one after another."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds) and ast.get_docstring(node)]
    return sorted(nodes, key=lambda node: -node.lineno)


def without_docstrings(code: str) -> str:
    """The code without its docstrings."""
    lines = code.splitlines()
    for node in _documented(code):
        del lines[node.body[0].lineno - 1 : node.body[1].lineno - 1]
    return "\n".join(lines)


def filled(function: Any) -> bool:
    """Whether no line of a function still waits for the reader; False where its code cannot be read."""
    try:
        tree = ast.parse(source(function))
    except (OSError, TypeError, SyntaxError):
        return False
    values = [getattr(node, "value", None) for node in ast.walk(tree)]  # the `...` of z[..., None] is not one of them
    return not any(isinstance(value, ast.Constant) and value.value is ... for value in values)
