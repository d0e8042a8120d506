"""Exercises on losses: Dispersive Loss, its gradient, variants and contrastive parent, REPA (notebooks 02, 05, 09)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.exercises.checking import Exercise, Function, Law, Mistake, numbers
from labkit.losses import contrastive_loss, dispersive_loss, repa_loss
from labkit.models import Transformer, build_model
from labkit.runtime import seeded


def _distances(z: Tensor) -> Tensor:
    """‖z_i − z_j‖², written out."""
    z = z.flatten(1)
    return (z[:, None] - z[None]).square().sum(dim=-1)


def _width(z: Tensor) -> int:
    return z[0].numel()


def _d(z: Tensor) -> Tensor:
    return _distances(z) / _width(z)


def _root(d: Tensor) -> Tensor:
    """Root with a slope of 0 at 0."""
    return torch.where(d > 0, d.clamp_min(1e-20).sqrt(), 0.0)


def _off(x: Tensor) -> Tensor:
    return x[~torch.eye(len(x), dtype=torch.bool)]


def _log_mean(x: Tensor) -> Tensor:
    return x.exp().mean().log()


def _cosines(z: Tensor) -> Tensor:
    z = F.normalize(z.flatten(1), dim=1)
    return z @ z.T


def _tokens(seed: int = 0) -> Sequence[Tensor]:
    return numbers(12, 4, 6, seed=seed, scale=0.6, shift=0.4), numbers(7, 3, 5, seed=seed + 1, scale=0.5, shift=-0.3)


def _spread_cases() -> Sequence[tuple[Tensor, float]]:
    return tuple(zip(_tokens(), (0.7, 0.3), strict=True))


SPREAD_LAWS = (
    Law("for identical features the loss is 0", lambda f: (f(torch.ones(4, 2, 3), 0.5), 0.0)),
    Law("far apart, 8 samples reach the floor −log 8", lambda f: (f(numbers(8, 2, 3, scale=1e3), 0.5), -math.log(8))),
    Law("a shift of all features changes nothing", lambda f: (f(_tokens()[0] + 5, 0.5), f(_tokens()[0], 0.5))),
    Law(
        "each feature repeated three times changes nothing",
        lambda f: (f(_tokens()[0].repeat(1, 1, 3), 0.5), f(_tokens()[0], 0.5)),
    ),
)

DISPERSIVE = Exercise(
    name="dispersive_loss",
    notebook="02",
    title="Algorithm 1, the Dispersive Loss",
    minutes=5,
    difficulty=1,
    why="This is the whole method of the paper. Four lines are enough, and three of the four have a way to go wrong "
    "that no curve will show you. Once yours is right, the panels below train with it.",
    stub='''
def dispersive_loss(z, tau=0.5):
    """log of the mean over all ordered pairs, self-pairs included, of exp(−D_ij / τ), D_ij = ‖z_i − z_j‖² / P.

    z: features (B, …) of B samples, such as (B, T, H).  tau: temperature τ.  Returns one number, shape ().
    """
    z = ...  # each sample as one vector of P numbers
    D = ...  # (B, B)
    return ...
''',
    solution="""
def dispersive_loss(z, tau=0.5):
    z = z.flatten(1)
    D = (z[:, None] - z[None]).square().mean(dim=-1)
    return torch.log(torch.exp(-D / tau).mean())
