"""What can simple readers tell from features? Each is given samples with their classes, and judged on others.

Labels enter these measurements only, never the training of what is measured. Features of shape (n, …) are flattened.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.checks import require, whole
from labkit.distances import cross_cosines, pairwise_cosines
from labkit.ops import full_precision, rows


@torch.no_grad()
def knn_accuracy(
    known_z: Float[Tensor, "n ..."],
    known_y: Int[Tensor, " n"],
    z: Float[Tensor, "m ..."],
    y: Int[Tensor, " m"],
    k: int = 20,
) -> float:
    """Share in [0, 1] of samples whose class most of the k known samples with the largest cosine have.

    Of classes with equally many of the k, the one with the larger sum of cosines is taken; if that is equal as well,
    the smaller label. Which of several known samples at the same cosine comes k-th is left open.

    Args:
        known_z, known_y: features and classes to look among.  z, y: those that are judged.
        k: neighbours, from 1 to n.

    Raises:
        ConfigError: k out of range.
        ValueError: see ``linear_probe_accuracy``.
    """
    known_z, known_y, z, y = _checked(known_z, known_y, z, y)
    n = len(known_z)
    require(whole(k, 1) and k <= n, "k", k, f"take a whole number from 1 to {n}, the number of known samples")
    classes, known_class = known_y.unique(return_inverse=True)
    with full_precision(z.device):
        cosines, neighbours = cross_cosines(z, known_z).topk(int(k), dim=1)
    theirs = known_class[neighbours]
    count = cosines.new_zeros(len(z), len(classes)).scatter_add_(1, theirs, torch.ones_like(cosines))
    nearness = torch.zeros_like(count).scatter_add_(1, theirs, cosines)
    most = count == count.amax(dim=1, keepdim=True)
    found = classes[nearness.where(most, -torch.inf).argmax(dim=1)]
    return (found == y).double().mean().item()


def linear_probe_accuracy(
    known_z: Float[Tensor, "n ..."], known_y: Int[Tensor, " n"], z: Float[Tensor, "m ..."], y: Int[Tensor, " m"]
) -> float:
    """Share in [0, 1] of samples that a logistic regression on standardised features gets right.

    Args:
        known_z, known_y: features and classes that it is fitted on, and whose mean and deviation standardise.
        z, y: those that are judged.

    Raises:
        ValueError: sets of different widths, features and classes of different number, features that are not finite,
            or known samples of one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    known_z, known_y, z, y = (part.numpy(force=True) for part in _checked(known_z, known_y, z, y))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    # Its matrix products are small: on two busy cores 1297×1024 took 0.2 s with one thread, up to 8 s with two.
    with threadpool_limits(1, user_api="blas"):
        return float(probe.fit(known_z.astype("float64"), known_y).score(z.astype("float64"), y))


@torch.no_grad()
def neighbour_purity(z: Float[Tensor, "n ..."], y: Int[Tensor, " n"], k: int = 10) -> float:
    """Mean share, of each sample's k nearest others by cosine, that have its own class; nan if there is one class only.

    Needs no second set, so it says how a cloud is ordered rather than what can be learnt from it. Where classes are
    equally frequent, chance is 1 / their number.

    Raises:
        ConfigError: k below 1 or above n − 1.
        ValueError: features and classes of different number, or features that are not finite.
    """
    z = _features(z, y, "")
    require(whole(k, 1) and k < len(z), "k", k, f"take a whole number from 1 to {len(z) - 1}, the number of others")
    if len(y.unique()) < 2:
        return float("nan")
    with full_precision(z.device):
        nearness = pairwise_cosines(z).fill_diagonal_(-torch.inf)
    return (y.to(z.device)[nearness.topk(int(k), dim=1).indices] == y.to(z.device)[:, None]).double().mean().item()


def _features(z: Tensor, y: Tensor, name: str) -> Float[Tensor, "n p"]:
    """Features as rows, finite, and with a class each."""
    z = rows(z, f"{name}z")
    n, bad = len(z), int((~z.isfinite()).any(dim=1).sum())
    if y.shape != (n,):
        raise ValueError(f"{name}y has shape {tuple(y.shape)} and {name}z {n} samples; give each one class.")
    if bad:
        raise ValueError(f"{name}z is NaN or infinite in {bad} of {n} rows; give finite features.")
    return z


def _checked(
    known_z: Tensor, known_y: Tensor, z: Tensor, y: Tensor
) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"], Float[Tensor, "m p"], Int[Tensor, " m"]]:
    """All four on one device and in one precision, the features as rows."""
    known_z, z = _features(known_z, known_y, "known_"), _features(z, y, "")
    widths = known_z.shape[1], z.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(f"known_z has {widths[0]} features a sample and z {widths[1]}; take both from the same place.")
    if len(known_y.unique()) < 2:
        raise ValueError(f"known_y has one class, {known_y[0]}: nothing to tell apart; give samples of two or more.")
    kind, on = torch.promote_types(known_z.dtype, z.dtype), known_z.device
    return known_z.to(kind), known_y.to(on), z.to(on, kind), y.to(on)
