"""Stubs, made from solutions: the same code with the lines below each docstring left blank."""

import ast
import inspect
from textwrap import dedent, indent
from typing import Any


def source(answer: Any) -> str:
    """Code of a function or class."""
    return dedent(inspect.getsource(answer)).strip()


def _documented(code: str) -> list[Any]:
    """Functions and classes with a docstring, the last first, so that lines can be replaced one after another."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds) and ast.get_docstring(node)]
    return sorted(nodes, key=lambda node: -node.lineno)


def without_docstrings(code: str) -> str:
    """The code without its docstrings."""
    lines = code.splitlines()
    for node in _documented(code):
        del lines[node.body[0].lineno - 1 : node.body[1].lineno - 1]
    return "\n".join(lines)


def blanked(code: str) -> str:
    """The code with the lines below each docstring left blank; their names and comments remain."""
    lines = code.splitlines()
    for node in _documented(code):
        if isinstance(node, ast.FunctionDef):
            body: list[Any] = node.body[1:]
            blanks: list[str] = []
            for statement in body:
                comment = lines[statement.end_lineno - 1].partition("  # ")[1:]
                blank = _blank(statement, code) + "".join(comment)
                if blanks[-1:] != [blank]:
                    blanks.append(blank)
                if statement is not body[-1] and not lines[statement.end_lineno]:
                    blanks.append("")
            text = indent("\n".join(blanks), " " * body[0].col_offset)
            lines[body[0].lineno - 1 : body[-1].end_lineno] = text.splitlines()
    return "\n".join(lines)


def filled(function: Any) -> bool:
    """Whether no line of a function still waits for the reader; False where its code cannot be read."""
    try:
        tree = ast.parse(source(function))
    except (OSError, TypeError, SyntaxError):
        return False
    values = [getattr(node, "value", None) for node in ast.walk(tree)]  # the `...` of z[..., None] is not one of them
    return not any(isinstance(value, ast.Constant) and value.value is ... for value in values)


def _blank(statement: Any, code: str) -> str:
    """A statement without what the reader has to find: names, loops and imports remain."""
    match statement:
        case ast.Return(value=ast.Name()) | ast.Import() | ast.ImportFrom():
            return ast.get_source_segment(code, statement) or ""
        case ast.Return(value=ast.Tuple(elts=values)) if all(isinstance(value, ast.Name) for value in values):
            return ast.get_source_segment(code, statement) or ""
        case ast.Assign() | ast.Return():
            statement.value = ast.Constant(...)
        case ast.For():
            statement.body = [ast.Expr(ast.Constant(...))]
        case _:
            return "..."
    return ast.unparse(statement)
