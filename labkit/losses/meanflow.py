"""MeanFlow's identity and its loss (Geng et al. 2025), in our direction of time: t = 0 is noise, t = 1 data, s ≥ t.

The average velocity u over a span is defined by (s − t)·u(x_t, t, s) = ∫ v dτ from t to s. Differentiated by t along
the path, where dx_t/dt = v and s stands still, it says what u must be without any integral (its eq. 6, time reversed):

    u = v + (s − t)·du/dt,      du/dt = ∂u/∂x·v + ∂u/∂t

The right side, taken from the network itself and detached, is the target. At s = t it is v: flow matching.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from labkit.checks import as_interval, check_number
from labkit.ops import expand_like

Average = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def average_velocity_target(
    u: Average,
    x_t: Float[Tensor, "batch ..."],
    t: Float[Tensor, " batch"],
    span: Float[Tensor, " batch"],
    velocity: Float[Tensor, "batch ..."],
) -> Float[Tensor, "batch ..."]:
    """v + (s − t)·du/dt, without gradient.

    Args:
        u: (x_t, t, s − t) → average velocity, differentiable in forward mode.  x_t: points.
        t: their times in [0, 1].  span: s − t ≥ 0.  velocity: v at the points.
    """
    slope = tangent(u, (x_t, t, span), (velocity, torch.ones_like(t), -torch.ones_like(t)))
    return velocity + expand_like(span, x_t) * slope


def tangent(
    f: Callable[..., Tensor], point: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> Float[Tensor, "batch ..."]:
    """The derivative of f at a point along a direction, in forward mode (a Jacobian-vector product), without gradient.

    Fused attention has no such derivative, so that it is computed here in its plain form.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        if torch.compiler.is_compiling():
            point = tuple(p.clone() for p in point)  # the compiler cannot trace the derivative of a view
            return torch.func.jvp(f, point, direction)[1]
        with forward.dual_level(), _Constants():
            output = f(*(forward.make_dual(p, d) for p, d in zip(point, direction, strict=True)))
            slope = forward.unpack_dual(output).tangent
            return torch.zeros_like(output) if slope is None else slope


class _Constants(TorchFunctionMode):
    """Linear layers and sums in which one operand has no tangent.

    torch would make a tangent of zeros for it, which takes half of the time of a small network, at any batch size.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and not kwargs and len(args) == 3:
            x, weight, bias = args
            value, slope = forward.unpack_dual(x)
            if slope is not None:
                return forward.make_dual(F.linear(value, weight, bias), F.linear(slope, weight))
        if func in SUMS and not kwargs and len(args) == 2:
            values, slopes = zip(*(_parts(term) for term in args), strict=True)
            tangents = [slope for slope in slopes if slope is not None]
            if len(tangents) == 1 and tangents[0].shape == (total := func(*values)).shape:
                return forward.make_dual(total, tangents[0].to(total.dtype))  # under autocast, bfloat16 + float32
        return func(*args, **(kwargs or {}))


SUMS = (Tensor.__add__, Tensor.__radd__, Tensor.add)


def _parts(term: Tensor | float) -> tuple[Tensor | float, Tensor | None]:
    """Value and tangent, None for a constant."""
    return forward.unpack_dual(term) if isinstance(term, Tensor) else (term, None)


def adaptive_loss(squared: Float[Tensor, " batch"], power: float, constant: float) -> Float[Tensor, " batch"]:
    """e/(e + c)^p of each sample, the divisor detached (eq. 22): with p = 1 it stays near 1 while e falls.

    Args:
        squared: e, the squared error summed over a sample's entries.  power: p ≥ 0.  constant: c > 0.
    """
    return squared / (squared.detach() + constant) ** power


@dataclass(frozen=True)
class MeanFlow:
    """Settings of MeanFlow (Geng et al. 2025): times and weight as in its ImageNet runs, but without guidance.

    A pair of times is drawn logit-normal and sorted, t ≤ s. Most samples train at s = t, where the average velocity is
    the velocity itself; a fixed share of each batch trains over a span. With guidance ω and mixing κ the target
    velocity is ω·v + κ·u(x, t, t | y) + (1 − ω − κ)·u(x, t, t | no label); with κ = 0 this is classifier-free guidance
    of scale ω, built into the network. The released code trains with ω = 1, κ = 0.5 at all times; the published XL/2
    with ω = 0.2, κ = 0.92 at t ≥ 0.25 (``recipes.imagenet256``).
    """

    share: float = 0.25
    """Share of samples that train over a span s > t, in (0, 1]."""
    mean: float = 0.4
    """Mean of the logit of the times; above 0 they lie nearer to the data."""
    deviation: float = 1.0
    """Standard deviation of the logit of the times, above 0."""
    power: float = 1.0
    """Power p ≥ 0 of the weight 1/(e + c)^p, where e is a sample's summed squared error. 0 is no weight."""
    constant: float = 0.01
    """Constant c > 0 of the weight 1/(e + c)^p."""
    guidance: float = 1.0
    """Guidance ω > 0 of the target velocity. 1 is none."""
    mixing: float = 0.0
    """Mixing κ from 0 to below 1; the effective scale of the guidance is ω/(1 − κ)."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """First and last time t of the guidance, from 0 (noise) to 1 (data); the sources of MeanFlow count 1 − t. At other
    times the target is the velocity of the path."""

    def __post_init__(self) -> None:
        interval = as_interval("meanflow.guidance_interval", self.guidance_interval)
        object.__setattr__(self, "guidance_interval", interval)
        check_number("meanflow.share", self.share, above=0, most=1)
        check_number("meanflow.mean", self.mean)
        check_number("meanflow.deviation", self.deviation, above=0)
        check_number("meanflow.power", self.power, least=0)
        check_number("meanflow.constant", self.constant, above=0)
        check_number("meanflow.guidance", self.guidance, above=0, why="where 1 is none")
        check_number("meanflow.mixing", self.mixing, least=0, below=1)

    @property
    def guided(self) -> bool:
        """Whether the target differs from the velocity of the path."""
        return (self.guidance, self.mixing) != (1.0, 0.0)
