"""Exercises on flow matching, the transformer, training and sampling, and MeanFlow (notebooks 01 and 08)."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from labkit import recipes
from labkit.config import Config, Optimizer
from labkit.datasets import load
from labkit.exercises.checking import Exercise, Function, filled_in, numbers
from labkit.exercises.differences import Stopped
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


def path_point(x1, x0, t):
    """The point x_t on the straight line from noise (at t = 0) to data (at t = 1), and its velocity v = dx_t/dt.

    x1: data, (B, C, H, W): B images of C channels.  x0: noise, the same shape.  t: one time for each image, (B,).
    Returns x_t and v, both (B, C, H, W).
    """
    t = t[:, None, None, None]  # a shape that multiplies whole images
    x_t = t * x1 + (1 - t) * x0
    v = x1 - x0
    return x_t, v


class AdaLNBlock(torch.nn.Module):
    """Attention, then an MLP; each is shifted, scaled and gated by numbers that depend on a condition c."""

    def __init__(self, width, heads):
        from labkit.models.layers import Attention, Mlp

        super().__init__()
        self.norm1 = torch.nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = torch.nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.adaLN_modulation = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(width, 6 * width))
        self.close()

    def close(self):
        """Set to zero what must be zero for a fresh block to return its input (the "Zero" in adaLN-Zero)."""
        with torch.no_grad():
            for parameter in self.adaLN_modulation[1].parameters():
                parameter.zero_()

    def forward(self, x, c):
        """Add gate · layer(norm(x) · (1 + scale) + shift) to x, first for the attention, then for the MLP.

        `adaLN_modulation(c)` holds, in this order, shift, scale and gate of the attention, then those of the MLP.

        x: tokens, (B, T, H): B samples, T tokens, width H.  c: condition (time and class), (B, H).
        Returns tokens, (B, T, H).
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


def train_with_ema(network, optimizer, loss, steps, decay):
    """Train a network, and return a copy that holds the moving average of its weights.

    After each step of the optimizer the average moves: average ← d · average + (1 − d) · weights. Here d is the smaller
    of `decay` and (1 + step) / (10 + step), so that even a short run forgets its random start.

    network: any module.  optimizer: works on the network's parameters.  steps: number of steps.  decay: largest d.
    loss: `loss(step)` is the loss of the network on batch number `step`, counted from 0.
    """
    import copy

    average = copy.deepcopy(network)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        d = min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(weight, 1 - d)
    return average


def euler_step(velocity, x, now, then):
    """x at time `then`, reached from x at time `now` in a straight line along the velocity at `now`.

    velocity: a function of x and t, where t holds one time for each sample, (B,).  x: B samples, (B, …).
    now, then: two numbers.  Returns the shape of x.
    """
    t = torch.full((len(x),), now, dtype=x.dtype, device=x.device)  # (B,)
    return x + (then - now) * velocity(x, t)


def heun_step(velocity, x, now, then):
    """x at time `then`: look ahead by a step of Euler, then step from x along the mean of the velocities at both ends.

    velocity: a function of x and t, where t holds one time for each sample, (B,).  x: B samples, (B, …).
    now, then: two numbers.  Returns the shape of x.
    """
    h = then - now
    t = torch.full((len(x),), now, dtype=x.dtype, device=x.device)  # (B,)
    first = velocity(x, t)
    second = velocity(x + h * first, t + h)
    return x + h * (first + second) / 2


def guided_velocity(network, x, t, y, null, w):
    """v(∅) + w · (v(y) − v(∅)): with w = 1 this is the velocity v(y) with its label, and w > 1 goes beyond it.

    network: a function of x, t and labels that returns a velocity.  x: B samples, (B, …).  t: times, (B,).
    y: labels, (B,).  null: the number that stands for "no label", ∅.  w: strength.  Returns the shape of x.
    """
    with_label = network(x, t, y)
    without = network(x, t, torch.full_like(y, null))
    return without + w * (with_label - without)


