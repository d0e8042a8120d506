"""An exercise, and its check: the reader's function on fixed inputs, against the library and the known mistakes.

An exercise is written once, as its solution: a function (or a class) whose docstring is the task. The stub is the same
code with the lines below each docstring left blank. A known mistake is an edit of these lines, "old → new", with the
sentence that a reader gets whose function returns the same numbers. Two mistakes at once are recognised as well; for
any other difference the check says where it lies: shape, sign, factor, order, or the first wrong entry.
"""

import ast
import ctypes
import html
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations, permutations
from textwrap import dedent, indent, shorten
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from labkit.runtime import one_thread

Arguments = tuple[Any, ...]
Function = Callable[..., Any]
T = TypeVar("T")
TOLERANCE = 1e-4  # of the largest entry: above float32's rounding in any order of the sums


class Verdict(NamedTuple):
    """Result of a check; shown as its sentence."""

    passed: bool
    key: str
    """``right``, ``mistake`` (a known one, or two), ``off``, or what stopped the check, such as ``shape``."""
    text: str
    """One or more sentences for the reader."""

    def __repr__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.text}"


class Outcome(NamedTuple):
    """Values that a function returns, and the gradients of the first of them; None where it has none."""

    values: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...] | None


class About(NamedTuple):
    """Where an exercise stands, and what it takes."""

    notebook: str
    """Number of its notebook."""
    title: str
    minutes: int
    difficulty: int
    """1 to 3."""