""",
    oracle=lambda z, tau: dispersive_loss(z, tau=tau),
    cases=_spread_cases,
    gradients=(0,),
    laws=SPREAD_LAWS,
    mistakes=(
        Mistake(
            "sign",
            "The sign is flipped: whoever minimises this pulls the samples together. Which way should the loss move "
            "when two samples move apart?",
            lambda z, tau: -_log_mean(-_d(z) / tau),
        ),
        Mistake(
            "exponent's sign",
            "Far pairs weigh most here, and they should weigh least: look at the sign inside the exponential.",
            lambda z, tau: _log_mean(_d(z) / tau),
        ),
        Mistake(
            "no P",
            "The distance grows with the number of features, and at the width of a real model no gradient would be "
            "left. What must it be divided by?",
            lambda z, tau: _log_mean(-_distances(z) / tau),
        ),
        Mistake(
            "divided by the last axis",
            "You divide by the size of the last axis alone. P counts all the numbers of a sample, its tokens too.",
            lambda z, tau: _log_mean(-_distances(z) / z.shape[-1] / tau),
        ),
        Mistake(
            "not squared",
            "The distance is not squared. The formula has ‖·‖², and without the square it has a kink at 0.",
            lambda z, tau: _log_mean(-_root(_distances(z)) / _width(z) / tau),
        ),
        Mistake(
            "root of the mean",
            "You use the root of D. The formula takes the squared distance, divided by P, as it is.",
            lambda z, tau: _log_mean(-_root(_d(z)) / tau),
        ),
        Mistake(
            "row-wise logs",
            "You take a logarithm for each sample and average them. Where does the log stand in the formula, inside or "
            "outside the double mean?",
            lambda z, tau: (-_d(z) / tau).exp().mean(dim=1).log().mean(),
        ),
        Mistake(
            "no log",
            "The mean over the pairs is right. One function around it is still missing.",
            lambda z, tau: (-_d(z) / tau).exp().mean(),
        ),
        Mistake(
            "log inside",
            "The logarithm meets the exponential and cancels it, so all that is left is the mean distance, which has "
            "no floor. In which order do the two stand?",
            lambda z, tau: (-_d(z) / tau).mean(),
        ),
        Mistake(
            "sum",
            "It is too large by log B². Do you sum over the pairs where the formula has a mean?",
            lambda z, tau: (-_d(z) / tau).exp().sum().log(),
        ),
        Mistake(
            "without self-pairs",
            "You leave out the pairs of a sample with itself. They look useless, but they give the loss its floor, "
            "and the paper's code keeps them.",
            lambda z, tau: _log_mean(_off(-_d(z) / tau)),
        ),
        Mistake(
            "self-pairs masked",
            "You remove the self-pairs from the sum but still divide by all B² pairs. In the paper's loss they stay "
            "in.",
            lambda z, tau: (_off(-_d(z) / tau).exp().sum() / len(z) ** 2).log(),
        ),
        Mistake(
            "pooled",
            "You average over the tokens first. Then they may do as they like, as long as their mean moves apart. Keep "
            "all numbers of a sample, in one vector.",
            lambda z, tau: _log_mean(-_d(z.mean(dim=1)) / tau),
        ),
        Mistake(
            "normalised",
            "You scale each sample to length 1. That is close to the cosine variant; this one takes the raw features.",
            lambda z, tau: _log_mean(-_d(F.normalize(z.flatten(1), dim=1)) / tau),
        ),
        Mistake(
            "tau multiplies",
            "A larger τ should make the loss reach further, and yours reaches less far. Is τ on the right side of the "
            "fraction bar?",
            lambda z, tau: _log_mean(-_d(z) * tau),
        ),
        Mistake(
            "no tau",
            "The temperature τ does not appear. What happens when you change it?",
            lambda z, tau: _log_mean(-_d(z)),
        ),
        Mistake(
            "divided by the largest",
            "You divide the distances by the largest of them. Then the loss cannot tell a small cloud from a large "
            "one.",
            lambda z, tau: _log_mean(-_d(z) / _d(z).max() / tau),
        ),
        Mistake(
            "one side detached",
            "The value is right and the gradient is half of what it should be. Both samples of a pair must move: is "
            "one of them detached?",
            lambda z, tau: _log_mean(-(z.flatten(1)[:, None] - z.detach().flatten(1)[None]).square().mean(-1) / tau),
        ),
    ),
)


def _gradient(z: Tensor, tau: float) -> Tensor:
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(dispersive_loss(z, tau=tau), z)[0]


def _shares(z: Tensor, tau: float) -> Tensor:
    """w_ij, which sum to 1 over all pairs."""
    return (-_d(z) / tau).flatten().softmax(0).view(len(z), len(z))


def _push(z: Tensor, weights: Tensor) -> Tensor:
    """Σ_j w_ij (z_i − z_j)."""
    return weights.sum(dim=1, keepdim=True) * z - weights @ z


GRADIENT = Exercise(
    name="dispersive_gradient",
    notebook="02",
    title="its gradient",
    minutes=8,
    difficulty=2,
    why="The gradient tells what the loss *does*: who pushes whom, and how hard. Written out it is three lines, and "
    "each factor explains something that you will see in training.",
    stub='''
def dispersive_gradient(z, tau=0.5):
    """∂L/∂z_i = −4/(τP) · Σ_j w_ij (z_i − z_j), where w_ij = exp(−D_ij/τ) / Σ_kl exp(−D_kl/τ).

    z: features (B, P).  tau: temperature τ.  Returns the gradient at every sample, (B, P), without autograd.
    """
    D = ...  # (B, B)
    w = ...  # (B, B)
    return ...
''',
    solution="""
def dispersive_gradient(z, tau=0.5):
    D = (z[:, None] - z[None]).square().mean(dim=-1)
    w = torch.exp(-D / tau) / torch.exp(-D / tau).sum()
    return -4 / (tau * z.shape[1]) * (w[:, :, None] * (z[:, None] - z[None])).sum(dim=1)
