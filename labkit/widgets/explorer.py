"""The explorer's state: features of several runs mapped to the plane, at every age, block and time.

Nothing waits. A background thread maps what is looked at first, then its neighbours, then all the rest; moving a slider
only looks up. PCA is the default map: each run's cloud is centred and all are drawn in one orthonormal basis, so that
lengths in the picture are lengths in feature space. UMAP shows who is near whom, and nothing else.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from traitlets import Any as AnyTrait
from traitlets import Bool, Enum, HasTraits, Int

from labkit.checks import require, whole
from labkit.metrics import effective_rank, feature_norm, mean_pairwise_distance, neighbour_purity
from labkit.models.sizes import features_per_sample, parse_name
from labkit.projection import Pca, UmapReference, seed_flicker
from labkit.runtime import one_thread
from labkit.training import Look, Run
from labkit.training.features import FeatureSet, inputs

Time = float | Literal["mixed"]  # mixed: each image has its own; not None, which no menu of ipywidgets can offer
TIMES: tuple[Time, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, "mixed")
MEASURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "feature_norm": lambda z, y: feature_norm(z),
    "mean_pairwise_distance": lambda z, y: mean_pairwise_distance(z),
    "effective_rank": lambda z, y: effective_rank(z),
    "neighbour_purity": lambda z, y: neighbour_purity(z, y, min(10, len(z) - 1)),
}
Points = Float[Tensor, "n 2"]


class Place(NamedTuple):
    """Where one looks: block, time, whether the class is told, step of training."""

    block: int
    t: Time
    labelled: bool
    step: int


class Spread(NamedTuple):
    """One run's features at a place."""

    points: dict[str, Points]
    """Axes → coordinates per √P: ``shared`` by all runs, or the run's ``own``."""
    explained: dict[str, float]
    """Axes → share of the cloud's variance that lies along them."""
    norms: Float[Tensor, " n"]
    numbers: dict[str, float]
    """``MEASURES`` in the whole feature space, not in the picture."""


class Map(NamedTuple):
    """A UMAP of all runs at their last step, with what it takes to judge it."""

    reference: UmapReference
    trustworthiness: dict[str, float]
    flicker: float
    """How far another seed's map lies from it: Procrustes disparity, 0 the same … 1 unrelated."""