@dataclass(frozen=True, eq=False)
class Exercise:
    """A stub to fill in, and all that surrounds it; a notebook shows it as Markdown, with the solution folded."""

    answer: Any
    """Solution, as a function or class."""
    about: About
    why: str
    """Reason to care, before the stub."""
    oracle: Any
    """The library's function or class, called like the solution."""
    inputs: Callable[[], Sequence[Arguments]]
    """Function that returns the same inputs at every call, in fresh tensors."""
    mistakes: Mapping[str, str]
    """Edit of the solution, "old → new", or several parted by "; " → sentence: what to look at, but not the answer."""
    laws: Mapping[str, Callable[[Function], tuple[Any, Any]]] = field(default_factory=dict)
    """Property of the right answer → the reader's function → the number that it gives, and the one that it should."""
    gradients: tuple[int, ...] = ()
    """Positions of the arguments by which the result is differentiated."""
    returns: tuple[str, ...] = ("the result",)
    """Name of each value that is compared."""
    adapt: Callable[[Any], Function] = lambda answer: answer
    """Answer → the function of ``inputs`` that is compared, where the answer is not this function itself."""
    seconds: float = 5.0
    """Time limit of the check."""

    @cached_property
    def solution(self) -> str:
        """Code of the solution, without its docstrings."""
        return _without_docstrings(_source(self.answer))

    @cached_property
    def stub(self) -> str:
        """The solution with the lines below each docstring left blank; their names and comments remain."""
        return _blanked(_source(self.answer))

    def check(self, answer: Any) -> Verdict:
        """The verdict on a reader's answer."""
        kind = "class" if isinstance(self.oracle, type) else "function"
        if not callable(answer) or isinstance(answer, type) != (kind == "class"):
            text = f"Please give the {kind} itself, without calling it: this is of type {type(answer).__name__}."
            return Verdict(False, "not callable", text)
        try:
            # One thread: tensors are small, and a new Python thread would have to gather a team of its own.
            with one_thread(), torch.inference_mode(False), torch.enable_grad():
                wants = _library(self)
                gots = _limited(lambda: [self._outcome(answer, i) for i in range(len(wants))], self.seconds)
                return self._judge(answer, gots, wants)
        except _Stopped as stopped:
            return stopped.verdict
        except TimeoutError:
            late = f"It was still running after {self.seconds:g} seconds, so I stopped it. Does a loop never end?"
            return Verdict(False, "endless", late)

    def edited(self, *edits: str) -> str:
        """Code of the solution with known mistakes in it.

        Raises:
            ValueError: an edit finds nothing to change.
        """
        code = self.solution
        for change in (change for edit in edits for change in edit.split("; ")):
            old, new = (part.strip() for part in change.split("→"))
            if old not in code:
                raise ValueError(f"{self.answer.__name__}: nothing to edit for {change!r}")
            code = code.replace(old, new)
        return code

    def wrong(self, *edits: str) -> Any:
        """The solution with known mistakes in it."""
        scope = dict(vars(sys.modules[self.answer.__module__]))
        exec(self.edited(*edits), scope)
        return scope[self.answer.__name__]

    def _outcome(self, answer: Any, case: int) -> Outcome:
        """The reader's outcome on one of the inputs.

        Raises:
            _Stopped: there is none, or the inputs have changed.
        """
        arguments, before = self.inputs()[case], self.inputs()[case]
        try:
            got = _outcome(self.adapt(answer), arguments, self)
        except (Exception, SystemExit) as error:
            raise _Stopped(*_error(answer, error, self)) from error
        if any(isinstance(b, Tensor) and not _close(a, b, 0) for a, b in zip(arguments, before, strict=True)):
            raise _Stopped("in place", IN_PLACE)
        return got

    def _judge(self, answer: Any, gots: Sequence[Outcome], wants: Sequence[Outcome]) -> Verdict:
        if all(map(_agree, gots, wants)):
            gradient = ", gradient included" if self.gradients else ""
            praise = f"Right: your lines give the library's numbers{gradient}. From here on, the panels can run them."
            return Verdict(True, "right", praise)
        valid = all(map(_same_values, gots, wants))  # then only the gradient tells a mistake
        for sentence, outcomes in self._known():
            if all(map(_agree if valid else _same_values, gots, outcomes)):
                return Verdict(False, "mistake", sentence)
        for got, want in zip(gots, wants, strict=True):
            problem = _malformed(got, want, self.returns) or (valid and _gradient(got, want, self))
            if problem:
                return Verdict(False, *problem)
        again = _limited(lambda: self._outcome(answer, 0), self.seconds)
        if not _same_values(again, gots[0]):
            return Verdict(False, "random", RANDOM)
        hints = self._unused(answer, gots[0]) or self._broken(answer)
        return Verdict(False, "off", f"Not yet: {_difference(gots, wants, self)}{hints}")

    def _known(self) -> Iterator[tuple[str, Sequence[Outcome]]]:
        """Sentence and outcomes of each mistake, then of each two together."""
        for edit, sentence in self.mistakes.items():
            yield sentence, _outcomes(self, edit)
        for one, two in combinations(self.mistakes, 2):
            try:
                if self.edited(one, two) != self.edited(two, one):
                    continue
                outcomes = _outcomes(self, one, two)
            except Exception:  # they exclude each other
                continue
            yield f"There are two things to mend. One: {self.mistakes[one]} Two: {self.mistakes[two]}", outcomes

    @cached_property
    def _names(self) -> Sequence[str]:
        """Names of the arguments that ``inputs`` gives."""
        names = list(inspect.signature(self.answer).parameters)
        return names[-len(self.inputs()[0]) :]

    def _unused(self, answer: Any, got: Outcome) -> str:
        """The first argument that the answer does not depend on, as a sentence."""
        for i, value in enumerate(self.inputs()[0]):
            arguments = list(self.inputs()[0])
            if isinstance(value, float) or (isinstance(value, Tensor) and value.is_floating_point()):
                arguments[i] = 0.9 * value
                try:
                    other = _limited(lambda new=tuple(arguments): _outcome(self.adapt(answer), new, self), self.seconds)
                except Exception:
                    continue
                if _same_values(other, got):
                    return f" Where does `{self._names[i]}` come in? When it changes, your numbers do not."
        return ""

    def _broken(self, answer: Any) -> str:
        """The first law that the answer breaks, as a sentence."""
        for claim, measure in self.laws.items():
            try:
                measured = _limited(lambda measure=measure: measure(self.adapt(answer)), self.seconds)
                got, want = (torch.as_tensor(value).detach().double() for value in measured)
            except Exception:
                continue
            if not _close(got, want, 1e-3):
                here = f"yours gives {got:.4g} instead of {want:.4g}" if want.ndim == 0 else "not so yours"
                return f" A good place to start: {claim}; {here}."
        return ""

    def _repr_markdown_(self) -> str:
        _, title, minutes, difficulty = self.about
        head = f"**Build it: {title}** · {minutes} min · difficulty {'●' * difficulty}{'○' * (3 - difficulty)}"
        solution = f"<details><summary>A solution</summary><pre>{html.escape(self.solution)}</pre></details>"
        return f"{head}\n\n{self.why}\n\n```python\n{self.stub}\n```\n\n{solution}\n"


