"""Maps of features to the plane that can be compared: principal axes, which keep spread, and UMAP, which cannot.

A *condition* is one named set of features: a run, or a run at one step. Conditions are comparable only in one frame, so
axes and maps are fitted on the *union* of all of them. Features (n, …) are flattened to z_i ∈ R^P.

``Pca`` is the view to start from. It keeps scale, so a cloud of half the spread takes half the room. UMAP shows who is
near whom and nothing else: it gives every neighbourhood about the same room, whatever its spread, and another seed
draws another picture. It belongs beside numbers of spread (``labkit.metrics.geometry``), with its trustworthiness and
``seed_flicker``, the part of a picture that is chance.
"""

import contextlib
import math
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import check_seed, finite, require, whole
from labkit.distances import cross_sq_distances, pairwise_sq_distances, product
from labkit.ops import full_precision, rows
from labkit.runtime import generator

Features = Float[Tensor, "_ ..."]
Conditions = Mapping[str, Features]

_ALONE = threading.Lock()  # numba may abort the whole process when two threads run its parallel code at once
_EXPECTED = "Tensorflow not installed|.*precomputed metric|Graph is not fully connected|Spectral initialisation failed"


# --- what goes in


def _finite_rows(z: Features, name: str) -> Float[Tensor, "n features"]:
    """(n, …) → (n, P), without gradient."""
    flat = rows(z.detach(), name)
    if bad := int((~flat.isfinite()).any(dim=1).sum()):
        raise ValueError(f"{name} holds NaN or infinite features in {bad} of {len(flat)} samples; leave those out.")
    return flat


def _rows_of(conditions: Conditions) -> dict[str, Float[Tensor, "_ features"]]:
    """Every condition as finite rows of one width, at least 3 samples in all."""
    require(len(conditions) > 0, "conditions", dict(conditions), "give at least one named set of features")
    flat = {name: _finite_rows(z, f"condition {name!r}") for name, z in conditions.items()}
    widths = {name: z.shape[1] for name, z in flat.items()}
    require(
        len(set(widths.values())) == 1,
        "features a sample",
        widths,
        "conditions of different widths cannot share axes; give the same number to all",
    )
    if (count := sum(map(len, flat.values()))) < 3:
        raise ValueError(f"The conditions hold {count} samples in all; a map needs at least 3.")
    return flat


def _of_width(z: Features, width: int) -> Float[Tensor, "n features"]:
    flat = _finite_rows(z, "z")
    if flat.shape[1] != width:
        raise ValueError(f"z has {flat.shape[1]} features a sample, but the fit was on {width}; give the same.")
    return flat


# --- principal axes


@dataclass(frozen=True, eq=False)
class Pca:
    """The principal axes of a union of conditions: one frame for all, which keeps distances' scale.

    ``Pca.fit(conditions).transform(z)`` is the plot's coordinates.
    """

    mean: Float[Tensor, " features"]
    axes: Float[Tensor, "components features"]
    """Orthonormal, of falling variance; the largest entry of each is positive, so that axes do not flip."""

    @classmethod
    def fit(cls, conditions: Conditions, components: int = 2) -> "Pca":
        """Axes of largest variance around the mean of the union. Draws nothing from torch's random state.

        Args:
            conditions: features by name, each (n, …), all of the same width P, at least 3 samples in all.
            components: how many axes, 1 to the smaller of P and the samples of the union.

        Raises:
            ConfigError: for no condition, different widths, or more components than there can be.
            ValueError: for features that are not finite, or fewer than 3 samples.
        """
        z = torch.cat(list(_rows_of(conditions).values()))
        require(
            whole(components, 1) and components <= min(z.shape),
            "components",
            components,
            f"with {z.shape[0]} samples of {z.shape[1]} features take 1 to {min(z.shape)}",
        )
        centred, mean = _centred(z)
        axes = _principal_axes(centred, components)
        peak = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
        return cls(mean, axes * peak.sign())

    def transform(self, z: Features) -> Float[Tensor, "n components"]:
        """Coordinates (z_i − mean)·axis / √P: "per coordinate", as the norm and distance of ``metrics.geometry`` are.

        Independent features of deviation s thus spread by s/√P along any one axis, and features that all vary together
        by s.
        """
        z = _of_width(z, self.axes.shape[1])
        return product(z - self.mean.to(z), self.axes.to(z)) / z.shape[1] ** 0.5

    def explained(self, z: Features) -> float:
        """Share in [0, 1] of z's own variance, around its own mean, that lies along the axes; NaN if z has none.

        Where it is small, the picture hides most of what this condition does.
        """
        z, _ = _centred(_of_width(z, self.axes.shape[1]))
        total = z.square().sum().item()
        return min(1.0, product(z, self.axes.to(z)).square().sum().item() / total) if total else math.nan


def _centred(z: Float[Tensor, "n features"]) -> tuple[Float[Tensor, "n features"], Float[Tensor, " features"]]:
    """Rows minus their mean, divided by the largest entry so that squares stay finite; and the mean."""
    first = z[0]
    z = z - first  # identical rows become exact zeros; a mean of them would leave rounding behind
    offset = z.mean(dim=0)
    z -= offset
    size = torch.maximum(z.amax(), -z.amin())
    return z.div_(torch.where(size > 0, size, 1)), first + offset


