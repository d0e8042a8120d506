"""Exercises on losses: Dispersive Loss, its gradient, variants and contrastive parent, REPA (notebooks 02, 05, 09)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labkit import losses as library
from labkit.exercises.checking import Exercise, Function, filled_in, numbers
from labkit.models import Transformer, build_model
from labkit.runtime import seeded


def _tokens(seed: int = 0) -> Sequence[Tensor]:
    """Features (B, T, H) of two batches."""
    return numbers(12, 4, 6, seed=seed, scale=0.6, shift=0.4), numbers(7, 3, 5, seed=seed + 1, scale=0.5, shift=-0.3)


def _with(*settings: float) -> Sequence[tuple[Tensor, float]]:
    """The two batches, each with its own τ or ε."""
    return tuple(zip(_tokens(), settings, strict=True))


def dispersive_loss(z, tau=0.5):
    """log of the mean of exp(−D_ij / τ) over all ordered pairs of samples i, j, each sample with itself included.

    D_ij = ‖z_i − z_j‖² / P is the squared distance of two samples, divided by their number of features P.

    z: features of B samples, (B, …), such as (B, T, H).  tau: temperature τ.  Returns one number, shape ().
    """
    z = z.flatten(1)  # each sample as one vector, (B, P)
    D = (z[:, None] - z).square().mean(dim=-1)  # (B, B)
    return torch.log(torch.exp(-D / tau).mean())


def dispersive_gradient(z, tau=0.5):
    """The gradient of the Dispersive Loss L, written out: ∂L/∂z_i = −4/(τP) · Σ_j w_ij (z_i − z_j).

    The weight of a pair is w_ij = exp(−D_ij/τ) / Σ_kl exp(−D_kl/τ), where D_ij = ‖z_i − z_j‖² / P.

    z: features of B samples, (B, P).  tau: temperature τ.  Returns the gradient, (B, P), without autograd.
    """
    D = (z[:, None] - z).square().mean(dim=-1)  # (B, B)
    w = torch.exp(-D / tau) / torch.exp(-D / tau).sum()  # (B, B)
    return -4 / (tau * z.shape[1]) * (w[:, :, None] * (z[:, None] - z)).sum(dim=1)


def cosine_loss(z, tau=0.5):
    """log of the mean of exp(cos(z_i, z_j) / τ) over all ordered pairs of samples i, j, self-pairs included.

    z: features of B samples, (B, …).  tau: temperature τ.  Returns one number, shape ().
    """
    z = z.flatten(1)
    z = z / z.norm(dim=1, keepdim=True)
    return torch.log(torch.exp(z @ z.T / tau).mean())


def hinge_loss(z, margin=1.0):
    """Mean of max(0, ε − D_ij)² over all ordered pairs of samples i, j, self-pairs included.

    D_ij = ‖z_i − z_j‖² / P is the squared distance of two samples, divided by their number of features P.

    z: features of B samples, (B, …).  margin: ε.  Returns one number, shape ().
    """
    z = z.flatten(1)
    D = (z[:, None] - z).square().mean(dim=-1)  # (B, B)
    return torch.relu(margin - D).square().mean()


def covariance_loss(z):
    """Mean of C_mn² over all ordered pairs of features m ≠ n, where C_mn is their correlation over the batch.

    There are P(P − 1) such pairs, P being the number of features of a sample.

    z: features of B samples, (B, …).  Returns one number, shape ().
    """
    z = z.flatten(1)
    z = (z - z.mean(dim=0)) / z.std(dim=0, correction=0)  # (B, P): mean 0 and variance 1 over the batch
    C = z.T @ z / len(z)  # (P, P)
    P = len(C)
    return (C.square().sum() - C.diagonal().square().sum()) / (P * (P - 1))


def regularized_loss(model, x_t, t, y, velocity, block, lam, tau):
    """Mean squared error of the velocity, plus λ times the Dispersive Loss of one block's features.

    model: `model(x_t, t, y, taps=[block])` returns `.output`, the velocity that it predicts, (B, C, H, W), and
    `.features`, a dictionary {block: features (B, T, H)} of T tokens of width H for each sample.
    x_t, t, y: images, times and labels of the batch.  velocity: the target, (B, C, H, W).
    block: number of the block, from 0.  lam: weight λ.  tau: temperature τ.  Returns one number, shape ().
    """
    from labkit import dispersive_loss

    prediction = model(x_t, t, y, taps=[block])
    base = (prediction.output - velocity).square().mean()
    return base + lam * dispersive_loss(prediction.features[block], tau=tau)


def contrastive_loss(z, z_positive, tau=0.5, alignment_weight=1.0):
    """α · mean_i D(z_i, z_i⁺)/τ + log mean_ij exp(−D(z_i, z_j)/τ), where D(a, b) = ‖a − b‖² / P.

    The first term draws the two views of a sample together, the second pushes samples of the first view apart.

    z, z_positive: features z and z⁺ of two views of the same B samples, both (B, …), P numbers for each sample.
    tau: temperature τ.  alignment_weight: α.  Returns one number, shape (); gradients flow into both views.
    """
    z, z_positive = z.flatten(1), z_positive.flatten(1)
    alignment = (z - z_positive).square().mean(dim=1).mean() / tau
    D = (z[:, None] - z).square().mean(dim=-1)  # within the first view, (B, B)
    repulsion = torch.log(torch.exp(-D / tau).mean())
    return alignment_weight * alignment + repulsion


def repa_loss(projected, target):
    """Minus the mean, over all samples and tokens, of the cosine between the model's token and the teacher's.

    projected: the model's tokens after the projector, (B, T, D): B samples, T tokens, width D.
    target: the teacher's tokens, (B, T, D); the teacher is frozen.  Returns one number from −1 to 1, shape ().
    """
    target = target.detach()
    h = torch.nn.functional.normalize(projected, dim=-1)
    y = torch.nn.functional.normalize(target, dim=-1)
    return -(h * y).sum(dim=-1).mean()


def _gradient(z: Tensor, tau: float = 0.5) -> Tensor:
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(library.dispersive_loss(z, tau=tau), z)[0]


def _regularized(model, x_t, t, y, velocity, block, lam, tau) -> Tensor:
    output, features = model(x_t, t, y, taps=[block])
    return (output - velocity).square().mean() + lam * library.dispersive_loss(features[block], tau=tau)


def _open_sit() -> Transformer:
    """A SiT with open gates, the same at every call: freshly initialised, its blocks would return their input."""
    with seeded(0):
        model = build_model("SiT-Nano/4", 8, 1, 10, learn_sigma=False)
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def _on_sit(answer: Function) -> Function:
    """The answer on a small SiT: the loss, and the size of the gradient that it leaves in each block."""

    def run(*arguments: object) -> Any:
        model = _open_sit()
        try:
            loss = filled_in(answer(model, *arguments))
        except KeyError as error:
            error.add_note("The model returns features only of the blocks in `taps`: did you pass `taps=[block]`?")
            raise
        groups = [model.x_embedder, *model.blocks]
        norms = torch.zeros(len(groups))
        if isinstance(loss, Tensor) and loss.requires_grad and loss.ndim == 0:
            loss.backward()
            for i, group in enumerate(groups):
                norms[i] = sum(p.grad.square().sum() for p in group.parameters() if p.grad is not None)
        return loss, norms.sqrt()

    return run


def _views() -> Sequence[tuple[Tensor, Tensor, float, float]]:
    (a, b), (c, d) = _tokens(), _tokens(5)
    return (a, 0.6 * a + 0.4 * c, 0.7, 0.75), (b, 0.5 * b + 0.5 * d, 0.3, 1.5)


EXERCISES = {
    "dispersive_loss": Exercise(
        dispersive_loss,
        oracle=lambda z, tau=0.5: library.dispersive_loss(z, tau=tau),
        inputs=lambda: _with(0.7, 0.3),
        gradients=(0,),
        laws={
            "for identical features the loss is 0": lambda f: (f(torch.ones(4, 2, 3), 0.5), 0.0),
            "far apart, 8 samples reach the floor −log 8": lambda f: (f(1e3 * numbers(8, 2, 3), 0.5), -math.log(8)),
        },
        mistakes={
            "return torch.log → return -torch.log": "The sign is flipped, so minimising this loss would pull the "
            "samples together. Which way should the loss move when two samples move apart?",
            "-D / tau → D / tau": "Far pairs weigh most here and should weigh least. Check the sign in the exponent.",
            ".mean(dim=-1) → .sum(dim=-1)": "Your distance grows with the number of features, and at the width of a "
            "real model no gradient would be left. What should it be divided by?",
            ".square().mean(dim=-1) → .square().sum(dim=-1) / z.shape[1] ** 2": "You square 1/P along with the "
            "distance. The square comes first, and then the division by P: D = ‖·‖²/P.",
            ".mean(dim=-1) → .sum(dim=-1) / len(z)": "You divide by the number of samples B. P is the number of "
            "features of one sample.",
            "z = z.flatten(1) → H, z = z.shape[-1], z.flatten(1); .mean(dim=-1) → .sum(dim=-1) / H": "You divide by "
            "the size of the last axis alone. P counts all the numbers of a sample, those of its other tokens, too.",
            ".square().mean(dim=-1) → .norm(dim=-1) / z.shape[1]": "The distance is not squared. The formula has "
            "‖·‖²; without the square, even the nearest pairs push with full force.",
            ".mean(dim=-1) → .mean(dim=-1).sqrt()": "You take the square root of D. The formula uses D as it is, a "
            "squared distance divided by P.",
            "tau).mean()) → tau).mean(dim=1)).mean()": "You take a logarithm for each sample and average them. Where "
            "does the logarithm stand in the formula: inside the mean over all pairs, or outside?",
            "torch.log(torch.exp(-D / tau).mean()) → torch.exp(-D / tau).mean()": "The mean over the pairs is right. "
            "One function around it is still missing.",
            "tau).mean()) → tau)).mean()": "Your logarithm meets the exponential and cancels it. All that is left is "
            "the mean distance, which has no floor. In which order should the mean and the logarithm come?",
            "tau).mean() → tau).sum()": "Your loss is too large by log B². Does the formula take the sum over the "
            "pairs, or their mean?",
            "-D / tau → -D[~torch.eye(len(D), dtype=bool)] / tau": "You leave out the pairs of a sample with itself. "
            "They look useless, but they give the loss its floor, and the paper's code keeps them.",
            "torch.exp(-D / tau) → ((1 - torch.eye(len(D))) * torch.exp(-D / tau))": "You take the self-pairs out of "
            "the sum but still divide by all B² pairs. In the paper's loss, the self-pairs stay in.",
            "z.flatten(1) → z.mean(dim=1)": "You average over the tokens first. Then single tokens may do as they "
            "like while their mean moves apart. Keep all the numbers of a sample, in one vector.",
            "z.flatten(1) → z.flatten(0, 1)": "You treat every token as a sample of its own, so that tokens of one "
            "image repel each other. A sample is all its tokens, in one vector.",
            "z = z.flatten(1) → z = torch.nn.functional.normalize(z.flatten(1), dim=1)": "You scale each sample to "
            "length 1. That is close to the cosine variant; this loss takes the features as they are.",
            "/ tau → * tau": "A larger τ should make the loss reach further, and yours reaches less far. Is τ on the "
            "right side of the fraction bar?",
            "/ tau → / (2 * tau)": "You divide by 2τ, as in a Gaussian. Here it is τ alone.",
            "-D / tau → -D": "The temperature τ does not appear in your result. What should happen when it changes?",
            "-D / tau → -D / D.max() / tau": "You divide by the largest D, so the loss cannot tell a small cloud from "
            "a large one.",
            "z[:, None] - z → z[:, None] - z.detach()": "The value is right, and the gradient is half of what it "
            "should be. Both samples of a pair should move: is one of them detached?",
        },
    ),
    "dispersive_gradient": Exercise(
        dispersive_gradient,
        oracle=_gradient,
        inputs=lambda: [(z.flatten(1), tau) for z, tau in _with(0.7, 0.3)],
        laws={"the pushes on all samples sum to 0": lambda f: (f(numbers(6, 5), 0.5).sum(dim=0), torch.zeros(5))},
        mistakes={
            "-4 → 4": "Your arrows point the wrong way. A gradient points uphill: here, towards other samples. Check "
            "the sign in front, the order of z_i − z_j, and the axis of the sum. It runs over j; over i, each "
            "difference has the other sign.",
            "-4 → -2": "Your result is exactly half of what it should be. Sample i appears twice in the sum over "
            "pairs: as the first of a pair, and as the second.",
            "-4 → -1": "Your result is a quarter of what it should be. One factor of 2 comes from the square. Where "
            "does the other come from?",
            ".mean(dim=-1) → .sum(dim=-1)": "The D in your weights is not divided by P, so only the pair of a sample "
            "with itself has a weight, and it pushes nothing.",
            ".square().mean(dim=-1) → .square().sum(dim=-1) / z.shape[1] ** 2": "You square 1/P along with the "
            "distance. D = ‖·‖²/P has it once.",
            "-D / tau → D / tau": "In your weights far pairs count most. Check the sign in the exponent.",
            "(tau * z.shape[1]) → tau": "The factor 1/P in front is missing. D contains it, so its derivative does, "
            "too.",
            "(tau * z.shape[1]) → z.shape[1]": "The factor 1/τ in front is missing. What is the derivative of −D/τ?",
            "tau).sum() → tau).sum(dim=1, keepdim=True)": "Your weights sum to 1 in every row. In the formula they "
            "sum to 1 over *all* pairs.",
            "/ torch.exp(-D / tau).sum() →": "Your weights are not divided by their sum. That sum comes from the "
            "logarithm: what is the derivative of log x?",
            "tau).sum() → tau).mean()": "Your weights are too large by B²: you divide by the mean over the pairs, and "
            "not by their sum.",
        },
    ),
    "cosine_loss": Exercise(
        cosine_loss,
        oracle=lambda z, tau=0.5: library.dispersive_loss(z, "infonce_cosine", tau=tau),
        used=False,
        inputs=lambda: _with(0.7, 0.3),
        gradients=(0,),
        laws={"for identical features the loss is 1/τ": lambda f: (f(torch.ones(4, 2, 3), 0.5), 2.0)},
        mistakes={
            "exp(z → exp(-z": "Your loss falls when samples turn towards each other, and it should rise. Which sign "
            "does the cosine have in the exponent?",
            "z / z.norm(dim=1, keepdim=True) → z": "These are inner products, which grow with the features. What "
            "turns one into a cosine?",
            "norm(dim=1 → norm(dim=0": "You scale each feature. For a cosine, each *sample* should have length 1: "
            "look at `dim`.",
            "z.flatten(1) → (z / z.norm(dim=-1, keepdim=True)).flatten(1); z / z.norm(dim=1, keepdim=True) → z": "You "
            "give each token length 1. The angle is taken between whole samples: flatten them first.",
            "/ tau → / z.shape[1] / tau": "You divide the cosines by P, but a cosine is at most 1 at any width.",
            "tau).mean()) → tau).mean(dim=1)).mean()": "You take a logarithm for each sample and average them. The "
            "logarithm belongs outside the mean over all pairs.",
            "z @ z.T / tau → (z @ z.T)[~torch.eye(len(z), dtype=bool)] / tau": "You leave out the pairs of a sample "
            "with itself. Here they count, as in the released code.",
            "tau).mean() → tau).sum()": "Your loss is too large by log B²: the formula has a mean over the pairs.",
            "/ tau → * tau": "You multiply the cosine by τ. The formula divides by it.",
            "z.flatten(1) → z.mean(dim=1)": "You average over the tokens first. The angle is taken between samples "
            "with all the numbers of all their tokens.",
        },
    ),
    "hinge_loss": Exercise(
        hinge_loss,
        oracle=lambda z, margin=1.0: library.dispersive_loss(z, "hinge", margin=margin),
        used=False,
        inputs=lambda: _with(0.7, 0.5),
        gradients=(0,),
        laws={
            "for identical features the loss is ε²": lambda f: (f(torch.ones(4, 2, 3), 0.5), 0.25),
            "far apart, 8 samples reach the floor ε²/8": lambda f: (f(1e3 * numbers(8, 2, 3), 1.0), 0.125),
        },
        mistakes={
            "D).square() → D)": "The hinge is right but not squared, so the push ends abruptly at the margin.",
            "margin - D → D - margin": "Your hinge acts on pairs *beyond* the margin. Which pairs should be pushed?",
            "torch.relu(margin - D) → (margin - D)": "Pairs beyond the margin are pulled back in, because the max(0, "
            "·) is missing.",
            ".mean(dim=-1) → .sum(dim=-1)": "D is not divided by P, so at the width of a real model every pair lies "
            "beyond the margin.",
            ".square().mean(dim=-1) → .norm(dim=-1) / z.shape[1]": "The distance is not squared before you divide by "
            "P. The formula has ‖·‖².",
            ".square().mean(dim=-1) → .square().sum(dim=-1) / z.shape[1] ** 2": "You square 1/P along with the "
            "distance. First square, then divide by P.",
            ".mean(dim=-1) → .mean(dim=-1).sqrt()": "You compare ε with a distance. The formula compares it with D, a "
            "*squared* distance.",
            "D).square().mean() → D).mean().square()": "You square the mean. Square each pair by itself, so that near "
            "pairs weigh more.",
            "torch.relu(margin - D) → torch.relu(margin - D)[~torch.eye(len(D), dtype=bool)]": "You leave out the "
            "pairs of a sample with itself. They are in the formula, and give the loss its floor ε²/B.",
            "D).square().mean() → D).square().sum()": "You sum over the pairs where the formula takes their mean.",
            "z.flatten(1) → z.mean(dim=1)": "You average over the tokens first. Keep all the numbers of a sample.",
        },
    ),
    "covariance_loss": Exercise(
        covariance_loss,
        oracle=lambda z: library.dispersive_loss(z, "covariance"),
        used=False,
        inputs=lambda: [(z,) for z in _tokens()],
        gradients=(0,),
        laws={"for one feature that is repeated, the loss is 1": lambda f: (f(numbers(9, 1).repeat(1, 4)), 1.0)},
        mistakes={
            "/ z.std(dim=0, correction=0) →": "These are covariances. They shrink when the features do, so collapse "
            "would be the best answer. What turns a covariance into a correlation?",
            "z.mean(dim=0) → z.mean(dim=1, keepdim=True); std(dim=0 → std(dim=1, keepdim=True": "You standardise each "
            "sample over its features. Each *feature* should get mean 0 and variance 1 over the batch: look at `dim`.",
            "std(dim=0 → std(dim=1, keepdim=True": "You divide each sample by the deviation of its own features. Each "
            "*feature* should be divided by its deviation over the batch: look at `dim`.",
            "std(dim=0, → std(": "You divide all features by one deviation, that of all numbers together. Each feature "
            "should be divided by its own: which `dim`?",
            "z.mean(dim=0) → z.mean(); std(dim=0, → std(": "You subtract one mean and divide by one deviation, those "
            "of all numbers together. Each feature has its own, over the batch: which `dim`?",
            "z.std( → z.var(": "You divide by the variance. A correlation divides by the standard deviation, its root.",
            "(z - z.mean(dim=0)) / → z /": "The features keep their mean. A correlation tells how two features vary "
            "together, so subtract their means first.",
            "- C.diagonal().square().sum() →": "The diagonal is still in the sum. Each feature agrees perfectly with "
            "itself, and should not be blamed for it.",
            "(C.square().sum() - C.diagonal().square().sum()) / (P * (P - 1)) → C.square().mean()": "You average over "
            "all P² entries, with the diagonal. How many pairs m ≠ n are there?",
            "(P * (P - 1)) → P**2": "The sum is right. It has P(P − 1) terms, but you divide by P².",
            "(P * (P - 1)) → P": "The sum is right, but you divide it by P. How many terms does it have?",
            ".square() →": "Your correlations are not squared, so +1 and −1 cancel. Yet in both cases one feature "
            "repeats another.",
            ".square() → .abs()": "You take absolute values where the formula has squares.",
            "correction=0 → correction=1": "You are off by ((B − 1)/B)²: the deviation divides by B − 1, as is "
            "torch's default, and the mean over the batch by B. Use the same number in both places.",
            "/ len(z) → / (len(z) - 1)": "You are off by (B/(B − 1))²: one line divides by B and the other by B − 1. "
            "Use the same number in both places.",
            "z = z.flatten(1) → z = z.flatten(1).T": "You correlate samples with each other. This variant compares "
            "*features*. Which of the two axes should be summed over?",
            "z.flatten(1) → z.flatten(0, 1)": "You treat every token as a sample of its own. The correlations are "
            "taken over samples, between all the numbers of all their tokens.",
            "/ (P * (P - 1)) →": "The sum is right, but you do not divide it by the number of its terms yet.",
        },
    ),
    "regularized_loss": Exercise(
        regularized_loss,
        oracle=_regularized,
        inputs=lambda: [
            (
                *(numbers(6, 1, 8, 8), torch.linspace(0.1, 0.9, 6), torch.arange(6)),
                *(numbers(6, 1, 8, 8, seed=1), 1, 0.5, 0.7),
            )
        ],
        returns=("the loss", "the size of its gradient in the embedding and in each block"),
        adapt=_on_sit,
        used=False,
        mistakes={
            "features[block] → features[block].detach()": "The value is right, but the gradient of the second term is "
            "missing: its features are detached, or come from a forward pass under `no_grad`. Training would ignore "
            "the term altogether.",
            "features[block] → features[block].mean(dim=1)": "You average the features over the tokens first. Pass "
            "all of them to the loss, (B, T, H).",
            "base + → base -": "You subtract the second term. The Dispersive Loss falls when samples move apart, so "
            "add it, like any loss.",
            "lam * →": "The weight λ is missing in front of the second term.",
            "[block] → [block + 1]": "You read one block too late. Blocks are numbered from 0.",
            "[block] → [block - 1]": "You read one block too early. The features are those *after* the block.",
            "prediction.features[block] → prediction.output": "You disperse the predicted velocity. The second term "
            "acts on the features inside the model, at one block.",
            ".square().mean() → .square().sum()": "You sum the squared errors, so that λ hardly counts beside them. "
            "The first term is a mean over everything.",
            "+ lam * dispersive_loss(prediction.features[block], tau=tau) →": "This is the error of the velocity "
            "alone. The second term has not been added yet.",
            "features[block] → features[block].flatten(0, 1)": "You treat every token as a sample of its own, so that "
            "tokens of one image repel each other. Pass the features (B, T, H) as they are.",
        },
    ),
    "contrastive_loss": Exercise(
        contrastive_loss,
        oracle=lambda z, z_positive, tau=0.5, alignment_weight=1.0: library.contrastive_loss(
            z, z_positive, tau=tau, alignment_weight=alignment_weight
        ),
        inputs=_views,
        gradients=(0, 1),
        laws={
            "with α = 0 it is the Dispersive Loss": lambda f: (
                f(*_views()[0][:3], 0.0),
                dispersive_loss(_views()[0][0], 0.7),
            )
        },
        mistakes={
            "alignment_weight * alignment → -alignment_weight * alignment": "Your two views push each other away. "
            "Which sign brings them together when the loss is minimised?",
            "mean(dim=1).mean() / tau → mean(dim=1).mean()": "The alignment is not divided by τ, so the balance of "
            "the two terms would change with the temperature.",
            ".mean(dim=1).mean() → .sum(dim=1).mean()": "The alignment is not divided by P. At the width of a real "
            "model, it would drown the repulsion.",
            ".mean(dim=1).mean() → .mean(dim=1).sum()": "The alignment should be a mean over the batch, not a sum.",
            "(z - z_positive) → (z[:, None] - z_positive)": "You draw each sample towards *every* sample of the "
            "second view. Only the two views of the same sample belong together.",
            "+ repulsion → + alignment_weight * repulsion": "You multiply both terms by α. It weighs the alignment "
            "alone, so that the Dispersive Loss remains when α = 0.",
            "+ repulsion → + (1 - alignment_weight) * repulsion": "You mix the terms with α and 1 − α. Here the "
            "repulsion keeps its full weight, whatever α is.",
            "alignment_weight * alignment → alignment": "α does not appear in your result. What should it weigh?",
            "z[:, None] - z) → z[:, None] - z_positive)": "Your repulsion compares the first view with the second, so "
            "the two views of a sample repel each other, too. It should act within the first view.",
            "-D / tau → -D[~torch.eye(len(D), dtype=bool)] / tau": "Your repulsion leaves out the pairs of a sample "
            "with itself. They are in the formula.",
            "z - z_positive → z - z_positive.detach()": "The value is right, but no gradient reaches the second view. "
            "The two views of a sample should both move.",
            "+ repulsion → - repulsion": "Both of your terms draw samples together, and the best answer is a single "
            "point. Check the sign of the second term.",
        },
    ),
    "repa_loss": Exercise(
        repa_loss,
        oracle=library.repa_loss,
        inputs=lambda: [
            ((y := numbers(4, 5, 6)) * 0.8 + 1.5 * numbers(4, 5, 6, seed=1), y),
            (numbers(3, 2, 7, seed=2) + 0.3, numbers(3, 2, 7, seed=3) + 0.6),
        ],
        gradients=(0, 1),
        laws={"equal tokens give −1": lambda f: (f(numbers(3, 4, 5), numbers(3, 4, 5)), -1.0)},
        mistakes={
            "return -( → return (": "Minimising this would turn the model away from its teacher. Check the sign.",
            "h * y → projected * target": "These are inner products, so longer tokens would look like better ones. "
            "What turns an inner product into a cosine?",
            "h * y → projected * y": "Only the teacher's tokens have length 1. What about the model's?",
            "h * y → h * target": "Only the model's tokens have length 1. What about the teacher's?",
            ".sum(dim=-1).mean() → .mean()": "You average over the width D where an inner product is a sum. For a "
            "perfect match, the loss should be −1.",
            "projected, dim=-1 → projected.flatten(1), dim=-1; target, dim=-1 → target.flatten(1), dim=-1": "You take "
            "one angle for each image. There should be one for each token.",
            "normalize(projected → normalize(projected.mean(dim=1); normalize(target → normalize(target.mean(dim=1)": (
                "You average over the tokens first. REPA compares each token with the teacher's token at its place."
            ),
            "dim=-1 → dim=1": "You take the cosine over the tokens. Which axis holds the coordinates of one token?",
            ".mean() → .sum(dim=1).mean()": "You sum over the tokens, so the right λ would depend on the image's size.",
            "return - → return 1 -": "This is 1 − cos, off by a constant. It trains the same, but you could not "
            "compare its curve with a published one.",
            "return -(h * y) → return (h - y).square()": "This is the squared distance of the two directions, which "
            "is 2 − 2·cos. That is closely related, but the formula asks for the cosine.",
            "target.detach() → target": "The value is right, but a gradient also reaches the teacher, which should "
            "stay frozen.",
        },
    ),
}
