"""An exercise, and its check: the reader's function on fixed inputs, against an oracle and the known mistakes.

Where the two differ, the check looks for a known mistake that gives the reader's very numbers, and names it. Otherwise
it says how far off the function is, and which property it breaks first. All of this runs in a thread with a time limit:
an endless loop is interrupted and leaves the kernel alive.
"""

import ctypes
import html
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from textwrap import shorten
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from labkit.runtime import one_thread

Arguments = tuple[Any, ...]
Function = Callable[..., Any]
T = TypeVar("T")
TOLERANCE = 1e-4  # of the largest entry: above float32's rounding in any order of the sums


class Mistake(NamedTuple):
    """A known wrong answer."""

    key: str
    """Short name."""
    sentence: str
    """What to look at, but not the answer."""
    answer: Any
    """The mistake as code, of the same form as the reader's."""


class Law(NamedTuple):
    """A property of the right answer, to point at when no known mistake fits."""

    claim: str
    """The property, as the end of a sentence."""
    measure: Callable[[Function], tuple[Any, Any]]
    """The reader's function → the number that it gives, and the one that it should give."""
    tolerance: float = 1e-3
    """Allowed relative error."""


class Verdict(NamedTuple):
    """Result of a check; shown as its sentence."""

    passed: bool
    key: str
    """``right``, the key of a mistake, or what stopped the check."""
    text: str
    """One or two sentences for the reader."""

    def __repr__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.text}"


def _same(answer: Any) -> Function:
    return answer


@dataclass(frozen=True)
class Exercise:
    """A stub to fill in, and all that surrounds it; a notebook shows it as Markdown, with the solution folded."""

    name: str
    """Name of the exercise and of the function in its stub, if the stub is a function."""
    notebook: str
    """Number of its notebook."""
    title: str
    minutes: int
    difficulty: int
    """1 to 3."""
    why: str
    """Reason to care, before the stub."""
    stub: str
    solution: str
    oracle: Any
    """The right answer, of the same form as the reader's."""
    cases: Callable[[], Sequence[Arguments]]
    """Function that returns the same inputs at every call, in fresh tensors."""
    mistakes: tuple[Mistake, ...]
    laws: tuple[Law, ...] = ()
    gradients: tuple[int, ...] = ()
    """Positions of the arguments by which the result is differentiated."""
    adapt: Callable[[Any], Function] = field(default=_same)
    """Answer → the function of ``cases`` that is compared, where the answer is not this function itself."""
    seconds: float = 5.0
    """Time limit of the check."""

    def check(self, answer: Any) -> Verdict:
        """The verdict on a reader's answer."""
        kind = "class" if isinstance(self.oracle, type) else "function"
        if not callable(answer) or isinstance(answer, type) != (kind == "class"):
            text = f"Give the {kind} itself: what you gave is of type {type(answer).__name__}."
            return Verdict(False, "not callable", text)
        try:
            # One thread: tensors are small, and a new Python thread would have to gather a team of its own.
            with one_thread(), torch.inference_mode(False), torch.enable_grad():
                wants = _reference(self, self.oracle)
                gots = _limited(lambda: self._outcomes(answer), self.seconds)
                return gots if isinstance(gots, Verdict) else self._judge(answer, gots, wants)
        except TimeoutError:
            late = f"It was still running after {self.seconds:g} seconds, so I stopped it. Does a loop never end?"
            return Verdict(False, "endless", late)

    def _outcomes(self, answer: Any) -> "list[Outcome] | Verdict":
        """The answer's outcome in every case; a verdict where one has none, or changes its inputs."""
        gots: list[Outcome] = []
        for arguments, before in zip(self.cases(), self.cases(), strict=True):
            try:
                got = _outcome(self.adapt(answer), arguments, self.gradients)
            except (Exception, SystemExit) as error:
                return _stopped(answer, error)
            if isinstance(got, Verdict):
                return got
            if any(isinstance(b, Tensor) and not _close(a, b, 0) for a, b in zip(arguments, before, strict=True)):
                return Verdict(False, "in place", IN_PLACE)
            gots.append(got)
        return gots

    def _judge(self, answer: Any, gots: "list[Outcome]", wants: "Sequence[Outcome]") -> Verdict:
        if all(map(_agree, gots, wants)):
            gradient = ", gradient included" if self.gradients else ""
            praise = f"Right: your lines give the library's numbers{gradient}. From here on the panels can run them."
            return Verdict(True, "right", praise)
        # Where all values are right, only the gradient tells a mistake.
        valid = all(map(_same_values, gots, wants))
        for mistake in self.mistakes:
            if all(map(_agree if valid else _same_values, gots, _reference(self, mistake.answer))):
                return Verdict(False, mistake.key, mistake.sentence)
        return self._described(answer, gots, wants, valid)

    def _described(self, answer: Any, gots: "list[Outcome]", wants: "Sequence[Outcome]", valid: bool) -> Verdict:
        """The verdict where no known mistake fits."""
        for got, want in zip(gots, wants, strict=True):
            shapes, right = ([tuple(v.shape) for v in each.values] for each in (got, want))
            if shapes != right:
                text = f"It returns {_shapes(shapes)}, but the docstring promises {_shapes(right)}."
                return Verdict(False, "shape", f"{text} Which mean, sum or axis is missing, or one too many?")
            if not all(v.isfinite().all() for v in got.values):
                return Verdict(False, "nan", NOT_FINITE)
            if valid and got.slopes is None:
                return Verdict(False, "no gradient", NO_GRADIENT)
            if valid and got.slopes is not None and not all(s.isfinite().all() for s in got.slopes):
                return Verdict(False, "nan gradient", NAN_GRADIENT)
        if valid:
            return Verdict(False, "gradient", WRONG_GRADIENT)
        pairs = (
            (g, w) for got, want in zip(gots, wants, strict=True) for g, w in zip(got.values, want.values, strict=True)
        )
        got, want = next((g, w) for g, w in pairs if not _close(g, w))
        off = f"{got:.4g} instead of {want:.4g}" if got.ndim == 0 else f"off by up to {(got - want).abs().max():.2g}"
        return Verdict(
            False, "off", f"Not yet: on the first inputs where it differs, it is {off}.{self._broken(answer)}"
        )

    def _broken(self, answer: Any) -> str:
        """The first law that the answer breaks, as a sentence."""
        for law in self.laws:
            try:
                measured = _limited(lambda law=law: law.measure(self.adapt(answer)), self.seconds)
                got, want = (torch.as_tensor(value).detach().double() for value in measured)
            except Exception:
                continue
            if got.ndim == want.ndim == 0 and not _close(got, want, law.tolerance):
                return f" A good place to start: {law.claim}; yours gives {got:.4g} instead of {want:.4g}."
        return ""

    def _repr_markdown_(self) -> str:
        stars = "●" * self.difficulty + "○" * (3 - self.difficulty)
        code = html.escape(self.solution.strip())
        solution = f"<details><summary>A solution</summary><pre>{code}</pre></details>"
        head = f"**Build it: {self.title}** · {self.minutes} min · difficulty {stars}"
        return f"{head}\n\n{self.why}\n\n```python\n{self.stub.strip()}\n```\n\n{solution}\n"