""",
    oracle=_gradient,
    cases=lambda: [(z.flatten(1), tau) for z, tau in _spread_cases()],
    laws=(
        Law("the pushes of all samples cancel", lambda f: (f(numbers(6, 5), 0.5).sum(dim=0).norm() + 1, 1.0)),
        Law("identical samples do not push", lambda f: (f(torch.ones(4, 5), 0.5).norm() + 1, 1.0)),
    ),
    mistakes=(
        Mistake(
            "sign",
            "These arrows point the wrong way: the gradient points uphill, towards other samples, and descent then "
            "goes away from them. Check the sign.",
            lambda z, tau: 4 / (tau * _width(z)) * _push(z, _shares(z, tau)),
        ),
        Mistake(
            "factor of two",
            "You are off by exactly 2. Sample i appears twice in the sum over pairs: as the first and as the second.",
            lambda z, tau: -2 / (tau * _width(z)) * _push(z, _shares(z, tau)),
        ),
        Mistake(
            "factor of four",
            "You are off by a factor of 4. One 2 comes from the square; where does the other come from?",
            lambda z, tau: -1 / (tau * _width(z)) * _push(z, _shares(z, tau)),
        ),
        Mistake(
            "no P",
            "The division by P is missing in front: D carries a 1/P, and so must its derivative.",
            lambda z, tau: -4 / tau * _push(z, _shares(z, tau)),
        ),
        Mistake(
            "no tau",
            "The factor 1/τ in front is missing. What does the chain rule make of −D/τ?",
            lambda z, tau: -4 / _width(z) * _push(z, _shares(z, tau)),
        ),
        Mistake(
            "row-wise weights",
            "Your weights sum to 1 in every row. In the formula they sum to 1 over *all* pairs of the batch.",
            lambda z, tau: -4 / (tau * _width(z)) * _push(z, (-_d(z) / tau).softmax(dim=1)),
        ),
        Mistake(
            "weights not normalised",
            "The weights are not divided by their sum. It comes from the log: what is the derivative of log x?",
            lambda z, tau: -4 / (tau * _width(z)) * _push(z, (-_d(z) / tau).exp()),
        ),
        Mistake(
            "weights by the mean",
            "The weights are too large by B²: you divide by the mean over the pairs where the formula has their sum.",
            lambda z, tau: -4 * len(z) ** 2 / (tau * _width(z)) * _push(z, _shares(z, tau)),
        ),
    ),
)

COSINE = Exercise(
    name="cosine_loss",
    notebook="02",
    title="the cosine variant",
    minutes=4,
    difficulty=1,
    why="L2 falls when features just grow. This variant looks at angles only, so growing does not help: a fair "
    "control for everything that you will read about norms.",
    stub='''
def cosine_loss(z, tau=0.5):
    """log of the mean over all ordered pairs, self-pairs included, of exp(cos(z_i, z_j) / τ).

    z: features (B, …).  tau: temperature τ.  Returns one number, shape ().
    """
    ...
''',
    solution="""
def cosine_loss(z, tau=0.5):
    z = torch.nn.functional.normalize(z.flatten(1), dim=1)
    return torch.log(torch.exp(z @ z.T / tau).mean())
""",
    oracle=lambda z, tau: dispersive_loss(z, "infonce_cosine", tau=tau),
    cases=_spread_cases,
    gradients=(0,),
    laws=(
        Law("for identical features the loss is 1/τ", lambda f: (f(torch.ones(4, 2, 3), 0.5), 2.0)),
        Law("twice the features give the same loss", lambda f: (f(2 * _tokens()[0], 0.5), f(_tokens()[0], 0.5))),
    ),
    mistakes=(
        Mistake(
            "sign",
            "Your loss falls when the samples turn towards each other. Which sign does the cosine carry in the "
            "exponent?",
            lambda z, tau: _log_mean(-_cosines(z) / tau),
        ),
        Mistake(
            "not normalised",
            "These are inner products, and they grow with the features. A cosine does not: what is it divided by?",
            lambda z, tau: _log_mean(z.flatten(1) @ z.flatten(1).T / tau),
        ),
        Mistake(
            "normalised over the batch",
            "You normalise each feature over the batch. A cosine needs every *sample* to have length 1: look at `dim`.",
            lambda z, tau: _log_mean(F.normalize(z.flatten(1), dim=0) @ F.normalize(z.flatten(1), dim=0).T / tau),
        ),
        Mistake(
            "tokens normalised",
            "You give each token length 1. The angle is between whole samples: flatten first, then normalise.",
            lambda z, tau: _log_mean(F.normalize(z, dim=-1).flatten(1) @ F.normalize(z, dim=-1).flatten(1).T / tau),
        ),
        Mistake(
            "divided by P",
            "You divide the cosines by P. A cosine is at most 1 at any width, so nothing has to be divided here.",
            lambda z, tau: _log_mean(_cosines(z) / _width(z) / tau),
        ),
        Mistake(
            "row-wise logs",
            "You take a logarithm for each sample and average them; the log belongs outside the double mean.",
            lambda z, tau: (_cosines(z) / tau).exp().mean(dim=1).log().mean(),
        ),
        Mistake(
            "without self-pairs",
            "You leave out the pairs of a sample with itself; here they count, as in the released code.",
            lambda z, tau: _log_mean(_off(_cosines(z) / tau)),
        ),
        Mistake(
            "tau multiplies", "Look at τ: it should divide the cosine.", lambda z, tau: _log_mean(_cosines(z) * tau)
        ),
        Mistake(
            "pooled",
            "You average over the tokens first; the angle is between samples with all their tokens.",
            lambda z, tau: _log_mean(_cosines(z.mean(dim=1)) / tau),
        ),
    ),
)

HINGE = Exercise(
    name="hinge_loss",
    notebook="02",
    title="the hinge variant",
    minutes=4,
    difficulty=1,
    why="A hinge has an end: pairs further apart than √ε are left alone. That makes it the variant whose work you can "
    "finish, and a good one to see what a floor means.",
    stub='''
def hinge_loss(z, margin=1.0):
    """Mean over all ordered pairs, self-pairs included, of max(0, ε − D_ij)², D_ij = ‖z_i − z_j‖² / P.

    z: features (B, …).  margin: ε.  Returns one number, shape ().
    """
    ...
''',
    solution="""