UNFILLED = (
    "It returns nothing yet: fill in each `...`, and return what the docstring promises. There is no hurry, and the "
    "solution is one click away."
)
IN_PLACE = (
    "It changes its inputs in place, so whoever uses them next works with other numbers. Please make a new tensor: no "
    "`+=`, no method whose name ends in an underscore, no assignment to a part of an input."
)
NOT_FINITE = "is NaN or infinite. Which line divides by 0, or takes the logarithm or root of a negative number?"
NO_GRADIENT = (
    "The value is right, but no gradient reaches the input, so training would never notice this term. Is there a "
    "`.item()`, a `float()`, a `detach` or a `no_grad` on the way?"
)
NAN_GRADIENT = (
    "The value is right, but its gradient is NaN. A square root is infinitely steep at 0, which is each sample's "
    "distance from itself. Can you do without the root?"
)
RANDOM = "It gives other numbers each time it is called. Does it draw random numbers, and should it?"


class _Stopped(Exception):
    """A reader's function gives nothing to compare; carries the verdict."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.verdict = Verdict(False, key, text)


def _outcome(function: Function, arguments: Arguments, exercise: Exercise) -> Outcome:
    """Outcome of one call.

    Raises:
        _Stopped: it returns nothing, no numbers, or numbers that cannot be compared.
    """
    inputs = [arguments[i].requires_grad_() for i in exercise.gradients]
    result = function(*arguments)
    several = isinstance(result, (Tensor, np.ndarray)) and result.ndim and len(result) == len(exercise.returns) > 1
    results = tuple(result) if several or isinstance(result, (tuple, list)) else (result,)
    if not results or any(value is None or value is ... for value in results):
        raise _Stopped("empty", UNFILLED)
    for value in results:
        if not isinstance(value, (Tensor, np.ndarray, np.generic, int, float)):
            raise _Stopped("type", f"It returns a {type(value).__name__} where the docstring promises numbers.")
    values = [torch.as_tensor(value) for value in results]
    for value in values:
        if value.device.type != "cpu":
            raise _Stopped(
                "device", f"Its result lies on {value.device}, and its inputs lie on the CPU. Keep it there."
            )
        if value.is_complex():
            raise _Stopped("complex", "It returns complex numbers. Which part of them is meant: perhaps `.real`?")
    slopes = None
    if inputs and values[0].requires_grad and values[0].ndim == 0:
        pulls = torch.autograd.grad(values[0], inputs, allow_unused=True, materialize_grads=True)
        slopes = tuple(slope.double() for slope in pulls)
    return Outcome(tuple(value.detach().double() for value in values), slopes)


@cache
def _library(exercise: Exercise) -> tuple[Outcome, ...]:
    """Outcomes of the oracle."""
    return tuple(_outcome(exercise.adapt(exercise.oracle), case, exercise) for case in exercise.inputs())


@cache
def _outcomes(exercise: Exercise, *edits: str) -> tuple[Outcome, ...]:
    """Outcomes of the solution with known mistakes in it."""
    wrong = exercise.adapt(exercise.wrong(*edits))
    return tuple(_outcome(wrong, case, exercise) for case in exercise.inputs())


def _same_values(a: Outcome, b: Outcome) -> bool:
    return len(a.values) == len(b.values) and all(map(_close, a.values, b.values))


def _agree(a: Outcome, b: Outcome) -> bool:
    """Whether values and gradients are the same."""
    if a.slopes is None or b.slopes is None:
        return a.slopes is b.slopes and _same_values(a, b)
    return _same_values(a, b) and all(map(_close, a.slopes, b.slopes))


def _close(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether shapes agree, and entries up to a share of the largest."""
    if a.shape != b.shape:
        return False
    scale = b.detach().abs().nan_to_num(0, 0).max().item() if b.numel() else 0.0
    return torch.allclose(a.detach(), b.detach(), rtol=0.0, atol=tolerance * scale + 0.05 * tolerance, equal_nan=True)