def _principal_axes(z: Float[Tensor, "n features"], count: int) -> Float[Tensor, "count features"]:
    """The top right singular vectors, by block Krylov iteration (Musco & Musco 2015), from a fixed start.

    A basis grows by zᵀz times its newest block, until the variance along the best axes in it grows no more. For
    6,000×1,024 features of a network that takes six rounds: 0.1 s on one core, where the eigenvalues of the whole
    covariance take 0.3 s, and seconds on cores that are busy with something else, such as a training.
    """
    wide = z.shape[1] > z.shape[0]
    m = z.mT if wide else z
    block = torch.randn(m.shape[1], count + 6, generator=generator(0)).to(z)
    basis, images = block[:, :0], m[:, :0]
    before, variance = -1.0, 0.0
    with full_precision(z.device):
        while variance > before * (1 + 10 * torch.finfo(z.dtype).eps):
            fresh = torch.linalg.qr(torch.cat([basis, block], dim=1)).Q[:, basis.shape[1] :]
            image = m @ fresh
            basis, images = torch.cat([basis, fresh], dim=1), torch.cat([images, image], dim=1)
            eigenvalues, turn = torch.linalg.eigh(images.mT @ images)
            before, variance = variance, eigenvalues[-count:].sum().item()
            block = m.mT @ image
        vectors = basis @ turn[:, -count:].flip(1)
        return (torch.linalg.qr(z.mT @ vectors).Q if wide else vectors).mT


# --- UMAP


@contextlib.contextmanager
def _umap() -> Iterator[ModuleType]:
    """The umap library, one thread at a time, without the warnings that say what we do on purpose."""
    threads = torch.get_num_threads()
    try:
        with _ALONE, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_EXPECTED)
            yield _library()
    finally:
        torch.set_num_threads(threads)  # numba sets OpenMP's number to that of all cores, and torch would take as many


@cache
def _library() -> ModuleType:
    """The umap module; numba caches its compiled functions on disk, so that only the first process takes 20 s."""
    import umap
    from numba.core.dispatcher import Dispatcher

    with contextlib.suppress(RuntimeError):  # no folder of numba's can be written to
        for name in [name for name in sys.modules if name.partition(".")[0] == "umap"]:
            for part in vars(sys.modules[name]).values():
                if isinstance(part, Dispatcher):
                    part.enable_caching()
    return umap


