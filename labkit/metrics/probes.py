"""Probes: how well simple classifiers read a class from features. Each is fitted on some samples, and judged on others.

Labels enter these metrics only, never the training of the network. Features of shape (n, …) are flattened.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.checks import check_whole
from labkit.distances import cross_cosines, pairwise_cosines
from labkit.ops import full_precision, rows


@torch.no_grad()
def knn_accuracy(
    train_z: Float[Tensor, "n ..."],
    train_y: Int[Tensor, " n"],
    z: Float[Tensor, "m ..."],
    y: Int[Tensor, " m"],
    k: int = 20,
) -> float:
    """Accuracy in [0, 1] of a vote among the k training samples with the largest cosine.

    Classes with equally many votes are ranked by the sum of their cosines, then by the smaller label. Which of several
    training samples at the same cosine comes k-th is left open.

    Args:
        train_z, train_y: features and classes to look among.  z, y: those that are judged.
        k: neighbours, from 1 to n.

    Raises:
        ConfigError: k out of range.
        ValueError: see ``linear_probe_accuracy``.
    """
    train_z, train_y, z, y = _checked(train_z, train_y, z, y)
    n = len(train_z)
    check_whole("k", k, 1, n, why="the number of training samples")
    classes, train_class = train_y.unique(return_inverse=True)
    with full_precision(z.device):
        cosines, neighbours = cross_cosines(z, train_z).topk(int(k), dim=1)
    votes = train_class[neighbours]
    count = cosines.new_zeros(len(z), len(classes)).scatter_add_(1, votes, torch.ones_like(cosines))
    nearness = torch.zeros_like(count).scatter_add_(1, votes, cosines)
    most = count == count.amax(dim=1, keepdim=True)
    predicted = classes[nearness.where(most, -torch.inf).argmax(dim=1)]
    return (predicted == y).double().mean().item()


def linear_probe_accuracy(
    train_z: Float[Tensor, "n ..."], train_y: Int[Tensor, " n"], z: Float[Tensor, "m ..."], y: Int[Tensor, " m"]
) -> float:
    """Accuracy in [0, 1] of a logistic regression on standardised features.

    Args:
        train_z, train_y: features and classes that it is fitted on, and whose mean and deviation standardise.
        z, y: those that are judged.

    Raises:
        ValueError: sets of different widths, features and classes of different number, features that are not finite,
            or training samples of one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    fit_x, fit_y, test_x, test_y = (part.numpy(force=True) for part in _checked(train_z, train_y, z, y))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    # Its matrix products are small: on two busy cores 1297×1024 took 0.2 s with one thread, up to 8 s with two.
    with threadpool_limits(1, user_api="blas"):
        return float(probe.fit(fit_x.astype("float64"), fit_y).score(test_x.astype("float64"), test_y))


@torch.no_grad()
def neighbour_purity(z: Float[Tensor, "n ..."], y: Int[Tensor, " n"], k: int = 10) -> float:
    """Mean share of each sample's k nearest others by cosine that have its own class; nan if there is one class only.

    Needs no second set, so it measures how a cloud is ordered rather than what can be learnt from it. Where classes
    are equally frequent, chance is 1 / their number.

    Raises:
        ConfigError: k below 1 or above n − 1.
        ValueError: features and classes of different number, or features that are not finite.
    """
    z = _features(z, y)
    check_whole("k", k, 1, len(z) - 1, why="the number of others")
    if len(y.unique()) < 2:
        return float("nan")
    with full_precision(z.device):
        nearness = pairwise_cosines(z).fill_diagonal_(-torch.inf)
    y = y.to(z.device)
    return (y[nearness.topk(int(k), dim=1).indices] == y[:, None]).double().mean().item()


def _features(z: Tensor, y: Tensor, prefix: str = "") -> Float[Tensor, "n p"]:
    """Features as rows, finite, and with a class each."""
    z = rows(z, f"{prefix}z")
    n, bad = len(z), int((~z.isfinite()).any(dim=1).sum())
    if y.shape != (n,):
        raise ValueError(f"{prefix}y has shape {tuple(y.shape)} and {prefix}z {n} samples; give each one class.")
    if bad:
        raise ValueError(f"{prefix}z is NaN or infinite in {bad} of {n} rows; give finite features.")
    return z


def _checked(
    train_z: Tensor, train_y: Tensor, z: Tensor, y: Tensor
) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"], Float[Tensor, "m p"], Int[Tensor, " m"]]:
    """All four on one device and in one precision, the features as rows."""
    train_z, z = _features(train_z, train_y, "train_"), _features(z, y)
    if train_z.shape[1] != z.shape[1]:
        widths = f"train_z has {train_z.shape[1]} features a sample and z {z.shape[1]}"
        raise ValueError(f"{widths}; take both from the same place.")
    if len(train_y.unique()) < 2:
        raise ValueError(f"train_y has one class, {train_y[0]}; give samples of two or more.")
    dtype, on = torch.promote_types(train_z.dtype, z.dtype), train_z.device
    return train_z.to(dtype), train_y.to(on), z.to(on, dtype), y.to(on)