def _malformed(got: Outcome, want: Outcome, names: Sequence[str]) -> tuple[str, str] | None:
    """Key and sentence where values cannot be compared."""
    n, shapes = len(got.values), {value.shape for value in got.values}
    if n != len(want.values):
        promised = "one value" if len(names) == 1 else f"{len(names)} values: {', '.join(names)}"
        hint = " `torch.stack` joins several tensors." if len(want.values) == len(shapes) == 1 < n else ""
        return "count", f"It returns {n} value{'s' * (n > 1)}, but the docstring promises {promised}.{hint}"
    for name, g, w in zip(names, got.values, want.values, strict=True):
        if g.shape != w.shape:
            promised = str(tuple(w.shape)) if w.ndim else "one number, of shape ()"
            hint = "Which mean, sum or axis is missing, or is there one too many?"
            if g.squeeze().shape == w.squeeze().shape:
                hint = "They differ by an axis of length 1: look at `keepdim`, `squeeze` and `[:, None]`."
            elif sorted(g.shape) == sorted(w.shape):
                hint = "It has the same axes in another order: is something transposed?"
            return "shape", f"The shape of {name} is {tuple(g.shape)}, but the docstring promises {promised}. {hint}"
        if not g.isfinite().all():
            return "nan", f"Here, {name} {NOT_FINITE}"
    return None


def _gradient(got: Outcome, want: Outcome, exercise: Exercise) -> tuple[str, str] | None:
    """Key and sentence where the values are right and the gradient is not."""
    if got.slopes is None:
        return "no gradient", NO_GRADIENT
    for i, g, w in zip(exercise.gradients, got.slopes, want.slopes or (), strict=True):
        if not g.isfinite().all():
            return "nan gradient", NAN_GRADIENT
        if not _close(g, w):
            how = f"the gradient by `{exercise._names[i]}` {_relation([(g, w)]) or 'is not what it should be'}"
            return "gradient", f"The value is right, but {how}. Is the wrong part detached?"
    return None


RELATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "is 0": lambda x: 0 * x,
    "has the wrong sign": lambda x: -x,
    "is the square of what it should be": torch.square,
    "is the square root of what it should be": torch.sqrt,
    "is the logarithm of what it should be": torch.log,
    "is the exponential of what it should be": torch.exp,
    "is one over what it should be": torch.reciprocal,
    "is one minus what it should be": lambda x: 1 - x,
    "is transposed": lambda x: x.mT if x.ndim > 1 else x,
    "has its samples in reverse order": lambda x: x.flip(0) if x.ndim else x,
}
Pairs = Sequence[tuple[Tensor, Tensor]]


