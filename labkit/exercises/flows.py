"""Exercises on flow matching, the transformer, training and sampling, and MeanFlow (notebooks 01 and 08)."""

import copy
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from labkit import recipes
from labkit.config import Config, Optimizer
from labkit.datasets import load
from labkit.exercises.checking import Exercise, Function, Law, Mistake, numbers
from labkit.losses import average_velocity_target
from labkit.models.layers import Block
from labkit.objective import Objective
from labkit.ops import expand_like
from labkit.paths import linear
from labkit.runtime import device, seeded
from labkit.sampling import guided
from labkit.sampling.solvers import at, euler, heun
from labkit.training.ema import Ema
from labkit.training.stream import Stream
from labkit.training.trainer import build_network


def _times(count: int) -> Tensor:
    return torch.linspace(0.15, 0.85, count)


def _square_pairs() -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """Inputs whose batch is as large as their last axis, so that a time on the wrong axis raises no error."""
    return tuple((numbers(n, 1, n, n, seed=n), numbers(n, 1, n, n, seed=n + 1), _times(n)) for n in (4, 3))


PATH = Exercise(
    name="path_point",
    notebook="01",
    title="a point on the path, and its velocity",
    minutes=3,
    difficulty=1,
    why="Everything that the network ever sees and everything that it should answer comes from these two lines.",
    stub='''
def path_point(x1, x0, t):
    """The point x_t on the straight line from noise (t = 0) to data (t = 1), and its velocity.

    x1: data, (B, C, H, W).  x0: noise, the same shape.  t: one time for each sample, (B,).
    Returns x_t and v = dx_t/dt, both (B, C, H, W).
    """
    t = ...  # a shape that multiplies whole images
    x_t = ...
    v = ...
    return x_t, v
''',
    solution="""
def path_point(x1, x0, t):
    t = t[:, None, None, None]
    x_t = t * x1 + (1 - t) * x0
    return x_t, x1 - x0
""",
    oracle=lambda x1, x0, t: linear(x1, x0, t),
    cases=_square_pairs,
    mistakes=(
        Mistake(
            "time reversed",
            "Your time runs from data to noise. MeanFlow's and REPA's papers do that, but here t = 0 is noise.",
            lambda x1, x0, t: linear(x0, x1, t),
        ),
        Mistake(
            "velocity's sign",
            "The point is right. Its velocity points back to the noise: in which direction does x_t go when t grows?",
            lambda x1, x0, t: (linear(x1, x0, t).x_t, x0 - x1),
        ),
        Mistake(
            "ends swapped",
            "The velocity is right, but the point starts at the data: what should x_t be at t = 0?",
            lambda x1, x0, t: (linear(x0, x1, t).x_t, x1 - x0),
        ),
        Mistake(
            "way that is left",
            "You return the way that is left, x₁ − x_t. The velocity is the derivative by t, and on a straight line it "
            "does not depend on t.",
            lambda x1, x0, t: ((x_t := linear(x1, x0, t).x_t), x1 - x_t),
        ),
        Mistake(
            "times on the wrong axis",
            "Torch lines up t with the *last* axis, so every column of pixels gets its own time. It should be every "
            "image.",
            lambda x1, x0, t: (t * x1 + (1 - t) * x0, x1 - x0),
        ),
        Mistake(
            "curved path",
            "The noise does not shrink along a straight line: x_t is a weighted mean of the two ends.",
            lambda x1, x0, t: ((e := expand_like(t, x1)) * x1 + (1 - e * e).sqrt() * x0, x1 - x0),
        ),
    ),
)