def score_from_velocity(v, x, t):
    """The score ∇log p, which is −x₀/σ at a point x = t·x₁ + (1 − t)·x₀ of the straight path, where σ = 1 − t.

    There x₁ is data and x₀ is noise, and the velocity is v = x₁ − x₀.

    v: velocities of B samples, (B, …).  x: points, the same shape.  t: times from 0 to below 1, (B,).
    Returns the shape of x.
    """
    t = t.reshape(-1, *[1] * (x.ndim - 1))  # a shape that multiplies whole samples
    x0 = x - t * v
    return -x0 / (1 - t)


def sde_step(velocity, x, now, then, noise, w):
    """x at time `then`, by a step of Euler–Maruyama: dx = (v + w · score) dt + √(2w) dW, on the straight path.

    The score is −x₀/(1 − t), where x₀ = x − t·v. Over a step of length h, dW is √h times standard Gaussian noise.

    velocity: a function of x and t, t of shape (B,).  x: B samples, (B, …).  now, then: two numbers below 1.
    noise: standard Gaussian noise, the shape of x.  w: a number of at least 0; with 0 this is a step of Euler.
    Returns the shape of x.
    """
    h = then - now
    v = velocity(x, torch.full((len(x),), now, dtype=x.dtype, device=x.device))
    score = -(x - now * v) / (1 - now)
    return x + h * (v + w * score) + (2 * w * h) ** 0.5 * noise


def meanflow_target(u, x, t, span, velocity):
    """v + (s − t) · du/dt, cut off from the gradient; du/dt is taken along the path, while the end s stands still.

    `torch.func.jvp(u, (x, t, span), (dx, dt, dspan))` returns u and its derivative in the direction of the last three.

    u: a function of x, t and span that returns the average velocity from t to s, (B, …); span = s − t.
    x: points, (B, …).  t, span: (B,).  velocity: v = dx/dt at the points, (B, …).  Returns the shape of x.
    """
    one = torch.ones_like(t)
    du_dt = torch.func.jvp(u, (x, t, span), (velocity, one, -one))[1]
    span = span.reshape(-1, *[1] * (x.ndim - 1))  # a shape that multiplies whole samples
    return (velocity + span * du_dt).detach()


def _times(count: int) -> Tensor:
    return torch.linspace(0.15, 0.85, count)


def _square_pairs(times: Callable[[int], Tensor] = _times) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """Inputs whose axes are all as large as their batch, so that a time on the wrong axis raises no error."""
    return tuple((numbers(n, n, n, n, seed=n), numbers(n, n, n, n, seed=n + 1), times(n)) for n in (4, 3))


class _Zero(Block):
    """The library's block with its modulation at zero, as ``Transformer`` starts it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        nn.init.zeros_(self.adaLN_modulation[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.adaLN_modulation[1].bias)  # type: ignore[arg-type]


def _with_weights(answer: Callable[[int, int], nn.Module]) -> Function:
    """Whether a fresh block of the answer returns its input (1 or 0), and its output with the library's weights."""

    def run(x: Tensor, c: Tensor) -> Any:
        with seeded(0), torch.no_grad():
            library = _Zero(12, 3)
            for parameter in library.parameters():
                parameter.copy_(0.3 * torch.randn_like(parameter))
            block = answer(12, 3)
            start = filled_in(block(x, c))
            block.load_state_dict(library.state_dict())
            return torch.tensor(float(torch.equal(start, x))), block(x, c)

    return run


def _train(network, optimizer, loss, steps, decay) -> nn.Module:
    ema = Ema(network, decay)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        ema.update(step)
    return ema.network


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

        average = filled_in(answer(network, optimizer, loss, config.steps, config.ema_decay))
        if not isinstance(average, nn.Module):
            raise TypeError(f"the function should return a network with averaged weights, not {type(average).__name__}")
        if any(mean is weight for mean in average.parameters() for weight in network.parameters()):
            raise Stopped(SAME_WEIGHTS)
        return trained_weights(network) - start, trained_weights(average) - start

    return run


SAME_WEIGHTS = (
    "What you return shares its weights with the network, so whatever you do to the one happens to the other. `average "
    "= network` only gives the network a second name. The average must be a copy, with weights of its own."
)