def hinge_loss(z, margin=1.0):
    z = z.flatten(1)
    D = (z[:, None] - z[None]).square().mean(dim=-1)
    return torch.relu(margin - D).square().mean()
""",
    oracle=lambda z, margin: dispersive_loss(z, "hinge", margin=margin),
    cases=lambda: [(z, margin) for z, margin in zip(_tokens(), (0.7, 0.5), strict=True)],
    gradients=(0,),
    laws=(
        Law("for identical features the loss is ε²", lambda f: (f(torch.ones(4, 2, 3), 0.5), 0.25)),
        Law("far apart, 8 samples reach the floor ε²/8", lambda f: (f(numbers(8, 2, 3, scale=1e3), 1.0), 0.125)),
    ),
    mistakes=(
        Mistake(
            "not squared",
            "The hinge itself is right. Its square is missing, so the push ends with a jerk at the margin.",
            lambda z, margin: (margin - _d(z)).relu().mean(),
        ),
        Mistake(
            "the other side",
            "Your hinge acts on pairs that are *further* apart than the margin. Which ones should move?",
            lambda z, margin: (_d(z) - margin).relu().square().mean(),
        ),
        Mistake(
            "no hinge",
            "Pairs beyond the margin are pulled back in: the square is there, the max(0, ·) is not.",
            lambda z, margin: (margin - _d(z)).square().mean(),
        ),
        Mistake(
            "no P",
            "The distance is not divided by P, so that at a real width every pair is beyond the margin.",
            lambda z, margin: (margin - _distances(z)).relu().square().mean(),
        ),
        Mistake(
            "root",
            "You compare the margin with the distance; here it is compared with the *squared* distance D.",
            lambda z, margin: (margin - _root(_d(z))).relu().square().mean(),
        ),
        Mistake(
            "square of the mean",
            "You square the mean. The square belongs to each pair: near pairs should weigh more.",
            lambda z, margin: (margin - _d(z)).relu().mean().square(),
        ),
        Mistake(
            "without self-pairs",
            "You leave out the pairs of a sample with itself; they give the loss its floor ε²/B.",
            lambda z, margin: _off((margin - _d(z)).relu()).square().mean(),
        ),
        Mistake(
            "sum",
            "You sum over the pairs where the formula has a mean.",
            lambda z, margin: (margin - _d(z)).relu().square().sum(),
        ),
        Mistake(
            "pooled",
            "You average over the tokens first; keep all numbers of a sample.",
            lambda z, margin: (margin - _d(z.mean(dim=1))).relu().square().mean(),
        ),
    ),
)


def _correlations(z: Tensor) -> Tensor:
    z = z.flatten(1)
    z = (z - z.mean(dim=0)) / z.std(dim=0, correction=0)
    return z.T @ z / len(z)


def _covariances(z: Tensor) -> Tensor:
    z = z.flatten(1) - z.flatten(1).mean(dim=0)
    return z.T @ z / len(z)


def _between(c: Tensor) -> Tensor:
    """Mean over m ≠ n of C²."""
    return _off(c).square().mean()


COVARIANCE = Exercise(
    name="covariance_loss",
    notebook="02",
    title="the covariance variant",
    minutes=6,
    difficulty=2,
    why="The fourth variant does not compare samples at all. It asks that no feature repeats another, and it sees "
    "neither shift nor scale. If the other three were about distance, this one is about rank.",
    stub='''
def covariance_loss(z):
    """Σ_{m≠n} C_mn² / (P(P − 1)), C_mn the correlation of features m and n over the batch.

    z: features (B, …), flattened to P a sample.  Returns one number, shape ().
    """
    z = ...  # (B, P), each feature with mean 0 and variance 1 over the batch
    C = ...  # (P, P)
    ...
''',
    solution="""