class _Zero(Block):
    """The library's block with its modulation at zero, as ``Transformer`` starts it."""

    zero = True

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        if self.zero:
            nn.init.zeros_(self.adaLN_modulation[1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.adaLN_modulation[1].bias)  # type: ignore[arg-type]


class _Open(_Zero):
    zero = False


def _block(forward: Function) -> type[_Zero]:
    """A block with another forward: (block, x, c, (shift, scale, gate) of the attention, of the MLP)."""

    class Wrong(_Zero):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            parts = [part[:, None] for part in self.adaLN_modulation(c).chunk(6, dim=1)]
            return forward(self, x, c, parts[:3], parts[3:])

    return Wrong


def _half(x: Tensor, norm: Function, layer: Function, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    return gate * layer(norm(x) * (1 + scale) + shift)


def _two_halves(half: Function) -> type[_Zero]:
    """A block whose two halves add half(x, norm, layer, shift, scale, gate) to x."""

    def forward(block: Block, x: Tensor, c: Tensor, first: list[Tensor], second: list[Tensor]) -> Tensor:
        x = x + half(x, block.norm1, block.attn, *first)
        return x + half(x, block.norm2, block.mlp, *second)

    return _block(forward)


def _parallel(block: Block, x: Tensor, c: Tensor, first: list[Tensor], second: list[Tensor]) -> Tensor:
    return x + _half(x, block.norm1, block.attn, *first) + _half(x, block.norm2, block.mlp, *second)


def _no_residual(block: Block, x: Tensor, c: Tensor, first: list[Tensor], second: list[Tensor]) -> Tensor:
    return _half(_half(x, block.norm1, block.attn, *first), block.norm2, block.mlp, *second)


def _no_silu(block: Block, x: Tensor, c: Tensor, first: list[Tensor], second: list[Tensor]) -> Tensor:
    parts = [part[:, None] for part in block.adaLN_modulation[1](c).chunk(6, dim=1)]
    x = x + _half(x, block.norm1, block.attn, *parts[:3])
    return x + _half(x, block.norm2, block.mlp, *parts[3:])


def _halves_swapped(block: Block, x: Tensor, c: Tensor, first: list[Tensor], second: list[Tensor]) -> Tensor:
    x = x + _half(x, block.norm1, block.attn, *second)
    return x + _half(x, block.norm2, block.mlp, *first)


def _mlp_first(block: Block, x: Tensor, c: Tensor, first: list[Tensor], second: list[Tensor]) -> Tensor:
    x = x + _half(x, block.norm2, block.mlp, *second)
    return x + _half(x, block.norm1, block.attn, *first)


def _with_weights(answer: Callable[[int, int], nn.Module]) -> Function:
    """Whether a fresh block of the answer returns its input (1 or 0), and its output with the library's weights."""

    def run(x: Tensor, c: Tensor) -> Any:
        with seeded(0), torch.no_grad():
            library = _Zero(12, 3)
            for parameter in library.parameters():
                parameter.copy_(0.3 * torch.randn_like(parameter))
            block = answer(12, 3)
            start = block(x, c)
            if start is None or start is ...:
                return None
            block.load_state_dict(library.state_dict())
            return torch.tensor(float(torch.equal(start, x))), block(x, c)

    return run


BLOCK = Exercise(
    name="adaln_block",
    notebook="01",
    title="an adaLN-Zero block",
    minutes=12,
    difficulty=3,
    why="This block is all there is to a SiT: it is repeated 4 times here and 28 times in SiT-XL. It is also where the "
    "Dispersive Loss reads its features. Yours must carry the library's weights, so keep the names of its parts.",
    stub='''
from labkit.models.layers import Attention, Mlp
from torch import nn

class AdaLNBlock(nn.Module):
    """Attention, then an MLP, each shifted, scaled and gated by the condition c; at the start it returns its input."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        ...  # the "Zero"

    def forward(self, x, c):
        """x: tokens, (B, T, H).  c: condition (time and class), (B, H).  Returns tokens, (B, T, H).

        The modulation gives, in this order: shift, scale, gate of the attention; shift, scale, gate of the MLP.
        Each half adds gate · layer(norm(x) · (1 + scale) + shift) to x.
        """
        ...
''',
    solution="""
from labkit.models.layers import Attention, Mlp
from torch import nn

class AdaLNBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.adaLN_modulation[1].weight)
        nn.init.zeros_(self.adaLN_modulation[1].bias)

    def forward(self, x, c):
        parts = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
""",
    oracle=_Zero,
    cases=lambda: [(numbers(2, 5, 12), numbers(2, 12, seed=1)), (numbers(3, 4, 12, seed=2), numbers(3, 12, seed=3))],
    adapt=_with_weights,
    mistakes=(
        Mistake(
            "not zero",
            "With the library's weights it is right. A *fresh* block should return its input, and yours does not: what "
            "must be zero at the start, weight and bias?",
            _Open,
        ),
        Mistake(
            "shift and scale swapped",
            "You use the shift as the scale and the scale as the shift. In which order does the modulation give them?",
            _two_halves(lambda x, n, f, shift, scale, gate: gate * f(n(x) * (1 + shift) + scale)),
        ),
        Mistake(
            "scale without 1",
            "Where the scale is 0, the layer should see the normalised tokens as they are, and yours sees nothing.",
            _two_halves(lambda x, n, f, shift, scale, gate: gate * f(n(x) * scale + shift)),
        ),
        Mistake(
            "no gate",
            "The gates are missing. What would make the block return its input at the start?",
            _two_halves(lambda x, n, f, shift, scale, gate: f(n(x) * (1 + scale) + shift)),
        ),
        Mistake(
            "gate with 1",
            "The gate multiplies by itself, without a 1: at 0 it should be closed.",
            _two_halves(lambda x, n, f, shift, scale, gate: (1 + gate) * f(n(x) * (1 + scale) + shift)),
        ),
        Mistake(
            "gate inside",
            "You gate what goes *into* the layer. The gate belongs on what comes out of it.",
            _two_halves(lambda x, n, f, shift, scale, gate: f(gate * (n(x) * (1 + scale) + shift))),
        ),
        Mistake(
            "no norm",
            "The tokens are not normalised before they are shifted and scaled.",
            _two_halves(lambda x, n, f, shift, scale, gate: gate * f(x * (1 + scale) + shift)),
        ),
        Mistake(
            "norm last",
            "You normalise after the modulation, which undoes half of it. The LayerNorm comes first.",
            _two_halves(lambda x, n, f, shift, scale, gate: gate * f(n(x * (1 + scale) + shift))),
        ),
        Mistake(
            "in parallel",
            "Your MLP reads the tokens from before the attention. It should read what the attention has added to.",
            _block(_parallel),
        ),
        Mistake(
            "MLP first", "The MLP comes before the attention. It should be the other way round.", _block(_mlp_first)
        ),
        Mistake(
            "no residual",
            "The block replaces its tokens. It should add to them: with closed gates, nothing must get lost.",
            _block(_no_residual),
        ),
        Mistake(
            "no SiLU",
            "You pass c to the linear layer directly. Look at what stands before it in `adaLN_modulation`.",
            _block(_no_silu),
        ),
        Mistake(
            "halves swapped",
            "The attention gets the MLP's three numbers, and the MLP the attention's.",
            _block(_halves_swapped),
        ),
    ),
)


def _train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
    steps: int,
    decay: float,
    *,
    zero: bool = True,
    first: int = 0,
    early: bool = False,
    batch: Callable[[int], int] = lambda step: step,
    update: Callable[[Ema[nn.Module], int], None] = lambda ema, step: ema.update(step),
) -> nn.Module:
    """The training loop, with room for mistakes."""
    ema = Ema(network, decay)
    for step in range(steps):
        if zero:
            optimizer.zero_grad()
        loss(batch(step)).backward()
        if early:
            update(ema, step + first)
        optimizer.step()
        if not early:
            update(ema, step + first)
    return ema.network


def _lerp(ema: Ema[nn.Module], network: nn.Module, weight: float) -> None:
    with torch.no_grad():
        for average, live in zip(ema.network.parameters(), network.parameters(), strict=True):
            average.lerp_(live, weight)


def _train_with(weight: Callable[[float, int], float]) -> Function:
    """The loop with another weight of the live parameters in the average."""

    def train(network, optimizer, loss, steps, decay):
        update = lambda ema, step: _lerp(ema, network, weight(decay, step))  # noqa: E731
        return _train(network, optimizer, loss, steps, decay, update=update)

    return train


def _alias(network, optimizer, loss, steps, decay):
    _train(network, optimizer, loss, steps, decay)
    return network


def _no_backward(network, optimizer, loss, steps, decay):
    return copy.deepcopy(network)


def _warm(decay: float, step: int) -> float:
    return min(decay, (1 + step) / (10 + step))


def loop_config(seed: int) -> Config:
    """A short training whose every step, and every step's d, shows in the average."""
    optimizer = Optimizer(lr=0.05)
    return recipes.digits(model="SiT-Nano/4", steps=3, batch_size=8, seed=seed, ema_decay=0.22, optimizer=optimizer)


def _on_digits(answer: Function) -> Function:
    """The answer on a small SiT and the lab's own stream of digits: how far the weights move, and their average."""

    def run(seed: int) -> Any:
        config = loop_config(seed)
        images = load(config.dataset)
        network = build_network(config, *images.dimensions).to(device())
        objective, stream = Objective(network, config), Stream(images, config.batch_size, config.seed, device())
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, **asdict(config.optimizer), fused=True)

        start = trained_weights(network)

        def loss(step: int) -> Tensor:
            return objective(*stream.at(step * config.batch_size)).total

        average = answer(network, optimizer, loss, config.steps, config.ema_decay)
        if not isinstance(average, nn.Module):
            return average
        return trained_weights(network) - start, trained_weights(average) - start

    return run