def _difference(gots: Sequence[Outcome], wants: Sequence[Outcome], exercise: Exercise) -> str:
    """The first value that is wrong, and how, as the end of a sentence."""
    names, count = exercise.returns, range(len(exercise.returns))
    values = [
        [(got.values[i], want.values[j]) for got, want in zip(gots, wants, strict=True)] for i in count for j in count
    ]
    for order in list(permutations(count))[1:]:
        if all(_close(*pair) for i, j in enumerate(order) for pair in values[i * len(names) + j]):
            return f"the values are right, but they come in the wrong order. The docstring promises {', '.join(names)}."
    i = next(i for i in count if not all(_close(*pair) for pair in values[i * (len(names) + 1)]))
    pairs = values[i * (len(names) + 1)]
    cases = exercise.inputs()
    how = _relation(pairs, cases)
    for j, argument in enumerate(zip(*cases, strict=True)):
        if not how and all(getattr(a, "shape", 0) == w.shape for a, (_, w) in zip(argument, pairs, strict=True)):
            how = _relation([(g - a, w - a) for a, (g, w) in zip(argument, pairs, strict=True)], cases)
            how = how and f"minus `{exercise._names[j]}` {how}"
    text = f"{names[i]} {how or _first(*next(pair for pair in pairs if not _close(*pair)))}"
    return text if text.endswith("?") else f"{text}."


def _relation(pairs: Pairs, cases: Sequence[Arguments] = ()) -> str:
    """What the first tensor of every pair is to the second; empty where that is no simple thing."""
    if sum(want.numel() for _, want in pairs) < 2:  # one number is always a multiple of another
        return ""
    for claim, change in RELATIONS.items():
        if all(_close(got, change(want)) for got, want in pairs):
            return claim
    if all(_close(*(x.flatten().sort().values for x in pair)) for pair in pairs):
        return "holds the right numbers in the wrong order"
    if all(_close(got, want + (pairs[0][0] - pairs[0][1]).mean()) for got, want in pairs):
        return f"is off by the same number everywhere, {(pairs[0][0] - pairs[0][1]).mean():.4g}"
    factors = [_factor(got, want) for got, want in pairs]
    if all(_close(got, k * want) for k, (got, want) in zip(factors, pairs, strict=True)):
        k, spread = factors[0], max(factors) - min(factors)
        if spread < 2 * TOLERANCE * abs(k) and abs(k - 1) > 0.01:
            words = {2.0: "exactly twice", 0.5: "exactly half of"}
            return f"is {words.get(round(k, 4), f'{k:.4g} times')} what it should be"
        sizes = [abs(k) if abs(k) > 1 else 1 / (abs(k) + 1e-9) for k in factors]
        whole = all(abs(n - round(n)) < 1e-3 * n for n in sizes)
        if min(sizes) > 1.01 and (whole or all(want.numel() > 1 for _, want in pairs)):
            shapes = [next(tuple(x.shape) for x in case if isinstance(x, Tensor)) for case in cases]
            texts = [
                f"{n:.4g} times too {'large' if abs(k) > 1 else 'small'} for an input of shape {shape}"
                for n, k, shape in zip(sizes, factors, shapes, strict=True)
            ]
            return f"is {', and '.join(texts)}"
    got, want = pairs[0]
    if want.ndim > 1:
        rows = [_factor(g, w) for g, w in zip(got, want, strict=True)]
        if all(_close(g, k * w) for k, g, w in zip(rows, got, want, strict=True)):
            return f"is off by a factor that differs from sample to sample: {', '.join(f'{k:.4g}' for k in rows)}"
    return ""


def _factor(got: Tensor, want: Tensor) -> float:
    return ((got * want).sum() / want.square().sum()).item()


def _first(got: Tensor, want: Tensor) -> str:
    """The first wrong entry, and how many are right."""
    error, size = (got - want).abs(), want.abs().max()
    text = f"is {got:.4g} instead of {want:.4g}" if want.ndim == 0 else ""
    if want.ndim:
        bad = error > TOLERANCE * size
        at, right = tuple(bad.nonzero()[0].tolist()), int((~bad).sum())
        text = f"is {got[at]:.4g} instead of {want[at]:.4g} at {list(at)}; {right} of {bad.numel()} numbers are right"
    if error.max() < 0.01 * size:
        return f"{text}. It is close, but further off than rounding in float32 explains"
    if (got == got.round()).all() and (want != want.round()).any():
        return f"{text}. Only whole numbers come out: is there an integer type, a `//` or a rounding?"
    return text