def covariance_loss(z):
    z = z.flatten(1)
    z = (z - z.mean(dim=0)) / z.std(dim=0, correction=0)
    C = z.T @ z / len(z)
    P = len(C)
    return (C.square().sum() - C.diagonal().square().sum()) / (P * (P - 1))
""",
    oracle=lambda z: dispersive_loss(z, "covariance"),
    cases=lambda: [(z,) for z in _tokens()],
    gradients=(0,),
    laws=(
        Law("twice the features give the same loss", lambda f: (f(2 * _tokens()[0]), f(_tokens()[0]))),
        Law("one feature repeated gives the loss 1", lambda f: (f(numbers(9, 1).repeat(1, 4)), 1.0)),
    ),
    mistakes=(
        Mistake(
            "not standardised",
            "These are covariances, which shrink when the features do: collapse would be the best answer. What makes a "
            "correlation out of one?",
            lambda z: _between(_covariances(z)),
        ),
        Mistake(
            "not centred",
            "The features keep their mean. A correlation is about how two features vary together: take the mean off "
            "first.",
            lambda z: _between((f := z.flatten(1) / z.flatten(1).std(dim=0, correction=0)).T @ f / len(z)),
        ),
        Mistake(
            "diagonal counted",
            "The diagonal is still in the sum. Each feature agrees with itself perfectly, and that is no fault.",
            lambda z: _correlations(z).square().sum() / (_width(z) * (_width(z) - 1)),
        ),
        Mistake(
            "mean of all entries",
            "You average over all P² entries, the diagonal included. How many pairs m ≠ n are there?",
            lambda z: _correlations(z).square().mean(),
        ),
        Mistake(
            "divided by P²",
            "The sum is right. It has P(P − 1) terms, and you divide by P².",
            lambda z: _off(_correlations(z)).square().sum() / _width(z) ** 2,
        ),
        Mistake(
            "divided by P",
            "The sum is right. How many terms does it have?",
            lambda z: _off(_correlations(z)).square().sum() / _width(z),
        ),
        Mistake(
            "not squared",
            "Without the square, a correlation of −1 makes up for one of +1. Both repeat a feature.",
            lambda z: _off(_correlations(z)).mean(),
        ),
        Mistake(
            "absolute",
            "You take absolute values where the formula has squares.",
            lambda z: _off(_correlations(z)).abs().mean(),
        ),
        Mistake(
            "B and B − 1",
            "You are off by ((B − 1)/B)²: the deviation divides by B − 1 (torch's default) and the mean over the "
            "batch by B. Use one of the two in both places.",
            lambda z: _between(_correlations(z)) * ((len(z) - 1) / len(z)) ** 2,
        ),
        Mistake(
            "B − 1 and B",
            "You are off by (B/(B − 1))²: one line divides by B and the other by B − 1. Use one of the two in both.",
            lambda z: _between(_correlations(z)) * (len(z) / (len(z) - 1)) ** 2,
        ),
        Mistake(
            "samples against samples",
            "You correlate samples with each other. This variant compares *features*: which of the two axes is summed?",
            lambda z: _between(torch.corrcoef(z.flatten(1))),
        ),
        Mistake(
            "sum",
            "The sum is right; it is not divided by the number of its terms yet.",
            lambda z: _off(_correlations(z)).square().sum(),
        ),
    ),
)


def _open_sit() -> Transformer:
    """A SiT with open gates, the same at every call: freshly initialised, its blocks would return their input."""
    with seeded(0):
        model = build_model("SiT-Nano/4", 8, 1, 10, learn_sigma=False)
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def _on_sit(answer: Function) -> Function:
    """The answer on a small SiT: the loss, and the gradient that it leaves in each block."""

    def run(*arguments: object) -> Any:
        model = _open_sit()
        loss = answer(model, *arguments)
        if not isinstance(loss, Tensor) or loss.ndim:
            return loss
        groups = [model.x_embedder, *model.blocks]
        norms = torch.zeros(len(groups))
        if loss.requires_grad:
            loss.backward()
            for i, group in enumerate(groups):
                norms[i] = sum(p.grad.square().sum() for p in group.parameters() if p.grad is not None)
        return loss.detach(), norms.sqrt()

    return run


def _regularized(model, x_t, t, y, velocity, block, lam, tau, term=None, base=torch.Tensor.mean, shift=0):
    output, features = model(x_t, t, y, taps=[block + shift])
    term = term or (lambda z, output: lam * dispersive_loss(z, tau=tau))
    return base((output - velocity).square()) + term(features[block + shift], output)


def _regularized_with(term: Function) -> Function:
    """The objective with another second term, term(z, output, lam, tau)."""

    def loss(model, x_t, t, y, velocity, block, lam, tau):
        return _regularized(model, x_t, t, y, velocity, block, lam, tau, lambda z, v: term(z, v, lam, tau))

    return loss


REGULARIZED = Exercise(
    name="regularized_loss",
    notebook="02",
    title="Algorithm 2, the term in a SiT",
    minutes=6,
    difficulty=2,
    why="A regularizer that reads the wrong features trains without a complaint. Here you put the loss where it "
    "belongs: on the output of one block, in the same forward pass that is trained anyway.",
    stub='''
def regularized_loss(model, x_t, t, y, velocity, block, lam, tau):
    """Mean squared error of the velocity, plus λ times the Dispersive Loss of one block's features.

    model: `model(x_t, t, y, taps=[block])` returns `.output`, the velocity, and `.features`, {block: (B, T, H)}.
    velocity: the target.  block: number of the block, from 0.  lam, tau: λ and τ.  Returns one number, shape ().
    """
    prediction = ...
    ...
''',
    solution="""