def trained_weights(network: nn.Module) -> Tensor:
    """All weights but the fixed embedding of positions, as one vector."""
    trained = [p.detach().flatten() for name, p in network.named_parameters() if name != "pos_embed"]
    return torch.cat(trained).cpu()


TRAIN = Exercise(
    name="train_with_ema",
    notebook="01",
    title="the training loop, with averaged weights",
    minutes=10,
    difficulty=2,
    why="The lab's trainer can pause, resume and fork, but its heart is this loop. Yours must arrive at the same "
    "weights, bit for bit, and at the average that all the samples are drawn from.",
    stub='''
import copy

def train_with_ema(network, optimizer, loss, steps, decay):
    """Train a network and return a copy that holds the moving average of its weights.

    optimizer: of the network's parameters.  loss: `loss(step)` is the loss of batch number step, counted from 0.
    After each optimizer step the average moves: average ← d · average + (1 − d) · weights, where
    d = min(decay, (1 + step) / (10 + step)), so that a short run forgets its random start.
    """
    average = ...
    for step in range(steps):
        ...
    return average
''',
    solution="""
import copy

def train_with_ema(network, optimizer, loss, steps, decay):
    average = copy.deepcopy(network)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        d = min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters()):
                mean.lerp_(weight, 1 - d)
    return average
""",
    oracle=_train,
    cases=lambda: [(0,)],
    adapt=_on_digits,
    seconds=60.0,
    mistakes=(
        Mistake(
            "gradients pile up",
            "The gradients of all steps so far are added up: backward() adds to what is there. What empties them?",
            partial(_train, zero=False),
        ),
        Mistake(
            "no copy",
            "What you return are the live weights, not their average. Is `average` a copy of the network, or another "
            "name for it?",
            _alias,
        ),
        Mistake(
            "average never moves",
            "The network trains, but its average is still the random start.",
            _train_with(lambda decay, step: 0.0),
        ),
        Mistake(
            "average swapped",
            "The average follows the newest weights almost at once: d and 1 − d have changed places.",
            _train_with(_warm),
        ),
        Mistake(
            "no warm-up",
            "The average is right except for its start: d should begin small and grow up to `decay`.",
            _train_with(lambda decay, step: 1 - decay),
        ),
        Mistake(
            "warm-up without limit",
            "d grows past `decay`. It should be the smaller of the two.",
            _train_with(lambda decay, step: 1 - (1 + step) / (10 + step)),
        ),
        Mistake(
            "averaged too early",
            "You average before the optimizer has moved the weights, so the average is always one step behind.",
            partial(_train, early=True),
        ),
        Mistake("counted from 1", "Your d is one step ahead: steps are counted from 0.", partial(_train, first=1)),
        Mistake(
            "one batch for ever",
            "Every step trains on the first batch. `loss` wants to know which step it is.",
            partial(_train, batch=lambda step: 0),
        ),
        Mistake(
            "nothing trained",
            "The weights are still the initial ones. Which call computes the gradients, and which one uses them?",
            _no_backward,
        ),
    ),
)


