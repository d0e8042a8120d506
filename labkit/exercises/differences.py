"""Where two outcomes of a function differ, in words: count, shape, sign, factor, order, gradient, or first entry."""

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-4  # of the largest entry: above float32's rounding in any order of the sums
NOT_FINITE = "is NaN or infinite. Which line divides by 0, or takes the logarithm or root of a negative number?"
NO_GRADIENT = (
    "The value is right, but no gradient reaches the input, so training would never notice this term. Is there a "
    "`.item()`, a `float()`, a `detach` or a `no_grad` on the way?"
)
NAN_GRADIENT = (
    "The value is right, but its gradient is NaN. A square root is infinitely steep at 0, which is each sample's "
    "distance from itself. Can you do without the root?"
)
Pairs = Sequence[tuple[Tensor, Tensor]]


class Outcome(NamedTuple):
    """Values that a function returns, and the gradients of the first of them; None where it has none."""

    values: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...] | None

    def same_values(self, other: "Outcome") -> bool:
        return len(self.values) == len(other.values) and all(map(close, self.values, other.values))

    def agrees(self, other: "Outcome") -> bool:
        """Whether values and gradients are the same."""
        if self.slopes is None or other.slopes is None:
            return self.slopes is other.slopes and self.same_values(other)
        return self.same_values(other) and all(map(close, self.slopes, other.slopes))


class Stopped(Exception):
    """A check that ends early, since a reader's function gives nothing to compare; carries the verdict."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def close(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether shapes agree, and entries up to a share of the largest."""
    if a.shape != b.shape:
        return False
    scale = b.detach().abs().nan_to_num(0, 0).max().item() if b.numel() else 0.0
    return torch.allclose(a.detach(), b.detach(), rtol=0.0, atol=tolerance * scale + 0.05 * tolerance, equal_nan=True)


def check_form(got: Outcome, want: Outcome, names: Sequence[str]) -> None:
    """Stop where values cannot be compared, since their number or shape is another, or they are not finite."""
    n, shapes = len(got.values), {value.shape for value in got.values}
    if n != len(want.values):
        promised = "one value" if len(names) == 1 else f"{len(names)} values: {', '.join(names)}"
        hint = " `torch.stack` joins several tensors." if len(want.values) == len(shapes) == 1 < n else ""
        raise Stopped(f"It returns {n} value{'s' * (n > 1)}, but the docstring promises {promised}.{hint}")
    for name, g, w in zip(names, got.values, want.values, strict=True):
        if g.shape != w.shape:
            promised = str(tuple(w.shape)) if w.ndim else "one number, of shape ()"
            hint = "Which mean, sum or axis is missing, or is there one too many?"
            if g.squeeze().shape == w.squeeze().shape:
                hint = "They differ by an axis of length 1: look at `keepdim`, `squeeze` and `[:, None]`."
            elif sorted(g.shape) == sorted(w.shape):
                hint = "It has the same axes in another order: is something transposed?"
            shape = f"The shape of {name} is {tuple(g.shape)}, but the docstring promises {promised}."
            raise Stopped(f"{shape} {hint}")
        if not g.isfinite().all():
            raise Stopped(f"Here, {name} {NOT_FINITE}")


def check_gradient(got: Outcome, want: Outcome, arguments: Sequence[str]) -> None:
    """Stop where the values are right and the gradient by one of the arguments is not."""
    if got.slopes is None:
        raise Stopped(NO_GRADIENT)
    for argument, g, w in zip(arguments, got.slopes, want.slopes or (), strict=True):
        if not g.isfinite().all():
            raise Stopped(NAN_GRADIENT)
        if not close(g, w):
            how = _relation([(g, w)]) or "is not what it should be"
            text = f"The value is right, but its gradient with respect to `{argument}` {how}."
            raise Stopped(f"{text} Is a part detached that should not be, or the other way round?")


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


def difference(
    gots: Sequence[Outcome], wants: Sequence[Outcome], names: Sequence[str], inputs: Mapping[str, Sequence[Any]]
) -> str:
    """The first value that is wrong, and how, as the end of a sentence.

    Args:
        gots, wants: outcomes in several cases.  names: of the values.  inputs: argument → its value in each case.
    """

    def pairs(i: int, j: int) -> Pairs:
        return [(got.values[i], want.values[j]) for got, want in zip(gots, wants, strict=True)]

    count = range(len(names))
    for order in permutations(count):
        if order != tuple(count) and all(close(*pair) for i, j in enumerate(order) for pair in pairs(i, j)):
            return f"the values are right, but they come in the wrong order. The docstring promises {', '.join(names)}."
    i = next(i for i in count if not all(close(*pair) for pair in pairs(i, i)))
    shapes = [[tuple(v.shape) for v in values] for values in inputs.values() if isinstance(values[0], Tensor)]
    how = _relation(pairs(i, i), *shapes[:1])
    for argument, values in inputs.items():
        if not how and all(getattr(v, "shape", 0) == w.shape for v, (_, w) in zip(values, pairs(i, i), strict=True)):
            how = _relation([(g - v, w - v) for v, (g, w) in zip(values, pairs(i, i), strict=True)], *shapes[:1])
            how = how and f"minus `{argument}` {how}"
    text = f"{names[i]} {how or _first(*next(pair for pair in pairs(i, i) if not close(*pair)))}"
    return text if text.endswith("?") else f"{text}."


def _relation(pairs: Pairs, shapes: Sequence[tuple[int, ...]] = ()) -> str:
    """What the first tensor of every pair is to the second, for inputs of these shapes; empty if nothing simple."""
    if sum(want.numel() for _, want in pairs) < 2:  # one number is always a multiple of another
        return ""
    for claim, change in RELATIONS.items():
        if all(close(got, change(want)) for got, want in pairs):
            return claim
    if all(close(got.flatten().sort().values, want.flatten().sort().values) for got, want in pairs):
        return "holds the right numbers in the wrong order"
    if all(close(got, want + (pairs[0][0] - pairs[0][1]).mean()) for got, want in pairs):
        return f"is off by the same number everywhere, {(pairs[0][0] - pairs[0][1]).mean():.4g}"
    factors = [_factor(got, want) for got, want in pairs]
    if all(close(got, k * want) for k, (got, want) in zip(factors, pairs, strict=True)):
        k, spread = factors[0], max(factors) - min(factors)
        if spread < 2 * TOLERANCE * abs(k) and abs(k - 1) > 0.01:
            words = {2.0: "exactly twice", 0.5: "exactly half of"}
            return f"is {words.get(round(k, 4), f'{k:.4g} times')} what it should be"
        sizes = [abs(k) if abs(k) > 1 else 1 / (abs(k) + 1e-9) for k in factors]
        whole = all(abs(n - round(n)) < 1e-3 * n for n in sizes)
        if shapes and min(sizes) > 1.01 and (whole or all(want.numel() > 1 for _, want in pairs)):
            texts = [
                f"{n:.4g} times too {'large' if abs(k) > 1 else 'small'} for an input of shape {shape}"
                for n, k, shape in zip(sizes, factors, shapes, strict=True)
            ]
            return f"is {', and '.join(texts)}"
    got, want = pairs[0]
    if want.ndim > 1:
        rows = [_factor(g, w) for g, w in zip(got, want, strict=True)]
        if all(close(g, k * w) for k, g, w in zip(rows, got, want, strict=True)):
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