UNFILLED = (
    "It returns nothing yet: fill in each `...`, and return what the docstring promises. There is no hurry, and the "
    "solution is one click away."
)
IN_PLACE = (
    "It changes its inputs in place, and whoever calls it next works with other numbers. Make a new tensor: no `+=`, "
    "no method that ends in an underscore, no assignment into a slice of an input."
)
NOT_FINITE = (
    "It returns NaN or infinity. Which line divides by 0, or takes a logarithm or a root of something negative?"
)
NO_GRADIENT = (
    "The value is right, but no gradient reaches the input, so training would never notice this term. Is there a "
    "`.item()`, a `detach` or a `no_grad` on the way?"
)
NAN_GRADIENT = (
    "The value is right, but its gradient is NaN: a square root has an infinite slope at 0, where every sample's "
    "distance from itself lies. Can you do without the root?"
)
WRONG_GRADIENT = "The value is right, but the gradient is not. Is a part of it detached that should not be?"


class Outcome(NamedTuple):
    """Values that a function returns, and the gradients of the first of them; None where it has none."""

    values: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...] | None


def _outcome(function: Function, arguments: Arguments, gradients: Sequence[int]) -> "Outcome | Verdict":
    """Outcome of one call; a verdict where it returns nothing, or no numbers."""
    inputs = [arguments[i].requires_grad_() for i in gradients]
    result = function(*arguments)
    results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if not results or any(value is None or value is ... for value in results):
        return Verdict(False, "empty", UNFILLED)
    for value in results:
        if not isinstance(value, (Tensor, np.ndarray, np.generic, int, float)):
            return Verdict(False, "type", f"It returns a {type(value).__name__} where the docstring promises numbers.")
    values = [torch.as_tensor(value) for value in results]
    slopes = None
    first = values[0]
    if inputs and first.requires_grad and first.ndim == 0:
        pulls = torch.autograd.grad(first, inputs, allow_unused=True, materialize_grads=True)
        slopes = tuple(slope.double() for slope in pulls)
    return Outcome(tuple(value.detach().double() for value in values), slopes)


@cache
def _reference(exercise: Exercise, answer: Any) -> tuple[Outcome, ...]:
    """Outcomes of the oracle or of a known mistake."""
    outcomes = tuple(_outcome(exercise.adapt(answer), case, exercise.gradients) for case in exercise.cases())
    assert all(isinstance(outcome, Outcome) for outcome in outcomes), f"{exercise.name}: no numbers"
    return cast(tuple[Outcome, ...], outcomes)


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
    scale = b.detach().abs().max().item() if b.numel() else 0.0
    return torch.allclose(a.detach(), b.detach(), rtol=0.0, atol=tolerance * scale + 0.05 * tolerance, equal_nan=True)


def _stopped(answer: Any, error: BaseException) -> Verdict:
    """The verdict on an answer that raised an error: type, message, and the line of the reader's code."""
    if "ellipsis" in str(error).lower():
        return Verdict(False, "empty", UNFILLED)
    if "in-place operation" in str(error):
        return Verdict(False, "in place", IN_PLACE)
    code = getattr(answer.__init__ if isinstance(answer, type) else answer, "__code__", None)
    file = None if code is None else code.co_filename
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" The line: `{own[-1].line}`." if own and own[-1].line else f" Line {own[-1].lineno}." if own else ""
    message = shorten(str(error), 300)
    return Verdict(False, "error", f"It stopped with {type(error).__name__}: {message.rstrip('.')}.{where}")


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


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    texts = ["one number" if shape == () else f"shape {shape}" for shape in shapes]
    return " and ".join(texts)


def numbers(*shape: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Gaussian numbers, the same at every call."""
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=draw, dtype=torch.float32) + shift
