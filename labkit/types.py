"""The tuples that a training step passes on: Batch and Draws → PathSample → Prediction → Losses."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Batch(NamedTuple):
    """Images and their labels, as a data set returns them."""

    x: Float[Tensor, "batch channels height width"]
    """Data scaled to about [-1, 1]."""
    y: Int[Tensor, " batch"]
    """Class labels, 0 ≤ y < num_classes."""
    pixels: Float[Tensor, "batch 3 side side"] | None = None
    """The images themselves, where x holds their latents and a teacher needs the images."""


class Draws(NamedTuple):
    """All the randomness of one training step, drawn outside the objective, and the number of the step.

    Since every random number is an argument, the objective is a plain function: a resumed run, two ranks and a
    compiled step compute exactly what an uninterrupted run computes.
    """

    noise: Float[Tensor, "batch channels height width"]
    """x₀ ~ N(0, 1), of the data's shape."""
    uniforms: Float[Tensor, "batch 2"]
    """Uniform numbers in [0, 1): column 0 becomes the time t, column 1 decides whether the label is dropped."""
    step: Int[Tensor, ""] = torch.tensor(0)
    """Number of optimizer steps before this one, on which the schedules of λ depend."""
    second: "SecondView | None" = None
    """Randomness of a second view of the same images, for the contrastive loss."""
    ends: Float[Tensor, " batch"] | None = None
    """Uniform numbers that become the later time s of MeanFlow's pairs (t, s)."""


class SecondView(NamedTuple):
    """Noise and time of the second view that a contrastive loss compares with the first."""

    noise: Float[Tensor, "batch channels height width"]
    uniforms: Float[Tensor, " batch"]


class PathSample(NamedTuple):
    """A point on the path from noise (t = 0) to data (t = 1), and the velocity there."""

    x_t: Float[Tensor, "batch ..."]
    velocity: Float[Tensor, "batch ..."]


class Prediction(NamedTuple):
    """A network's output and, by value, the features of the requested blocks."""

    output: Float[Tensor, "batch channels height width"]
    features: dict[int, Float[Tensor, "batch tokens width"]]
    """Block number (from 0) → the raw residual stream after that block."""


class Losses(NamedTuple):
    """An objective's value: the loss to minimise, and what the meters read."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    """Unweighted terms by name, detached, e.g. ``velocity`` and ``dispersive``; the mean of ``errors`` is the first."""
    weighted: dict[str, Float[Tensor, ""]]
    """Regularizer → its part of the total, λ included, with gradient."""
    features: dict[int, Float[Tensor, "batch tokens width"]]
    """Block → features of the first view."""
    errors: Float[Tensor, " batch"]
    """The base loss of each sample, detached."""
    times: Float[Tensor, " batch"]
    """The time t of each sample."""