@dataclass(frozen=True, eq=False)
class UmapReference:
    """One UMAP (McInnes et al. 2018) of a union of conditions, into which further features are placed.

    It sees distances in the full feature space. The usual step of 50 principal components before it would save less
    than 0.1 s of 1 s, and lower the trustworthiness, 0.985 → 0.969 on 900×1,024 features of two trained networks: the
    axes of a union serve its widest condition.
    """

    features: Float[Tensor, "n features"]
    places: Float[Tensor, "n 2"]
    """Where the map puts them. The numbers differ between machines: ship them, never compare them."""
    n_neighbors: int
    fitted: Any
    """The umap library's own object."""

    @classmethod
    def fit(
        cls, conditions: Conditions, n_neighbors: int = 15, min_dist: float = 0.1, seed: int = 0, most: int = 1000
    ) -> "UmapReference":
        """Fit on the union: about 1 s for 900 samples, 5 s to import umap, and once a machine 20 s to compile it.

        Args:
            conditions: features by name, each (n, …), all of the same width P.
            n_neighbors: samples that count as near, from 2 to one less than are fitted on.
            min_dist: how close the map may put two samples, 0 to 1.
            seed: of the map. The same machine draws the same map from the same seed.
            most: samples to fit on. Of larger conditions an equal share of each is drawn, the same for every seed.

        Raises:
            ConfigError: for no condition, different widths, too few samples for the neighbours, or a bad setting.
            ValueError: for features that are not finite, fewer than 3 samples, or samples that are all the same.
        """
        require(whole(n_neighbors, 2), "n_neighbors", n_neighbors, "take a whole number of at least 2")
        require(finite(min_dist) and 0 <= min_dist <= 1, "min_dist", min_dist, "take a number from 0 to 1")
        check_seed(seed)
        require(seed < 2**32, "seed", seed, "UMAP takes whole numbers below 2³²")
        require(whole(most, 4), "most", most, "take a whole number of at least 4")
        flat = _rows_of(conditions)
        z = torch.cat([_share(of_one, most // len(flat)) for of_one in flat.values()])
        require(
            len(z) > n_neighbors and len(z) > 3,
            "n_neighbors",
            n_neighbors,
            f"UMAP needs more samples than neighbours, and at least 4, but n = {len(z)}; give more or lower it",
        )
        if (z == z[0]).all():
            raise ValueError(f"All {len(z)} samples are the same; there are no neighbourhoods to map.")
        distances = _distances(z)
        distances /= distances.mean()  # the library places separate groups by e^(−d²), all the same 0 for large d
        with _umap() as umap:
            settings = {"n_neighbors": n_neighbors, "min_dist": min_dist, "random_state": seed, "n_jobs": 1}
            fitted = umap.UMAP(metric="precomputed", **settings).fit(distances.numpy())
        return cls(z, torch.from_numpy(fitted.embedding_), n_neighbors, fitted)

    def transform(self, z: Features) -> Float[Tensor, "n 2"]:
        """Places of further features in the same map, which stays as it is: about 0.2 s for 300 samples.

        A sample that is, bit for bit, one of those fitted on keeps its fitted place; the library itself does so only
        when given all of them at once. Any other is put among its neighbours there, which drifts a little: fitted
        samples put in as if they were new moved by 1 to 5 % of the map's size. New samples do not pull at each other,
        so what the fit never saw gets no place of its own.
        """
        z = _of_width(z, self.features.shape[1]).to(self.features.device)
        distances = _distances(z, self.features)
        nearest = distances.argmin(dim=1)
        places = self.places[nearest]
        new = (z != self.features[nearest.to(z.device)]).any(dim=1).cpu()
        if new.any():
            with _umap():
                places[new] = torch.from_numpy(self.fitted.transform(distances[new].numpy()))
        return places

    def trustworthiness(self, z: Features) -> float:
        """How far neighbours in the map are neighbours in feature space, 0 to 1 (Venna & Kaski 2001).

        1 when the ``n_neighbors`` nearest on the map are among the nearest in truth, for every sample; about 0.5 when
        places are drawn at random. It says nothing about sizes and distances on the map. z needs more than twice as
        many samples as there are neighbours.
        """
        z = _of_width(z, self.features.shape[1])
        if len(z) <= 2 * self.n_neighbors:
            raise ValueError(
                f"z has {len(z)} samples; the trustworthiness of {self.n_neighbors} neighbours needs more "
                f"than {2 * self.n_neighbors}."
            )
        from sklearn.manifold import trustworthiness

        places = self.transform(z).numpy()
        return float(trustworthiness(_distances(z).numpy(), places, n_neighbors=self.n_neighbors, metric="precomputed"))


def _share(z: Float[Tensor, "n features"], most: int) -> Float[Tensor, "m features"]:
    """At most this many rows, drawn from a fixed start: of conditions of one size the same rows."""
    if len(z) <= most:
        return z
    # Not every k-th row: where the classes come in turn, that could pick a single class.
    return z[torch.randperm(len(z), generator=generator(0))[:most].sort().values.to(z.device)]


def _distances(z: Float[Tensor, "n features"], to: Float[Tensor, "m features"] | None = None) -> Float[Tensor, "n _"]:
    """‖z_i − z_j‖ / √P, among z or to others, on the CPU; in float64, so that a tight cloud far out keeps its shape."""
    per = float(z.shape[1])
    found = pairwise_sq_distances(z.double(), per) if to is None else cross_sq_distances(z.double(), to.double(), per)
    return found.sqrt().cpu()


# --- are two maps the same?


class Aligned(NamedTuple):
    """A map laid onto another."""

    points: Float[Tensor, "n d"]
    disparity: float
    """0 when the shapes are the same, 1 when they have nothing in common."""


def procrustes(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Aligned:
    """Move, turn or reflect, and scale b onto a, point by point, by least squares (Gower 1975).

    With A and B centred and of norm 1 and AᵀB = U Σ Vᵀ, the turn is VUᵀ, the scale Σσ, and the disparity, the squares
    that remain, 1 − (Σσ)². The points are in a's units, so both can stand in one figure.

    Raises:
        ConfigError: when the shapes differ.
        ValueError: when not finite, or when all points of a map are the same.
    """
    require(a.shape == b.shape, "b", tuple(b.shape), f"it must have a's shape, {tuple(a.shape)}")
    (a, mean, size), (b, _, _) = _normed(a, "a"), _normed(b, "b")
    u, sigma, vh = torch.linalg.svd(a.mT @ b)
    scale = sigma.sum().item()
    return Aligned(b @ (u @ vh).mT * scale * size + mean, max(0.0, 1 - scale**2))


def _normed(x: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Points, centred and of norm 1 in all; their mean and norm."""
    x = _finite_rows(x, name).double()
    if (x == x[0]).all():
        raise ValueError(f"All points of {name} are the same; they have no shape.")
    mean = x.mean(dim=0)
    size = (x - mean).norm()
    return (x - mean) / size, mean, size


def seed_flicker(conditions: Conditions, seeds: Sequence[int] = (0, 1), **settings: Any) -> float:
    """Mean disparity between UMAPs of the same features from different seeds: how much of a picture is chance, 0 to 1.

    A difference between two maps that is no larger says nothing. Features of trained networks gave 0.07 to 0.33.
    ``settings`` are those of ``UmapReference.fit``.
    """
    require(len(set(seeds)) == len(seeds) > 1, "seeds", tuple(seeds), "give at least two different ones")
    maps = [UmapReference.fit(conditions, seed=seed, **settings).places for seed in seeds]
    disparities = [procrustes(a, b).disparity for a, b in combinations(maps, 2)]
    return sum(disparities) / len(disparities)