def _field(x: Tensor, t: Tensor) -> Tensor:
    """A smooth velocity that depends on place and time."""
    if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
        shape = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"velocity(x, t) needs one time for each sample, shape {tuple(x.shape[:1])}, and got {shape}")
    t = expand_like(t, x)
    return torch.cos(2 * x) * (1 + t) - 0.5 * t**2


def _steps() -> list[tuple[Function, Tensor, float, float]]:
    return [(_field, numbers(3, 1, 2, 2), 0.2, 0.6), (_field, numbers(2, 5, seed=1), 0.5, 0.75)]


def _order(step: Function, order: int) -> tuple[float, float]:
    """Ratio of the errors at t = 1 with 32 and 64 steps along v = x, and what a method of this order should have."""

    def end(count: int) -> Tensor:
        x = torch.ones(1, 1, dtype=torch.float64)
        for k in range(count):
            x = step(lambda x, t: x, x, k / count, (k + 1) / count)
        return x

    coarse, fine = ((end(count) - torch.e).abs().item() for count in (32, 64))
    return coarse / fine, 2.0**order


EULER = Exercise(
    name="euler_step",
    notebook="01",
    title="a step of Euler",
    minutes=3,
    difficulty=1,
    why="Sampling is nothing but this line, repeated. The sampler panel will draw digits with yours.",
    stub='''
def euler_step(velocity, x, now, then):
    """x at time `then`, from x at time `now`, along the velocity at `now`.

    velocity: velocity(x, t) with one time for each sample, t of shape (B,).  x: (B, …).  now, then: numbers.
    """
    t = ...  # (B,)
    return ...
''',
    solution="""
def euler_step(velocity, x, now, then):
    t = torch.full((len(x),), now, dtype=x.dtype, device=x.device)
    return x + (then - now) * velocity(x, t)
""",
    oracle=euler,
    cases=_steps,
    laws=(Law("halving the step should halve the error (order 1)", lambda f: _order(f, 1), 0.05),),
    mistakes=(
        Mistake(
            "velocity at the end",
            "You ask for the velocity at the end of the step. Which time does x belong to?",
            lambda v, x, now, then: x + (then - now) * v(x, at(then, x)),
        ),
        Mistake(
            "no step length",
            "You move by the whole velocity. How long is a step from `now` to `then`?",
            lambda v, x, now, then: x + v(x, at(now, x)),
        ),
        Mistake(
            "backwards",
            "You step backwards in time. From noise to data, t grows.",
            lambda v, x, now, then: x - (then - now) * v(x, at(now, x)),
        ),
        Mistake(
            "time for length",
            "You multiply by the time `then`. The length of the step is a difference of two times.",
            lambda v, x, now, then: x + then * v(x, at(now, x)),
        ),
        Mistake(
            "no x",
            "This is the change of x alone. Where does it start from?",
            lambda v, x, now, then: (then - now) * v(x, at(now, x)),
        ),
    ),
)