def _error(answer: Any, error: BaseException, exercise: Exercise) -> tuple[str, str]:
    """Key and sentence for an answer that raised an error: type, message, and the line of the reader's code."""
    if isinstance(error, _Stopped):
        return error.verdict.key, error.verdict.text
    if "ellipsis" in str(error).lower():
        return "empty", UNFILLED
    if "in-place operation" in str(error) and exercise.gradients:
        return "in place", IN_PLACE
    functions = vars(answer).values() if isinstance(answer, type) else [answer]
    files = {f.__code__.co_filename for f in functions if hasattr(f, "__code__")}
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    where = f" The line: `{own[-1].line}`." if own and own[-1].line else f" Line {own[-1].lineno}." if own else ""
    if isinstance(error, TypeError) and not own and "argument" in str(error):
        solution = exercise.answer
        where = f" The check calls it as `{solution.__name__}{inspect.signature(solution)}`."
    message = shorten(str(error), 300).rstrip(".")
    return "error", f"It stopped with {type(error).__name__}: {message}.{where}"


class _Interrupted(BaseException):
    """Raised inside a thread whose time is over; no ``except Exception`` catches it."""


def _limited(work: Callable[[], T], seconds: float) -> T:
    """The result of ``work``, done in another thread.

    Raises:
        TimeoutError: it takes longer. The thread is asked to end, which any loop of Python does.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, daemon=True, name="labkit-check")
    thread.start()
    try:
        done.wait(seconds)  # Thread.join takes a thread for finished when Ctrl-C ends the waiting (Python 3.11)
    finally:
        if not done.is_set() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Interrupted))
    if results:
        return results[0]
    if errors and not isinstance(errors[0], _Interrupted):
        raise errors[0]
    raise TimeoutError


def _source(answer: Any) -> str:
    return dedent(inspect.getsource(answer)).strip()


def _documented(source: str) -> list[Any]:
    """Functions and classes with a docstring, the last first, so that lines can be replaced one after another."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds) and ast.get_docstring(node)]
    return sorted(nodes, key=lambda node: -node.lineno)


def _without_docstrings(source: str) -> str:
    lines = source.splitlines()
    for node in _documented(source):
        del lines[node.body[0].lineno - 1 : node.body[1].lineno - 1]
    return "\n".join(lines)


def _blanked(source: str) -> str:
    lines = source.splitlines()
    for node in _documented(source):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:]
            blanks: list[str] = []
            for statement in body:
                comment = lines[statement.end_lineno - 1].partition("  # ")[1:]
                blank = _blank(statement, source) + "".join(comment)
                if blanks[-1:] != [blank]:
                    blanks.append(blank)
            text = indent("\n".join(blanks), " " * body[0].col_offset)
            lines[body[0].lineno - 1 : body[-1].end_lineno] = text.splitlines()
    return "\n".join(lines)


def _blank(statement: Any, source: str) -> str:
    """A statement without what the reader has to find: names, loops and imports remain."""
    match statement:
        case ast.Return(value=ast.Name()) | ast.Import() | ast.ImportFrom():
            return ast.get_source_segment(source, statement) or ""
        case ast.Return(value=ast.Tuple(elts=values)) if all(isinstance(value, ast.Name) for value in values):
            return ast.get_source_segment(source, statement) or ""
        case ast.Assign() | ast.Return():
            statement.value = ast.Constant(...)
        case ast.For():
            statement.body = [ast.Expr(ast.Constant(...))]
        case _:
            return "..."
    return ast.unparse(statement)


def numbers(*shape: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Gaussian numbers, the same at every call."""
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=draw, dtype=torch.float32) + shift
