"""The nouns that a batch becomes on its way through the house: Batch → PathSample → Prediction → Losses."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.checks import LabError as LabError  # its old home


class Batch(NamedTuple):
    """Images and their labels, as the data set gives them."""

    x: Float[Tensor, "batch channels height width"]
    """Data scaled to about [-1, 1]."""
    y: Int[Tensor, " batch"]
    """Class labels, 0 ≤ y < num_classes."""
    pixels: Float[Tensor, "batch 3 side side"] | None = None
    """The images themselves, where x are their latents and a teacher wants to see them."""


class Draws(NamedTuple):
    """All the randomness of one training step, drawn outside the objective, and which step it is.

    With every random number handed in, the objective is a plain function: a resumed run, two ranks or a compiled
    step see exactly what a straight run sees.
    """

    noise: Float[Tensor, "batch channels height width"]
    """x₀ ~ N(0, 1), of the data's shape."""
    uniforms: Float[Tensor, "batch 2"]
    """Uniform numbers in [0, 1) a sample: column 0 becomes the time t, column 1 decides on dropping the label."""
    step: Int[Tensor, ""] = torch.tensor(0)
    """Optimizer steps before this one, for what is warmed up."""
    second: "SecondView | None" = None
    """What a second view of the same images needs, where there is one."""
    ends: Float[Tensor, " batch"] | None = None
    """Uniform numbers that become the later time s of MeanFlow's pairs, where there are pairs."""


class SecondView(NamedTuple):
    """Noise and time of the second view that a contrastive loss compares with the first."""

    noise: Float[Tensor, "batch channels height width"]
    uniforms: Float[Tensor, " batch"]


class PathSample(NamedTuple):
    """A point on the way from noise (t = 0) to data (t = 1), and the velocity there."""

    x_t: Float[Tensor, "batch ..."]
    velocity: Float[Tensor, "batch ..."]


class Prediction(NamedTuple):
    """What a network returns: its output, and by value the features of the blocks that were asked for."""

    output: Float[Tensor, "batch channels height width"]
    features: dict[int, Float[Tensor, "batch tokens width"]]
    """Block number (from 0) → the raw residual stream after that block."""


class Losses(NamedTuple):
    """What an objective returns: the loss to minimise, and all that a meter may want to look at."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    """Unweighted terms by name, detached, e.g. ``velocity`` and ``dispersive``; first that of ``errors``."""
    weighted: dict[str, Float[Tensor, ""]]
    """Regularizer → what it adds to the total, λ included, with its gradient."""
    features: dict[int, Float[Tensor, "batch tokens width"]]
    """Block → features of the (first) view."""
    errors: Float[Tensor, " batch"]
    """The base loss of each sample, detached."""
    times: Float[Tensor, " batch"]
    """The time t of each sample."""
