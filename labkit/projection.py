"""Comparable maps of features to the plane: principal axes, which keep spread, and UMAP, which does not.

A *condition* is one named set of features: a run, or a run at one step. Conditions are comparable only in one frame, so
axes and maps are fitted on the *union* of all of them. Features (n, …) are flattened to z_i ∈ R^P.

``Pca`` is the view to start from. It keeps scale, so a cloud of half the spread takes half the room. UMAP shows which
samples are neighbours and nothing else: it gives every neighbourhood about the same room, whatever its spread, and
another seed draws another picture. It belongs beside numbers of spread (``labkit.metrics.geometry``), with its
trustworthiness and ``seed_flicker``, the part of a picture that is chance.
"""

import contextlib
import math
import os
import sys
import tempfile
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

from labkit.checks import check_number, require, whole
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
    """Principal axes of a union of conditions: one frame for all, which keeps the scale of distances.

    ``Pca.fit(conditions).transform(z)`` gives the coordinates to plot.
    """

    mean: Float[Tensor, " features"]
    axes: Float[Tensor, "components features"]
    """Orthonormal, by falling variance; the largest entry of each is positive, so that axes do not flip. float64."""

    @classmethod
    def fit(cls, conditions: Conditions, components: int = 2) -> "Pca":
        """Axes of largest variance around the mean of the union. Nothing is drawn from a global random state.

        Args:
            conditions: features by name, each (n, …), all of the same width P.
            components: number of axes, 1 to the smaller of P and the samples of the union.

        Raises:
            ConfigError: for no condition, different widths, or more components than there can be.
            ValueError: for features that are not finite.
        """
        return cls(*principal_axes(torch.cat(_rows_of(conditions)), components))

    def transform(self, z: Features) -> Float[Tensor, "n components"]:
        """Coordinates (z_i − mean)·axis / √P, "per coordinate" like the norm and distance of ``metrics.geometry``.

        Independent features of deviation s thus spread by s/√P along any one axis, and features that all vary together
        by s. In float32; float64 stays float64.
        """
        flat = _finite_rows(z, "z", len(self.mean))
        return (((flat - self.mean) @ self.axes.T) / flat.shape[1] ** 0.5).to(rows(z).dtype)

    def explained(self, z: Features) -> float:
        """Share in [0, 1] of z's own variance, around its own mean, that lies along the axes; NaN if z has none.

        Where it is small, the picture hides most of this condition's variation.
        """
        flat = _finite_rows(z, "z", len(self.mean))
        flat = flat - flat.mean(dim=0)
        total = flat.square().sum().item()
        return min(1.0, (flat @ self.axes.T).square().sum().item() / total) if total else math.nan


@contextlib.contextmanager
def _umap() -> Iterator[ModuleType]:
    """The umap library, one thread at a time, without warnings about what is done here on purpose."""
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
    import numba

    try:
        import umap
    except RuntimeError:  # where neither umap's folder nor the home can be written to, its own caching cannot be
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="labkit-numba-")
        numba.config.reload_config()
        import umap
    from numba.core.dispatcher import Dispatcher

    with contextlib.suppress(RuntimeError):  # none of numba's cache folders can be written to
        for name in [name for name in sys.modules if name.partition(".")[0] == "umap"]:
            for part in vars(sys.modules[name]).values():
                if isinstance(part, Dispatcher):
                    part.enable_caching()
    return umap


@dataclass(frozen=True, eq=False)
class UmapReference:
    """One UMAP (McInnes et al. 2018) of a union of conditions, into which further features can be placed.

    It is fitted on distances in the full feature space: the usual 50 principal components before it would save less
    than 0.1 s of 1 s, and lower the trustworthiness, since the axes of a union serve its widest condition.
    """

    features: Float[Tensor, "n features"]
    places: Float[Tensor, "n 2"]
    """Their coordinates on the map. The numbers differ between machines: ship them, never compare them."""
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
            most: largest number of samples to fit on; of larger conditions an equal share of each is drawn, the same
                for every seed.

        Raises:
            ConfigError: for no condition, different widths, or too few samples for the neighbours.
            ValueError: for features that are not finite, identical samples, or a setting that the library refuses.
        """
        check_number("min_dist", min_dist, least=0, most=1)
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

        A sample that equals a fitted one bit for bit keeps its fitted place. Any other is put among its nearest fitted
        samples, within 1 to 5 % of the map's size. New samples do not attract each other, so a group that was not in
        the fit gets no place of its own.
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
        """Degree to which neighbours on the map are neighbours in feature space, 0 to 1 (Venna & Kaski 2001).

        1 when the ``n_neighbors`` nearest on the map are among the nearest in feature space, for every sample; about
        0.5 for places drawn at random. Sizes and distances on the map do not enter. z needs more than twice as many
        samples as there are neighbours, else it is a ValueError.
        """
        from sklearn.manifold import trustworthiness

        distances = _distances(_finite_rows(z, "z", self.features.shape[1])).numpy()
        places = self.transform(z).numpy()
        return float(trustworthiness(distances, places, n_neighbors=self.n_neighbors, metric="precomputed"))


def _share(z: Float[Tensor, "n features"], most: int) -> Float[Tensor, "m features"]:
    """At most this many rows, by a fixed seed: the same rows for conditions of the same size."""
    if len(z) <= most:
        return z
    # Not every k-th row, which could pick a single class where the classes come in turn.
    return z[torch.randperm(len(z), generator=generator(0))[:most].sort().values.to(z.device)]


def _distances(z: Float[Tensor, "n features"], to: Float[Tensor, "m features"] | None = None) -> Float[Tensor, "n _"]:
    """‖z_i − z_j‖ / √P within z, or from z to others, on the CPU."""
    per = float(z.shape[1])
    return (pairwise_sq_distances(z, per) if to is None else cross_sq_distances(z, to, per)).sqrt().cpu()


class Aligned(NamedTuple):
    """A map aligned with another."""

    points: Float[Tensor, "n d"]
    disparity: float
    """0 for the same shape, 1 for shapes with nothing in common."""


def procrustes(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Aligned:
    """Align b with a, point by point, by the best shift, rotation or reflection, and scale (Gower 1975).

    The points are in a's units, so that both maps fit in one figure.

    Raises:
        ValueError: shapes that differ, points that are not finite, or a map whose points are all the same.
    """
    from scipy.spatial import procrustes

    fixed, moved = (_finite_rows(x, name).numpy(force=True) for x, name in ((a, "a"), (b, "b")))
    _, aligned, disparity = procrustes(fixed, moved)  # centred and of norm 1
    centre = fixed.mean(axis=0)
    size = ((fixed - centre) ** 2).sum() ** 0.5
    return Aligned(torch.from_numpy(aligned * size + centre), float(disparity))


def seed_flicker(conditions: Conditions, seeds: Sequence[int] = (0, 1), **settings: Any) -> float:
    """Mean disparity between UMAPs of the same features from different seeds: how much of a picture is chance, 0 to 1.

    A difference between two maps means something only if it is larger. Features of trained networks gave 0.07 to 0.33.
    ``settings`` are those of ``UmapReference.fit``.
    """
    require(len(set(seeds)) == len(seeds) > 1, "seeds", tuple(seeds), "give at least two different ones")
    maps = [UmapReference.fit(conditions, seed=seed, **settings).places for seed in seeds]
    disparities = [procrustes(a, b).disparity for a, b in combinations(maps, 2)]
    return sum(disparities) / len(disparities)