def _heun(first: Function, second: Function) -> Function:
    """A step like Heun's: (v, x, now, then) → the first slope, and with it → the move."""

    def step(v: Function, x: Tensor, now: float, then: float) -> Tensor:
        return x + second(v, x, now, then, first(v, x, now, then))

    return step


def _slope(v: Function, x: Tensor, now: float, then: float) -> Tensor:
    return v(x, at(now, x))


HEUN = Exercise(
    name="heun_step",
    notebook="01",
    title="a step of Heun",
    minutes=5,
    difficulty=2,
    why="Look before you leap: a second evaluation at the end of the step turns order 1 into order 2. An order is "
    "easy to lose: almost every mistake here still draws digits.",
    stub='''
def heun_step(velocity, x, now, then):
    """x at time `then`: a step of Euler, then the same step again with the mean of the velocities at both its ends.

    velocity: velocity(x, t) with one time for each sample, t of shape (B,).  x: (B, …).  now, then: numbers.
    """
    first = ...
    second = ...
    return ...
''',
    solution="""
def heun_step(velocity, x, now, then):
    h = then - now
    t = torch.full((len(x),), now, dtype=x.dtype, device=x.device)
    first = velocity(x, t)
    second = velocity(x + h * first, t + h)
    return x + h * (first + second) / 2
""",
    oracle=heun,
    cases=_steps,
    laws=(Law("halving the step should divide the error by 4 (order 2)", lambda f: _order(f, 2), 0.05),),
    mistakes=(
        Mistake("euler", "This is a step of Euler. The second velocity has not found its way into it yet.", euler),
        Mistake(
            "midpoint",
            "This is the midpoint method. It is of order 2 as well, and a fine one; Heun looks at the *end* of the "
            "step.",
            _heun(_slope, lambda v, x, a, b, s: (b - a) * v(x + (b - a) / 2 * s, at((a + b) / 2, x))),
        ),
        Mistake(
            "sum of slopes",
            "You go twice as far as you should: the two velocities are added, not averaged.",
            _heun(_slope, lambda v, x, a, b, s: (b - a) * (s + v(x + (b - a) * s, at(b, x)))),
        ),
        Mistake(
            "second at the same time",
            "Your second velocity is taken at the new place but at the old time.",
            _heun(_slope, lambda v, x, a, b, s: (b - a) * (s + v(x + (b - a) * s, at(a, x))) / 2),
        ),
        Mistake(
            "second at the same place",
            "Your second velocity is taken at the new time but at the old place. Where would the step of Euler end?",
            _heun(_slope, lambda v, x, a, b, s: (b - a) * (s + v(x, at(b, x))) / 2),
        ),
        Mistake(
            "second alone",
            "You use the velocity at the end only. What about the one at the start?",
            _heun(_slope, lambda v, x, a, b, s: (b - a) * v(x + (b - a) * s, at(b, x))),
        ),
        Mistake(
            "two steps",
            "You step on from the end of the first step. The second step starts where the first one did, at x.",
            _heun(_slope, lambda v, x, a, b, s: (b - a) * s + (b - a) * (s + v(x + (b - a) * s, at(b, x))) / 2),
        ),
        Mistake(
            "whole velocity ahead",
            "To look ahead you move by the whole velocity. How long is the step?",
            _heun(_slope, lambda v, x, a, b, s: (b - a) * (s + v(x + s, at(b, x))) / 2),
        ),
    ),
)


