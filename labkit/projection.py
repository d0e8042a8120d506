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

from labkit.checks import finite, require, whole
from labkit.distances import cross_sq_distances, pairwise_sq_distances
from labkit.ops import principal_axes, rows
from labkit.runtime import generator

Features = Float[Tensor, "_ ..."]
Conditions = Mapping[str, Features]

_ALONE = threading.Lock()  # numba may abort the whole process when two threads run its parallel code at once
_EXPECTED = "Tensorflow not installed|.*precomputed metric|Graph is not fully connected|Spectral initialisation failed"


def _finite_rows(z: Features, name: str, width: int | None = None) -> Float[Tensor, "n features"]:
    """(n, …) → (n, P) in float64, without gradient."""
    flat = rows(z.detach(), name).double()
    if bad := int((~flat.isfinite()).any(dim=1).sum()):
        raise ValueError(f"{name} holds NaN or infinite features in {bad} of {len(flat)} samples; leave those out.")
    if width not in (None, flat.shape[1]):
        raise ValueError(f"{name} has {flat.shape[1]} features a sample, but the fit was on {width}; give the same.")
    return flat


def _rows_of(conditions: Conditions) -> list[Float[Tensor, "_ features"]]:
    """Every condition as finite rows of one width."""
    require(len(conditions) > 0, "conditions", dict(conditions), "give at least one named set of features")
    flat = {name: _finite_rows(z, f"condition {name!r}") for name, z in conditions.items()}
    widths = {name: z.shape[1] for name, z in flat.items()}
    different = "conditions of different widths cannot share axes; give the same number to all"
    require(len(set(widths.values())) == 1, "features a sample", widths, different)
    return list(flat.values())


@dataclass(frozen=True, eq=False)
class Pca:
    """The principal axes of a union of conditions: one frame for all, which keeps distances' scale.

    ``Pca.fit(conditions).transform(z)`` is the plot's coordinates.
    """

    mean: Float[Tensor, " features"]
    axes: Float[Tensor, "components features"]
    """Orthonormal, of falling variance; the largest entry of each is positive, so that axes do not flip. float64."""

    @classmethod
    def fit(cls, conditions: Conditions, components: int = 2) -> "Pca":
        """Axes of largest variance around the mean of the union. Draws nothing from any random state.

        Args:
            conditions: features by name, each (n, …), all of the same width P.
            components: how many axes, 1 to the smaller of P and the samples of the union.

        Raises:
            ConfigError: for no condition, different widths, or more components than there can be.
            ValueError: for features that are not finite.
        """
        return cls(*principal_axes(torch.cat(_rows_of(conditions)), components))

    def transform(self, z: Features) -> Float[Tensor, "n components"]:
        """Coordinates (z_i − mean)·axis / √P: "per coordinate", as the norm and distance of ``metrics.geometry`` are.

        Independent features of deviation s thus spread by s/√P along any one axis, and features that all vary together
        by s. In float32, or float64 where z is.
        """
        flat = _finite_rows(z, "z", len(self.mean))
        return (((flat - self.mean) @ self.axes.T) / flat.shape[1] ** 0.5).to(rows(z).dtype)

    def explained(self, z: Features) -> float:
        """Share in [0, 1] of z's own variance, around its own mean, that lies along the axes; NaN if z has none.

        Where it is small, the picture hides most of what this condition does.
        """
        flat = _finite_rows(z, "z", len(self.mean))
        flat = flat - flat.mean(dim=0)
        total = flat.square().sum().item()
        return min(1.0, (flat @ self.axes.T).square().sum().item() / total) if total else math.nan


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

    It sees distances in the full feature space: 50 principal components before it, as is usual, would save less than
    0.1 s of 1 s, and lower the trustworthiness, since the axes of a union serve its widest condition.
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
            seed: of the map, from 0 to 2³² − 1. The same machine draws the same map from the same seed.
            most: samples to fit on. Of larger conditions an equal share of each is drawn, the same for every seed.

        Raises:
            ConfigError: for no condition, different widths, or too few samples for the neighbours.
            ValueError: for features that are not finite, samples that are all the same, or a setting that the library
                refuses.
        """
        require(finite(min_dist) and 0 <= min_dist <= 1, "min_dist", min_dist, "take a number from 0 to 1")
        flat = _rows_of(conditions)
        z = torch.cat([_share(part, most // len(flat)) for part in flat])
        enough = f"take at least 2 and fewer than the samples, of which UMAP needs 4 or more; here n = {len(z)}"
        require(whole(n_neighbors, 2) and len(z) > max(n_neighbors, 3), "n_neighbors", n_neighbors, enough)
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

        A sample that is, bit for bit, one of those fitted on keeps its fitted place. Any other is put among its
        neighbours there, within 1 to 5 % of the map's size. New samples do not pull at each other, so what the fit
        never saw gets no place of its own.
        """
        z = _finite_rows(z, "z", self.features.shape[1]).to(self.features.device)
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
        many samples as there are neighbours, else it is a ValueError.
        """
        from sklearn.manifold import trustworthiness

        distances = _distances(_finite_rows(z, "z", self.features.shape[1])).numpy()
        places = self.transform(z).numpy()
        return float(trustworthiness(distances, places, n_neighbors=self.n_neighbors, metric="precomputed"))


def _share(z: Float[Tensor, "n features"], most: int) -> Float[Tensor, "m features"]:
    """At most this many rows, drawn from a fixed start: of conditions of one size the same rows."""
    if len(z) <= most:
        return z
    # Not every k-th row: where the classes come in turn, that could pick a single class.
    return z[torch.randperm(len(z), generator=generator(0))[:most].sort().values.to(z.device)]


def _distances(z: Float[Tensor, "n features"], to: Float[Tensor, "m features"] | None = None) -> Float[Tensor, "n _"]:
    """‖z_i − z_j‖ / √P, among z or to others, on the CPU."""
    per = float(z.shape[1])
    return (pairwise_sq_distances(z, per) if to is None else cross_sq_distances(z, to, per)).sqrt().cpu()


class Aligned(NamedTuple):
    """A map laid onto another."""

    points: Float[Tensor, "n d"]
    disparity: float
    """0 when the shapes are the same, 1 when they have nothing in common."""


def procrustes(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Aligned:
    """Move, turn or reflect, and scale b onto a, point by point, by least squares (Gower 1975).

    The points are in a's units, so both can stand in one figure.

    Raises:
        ValueError: when the shapes differ, when not finite, or when all points of a map are the same.
    """
    from scipy.spatial import procrustes

    a, b = (_finite_rows(x, name).numpy(force=True) for x, name in ((a, "a"), (b, "b")))
    _, laid, disparity = procrustes(a, b)  # centred and of norm 1
    size = ((a - a.mean(axis=0)) ** 2).sum() ** 0.5
    return Aligned(torch.from_numpy(laid * size + a.mean(axis=0)), float(disparity))


def seed_flicker(conditions: Conditions, seeds: Sequence[int] = (0, 1), **settings: Any) -> float:
    """Mean disparity between UMAPs of the same features from different seeds: how much of a picture is chance, 0 to 1.

    A difference between two maps that is no larger says nothing. Features of trained networks gave 0.07 to 0.33.
    ``settings`` are those of ``UmapReference.fit``.
    """
    require(len(set(seeds)) == len(seeds) > 1, "seeds", tuple(seeds), "give at least two different ones")
    maps = [UmapReference.fit(conditions, seed=seed, **settings).places for seed in seeds]
    disparities = [procrustes(a, b).disparity for a, b in combinations(maps, 2)]
    return sum(disparities) / len(disparities)
