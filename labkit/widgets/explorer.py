"""The explorer's state: features of several runs mapped to the plane, at every age, block and time.

Nothing waits. A background thread first maps the place that is shown, then its neighbours, then all others; moving a
slider only looks up. PCA is the default map: each run's cloud is centred and all are drawn in one orthonormal basis, so
that lengths in the picture are lengths in feature space. UMAP shows which points are neighbours, and nothing else.
"""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from traitlets import Any as AnyTrait
from traitlets import Bool, Enum, Int

from labkit.checks import check_whole, require
from labkit.metrics import distance_density, effective_rank, feature_norm, mean_pairwise_distance, neighbour_purity
from labkit.models.sizes import features_per_sample, parse_name
from labkit.projection import Pca, UmapReference, seed_flicker
from labkit.runtime import one_thread
from labkit.training import Look, Run
from labkit.training.features import FeatureSet, inputs
from labkit.widgets.panel import State

Time = float | Literal["mixed"]  # mixed: each image has its own; None would not do, as no menu of ipywidgets offers it
TIMES: tuple[Time, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, "mixed")
Points = Float[Tensor, "n 2"]


class Place(NamedTuple):
    """A view to show: features of a block at a time, with or without the class label, at a training step."""

    block: int
    t: Time
    labelled: bool
    step: int


class Spread(NamedTuple):
    """One run's features at a place."""

    points: dict[str, Points]
    """Axes → coordinates, divided by √P; axes are ``shared`` by all runs, or the run's ``own``."""
    explained: dict[str, float]
    """Axes → share of the cloud's variance that lies along them."""
    norms: Float[Tensor, " n"]
    numbers: dict[str, float]
    """Metric → its value in the whole feature space, not in the picture."""
    density: tuple[Tensor, Tensor]
    """``distance_density`` there."""


class Map(NamedTuple):
    """A UMAP of all runs at their last step, with the numbers that judge it."""

    reference: UmapReference
    trustworthiness: dict[str, float]
    flicker: float
    """Procrustes disparity of another seed's map: 0 is the same map, 1 an unrelated one."""