def _labelled(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A velocity that depends on a label, too."""
    if y.shape != x.shape[:1] or y.is_floating_point():
        raise ValueError(f"network(x, t, y) needs one whole number for each sample, and got {y.dtype} {tuple(y.shape)}")
    return _field(x, t) + expand_like(torch.sin(1.7 * y + 1), x) * x


def _guide(mix: Callable[[Tensor, Tensor, float], Tensor], null: int | None = None) -> Function:
    """Guidance with another mix of v(y) and v(∅)."""

    def velocity(network, x, t, y, none, w):
        return mix(network(x, t, y), network(x, t, torch.full_like(y, none if null is None else null)), w)

    return velocity


GUIDANCE = Exercise(
    name="guided_velocity",
    notebook="01",
    title="guidance",
    minutes=4,
    difficulty=1,
    why="One line turns a blurry class-conditional sampler into a sharp one, at twice the cost. Papers count w in two "
    "ways that differ by one, and many a table has been misread for it.",
    stub='''
def guided_velocity(network, x, t, y, null, w):
    """v(∅) + w · (v(y) − v(∅)): w = 1 is the labelled field, above 1 goes beyond it.

    network: network(x, t, y) → velocity.  x: (B, …).  t: (B,).  y: labels, (B,).  null: the label that means "none".
    """
    with_label = ...
    without = ...
    return ...
''',
    solution="""
def guided_velocity(network, x, t, y, null, w):
    with_label = network(x, t, y)
    without = network(x, t, torch.full_like(y, null))
    return without + w * (with_label - without)
""",
    oracle=lambda network, x, t, y, null, w: guided(network, y, null, w)(x, t),
    cases=lambda: [
        (_labelled, numbers(3, 1, 2, 2), _times(3), torch.tensor([1, 4, 2]), 10, 2.5),
        (_labelled, numbers(2, 5, seed=1), _times(2), torch.tensor([0, 3]), 5, 1.5),
    ],
    mistakes=(
        Mistake(
            "w counted from 0",
            "You count w from 0: with w = 1 yours already goes beyond the labelled field. In this convention w = 1 "
            "is no guidance.",
            _guide(lambda y, none, w: y + w * (y - none)),
        ),
        Mistake(
            "swapped",
            "With w = 1 yours is the field without a label. Have the two changed places?",
            _guide(lambda y, none, w: y + w * (none - y)),
        ),
        Mistake(
            "wrong direction",
            "You start without the label, and then move away from it. Check the sign of the difference.",
            _guide(lambda y, none, w: none + w * (none - y)),
        ),
        Mistake(
            "no difference",
            "You add w times the labelled field itself. Guidance goes along the *difference* of the two.",
            _guide(lambda y, none, w: none + w * y),
        ),
        Mistake("label only", "This is the labelled field alone: w does not matter yet.", _guide(lambda y, none, w: y)),
        Mistake(
            "label 0 for none",
            "You take label 0 for no label, but it is a class of its own. Which number means none?",
            _guide(lambda y, none, w: none + w * (y - none), null=0),
        ),
    ),
)


def _score(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return linear.convert(v, "velocity", "score", x, t)


def _noise(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return linear.convert(v, "velocity", "noise", x, t)


SCORE = Exercise(
    name="score_from_velocity",
    notebook="01",
    title="the score, from the velocity",
    minutes=6,
    difficulty=2,
    why="A network that was trained on velocities has learnt the score ∇log p as well, whether it was meant to or not. "
    "Two equations and a little algebra bring it out, and with it the stochastic samplers.",
    stub='''
def score_from_velocity(v, x, t):
    """The score −x₀/σ of the linear path, from x = t·x₁ + (1 − t)·x₀ and v = x₁ − x₀; σ = 1 − t.

    v: velocity, (B, …).  x: point, the same shape.  t: times in [0, 1), (B,).  Returns the shape of x.
    """
    x0 = ...
    return ...
''',
    solution="""
def score_from_velocity(v, x, t):
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    x0 = x - t * v
    return -x0 / (1 - t)
""",
    oracle=_score,
    cases=_square_pairs,
    mistakes=(
        Mistake(
            "sign",
            "Your score points towards the noise. The density grows the other way.",
            lambda v, x, t: -_score(v, x, t),
        ),
        Mistake("noise", "This is the noise x₀. How do you get from there to the score?", _noise),
        Mistake("minus the noise", "This is −x₀. One division is still missing.", lambda v, x, t: -_noise(v, x, t)),
        Mistake(
            "divided by σ²",
            "You divide by σ². That is right for x_t − t·x₁, which is σ·x₀; for x₀ itself it is once too often.",
            lambda v, x, t: _score(v, x, t) / (1 - expand_like(t, x)),
        ),
        Mistake(
            "divided by t",
            "You divide by t. σ is the factor of the noise on the path.",
            lambda v, x, t: -_noise(v, x, t) / expand_like(t, x),
        ),
        Mistake(
            "x0 by the other way",
            "Check x₀: if x goes along v for the time t that has passed, it comes from noise; you went the rest of the "
            "way, 1 − t, instead.",
            lambda v, x, t: -(x + (1 - expand_like(t, x)) * v) / (1 - expand_like(t, x)),
        ),
        Mistake(
            "x0 with a wrong sign",
            "Check x₀: insert x₁ = x₀ + v into the first equation and solve again.",
            lambda v, x, t: -(x + expand_like(t, x) * v) / (1 - expand_like(t, x)),
        ),
        Mistake(
            "x0 without t",
            "Check x₀: x has come a part of the way from x₀ only, not all of it.",
            lambda v, x, t: -(x - v) / (1 - expand_like(t, x)),
        ),
        Mistake(
            "times on the wrong axis",
            "Torch lines up t with the *last* axis, so every column of pixels gets its own time. It should be every "
            "image.",
            lambda v, x, t: -(x - t * v) / (1 - t),
        ),
    ),
)


def _sde(noise_size: Callable[[float, float], float], score: float = 1.0, drift: float = 1.0) -> Function:
    """A stochastic step with another size of the noise, and a factor on the score."""

    def step(velocity, x, now, then, noise, w):
        v, h = velocity(x, at(now, x)), then - now
        return x + h * (drift * v + score * w * _score(v, x, at(now, x))) + noise_size(w, h) * noise

    return step


def _kick(w: float, h: float) -> float:
    return (2 * w * h) ** 0.5


SDE = Exercise(
    name="sde_step",
    notebook="01",
    title="a stochastic step",
    minutes=6,
    difficulty=3,
    why="Add noise at each step and let the score remove as much again: other paths, the same images in "
    "distribution. If the two do not balance, the samples blur or freeze, and this exercise is about that "
    "balance.",
    stub='''
def sde_step(velocity, x, now, then, noise, w):
    """A step of Euler–Maruyama for dx = (v + w·score)·dt + √(2w)·dW, along the linear path.

    velocity: velocity(x, t), t of shape (B,).  x: (B, …).  now, then: numbers below 1.
    noise: N(0, 1) numbers of the shape of x.  w: a number of at least 0; with w = 0 this is a step of Euler.
    """
    v = ...
    score = ...
    return ...
''',
    solution="""
def sde_step(velocity, x, now, then, noise, w):
    h = then - now
    v = velocity(x, torch.full((len(x),), now, dtype=x.dtype, device=x.device))
    score = -(x - now * v) / (1 - now)
    return x + h * (v + w * score) + (2 * w * h) ** 0.5 * noise
""",
    oracle=_sde(_kick),
    cases=lambda: [(*case, numbers(*case[1].shape, seed=9), w) for case, w in zip(_steps(), (0.7, 1.6), strict=True)],
    laws=(
        Law(
            "with w = 0 it is a step of Euler",
            lambda f: (f(*_steps()[0], numbers(3, 1, 2, 2), 0.0).sum(), euler(*_steps()[0]).sum()),
        ),
    ),
    mistakes=(
        Mistake(
            "noise grows with h",
            "Your noise grows with h. Variances add up from step to step, so its *deviation* grows like a root.",
            _sde(lambda w, h: (2 * w) ** 0.5 * h),
        ),
        Mistake(
            "no 2",
            "The noise is too small by √2: the score removes 2w, so 2w must come in.",
            _sde(lambda w, h: (w * h) ** 0.5),
        ),
        Mistake(
            "no root",
            "The noise is multiplied by its variance. Which power of 2wh is a deviation?",
            _sde(lambda w, h: 2 * w * h),
        ),
        Mistake(
            "noise without h",
            "The noise does not depend on the step length: a thousand small steps would drown the image.",
            _sde(lambda w, h: (2 * w) ** 0.5),
        ),
        Mistake(
            "no noise",
            "No noise is added yet, so that the score removes noise that nobody put in.",
            _sde(lambda w, h: 0.0),
        ),
        Mistake(
            "no score",
            "The noise comes in, but nothing takes it out again: where is the score?",
            _sde(_kick, score=0.0),
        ),
        Mistake(
            "score's sign",
            "Your score pushes away from where the data are dense, on top of the noise. Check its sign.",
            _sde(_kick, score=-1.0),
        ),
        Mistake(
            "half the score",
            "The score is half as strong as its noise. Here w is not divided by 2: √(2w) goes with w.",
            _sde(_kick, score=0.5),
        ),
        Mistake(
            "no velocity",
            "The velocity itself is missing from the drift: what is left only shakes x.",
            _sde(_kick, drift=0.0),
        ),
        Mistake(
            "score without w",
            "The score is not multiplied by w.",
            lambda velocity, x, now, then, noise, w: _sde(_kick, score=1 / w)(velocity, x, now, then, noise, w),
        ),
    ),
)


class _Average:
    """A smooth average velocity u(x, t, s − t) with a parameter, which keeps nothing else."""

    def __init__(self) -> None:
        self.weight = torch.tensor(0.7, requires_grad=True)

    def __call__(self, x: Tensor, t: Tensor, span: Tensor) -> Tensor:
        t, span = expand_like(t, x), expand_like(span, x)
        return torch.sin(2 * x) * (1 + t) + self.weight * span * x - 0.4 * span**2 * t + t**2


def _directed(direction: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> Function:
    """The target with another direction, (v, 1 of the shape of t) → (dx, dt, d span)."""

    def target(u, x, t, span, v):
        slope = torch.func.jvp(u, (x, t, span), direction(v, torch.ones_like(t)))[1]
        return (v + expand_like(span, x) * slope).detach()

    return target


def _sloped(combine: Function) -> Function:
    """The target with another combination (v, span, du/dt, u)."""

    def target(u, x, t, span, v):
        value, slope, *_ = torch.func.jvp(u, (x, t, span), (v, torch.ones_like(t), -torch.ones_like(t)))
        return combine(v, expand_like(span, x), slope, value)

    return target


def _and_graph(answer: Function) -> Function:
    """The answer, and whether a gradient would flow through it (1 or 0)."""

    def run(*arguments: object) -> Any:
        target = answer(*arguments)
        if not isinstance(target, Tensor):
            return target
        return target.detach(), torch.tensor(float(target.requires_grad))

    return run


MEANFLOW = Exercise(
    name="meanflow_target",
    notebook="08",
    title="MeanFlow's target",
    minutes=12,
    difficulty=3,
    why="The network learns an average over a span without ever computing an average. All of the trick is in one "
    "derivative along the path; one-step digits below will be trained on yours.",
    stub='''
def meanflow_target(u, x, t, span, velocity):
    """v + (s − t) · du/dt, without gradient: the derivative is along the path, while the end s stands still.

    u: u(x, t, span) → average velocity over [t, s], span = s − t.  x: points, (B, …).  t, span: (B,).
    velocity: v = dx/dt at the points, (B, …).
    torch.func.jvp(u, (x, t, span), (dx, dt, dspan)) returns u and its derivative in the direction of the three.
    """
    du_dt = ...
    return ...
''',
    solution="""
def meanflow_target(u, x, t, span, velocity):
    one = torch.ones_like(t)
    u_value, du_dt = torch.func.jvp(u, (x, t, span), (velocity, one, -one))
    span = span.reshape(-1, *[1] * (x.ndim - 1))
    return (velocity + span * du_dt).detach()
""",
    oracle=average_velocity_target,
    cases=lambda: [
        (_Average(), numbers(3, 1, 3, 3), _times(3), 1 - _times(3), numbers(3, 1, 3, 3, seed=1)),
        (_Average(), numbers(2, 2, seed=2), _times(2), torch.tensor([0.0, 0.1]), numbers(2, 2, seed=3)),
    ],
    adapt=_and_graph,
    mistakes=(
        Mistake(
            "span stands still",
            "You keep the span. But s stands still while t moves on: what happens to s − t?",
            _directed(lambda v, one: (v, one, 0 * one)),
        ),
        Mistake(
            "span grows",
            "Your span grows with t. The end s stands still, so which way does s − t change?",
            _directed(lambda v, one: (v, one, one)),
        ),
        Mistake(
            "x stands still",
            "The point itself stands still in your derivative. Along the path, how does x change when t does?",
            _directed(lambda v, one: (0 * v, one, -one)),
        ),
        Mistake(
            "t stands still",
            "The point moves, but its time does not. It is a derivative by t.",
            _directed(lambda v, one: (v, 0 * one, -one)),
        ),
        Mistake(
            "only x moves",
            "Only the point moves in your derivative. u depends on two more things that change as t does.",
            _directed(lambda v, one: (v, 0 * one, 0 * one)),
        ),
        Mistake(
            "only the place's sign",
            "The point moves backwards in your derivative, as in the paper's time, where t = 1 is noise.",
            _directed(lambda v, one: (-v, one, -one)),
        ),
        Mistake(
            "minus",
            "The sign before the derivative is the paper's, whose time runs the other way. In ours, s lies *after* t.",
            _sloped(lambda v, span, slope, u: (v - span * slope).detach()),
        ),
        Mistake(
            "no span",
            "The derivative is not multiplied by the span. At s = t the target should be v itself.",
            _sloped(lambda v, span, slope, u: (v + slope).detach()),
        ),
        Mistake(
            "u for v",
            "You start from u, the network's own answer. Then nothing would tie it to the data: which velocity is "
            "known?",
            _sloped(lambda v, span, slope, u: (u + span * slope).detach()),
        ),
        Mistake(
            "not detached",
            "The numbers are right, but a gradient flows through the target, so the network could move the target "
            "instead of itself. What cuts it off?",
            _sloped(lambda v, span, slope, u: v + span * slope),
        ),
        Mistake(
            "spans on the wrong axis",
            "Torch lines up the span with the *last* axis; it should multiply whole samples.",
            _sloped(lambda v, span, slope, u: (v + span.flatten() * slope).detach()),
        ),
    ),
)

EXERCISES = (PATH, BLOCK, TRAIN, EULER, HEUN, GUIDANCE, SCORE, SDE, MEANFLOW)