from labkit import dispersive_loss

def regularized_loss(model, x_t, t, y, velocity, block, lam, tau):
    prediction = model(x_t, t, y, taps=[block])
    base = (prediction.output - velocity).square().mean()
    return base + lam * dispersive_loss(prediction.features[block], tau=tau)
""",
    oracle=_regularized,
    cases=lambda: [
        (numbers(6, 1, 8, 8), torch.linspace(0.1, 0.9, 6), torch.arange(6), numbers(6, 1, 8, 8, seed=1), 1, 0.5, 0.7)
    ],
    adapt=_on_sit,
    mistakes=(
        Mistake(
            "features detached",
            "The value is right, but the regularizer's part of the gradient is missing: its features are detached, "
            "or come from a forward pass under `no_grad`. Training would ignore the term altogether.",
            _regularized_with(lambda z, v, lam, tau: lam * dispersive_loss(z.detach(), tau=tau)),
        ),
        Mistake(
            "pooled",
            "You average the features over the tokens first. The loss takes them as they leave the block.",
            _regularized_with(lambda z, v, lam, tau: lam * dispersive_loss(z.mean(dim=1), tau=tau)),
        ),
        Mistake(
            "subtracted",
            "You subtract the term. The Dispersive Loss falls when samples move apart, so it is added, like any loss.",
            _regularized_with(lambda z, v, lam, tau: -lam * dispersive_loss(z, tau=tau)),
        ),
        Mistake(
            "no lambda",
            "The weight λ is missing.",
            _regularized_with(lambda z, v, lam, tau: dispersive_loss(z, tau=tau)),
        ),
        Mistake(
            "block too late", "You read one block too late: blocks are numbered from 0.", partial(_regularized, shift=1)
        ),
        Mistake(
            "block too early",
            "You read one block too early: blocks are numbered from 0, and the features are those *after* the block.",
            partial(_regularized, shift=-1),
        ),
        Mistake(
            "output dispersed",
            "You disperse the predicted velocity. The term acts on the features inside, at one block.",
            _regularized_with(lambda z, v, lam, tau: lam * dispersive_loss(v, tau=tau)),
        ),
        Mistake(
            "squared error summed",
            "The squared error is summed, so that λ hardly counts beside it. The base loss is a mean over everything.",
            partial(_regularized, base=torch.Tensor.sum),
        ),
        Mistake(
            "no term",
            "This is the velocity loss alone; the second term has not been added.",
            _regularized_with(lambda z, v, lam, tau: 0.0),
        ),
        Mistake(
            "tokens as samples",
            "You treat every token as a sample, so tokens of one image repel each other, too. Pass (B, T, H) as it is.",
            _regularized_with(lambda z, v, lam, tau: lam * dispersive_loss(z.flatten(0, 1), tau=tau)),
        ),
    ),
)


def _contrastive(align: Function, repel: Function | None = None) -> Function:
    """A contrastive loss with another alignment A(z, z⁺, τ), or with another second term (z, z⁺, τ, α)."""

    def loss(z: Tensor, positive: Tensor, tau: float, weight: float) -> Tensor:
        second = _log_mean(-_d(z) / tau) if repel is None else repel(z, positive, tau, weight)
        return weight * align(z, positive, tau) + second

    return loss


def _paired(a: Tensor, b: Tensor, tau: float = 1.0) -> Tensor:
    return (a - b).flatten(1).square().mean(dim=1) / tau


def _aligned(a: Tensor, b: Tensor, tau: float) -> Tensor:
    return _paired(a, b, tau).mean()


def _views() -> Sequence[tuple[Tensor, Tensor, float, float]]:
    (a, b), (c, d) = _tokens(), _tokens(5)
    return (a, 0.6 * a + 0.4 * c, 0.7, 0.75), (b, 0.5 * b + 0.5 * d, 0.3, 1.5)


CONTRASTIVE = Exercise(
    name="contrastive_loss",
    notebook="05",
    title="the contrastive parent",
    minutes=5,
    difficulty=2,
    why="Between the Dispersive Loss and its contrastive parent lies one number, α. Write the parent yourself and "
    "you will see which words of the paper's title each term stands for.",
    stub='''
def contrastive_loss(z, z_positive, tau=0.5, alignment_weight=1.0):
    """α · mean_i D(z_i, z_i⁺)/τ + log mean_ij exp(−D(z_i, z_j)/τ), where D(a, b) = ‖a − b‖² / P.

    z, z_positive: features of two views of the same samples, both (B, …).  alignment_weight: α.
    Returns one number, shape (); the gradient flows into both views.
    """
    alignment = ...
    repulsion = ...  # of the first view
    return ...
''',
    solution="""