class Explorer(State):
    """A place in; clouds, maps and images out.

    Args:
        runs: name → run; all with the same data, block width and number of tokens.
        count: number of held-out images, at least 3.  times: times to choose from.
        effective_rank: function that measures it, from (n, P) to a number.

    Raises:
        ConfigError: runs that cannot be compared, or too few images.
    """

    step = Int()
    block = Int(0)
    t = AnyTrait(0.5)
    """One of ``times``."""
    labelled = Bool(True)
    projection = Enum(("PCA", "UMAP"), "PCA")
    axes = Enum(("shared", "own"), "shared")
    colour = Enum(("class", "time t", "norm"), "class")
    highlight = AnyTrait("all")
    """``all``, a class, or ``drawn``."""
    drawn: tuple[int, ...] = ()
    """Indices of the images around which a line was last drawn."""
    image = Int(0, min=0)

    def __init__(
        self,
        runs: Mapping[str, Run],
        count: int = 300,
        times: tuple[Time, ...] = TIMES,
        effective_rank: Callable[[Tensor], Any] = effective_rank,
    ) -> None:
        self.runs, self.times, self._effective_rank = dict(runs), times, effective_rank
        self.steps, self.depth = _common(self.runs)
        check_whole("count", count, 3)
        self._looks = {(t, on): Look(None if t == "mixed" else t, count, on) for t in times for on in (True, False)}
        config = next(iter(self.runs.values())).config
        self.inputs: dict[Time, FeatureSet] = {t: inputs(self._looks[t, True], config) for t in times}
        self.y = self.inputs[times[0]].y
        self.clouds: dict[Place, dict[str, Spread]] = {}
        self.maps: dict[tuple[int, Time, bool], Map] = {}
        self.mapped: dict[Place, dict[str, Points]] = {}
        self.faults: dict[tuple[str, Place], Exception] = {}
        self._axes: dict[tuple[int, bool], dict[str, dict[str, Pca]]] = {}
        self._kept: set[tuple[str, Look, int]] = set()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__(step=self.steps[-1], block=min(1, self.depth - 1), t=times[len(times) // 2 - (len(times) > 1)])
        self.observe(lambda change: self._wake.set())

    @property
    def place(self) -> Place:
        """The place that the controls name."""
        return Place(self.block, self.t, self.labelled, self.step)

    @property
    def ready(self) -> bool:
        """Whether this place can be drawn at once."""
        return self.place in self._views

    @property
    def fault(self) -> Exception | None:
        """Why this place cannot be drawn."""
        return self.faults.get(("PCA", self.place)) or self.faults.get((self.projection, self.place))

    @property
    def _views(self) -> Mapping[Place, Any]:
        """Places that this projection can show."""
        return self.clouds if self.projection == "PCA" else self.mapped

    def points(self, place: Place | None = None) -> dict[str, Points]:
        """Run → coordinates at this place, or at another that is ready."""
        place = place or self.place
        if self.projection == "UMAP":
            return self.mapped[place]
        return {name: cloud.points[self.axes] for name, cloud in self.clouds[place].items()}

    def bounds(self, name: str) -> tuple[tuple[float, float], tuple[float, float]]:
        """Ends of both axes of a run's picture: of all steps mapped so far, and of all runs if axes are shared."""
        runs = self.runs if self.axes == "shared" else [name]
        film = [self.points(place) for place in self._film() if place in self._views]
        points = torch.cat([points[run] for points in film for run in runs])
        low, high = points.amin(0), points.amax(0)
        if self.projection == "PCA":
            high = points.abs().max().expand(2)
            low = -high
        margin = 0.06 * (high - low).amax().clamp_min(1e-6)
        (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
        return (left, right), (bottom, top)

    @property
    def map(self) -> Map | None:
        """The UMAP at this block and time, once it is fitted."""
        return self.maps.get(self.place[:3])

    def history(self, measure: str) -> dict[str, dict[int, float]]:
        """Run → step → a measure at this block and time, for the steps mapped so far."""
        film = {place.step: self.clouds[place] for place in self._film() if place in self.clouds}
        return {run: {step: clouds[run].numbers[measure] for step, clouds in film.items()} for run in self.runs}

    def selected(self) -> list[int] | None:
        """Indices of the images that are highlighted; None for all."""
        if self.highlight == "drawn":
            return list(self.drawn) or None
        return None if self.highlight == "all" else (self.y == self.highlight).nonzero()[:, 0].tolist()

    # The rest makes clouds and maps: in the calling thread by ``settle``, or in the background.

    def settle(self) -> None:
        """Make this place in the calling thread; errors are raised."""
        while (job := self._next_shown()) is not None:
            self._make(*job)

    def start(self) -> None:
        """Make everything in the background, first the place that is shown; after ``close``, go on from there."""
        if self._thread is None or self._closed.is_set():
            events = self._wake, self._closed = threading.Event(), threading.Event()
            self._thread = threading.Thread(target=self._work, args=events, name="labkit-explorer", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the background thread after the job in hand."""
        self._closed.set()
        self._wake.set()

    def progress(self) -> tuple[int, int]:
        """Number of views that are ready, and of all that can be: of every place by PCA, of this film by UMAP."""
        places = self._all() if self.projection == "PCA" else self._film()
        able = [p for p in places if not {("PCA", p), (self.projection, p)} & self.faults.keys()]
        return sum(p in self._views for p in able), len(able)

    def _all(self) -> list[Place]:
        return [Place(b, t, self.labelled, s) for t in self.times for s in self.steps for b in range(self.depth)]

    def _film(self) -> list[Place]:
        here = self.place
        return [here._replace(step=step) for step in self.steps]

    def _work(self, wake: threading.Event, closed: threading.Event) -> None:
        while True:
            wake.clear()
            if closed.is_set():  # checked after ``clear``, or a ``close`` between the two would be missed
                return
            job = self._next_shown() or self._next_other()
            if job is None:
                wake.wait()
                continue
            try:
                self._make(*job)
            except Exception as error:  # shown at this place; others may work
                self.faults[job] = error
            self.changed()

    def _next_shown(self) -> tuple[str, Place] | None:
        """The job that this place needs, a projection and a place; None if it needs none, or if that failed before."""
        place = self.place
        job = ("UMAP" if place in self.clouds else "PCA", place)
        return None if place in self._views or job in self.faults else job

    def _next_other(self) -> tuple[str, Place] | None:
        """The next missing place: first other steps, then other blocks, then other times."""
        here, film = self.place, self._film()
        missing = [("UMAP", p) for p in film if p[:3] in self.maps and p in self.clouds and p not in self.mapped]
        others = [("PCA", p) for p in self._all() if p not in self.clouds]
        others.sort(key=lambda job: (job[1].t != here.t, job[1].block != here.block, job[1].step))
        return next((job for job in missing + others if job not in self.faults), None)

    def _make(self, projection: str, place: Place) -> None:
        with one_thread():  # leaves a core to the page, and to a training
            if projection == "PCA":
                self._make_clouds(place)
                return
            if place[:3] not in self.maps:
                self._make_map(place)
            transform = self.maps[place[:3]].reference.transform
            points = {name: transform(_centred(self._features(name, place))) for name in self.runs}
            self.mapped[place] = {name: torch.as_tensor(xy) for name, xy in points.items()}

    def _features(self, name: str, place: Place) -> Float[Tensor, "n features"]:
        """One run's features; the first call computes those of all blocks together, which the run then keeps."""
        look = self._looks[place.t, place.labelled]
        blocks = [place.block] if (name, look, place.step) in self._kept else None
        z = self.runs[name].features(look, blocks, place.step).features[place.block].flatten(1)
        self._kept.add((name, look, place.step))
        if bad := (~z.isfinite().all(dim=1)).sum().item():
            where = f"{name} at step {place.step}, block {place.block}"
            raise ValueError(
                f"{where}: the features of {bad} of {len(z)} images are NaN or infinite; choose an earlier step."
            )
        return z

    def _basis(self, place: Place) -> dict[str, dict[str, Pca]]:
        """Axes → run → principal axes, fitted to all times at the last step, so that neither film nor t turns them.

        For the shared axes every run's cloud is scaled to the same variance, else the largest would decide alone.
        """
        key = (place.block, place.labelled)
        if key not in self._axes:
            places = [place._replace(t=t, step=self.steps[-1]) for t in self.times]
            last = {name: torch.cat([_centred(self._features(name, p)) for p in places]) for name in self.runs}
            equal = {name: z / z.norm().clamp_min(1e-30) for name, z in last.items()}
            shared = Pca.fit(equal)
            self._axes[key] = {
                "shared": dict.fromkeys(self.runs, shared),
                "own": {name: Pca.fit({name: z}) for name, z in equal.items()},
            }
        return self._axes[key]

    def _make_clouds(self, place: Place) -> None:
        basis, clouds = self._basis(place), {}
        for name in self.runs:
            z = self._features(name, place)
            centred = _centred(z)
            numbers = {
                "feature_norm": feature_norm(z),
                "mean_pairwise_distance": mean_pairwise_distance(z),
                "effective_rank": float(self._effective_rank(z)),
                "neighbour_purity": neighbour_purity(z, self.y, min(10, len(z) - 1)),
            }
            clouds[name] = Spread(
                {axes: pca[name].transform(centred) for axes, pca in basis.items()},
                {axes: pca[name].explained(centred) for axes, pca in basis.items()},
                z.norm(dim=1) / z.shape[1] ** 0.5,
                numbers,
                distance_density(z),
            )
        self.clouds[place] = clouds

    def _make_map(self, place: Place) -> None:
        last = place._replace(step=self.steps[-1])
        conditions = {name: _centred(self._features(name, last)) for name in self.runs}
        reference = UmapReference.fit(conditions)
        trust = {name: reference.trustworthiness(z) for name, z in conditions.items()}
        self.maps[place[:3]] = Map(reference, trust, seed_flicker(conditions))


def _centred(z: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
    return z - z.mean(dim=0)


def _common(runs: Mapping[str, Run]) -> tuple[list[int], int]:
    """Steps and number of blocks that all runs have; runs that cannot be compared are refused."""
    require(len(runs) > 0, "runs", list(runs), "name at least one")
    for name, run in runs.items():
        require(len(run.checkpoints) > 0, "runs", name, f"{run.path} has no checkpoint yet: train it first")
        run.check_data()

    def same(values: dict[str, Any], remedy: str, key: Callable[[Any], Any] = lambda value: value) -> None:
        require(len({key(value) for value in values.values()}) == 1, "runs", values, remedy)

    configs = {name: run.config for name, run in runs.items()}
    data = {name: run.data.describe() for name, run in runs.items() if run.data is not None}
    places = {name: c.dataset for name, c in configs.items()}  # of runs of early versions, nothing else is known
    one_set = "take runs that were trained on the same data set"
    same(data, one_set) if len(data) == len(runs) else same(places, one_set, os.path.abspath)
    different = "they noise images in different ways; take runs of one path, and DiT apart from the others"
    paths = {name: (c.family, c.flow.path) for name, c in configs.items()}
    same(paths, different, lambda path: (path[0] == "DiT", path[1]))
    size = inputs(Look(count=1), next(iter(configs.values()))).x1.shape[-1]
    widths = {name: features_per_sample(c.model, size) for name, c in configs.items()}
    same(widths, "features of different widths have no axes in common; open one explorer for each width")
    steps = sorted(set.intersection(*(set(run.steps) for run in runs.values())))
    each = "; ".join(f"{name}: {', '.join(map(str, run.checkpoints))}" for name, run in runs.items())
    remedy = f"they share no step with a checkpoint ({each}); train them with the same save_every"
    require(len(steps) > 1, "runs", list(runs), remedy)
    return steps, min(parse_name(run.config.model).size.depth for run in runs.values())