class Explorer(HasTraits):
    """Where one looks in; clouds, maps and images out.

    Args:
        runs: name → run, of the same data, block width and number of tokens.
        count: how many held-out images.  times: to choose from.

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
    """``all``, a class, or ``drawn`` for the images in ``drawn``."""
    drawn: tuple[int, ...] = ()
    """The images that were last selected by drawing around them."""
    image = Int(0, min=0)

    def __init__(self, runs: Mapping[str, Run], count: int = 300, times: tuple[Time, ...] = TIMES) -> None:
        self.runs, self.times = dict(runs), times
        self.steps, self.depth = _common(self.runs)
        require(whole(count, 3), "count", count, "a picture of spread takes 3 images or more")
        self._looks = {
            (t, told): Look(None if t == "mixed" else t, count, told) for t in times for told in (True, False)
        }
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
        self.changed: Callable[[], None] = lambda: None  # the view puts its redraw here
        super().__init__(step=self.steps[-1], block=min(1, self.depth - 1), t=times[len(times) // 2 - (len(times) > 1)])
        self.observe(lambda change: self._wake.set())

    @property
    def place(self) -> Place:
        """Where the sliders stand."""
        return Place(self.block, self.t, self.labelled, self.step)

    @property
    def ready(self) -> bool:
        """Whether what is asked for can be drawn at once."""
        return self.place in self.clouds and (self.projection == "PCA" or self.place in self.mapped)

    @property
    def fault(self) -> Exception | None:
        """Why what is asked for cannot be drawn."""
        found = self.faults.get(("PCA", self.place))
        return self.faults.get((self.projection, self.place)) if found is None else found

    def points(self) -> dict[str, Points]:
        """Run → coordinates of what is asked for; only when ``ready``."""
        if self.projection == "UMAP":
            return self.mapped[self.place]
        return {name: cloud.points[self.axes] for name, cloud in self.clouds[self.place].items()}

    def bounds(self, name: str) -> tuple[tuple[float, float], tuple[float, float]]:
        """Ends of both axes of a run's picture, the same for all steps that are known, and for all runs if shared."""
        film, runs = self._film(), self.runs if self.axes == "shared" else [name]
        if self.projection == "UMAP":
            shown = torch.cat([self.mapped[p][run] for p in film if p in self.mapped for run in runs])
            low, high = shown.amin(0), shown.amax(0)
        else:
            known = [self.clouds[p] for p in film if p in self.clouds]
            high = max(clouds[run].points[self.axes].abs().max() for clouds in known for run in runs).expand(2)
            low = -high
        margin = 0.06 * (high - low).amax().clamp_min(1e-6)
        return tuple(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))

    @property
    def map(self) -> Map | None:
        """The UMAP at this block and time, if it has been made."""
        return self.maps.get(self.place[:3])

    def history(self, measure: str) -> dict[str, dict[int, float]]:
        """Run → step → a measure at this block and time, as far as it is known."""
        known = {step: self.clouds.get(self.place._replace(step=step)) for step in self.steps}
        return {
            name: {step: clouds[name].numbers[measure] for step, clouds in known.items() if clouds}
            for name in self.runs
        }

    def selected(self) -> list[int] | None:
        """Indices of the images that are highlighted; None for all."""
        if self.highlight == "drawn":
            return list(self.drawn) or None
        return None if self.highlight == "all" else (self.y == self.highlight).nonzero()[:, 0].tolist()

    # What follows makes clouds and maps: here and now by ``settle``, or in the background.

    def settle(self) -> None:
        """Make what is asked for here and now; errors are raised."""
        while (job := self._next_shown()) is not None:
            self._make(*job)

    def start(self) -> None:
        """Make everything in the background, first what is looked at; after ``close``, go on where that left it."""
        if self._thread is None or self._closed.is_set():
            self._wake, self._closed = threading.Event(), threading.Event()
            self._thread = threading.Thread(
                target=self._work, args=(self._wake, self._closed), name="labkit-explorer", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End the background thread after the job in hand."""
        self._closed.set()
        self._wake.set()

    def progress(self) -> tuple[int, int]:
        """How many views are at hand, of how many can be: by PCA all of them, by UMAP the steps of this map."""
        views, made = (self._all(), self.clouds) if self.projection == "PCA" else (self._film(), self.mapped)
        able = [p for p in views if not any((way, p) in self.faults for way in ("PCA", self.projection))]
        return sum(p in made for p in able), len(able)

    def _all(self) -> list[Place]:
        return [Place(b, t, self.labelled, s) for t in self.times for s in self.steps for b in range(self.depth)]

    def _film(self) -> list[Place]:
        here = self.place
        return [here._replace(step=step) for step in self.steps]

    def _work(self, wake: threading.Event, closed: threading.Event) -> None:
        while True:
            wake.clear()
            if closed.is_set():  # asked after the clearing, or the call that closes could be missed
                return
            job = self._next_shown() or self._next_other()
            if job is None:
                wake.wait()
                continue
            try:
                self._make(*job)
            except Exception as error:  # told where the reader looks; other places may work
                self.faults[job] = error
            self.changed()

    def _next_shown(self) -> tuple[str, Place] | None:
        """What is missing most where one looks: by which projection, and where."""
        place = self.place
        job = ("UMAP" if place in self.clouds else "PCA", place)
        at_hand = place in (self.mapped if self.projection == "UMAP" else self.clouds)
        return None if at_hand or job in self.faults else job

    def _next_other(self) -> tuple[str, Place] | None:
        """The next missing place: first other steps, then other blocks, then other times."""
        here, film = self.place, self._film()
        missing = [("UMAP", p) for p in film if p[:3] in self.maps and p in self.clouds and p not in self.mapped]
        others = [("PCA", p) for p in self._all() if p not in self.clouds]
        others.sort(key=lambda job: (job[1].t != here.t, job[1].block != here.block, job[1].step))
        return next((job for job in missing + others if job not in self.faults), None)

    def _make(self, projection: str, place: Place) -> None:
        with one_thread():  # leaves a core to the reader, and to a training
            if projection == "PCA":
                self._make_clouds(place)
            elif place[:3] not in self.maps:
                self._make_map(place)
            else:
                self._make_mapped(place)

    def _features(self, name: str, place: Place) -> Float[Tensor, "n features"]:
        """One run's features; those of all blocks are made together."""
        look = self._looks[place.t, place.labelled]
        blocks = [place.block] if (name, look, place.step) in self._kept else None
        seen = self.runs[name].features(look, blocks, place.step)
        self._kept.add((name, look, place.step))
        z = seen.features[place.block].flatten(1)
        if not z.isfinite().all():
            bad = (~z.isfinite().all(dim=1)).sum().item()
            where = f"{name} at step {place.step}, block {place.block}"
            raise ValueError(f"{where}: the features of {bad} of {len(z)} images are NaN or infinite.")
        return z

    def _basis(self, place: Place) -> dict[str, dict[str, Pca]]:
        """Axes → run → principal axes, of all times at the last step, so that neither film nor t turns them.

        For the shared axes every run's cloud is centred and scaled to the same variance: else the largest chooses.
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
        basis, made = self._basis(place), {}
        for name in self.runs:
            z = self._features(name, place)
            centred = _centred(z)
            made[name] = Spread(
                {axes: of[name].transform(centred) for axes, of in basis.items()},
                {axes: of[name].explained(centred) for axes, of in basis.items()},
                z.norm(dim=1) / z.shape[1] ** 0.5,
                {measure: of(z, self.y) for measure, of in MEASURES.items()},
            )
        self.clouds[place] = made

    def _make_map(self, place: Place) -> None:
        last = place._replace(step=self.steps[-1])
        conditions = {name: _centred(self._features(name, last)) for name in self.runs}
        reference = UmapReference.fit(conditions)
        trust = {name: reference.trustworthiness(z) for name, z in conditions.items()}
        self.maps[place[:3]] = Map(reference, trust, seed_flicker(conditions))

    def _make_mapped(self, place: Place) -> None:
        reference = self.maps[place[:3]].reference
        self.mapped[place] = {
            name: torch.as_tensor(reference.transform(_centred(self._features(name, place)))) for name in self.runs
        }


def _centred(z: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
    return z - z.mean(dim=0)


def _common(runs: Mapping[str, Run]) -> tuple[list[int], int]:
    """Steps and number of blocks that all runs have; runs that cannot be compared are refused."""
    require(len(runs) > 0, "runs", list(runs), "name at least one")
    for name, run in runs.items():
        require(len(run.checkpoints) > 0, "runs", name, f"{run.path} has no checkpoint yet: train it first")
    data = {name: run.config.dataset for name, run in runs.items()}
    require(len(set(data.values())) == 1, "runs", data, "they must have been trained on the same data set")
    kinds = {name: (run.config.family, run.config.flow.path) for name, run in runs.items()}
    require(
        len({(family == "DiT", path) for family, path in kinds.values()}) == 1,
        "runs",
        kinds,
        "they noise an image in different ways, so that at the same time they are not shown the same",
    )
    size = inputs(Look(count=1), next(iter(runs.values())).config).x1.shape[-1]
    widths = {name: features_per_sample(run.config.model, size) for name, run in runs.items()}
    require(
        len(set(widths.values())) == 1,
        "runs",
        widths,
        "features of different widths have no axes in common; open one explorer for each width",
    )
    steps = sorted(set.intersection(*(set(run.steps) for run in runs.values())))
    told = "; ".join(f"{name}: {', '.join(map(str, run.checkpoints))}" for name, run in runs.items())
    require(len(steps) > 1, "runs", list(runs), f"they share no step with a checkpoint ({told})")
    return steps, min(parse_name(run.config.model).size.depth for run in runs.values())
