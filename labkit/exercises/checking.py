"""An exercise, and its check: the reader's function on fixed inputs, against the library and the known mistakes.

An exercise is its solution, a function (or a class) whose docstring is the task. A known mistake is an edit of the
lines below the docstring, "old → new", with the sentence that a reader gets whose function returns the same numbers.
Two mistakes at once are recognised as well; for any other difference the check says where it lies: shape, sign, factor,
order, or the first wrong entry.
"""

import ctypes
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations
from textwrap import shorten
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from labkit.exercises.answers import filled, source, without_docstrings
from labkit.exercises.differences import Outcome, Stopped, check_form, check_gradient, close, difference
from labkit.runtime import one_thread
from labkit.terminal import wrapped

Arguments = tuple[Any, ...]
Function = Callable[..., Any]
T = TypeVar("T")


class Verdict(NamedTuple):
    """Result of a check; shown as its sentence."""

    passed: bool
    text: str
    """One or more sentences for the reader."""

    def __repr__(self) -> str:
        sign = "✓" if self.passed else "○" if self.text == UNFILLED else "✗"
        return wrapped(f"{sign} {self.text}", indent="  ")


@dataclass(frozen=True, eq=False)
class Exercise:
    """A solution and how an answer is judged; stub, minutes and the folded solution for readers are in the notebook."""

    answer: Any
    """Solution, as a function or class."""
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
    used: bool = True
    """Whether a later cell of its notebook runs the reader's answer."""

    @cached_property
    def solution(self) -> str:
        """Code of the solution, without its docstrings."""
        return without_docstrings(source(self.answer))

    def check(self, answer: Any) -> Verdict:
        """The verdict on a reader's answer."""
        kind = "class" if isinstance(self.oracle, type) else "function"
        if not callable(answer) or isinstance(answer, type) != (kind == "class"):
            text = f"Please give the {kind} itself, without calling it: this is of type {type(answer).__name__}."
            return Verdict(False, text)
        try:
            # One thread: tensors are small, and a new Python thread would have to gather a team of its own.
            with one_thread(), torch.inference_mode(False), torch.enable_grad():
                wants = _outcomes(self)
                gots = _limited(lambda: [self._outcome(answer, i) for i in range(len(wants))], self.seconds)
                return self._judge(answer, gots, wants)
        except Stopped as stopped:
            return Verdict(False, stopped.text)
        except TimeoutError:
            late = f"It was still running after {self.seconds:g} seconds, so I stopped it. Does a loop never end?"
            return Verdict(False, late)

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
            Stopped: there is none, or the inputs have changed.
        """
        arguments, before = self.inputs()[case], self.inputs()[case]
        try:
            got = _outcome(self.adapt(answer), arguments, self)
        except Stopped as stopped:
            if stopped.text == UNFILLED and filled(getattr(answer, "forward", answer)):
                raise Stopped(NO_RETURN) from None
            raise
        except (Exception, SystemExit) as error:
            raise Stopped(_error(answer, error, self)) from error
        if any(isinstance(b, Tensor) and not close(a, b, 0) for a, b in zip(arguments, before, strict=True)):
            raise Stopped(IN_PLACE)
        return got

    def _judge(self, answer: Any, gots: Sequence[Outcome], wants: Sequence[Outcome]) -> Verdict:
        if all(map(Outcome.agrees, gots, wants)):
            gradient = ", gradient included" if self.gradients else ""
            later = " The cells below run them from now on." if self.used else ""
            return Verdict(True, f"Right: your lines give the library's numbers{gradient}.{later}")
        valid = all(map(Outcome.same_values, gots, wants))  # then only the gradient tells a mistake
        for sentence, outcomes in self._known():
            if all(map(Outcome.agrees if valid else Outcome.same_values, gots, outcomes)):
                return Verdict(False, sentence)
        for got, want in zip(gots, wants, strict=True):
            check_form(got, want, self.returns)
        function = getattr(self.answer, "forward", self.answer)
        names = list(inspect.signature(function).parameters)[-len(self.inputs()[0]) :]
        slopes = [names[i] for i in self.gradients]
        for got, want in zip(gots, wants, strict=True) if valid else ():
            check_gradient(got, want, slopes)
        again = _limited(lambda: self._outcome(answer, 0), self.seconds)
        if not again.same_values(gots[0]):
            return Verdict(False, RANDOM)
        inputs = dict(zip(names, zip(*self.inputs(), strict=True), strict=True))
        hint = self._unused(answer, gots[0], names) or self._broken(answer)
        return Verdict(False, f"Not yet: {difference(gots, wants, self.returns, inputs)}{hint}")

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

    def _unused(self, answer: Any, got: Outcome, names: Sequence[str]) -> str:
        """The first argument that the answer does not depend on, as a sentence."""
        for i, value in enumerate(self.inputs()[0]):
            arguments = list(self.inputs()[0])
            if isinstance(value, float) or (isinstance(value, Tensor) and value.is_floating_point()):
                wave = torch.arange(value.numel()).sin().view_as(value) if isinstance(value, Tensor) else 1.0
                arguments[i] = value - 0.1 * wave  # for some functions, a mere scale changes nothing
                try:
                    other = _limited(lambda new=tuple(arguments): _outcome(self.adapt(answer), new, self), self.seconds)
                except Exception:
                    continue
                if other.same_values(got):
                    return f" Where does `{names[i]}` come in? When it changes, your numbers do not."
        return ""

    def _broken(self, answer: Any) -> str:
        """The first law that the answer breaks, as a sentence."""
        for claim, measure in self.laws.items():
            try:
                measured = _limited(lambda measure=measure: measure(self.adapt(answer)), self.seconds)
                got, want = (torch.as_tensor(value).detach().double() for value in measured)
            except Exception:
                continue
            if not close(got, want, 1e-3):
                here = f"; yours gives {got:.4g} instead of {want:.4g}" if want.ndim == 0 else ", but not for yours"
                return f" A good place to start: {claim}{here}."
        return ""


UNFILLED = (
    "Still to be written: it returns nothing yet. Replace each `...`, and return what the docstring promises. Nothing "
    "below waits for it, and a solution is one click away."
)
NO_RETURN = (
    "It returns nothing, although no `...` is left in it. Is there a `return`, followed by what the docstring promises?"
)
IN_PLACE = (
    "It changes its inputs in place, so whoever uses them next works with other numbers. Please make a new tensor: no "
    "`+=`, no method whose name ends in an underscore, no assignment to a part of an input."
)
RANDOM = "It gives other numbers each time it is called. Does it draw random numbers, and should it?"


def filled_in(value: T) -> T:
    """Result of a reader's function.

    Raises:
        Stopped: it is what a stub returns.
    """
    if value is None or value is ...:
        raise Stopped(UNFILLED)
    return value


def _outcome(function: Function, arguments: Arguments, exercise: Exercise) -> Outcome:
    """Outcome of one call.

    Raises:
        Stopped: it returns nothing, no numbers, or numbers that cannot be compared.
    """
    inputs = [arguments[i].requires_grad_() for i in exercise.gradients]
    result = function(*arguments)
    several = isinstance(result, (Tensor, np.ndarray)) and result.ndim and len(result) == len(exercise.returns) > 1
    results = tuple(result) if several or isinstance(result, (tuple, list)) else (result,)
    for value in [filled_in(value) for value in results or (None,)]:
        if not isinstance(value, (Tensor, np.ndarray, np.generic, int, float)):
            raise Stopped(f"It returns a {type(value).__name__} where the docstring promises numbers.")
    values = [torch.as_tensor(value) for value in results]
    for value in values:
        if value.device.type != "cpu":
            raise Stopped(f"Its result lies on {value.device}, and its inputs lie on the CPU. Keep it there.")
        if value.is_complex():
            raise Stopped("It returns complex numbers. Which part of them is meant: perhaps `.real`?")
    slopes = None
    if inputs and values[0].requires_grad and values[0].ndim == 0:
        pulls = torch.autograd.grad(values[0], inputs, allow_unused=True, materialize_grads=True)
        slopes = tuple(slope.double() for slope in pulls)
    return Outcome(tuple(value.detach().double() for value in values), slopes)


@cache
def _outcomes(exercise: Exercise, *edits: str) -> tuple[Outcome, ...]:
    """Outcomes of the solution with known mistakes in it; without any, those of the oracle."""
    function = exercise.adapt(exercise.wrong(*edits) if edits else exercise.oracle)
    return tuple(_outcome(function, case, exercise) for case in exercise.inputs())


def _error(answer: Any, error: BaseException, exercise: Exercise) -> str:
    """Sentence for an answer that raised an error: type, message, and the line of the reader's code."""
    if "ellipsis" in str(error).lower():
        return UNFILLED
    if "in-place operation" in str(error) and exercise.gradients:
        return IN_PLACE
    functions = vars(answer).values() if isinstance(answer, type) else [answer]
    files = {f.__code__.co_filename for f in functions if hasattr(f, "__code__")}
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    where = f" The line: `{own[-1].line}`." if own and own[-1].line else f" Line {own[-1].lineno}." if own else ""
    if isinstance(error, TypeError) and not own and "argument" in str(error):
        solution = exercise.answer
        where = f" The check calls it as `{solution.__name__}{inspect.signature(solution)}`."
    message = shorten(str(error), 300).rstrip(".")
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return f"It stopped with {type(error).__name__}: {message}.{where}{notes}"


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


def numbers(*shape: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Gaussian numbers, the same at every call."""
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=draw, dtype=torch.float32) + shift