def contrastive_loss(z, z_positive, tau=0.5, alignment_weight=1.0):
    z, z_positive = z.flatten(1), z_positive.flatten(1)
    alignment = (z - z_positive).square().mean(dim=1).mean() / tau
    D = (z[:, None] - z[None]).square().mean(dim=-1)
    repulsion = torch.log(torch.exp(-D / tau).mean())
    return alignment_weight * alignment + repulsion
""",
    oracle=lambda z, positive, tau, weight: contrastive_loss(z, positive, tau=tau, alignment_weight=weight),
    cases=_views,
    gradients=(0, 1),
    laws=(
        Law(
            "with α = 0 it is the Dispersive Loss",
            lambda f: (f(*_views()[0][:2], 0.5, 0.0), dispersive_loss(_views()[0][0], tau=0.5)),
        ),
        Law(
            "with two equal views the alignment is 0, and α does not matter",
            lambda f: (f(*_views()[0][:1] * 2, 0.5, 9.0), f(*_views()[0][:1] * 2, 0.5, 0.0)),
        ),
    ),
    mistakes=(
        Mistake(
            "alignment's sign",
            "Your two views push each other away. Which sign brings partners together when the loss is minimised?",
            _contrastive(lambda a, b, tau: -_paired(a, b, tau).mean()),
        ),
        Mistake(
            "alignment without tau",
            "The alignment is not divided by τ, so the balance of the two terms would change with the temperature.",
            _contrastive(lambda a, b, tau: _paired(a, b).mean()),
        ),
        Mistake(
            "alignment without P",
            "The alignment is not divided by P: at the width of a real model it would drown the repulsion.",
            _contrastive(lambda a, b, tau: _paired(a, b, tau).mean() * _width(a)),
        ),
        Mistake(
            "alignment summed",
            "The alignment is a sum over the batch where the formula has a mean.",
            _contrastive(lambda a, b, tau: _paired(a, b, tau).sum()),
        ),
        Mistake(
            "all pairs aligned",
            "You draw each sample towards *every* second view. Only partners, i with i, belong together.",
            _contrastive(lambda a, b, tau: (a.flatten(1)[:, None] - b.flatten(1)[None]).square().mean() / tau),
        ),
        Mistake(
            "weight on the repulsion",
            "α multiplies both terms. It weighs the alignment alone, and with α = 0 the Dispersive Loss must remain.",
            _contrastive(_aligned, lambda z, p, tau, w: w * _log_mean(-_d(z) / tau)),
        ),
        Mistake(
            "convex mix",
            "You mix with α and 1 − α. Here the repulsion keeps its full weight at every α.",
            _contrastive(_aligned, lambda z, p, tau, w: (1 - w) * _log_mean(-_d(z) / tau)),
        ),
        Mistake(
            "no weight",
            "α does not appear yet. What should change when it does?",
            lambda z, p, tau, w: _paired(z, p, tau).mean() + _log_mean(-_d(z) / tau),
        ),
        Mistake(
            "repulsion across the views",
            "Your repulsion compares the first view with the second. Then partners repel each other, too: here it acts "
            "among the samples of the first view.",
            _contrastive(
                _aligned,
                lambda z, p, tau, w: _log_mean(-(z.flatten(1)[:, None] - p.flatten(1)[None]).square().mean(-1) / tau),
            ),
        ),
        Mistake(
            "second view detached",
            "The value is right, but the second view gets no gradient: partners should move towards each other, both.",
            _contrastive(lambda a, b, tau: _paired(a, b.detach(), tau).mean()),
        ),
        Mistake(
            "repulsion's sign",
            "Both terms now draw samples together, and the best answer is a single point. Check the sign of the "
            "second.",
            _contrastive(_aligned, lambda z, p, tau, w: -_log_mean(-_d(z) / tau)),
        ),
    ),
)


def _token_cosines(h: Tensor, y: Tensor) -> Tensor:
    return F.cosine_similarity(h, y, dim=-1)


REPA = Exercise(
    name="repa_loss",
    notebook="09",
    title="REPA's loss",
    minutes=4,
    difficulty=1,
    why="The teacher's whole influence passes through this one number. It is easy to write, and easy to get subtly "
    "wrong: over which axis is the cosine taken, and who may learn from whom?",
    stub='''
def repa_loss(projected, target):
    """Minus the mean over samples and tokens of cos(target_bt, projected_bt).

    projected: the model's tokens after the projector, (B, T, D).  target: the teacher's tokens, (B, T, D), frozen.
    Returns one number, shape (), from −1 to 1.
    """
    ...
''',
    solution="""