def trained_weights(network: nn.Module) -> Tensor:
    """All weights but the fixed embedding of positions, as one vector."""
    trained = [p.detach().flatten() for name, p in network.named_parameters() if name != "pos_embed"]
    return torch.cat(trained).cpu()


def _field(x: Tensor, t: Tensor) -> Tensor:
    """A smooth velocity that depends on place and time."""
    if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
        shape = f"a tensor of shape {tuple(t.shape)}" if isinstance(t, Tensor) else f"a {type(t).__name__}"
        raise ValueError(f"the velocity needs one time for each sample, of shape {tuple(x.shape[:1])}, but got {shape}")
    t = expand_like(t, x)
    return torch.cos(2 * x) * (1 + t) - 0.5 * t**2


def _labelled(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A velocity that depends on a label, too."""
    if y.shape != x.shape[:1] or y.is_floating_point():
        got = f"{y.dtype} of shape {tuple(y.shape)}"
        raise ValueError(f"the network needs one whole number for each sample as its label, but got {got}")
    return _field(x, t) + expand_like(torch.sin(1.7 * y + 1), x) * x


def _steps() -> list[tuple[Function, Tensor, float, float]]:
    return [(_field, numbers(3, 1, 2, 2), 0.2, 0.6), (_field, numbers(2, 5, seed=1), 0.5, 0.75)]


def _order(step: Function) -> float:
    """Order of a method, from the errors at t = 1 of 32 and of 64 steps along v = x, to one decimal."""

    def error(count: int) -> float:
        x = torch.ones(1, 1, dtype=torch.float64)
        for k in range(count):
            x = step(lambda x, t: x, x, k / count, (k + 1) / count)
        return (x - torch.e).abs().item()

    return round(math.log2(error(32) / error(64)), 1) + 0.0  # not −0


def _sde(velocity, x, now, then, noise, w) -> Tensor:
    v, h = velocity(x, at(now, x)), then - now
    return x + h * (v + w * _score(v, x, at(now, x))) + math.sqrt(2 * w * h) * noise


def _score(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return linear.convert(v, "velocity", "score", x, t)


class _Average:
    """A smooth average velocity u(x, t, s − t) with a parameter, which keeps nothing else."""

    def __init__(self) -> None:
        self.weight = torch.tensor(0.7, requires_grad=True)

    def __call__(self, x: Tensor, t: Tensor, span: Tensor) -> Tensor:
        t, span = expand_like(t, x), expand_like(span, x)
        return torch.sin(2 * x) * (1 + t) + self.weight * span * x - 0.4 * span**2 * t + t**2


def _and_graph(answer: Function) -> Function:
    """The answer, and whether a gradient would flow through it (1 or 0)."""

    def run(*arguments: object) -> Any:
        target = filled_in(answer(*arguments))
        return target, float(getattr(target, "requires_grad", False))

    return run


EXERCISES = {
    "path_point": Exercise(
        path_point,
        oracle=lambda x1, x0, t: linear(x1, x0, t),
        inputs=lambda: _square_pairs(lambda count: torch.linspace(0, 1, count)),  # a division by t or 1 − t would show
        returns=("x_t", "v"),
        mistakes={
            "t = t[ → x0, x1, t = x1, x0, t[": "Your time runs from data to noise, as in the papers on MeanFlow and "
            "REPA. In this lab, t = 0 is noise and t = 1 is data.",
            "v = x1 - x0 → v = x0 - x1": "The point is right, but its velocity points back to the noise. In which "
            "direction does x_t move when t grows?",
            "t * x1 + (1 - t) * x0 → (1 - t) * x1 + t * x0": "The velocity is right, but your point starts at the "
            "data. What should x_t be at t = 0?",
            "v = x1 - x0 → v = x1 - x_t": "Your v is the way that is left, x₁ − x_t. The velocity is the derivative "
            "of x_t by t, and on a straight line it is the same at every t.",
            "v = x1 - x0 → v = x_t - x0": "Your v is the way that x_t has come from the noise. The velocity is the "
            "derivative of x_t by t, and on a straight line it is the same at every t.",
            "v = x1 - x0 → v = (x_t - x0) / t": "You divide by t. One image here has t = 0, where this is 0/0, and its "
            "v is NaN. On a straight line the velocity is the same at every t: can you do without the division?",
            "v = x1 - x0 → v = (x_t - x0) / t.clamp(min=1e-6)": "You divide by t, which something keeps above 0. Then "
            "v is finite at t = 0, but it is 0 there. On a straight line the velocity is the same at every t.",
            "v = x1 - x0 → v = (x1 - x_t) / (1 - t)": "You divide by 1 − t. One image here has t = 1, where this is "
            "0/0, and its v is NaN. The velocity is the same at every t: can you do without the division?",
            "t[:, None, None, None] → t": "Torch lines up t with the *last* axis, so every column of pixels gets its "
            "own time. Every image should have its own.",
            "t[:, None, None, None] → t[:, None]": "Torch lines up axes from the last one, so with this shape of t "
            "every *row* of pixels gets its own time. Every image should: how many axes has an image?",
            "t[:, None, None, None] → t[:, None, None]": "Torch lines up axes from the last one, so with this shape "
            "of t every *channel* gets its own time. Every image should: how many axes has an image?",
            "(1 - t) * x0 → (1 - t**2) ** 0.5 * x0": "Your noise does not shrink along a straight line. On this path, "
            "x_t is a weighted mean of its two ends.",
        },
    ),
    "adaln_block": Exercise(
        AdaLNBlock,
        oracle=_Zero,
        inputs=lambda: [
            (numbers(n, n, 12, seed=n), numbers(n, 12, seed=n + 1))
            for n in (5, 3)  # as many tokens as samples: a condition on the wrong axis raises no error
        ],
        returns=("the answer to whether a fresh block returns its input (1: yes, 0: no)", "the block's output"),
        adapt=_with_weights,
        used=False,
        mistakes={
            "self.close() → pass": "With the library's weights it is right. But a *fresh* block should return its "
            "input, and yours does not: which weight and which bias must be zero at the start?",
            "shift1, scale1, gate1, shift2, scale2, gate2 = → scale1, shift1, gate1, scale2, shift2, gate2 =": "You "
            "use the shift as the scale and the scale as the shift. In which order does the modulation hold them?",
            "shift1, scale1, gate1, shift2, scale2, gate2 = → shift1, shift2, scale1, scale2, gate1, gate2 =": "You "
            "take both shifts first, then both scales, then both gates. The modulation holds all three numbers of the "
            "attention before those of the MLP.",
            "(c)[:, None].chunk → (c).chunk": "c has no axis of tokens, (B, H) against (B, T, H), so torch lines up "
            "its samples with the *tokens* of x. All tokens of a sample should share its condition: which axis is "
            "missing?",
            "1 + scale → scale": "With a scale of 0, the layer should see the normalised tokens as they are. Yours "
            "sees nothing of them.",
            "gate1 * → ; gate2 * →": "The gates are missing. What would make the block return its input at the start?",
            "gate1 * → (1 + gate1) * ; gate2 * → (1 + gate2) *": "You multiply by 1 + gate. Multiply by the gate "
            "itself, so that a gate of 0 lets nothing through.",
            "gate1 * self.attn( → self.attn(gate1 * ; + shift1 → + gate1 * shift1; gate2 * self.mlp( → self.mlp(gate2 "
            "* ; + shift2 → + gate2 * shift2": "You multiply what goes *into* the layer by the gate. It should "
            "multiply what comes out.",
            "self.norm1(x) → x; self.norm2(x) → x": "The tokens are not normalised before they are scaled and shifted.",
            "self.norm1(x) * (1 + scale1) + shift1 → self.norm1(x * (1 + scale1) + shift1); self.norm2(x) * (1 + "
            "scale2) + shift2 → self.norm2(x * (1 + scale2) + shift2)": "You normalise after you scale and shift, "
            "which undoes part of both. The LayerNorm comes first.",
            "self.norm1(x) * (1 + scale1) + shift1 → (self.norm1(x) + shift1) * (1 + scale1); self.norm2(x) * (1 + "
            "scale2) + shift2 → (self.norm2(x) + shift2) * (1 + scale2)": "You shift before you scale, so the scale "
            "acts on the shift, too.",
            "x = x + → y = x +; return x + → return y +": "Your MLP reads the tokens from before the attention. It "
            "should read them after the attention has added to them.",
            "x = x + → y = x +; self.norm2(x) → self.norm2(y)": "Your second half adds to the tokens from before the "
            "attention, so what the attention has added is lost. It should add to the tokens that it reads.",
            "x = x + → y = x +": "Your second half starts again from the first x, so the attention counts for nothing.",
            "shift1, scale1, gate1, shift2, scale2, gate2 = → shift2, scale2, gate2, shift1, scale1, gate1 =; "
            "self.attn( → self.MLP(; self.mlp( → self.attn(; self.MLP( → self.mlp(": "The MLP comes before the "
            "attention. It should be the other way round.",
            "x = x + gate1 → x = gate1; return x + → return": "The block replaces its tokens. It should add to them, "
            "so that nothing is lost while the gates are closed.",
            "return x + → return": "Your second half returns gate · MLP alone. Where are the tokens that it should add "
            "this to?",
            "x = x + gate1 → x = gate1": "Your first half keeps gate · attention alone. Where are the tokens that it "
            "should add this to?",
            "self.adaLN_modulation(c) → self.adaLN_modulation[1](c)": "You pass c straight to the linear layer. Look "
            "at what stands before it in `adaLN_modulation`.",
            "shift1, scale1, gate1, shift2, scale2, gate2 = → shift2, scale2, gate2, shift1, scale1, gate1 =": "The "
            "attention gets the three numbers of the MLP, and the MLP those of the attention.",
        },
    ),
    "train_with_ema": Exercise(
        train_with_ema,
        oracle=_train,
        inputs=lambda: [(0,)],
        returns=("the change of the network's weights", "the change of the averaged weights"),
        adapt=_on_digits,
        seconds=60.0,
        used=False,
        mistakes={
            "optimizer.zero_grad() → pass": "The gradients of all steps so far pile up, because backward() adds to "
            "those that are there. What clears them?",
            "mean.lerp_(weight, 1 - d) → pass": "The network trains, but its average is still the random start.",
            "1 - d → d": "Your average follows the newest weights almost at once. Have d and 1 − d changed places?",
            "min(decay, (1 + step) / (10 + step)) → decay": "The average is right except for its start: d should "
            "begin small and grow up to `decay`.",
            "min(decay, (1 + step) / (10 + step)) → (1 + step) / (10 + step)": "Your d grows beyond `decay`. It "
            "should be the smaller of the two numbers.",
            "optimizer.step() → pass; 1 - d) → 1 - d)\n        optimizer.step()": "You average before the optimizer "
            "has moved the weights, so the average is always one step behind.",
            "(1 + step) / (10 + step) → (2 + step) / (11 + step)": "Your d is a step ahead. Steps are counted from 0.",
            "loss(step) → loss(0)": "Every step trains on the first batch. Tell `loss` which step it is.",
            "optimizer.step() → pass": "The weights never change. Which call finds the gradients, and which uses them?",
        },
    ),
    "euler_step": Exercise(
        euler_step,
        oracle=euler,
        inputs=_steps,
        laws={"halving the step should show a method of order 1": lambda f: (_order(f), 1.0)},
        mistakes={
            ",), now → ,), then": "You take the velocity at the end of the step. To which time does x belong?",
            "(then - now) * →": "You move by the whole velocity. How long is the step from `now` to `then`?",
            "x + ( → x - (": "You step backwards. On the way from noise to data, t grows.",
            "(then - now) → then": "You multiply by the time `then`. A step is as long as the difference of two times.",
            "x + (then → (then": "This is only the change of x. From where does the step start?",
        },
    ),
    "heun_step": Exercise(
        heun_step,
        oracle=heun,
        inputs=_steps,
        laws={"halving the step should show a method of order 2": lambda f: (_order(f), 2.0)},
        mistakes={
            "(first + second) / 2 → first": "This is a step of Euler. The second velocity does not count yet.",
            "velocity(x + h * first, t + h) → velocity(x + h / 2 * first, t + h / 2); (first + second) / 2 → second": (
                "This is the midpoint method. It is a fine one, of order 2 as well, but Heun looks at the *end* of the "
                "step."
            ),
            "/ 2 →": "You go twice as far as you should: you add the two velocities where you should average them.",
            "t + h → t": "You take the second velocity at the new place but at the old time.",
            "x + h * first → x": "You take the second velocity at the new time but at the old place. Where would a "
            "step of Euler end?",
            "(first + second) / 2 → second": "You use the velocity at the end alone. What about the one at the start?",
            "return x → return x + h * first": "You start the second step where the first one ended. Both should "
            "start at x.",
            "x + h * first → x + first": "To look ahead, you move by the whole velocity. How long is the step?",
        },
    ),
    "guided_velocity": Exercise(
        guided_velocity,
        oracle=lambda network, x, t, y, null, w: guided(network, y, null, w)(x, t),
        inputs=lambda: [
            (_labelled, numbers(3, 1, 2, 2), _times(3), torch.tensor([1, 4, 2]), 10, 2.5),
            (_labelled, numbers(2, 5, seed=1), _times(2), torch.tensor([0, 3]), 5, 1.5),
        ],
        mistakes={
            "return without → return with_label": "You count w from 0: at w = 1, yours already goes beyond the "
            "velocity with its label. Here, w = 1 means no guidance.",
            "without + w * (with_label - without) → with_label + w * (without - with_label)": "At w = 1, yours is the "
            "velocity without a label. Have the two changed places?",
            "(with_label - without) → (without - with_label)": "You start without the label and then move away from "
            "it. Check the sign of the difference.",
            "(with_label - without) → with_label": "You add w times the velocity with its label. Guidance goes along "
            "the *difference* of the two velocities.",
            "without + w * (with_label - without) → with_label": "This is v(y), the velocity with its label, whatever "
            "w is. What should w change?",
            "torch.full_like(y, null) → torch.zeros_like(y)": "You take 0 for no label, but 0 is a class of its own. "
            "Which number means no label?",
        },
    ),
    "score_from_velocity": Exercise(
        score_from_velocity,
        oracle=_score,
        inputs=_square_pairs,
        used=False,
        mistakes={
            "return -x0 → return x0": "Your score points towards the noise. The density grows the other way.",
            "-x0 / (1 - t) → x0": "This is the noise x₀. How do you get from the noise to the score?",
            "-x0 / (1 - t) → -x0": "This is −x₀. One division is still missing.",
            "/ (1 - t) → / (1 - t) ** 2": "You divide by σ². That would be right for x − t·x₁, which is σ·x₀; the "
            "noise x₀ itself is divided by σ once.",
            "/ (1 - t) → / t": "You divide by t. On this path, σ is the factor in front of the noise.",
            "x - t * v → x + (1 - t) * v": "Check your x₀: going on along v for the time that is left, 1 − t, leads "
            "to the data. Which way leads to the noise?",
            "x - t * v → x + t * v": "Check your x₀: put x₁ = x₀ + v into the equation for x, and solve it again.",
            "x - t * v → x - v": "Check your x₀: at time t, x has come only a part of the way from x₀.",
            "t.reshape(-1, *[1] * (x.ndim - 1)) → t": "Torch lines up t with the *last* axis, so every column of "
            "pixels gets its own time. Every sample should have its own.",
            "t.reshape(-1, *[1] * (x.ndim - 1)) → t[:, None]": "Torch lines up axes from the last one, so with this "
            "shape of t every *row* of pixels gets its own time. Every sample should: how many axes has x?",
            "t.reshape(-1, *[1] * (x.ndim - 1)) → t[:, None, None]": "Torch lines up axes from the last one, so with "
            "this shape of t every *channel* gets its own time. Every sample should: how many axes has x?",
        },
    ),
    "sde_step": Exercise(
        sde_step,
        oracle=_sde,
        inputs=lambda: [(*c, numbers(*c[1].shape, seed=9), w) for c, w in zip(_steps(), (0.7, 1.6), strict=True)],
        laws={"with w = 0 it is a step of Euler": lambda f: (f(*_steps()[1], numbers(2, 5), 0.0), euler(*_steps()[1]))},
        mistakes={
            "(2 * w * h) ** 0.5 → (2 * w) ** 0.5 * h": "Your noise grows in proportion to h. From step to step, "
            "variances add up, so the *deviation* of the noise grows like a root.",
            "(2 * w * h) → (w * h)": "Your noise is too small by √2. In unit time the score takes out a variance of "
            "2w, and as much should come in.",
            "(2 * w * h) ** 0.5 → 2 * w * h": "You multiply the noise by its variance. What is its standard deviation?",
            "(2 * w * h) ** 0.5 → (2 * w) ** 0.5": "Your noise does not depend on the length of the step, so a "
            "thousand small steps would drown the image.",
            "* noise → * 0": "You add no noise yet, so the score removes noise that nobody put in.",
            "v + w * score → v": "The noise comes in, but nothing takes it out again. Where is the score?",
            "v + w * score → v - w * score": "Your score pushes samples away from dense regions. Check its sign.",
            "w * score → w / 2 * score": "Your score is half as strong as the noise needs: √(2w) goes with w.",
            "/ (1 - now) →": "Yours is −x₀, and not yet the score. What divides it?",
            "h * (v + w * score) → h * v + w * score": "The score is not multiplied by the length of the step.",
            "v + w * score → w * score": "The velocity is missing, and without it x shakes but gets nowhere.",
            "w * score → score": "The score is not multiplied by w.",
        },
    ),
    "meanflow_target": Exercise(
        meanflow_target,
        oracle=average_velocity_target,
        inputs=lambda: [
            (_Average(), numbers(3, 1, 3, 3), _times(3), 1 - _times(3), numbers(3, 1, 3, 3, seed=1)),
            (_Average(), numbers(2, 2, seed=2), _times(2), torch.tensor([0.0, 0.1]), numbers(2, 2, seed=3)),
        ],
        returns=("the target", "the answer to whether a gradient flows through it (1: yes, 0: no)"),
        adapt=_and_graph,
        mistakes={
            "one, -one → one, 0 * one": "Your span stays as it is. But s stands still while t moves on, so what "
            "happens to s − t?",
            "-one → one": "Your span grows with t. The end s stands still, so in which direction does s − t change?",
            "(velocity, one → (0 * velocity, one": "The point stands still in your derivative. Along the path, how "
            "does x change when t does?",
            "velocity, one → velocity, 0 * one": "The point moves in your derivative, but its time t stands still. "
            "Both should move.",
            "one, -one → 0 * one, 0 * one": "Only the point moves in your derivative. Two more inputs of u change as "
            "time goes on.",
            "(velocity, one → (-velocity, one": "Your point moves backwards, as it would in the paper's time. Here, "
            "it moves along v.",
            "+ span → - span": "This sign is for the paper's time, which runs the other way. Here, s comes *after* t.",
            "span * du_dt → du_dt": "The derivative is not multiplied by the span. When s = t, the target should be v.",
            "-one))[1] → -one))[0]": "You take the first of the two things that `jvp` returns, which is u itself. "
            "Which is the derivative?",
            "velocity + span * du_dt → span * du_dt": "The velocity v is missing. When s = t, the target should be v.",
            "(velocity + → (u(x, t, span.flatten()) +": "You start from u, the network's own answer, so nothing would "
            "tie it to the data. Which velocity do you know?",
            ".detach() →": "The numbers are right, but a gradient flows through the target, so the network could move "
            "its target instead of itself. What cuts it off?",
            "span.reshape(-1, *[1] * (x.ndim - 1)) → span": "Torch lines up the span with the *last* axis. It should "
            "multiply whole samples.",
            "span.reshape(-1, *[1] * (x.ndim - 1)) → span[:, None]": "Torch lines up axes from the last one, so with "
            "this shape of the span every *row* of pixels gets its own. Every sample should: how many axes has x?",
        },
    ),
}