def repa_loss(projected, target):
    h = torch.nn.functional.normalize(projected, dim=-1)
    y = torch.nn.functional.normalize(target.detach(), dim=-1)
    return -(h * y).sum(dim=-1).mean()
""",
    oracle=repa_loss,
    cases=lambda: [
        ((y := numbers(4, 5, 6)) * 0.8 + 1.5 * numbers(4, 5, 6, seed=1), y),
        (numbers(3, 2, 7, seed=2) + 0.3, numbers(3, 2, 7, seed=3) + 0.6),
    ],
    gradients=(0, 1),
    laws=(
        Law("equal tokens give −1", lambda f: (f(numbers(3, 4, 5), numbers(3, 4, 5)), -1.0)),
        Law("the length of the tokens does not matter", lambda f: (f(3 * numbers(3, 4, 5), numbers(3, 4, 5)), -1.0)),
    ),
    mistakes=(
        Mistake(
            "sign",
            "Whoever minimises this turns the model away from its teacher. Check the sign.",
            lambda h, y: _token_cosines(h, y.detach()).mean(),
        ),
        Mistake(
            "not normalised",
            "These are inner products: longer tokens would look like better ones. What makes a cosine of them?",
            lambda h, y: -(h * y.detach()).sum(dim=-1).mean(),
        ),
        Mistake(
            "mean over the width",
            "You average over the width D where an inner product sums. A perfect match should give −1.",
            lambda h, y: -_token_cosines(h, y.detach()).mean() / h.shape[-1],
        ),
        Mistake(
            "one cosine a sample",
            "You flatten the tokens and take one angle for each image. Every token should point where its teacher "
            "points.",
            lambda h, y: -_token_cosines(h.flatten(1), y.detach().flatten(1)).mean(),
        ),
        Mistake(
            "pooled",
            "You average over the tokens first. REPA compares them place by place.",
            lambda h, y: -_token_cosines(h.mean(dim=1), y.detach().mean(dim=1)).mean(),
        ),
        Mistake(
            "normalised over tokens",
            "The cosine is taken over the tokens, not over the width. Which axis holds the coordinates of one token?",
            lambda h, y: -F.cosine_similarity(h, y.detach(), dim=1).mean(),
        ),
        Mistake(
            "sum over tokens",
            "You sum over the tokens; then λ would depend on the size of the image.",
            lambda h, y: -_token_cosines(h, y.detach()).sum(dim=1).mean(),
        ),
        Mistake(
            "one minus",
            "This is 1 − cos, off by a constant. It trains the same, but it cannot be compared with published curves.",
            lambda h, y: 1 - _token_cosines(h, y.detach()).mean(),
        ),
        Mistake(
            "squared distance",
            "This is the squared distance between the two directions, 2 − 2cos. Close, but on another scale.",
            lambda h, y: 2 - 2 * _token_cosines(h, y.detach()).mean(),
        ),
        Mistake(
            "the teacher learns",
            "The value is right, but the gradient also reaches the teacher. It is frozen: let it stay as it is.",
            lambda h, y: -_token_cosines(h, y).mean(),
        ),
    ),
)

EXERCISES = (DISPERSIVE, GRADIENT, COSINE, HINGE, COVARIANCE, REGULARIZED, CONTRASTIVE, REPA)
