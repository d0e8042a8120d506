"""A run that reopens: ``labkit.training.folder`` describes its folder; here are its networks, features and samples."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from labkit import datasets
from labkit.checks import check_whole, refuse, require
from labkit.disk import user_path
from labkit.models import Transformer
from labkit.models.sizes import parse_name
from labkit.runtime import device
from labkit.sampling import Frame, Samples, film_network, sample_network
from labkit.training import checkpoint as ckpt
from labkit.training.features import FeatureCache, FeatureSet, Look, extract_features, inputs
from labkit.training.folder import RunError, RunFolder
from labkit.training.loggers import Name
from labkit.training.trainer import Trainer, build_network

Weights = Literal["ema", "model"]


@dataclass(frozen=True)
class Parent:
    """Where a run was forked from, as its ``parent.json`` holds it."""

    run: str
    """Path of the parent's folder."""
    step: int
    checkpoint: str
    """Checksum of the state that both have in common; empty for step 0."""
    changes: tuple[str, ...]
    """Settings that differ, as 'name: the parent's → the fork's'."""

    def describe(self) -> str:
        """Name of the parent, step and changes, as text."""
        return f"{Path(self.run).name} at step {self.step:,}, {'; '.join(self.changes) or 'nothing changed'}"


class Run(RunFolder):
    """An existing run. Open it with ``Run.open(path)``.

    Args:
        path: of the run.  shelf: folder in which ``features`` caches, by default in the run's folder.
    """

    def __init__(self, path: str | Path, shelf: Path | None = None) -> None:
        super().__init__(path)
        self.shelf = shelf or self.path / "features"

    @property
    def steps(self) -> list[int]:
        """Steps at which the network is available: 0, the initial one, and those of the checkpoints."""
        return [0, *self.checkpoints]

    def trainer(self, loggers: Sequence[Name] = (), **changes: Any) -> Trainer:
        """A trainer that continues from the newest checkpoint; ``steps=…`` extends the run, ``loggers`` as its own."""
        return Trainer(self.config.replace(**changes), self.path, loggers)

    def model(self, weights: Weights = "ema", step: int | None = None) -> Transformer:
        """The network at one of ``steps`` (by default the newest), with averaged or live weights, in evaluation mode.

        Raises:
            ConfigError: unknown weights, or a step without a checkpoint.
            RunError: nothing was saved yet, the data have been replaced, or the checkpoint is another's or renamed.
            CheckpointError: the file cannot be read.
        """
        return self._network(self._state(step), weights)

    def features(
        self,
        look: Look = Look(),  # noqa: B008 (frozen)
        blocks: Iterable[int] | None = None,
        step: int | None = None,
        weights: Weights = "ema",
    ) -> FeatureSet:
        """Features of the network at a checkpoint on fixed inputs, cached in the run's folder.

        Args:
            look: the inputs and their time.  blocks: numbers from 0; by default all.
            step: one of ``steps``, by default the newest.  weights: averaged or live ones.

        Raises:
            ConfigError: a block or a step that the run does not have.
            CheckpointError: the step's file cannot be read.
        """
        depth = parse_name(self.config.model).size.depth
        blocks = sorted(range(depth) if blocks is None else set(blocks))
        fit = len(blocks) > 0 and set(blocks) <= set(range(depth))
        require(fit, "blocks", tuple(blocks), f"this run's model has {depth} blocks, numbered 0 to {depth - 1}")
        step = self.steps[-1] if step is None else step
        self._check(step)
        self.check_data()  # also where all features are cached: their images are read from the data
        network = ckpt.digest(self.checkpoints[step]) if step else self.config.to_json()
        cache = FeatureCache(self.shelf, step, {"look": asdict(look), "network": network, "weights": weights})
        features = {block: z for block in blocks if (z := cache.get(block)) is not None}
        missing = [block for block in blocks if block not in features]
        if missing:
            computed = extract_features(self.model(weights, step), look, self.config, missing).features
            for block, z in computed.items():
                cache.put(block, z)
            features |= computed
        return inputs(look, self.config)._replace(features={block: features[block] for block in blocks})

    def export(self, to: str | Path, steps: Iterable[int] | None = None) -> "Run":
        """Copy config, log and averaged weights (in half precision) of this run to a folder.

        The copy opens like any run, but training cannot go on from it.

        Args:
            to: a folder that does not exist yet.  steps: of the checkpoints to copy, by default all.
        """
        to, saved = user_path(to, "to"), self.checkpoints
        require(not to.exists(), "to", str(to), "it exists already; name a new folder")
        steps = list(saved if steps is None else steps)
        allowed = f"this run has checkpoints of steps {', '.join(map(str, saved)) or 'none'}"
        require(set(steps) <= saved.keys(), "steps", steps, allowed)
        for step in steps:
            state = self.checkpoint(step, self.config)
            half = {name: x.half() for name, x in state.tensors.items() if name.startswith("ema.")}
            ckpt.write(to / "checkpoints" / saved[step].name, state._replace(tensors=half))
        for name in ("machine.json", "metrics.csv", "data.json", "config.json"):  # last the file that makes it a run
            if (self.path / name).exists():
                ckpt.replace_file(to / name, (self.path / name).read_bytes())
        return Run.open(to)

    def fork(self, at: int, out: str | Path, **changes: Any) -> "Run":
        """A new run that begins with the state of this one after ``at`` steps, and goes on with other settings.

        Both have weights, moments, averages, data and noise in common up to that step, and see the same data and noise
        after it; without changes the fork equals this run bit for bit. Train it with ``fork.trainer()``.

        Args:
            at: any step up to the newest checkpoint. Between two checkpoints, the steps from the earlier one on are
                trained once more in the fork's folder.
            out: a folder that does not exist yet.
            changes: as ``Config.replace`` takes them: λ, its schedule, τ, variant, α and blocks, the optimizer, and the
                number of steps.

        Raises:
            ConfigError: a setting that cannot change on the way, a step that this run has not reached, a folder that
                exists.
            RunError: this run is an export, which has no moments.
        """
        out, config = user_path(out, "out"), self.config.replace(**changes)
        require(not out.exists(), "out", str(out), "it exists already; name a new folder")
        check_whole("at", at, 0, self.steps[-1], why="the last step that this run has saved")
        require(config.steps > at, "steps", config.steps, f"the fork begins after {at} steps; give it more")
        for text in self.config.outgrows(config):
            name, change = text.split(": ", 1)
            refuse(name, change, "it cannot change on the way; train a run of its own with `labkit train`")
        self.check_data()
        part, source = out.with_name(f".{out.name}.part"), self  # a fork that was cut short leaves no half-made run
        shutil.rmtree(part, ignore_errors=True)
        if at not in self.steps:
            source = self.fork(max(step for step in self.steps if step < at), part / "before")
            with closing(iter(source.trainer())) as reports:
                next(report for report in reports if report.step == at)  # leaving the loop saves
        digest = ""
        if at:
            file = source.checkpoints[at]
            state, digest = source.checkpoint(at, source.config), ckpt.digest(file)
            if not state.part("model."):
                raise RunError(f"{self.path} is an export, without moments; fork the run that it was exported from.")
            ckpt.write(part / "checkpoints" / file.name, state._replace(config=config.to_json()))
            for name in ("machine.json", "metrics.csv"):
                ckpt.replace_file(part / name, (source.path / name).read_bytes())
            RunFolder(part).rewind(at)
        parent = Parent(str(self.path.resolve()), at, digest, tuple(self.config.breaks(config)))
        ckpt.replace_file(part / "parent.json", json.dumps(asdict(parent), indent=2).encode())
        if self.data is not None:
            ckpt.replace_file(part / "data.json", self.data.to_json().encode())
        ckpt.replace_file(part / "config.json", config.to_json().encode())
        shutil.rmtree(part / "before", ignore_errors=True)
        part.rename(out)
        return Run.open(out)

    @property
    def parent(self) -> Parent | None:
        """Where this run was forked from; None for a run of its own."""
        file = self.path / "parent.json"
        if not file.exists():
            return None
        fields = json.loads(file.read_text())
        return Parent(**fields | {"changes": tuple(fields["changes"])})

    def sample(self, n: int = 64, **settings: Any) -> Samples:
        """Generate images with the averaged weights of the newest checkpoint; see ``labkit.sample``."""
        state = self._latest()
        samples = sample_network(self._network(state, "ema"), self.config, n, **settings)
        return samples._replace(settings={**samples.settings, "weights": "ema", "step": state.step})

    def film(self, n: int = 64, **settings: Any) -> Iterator[Frame]:
        """The same images on their way from noise: the sampler's states, one after another."""
        return film_network(self.model(), self.config, n, **settings)

    def _check(self, step: int) -> None:
        require(step in self.steps, "step", step, f"this run's steps are {', '.join(map(str, self.steps))}")

    def _state(self, step: int | None) -> ckpt.Checkpoint | None:
        """The checkpoint at a step, by default the newest that can be read; None for the initial network."""
        if step is None:
            return self._latest()
        self._check(step)
        return self.checkpoint(step, self.config) if step else None

    def _latest(self) -> ckpt.Checkpoint:
        state = self.newest(self.config)
        if state is None:
            raise RunError(f"{self.path} has no checkpoint yet; train it with `labkit train --resume {self.path}`.")
        return state

    def _network(self, state: ckpt.Checkpoint | None, weights: Weights) -> Transformer:
        require(weights in ("ema", "model"), "weights", weights, "choose 'ema' (the moving average) or 'model'")
        self.check_data()
        if state is None:
            network = build_network(self.config, *(self.data or datasets.load(self.config.dataset)).dimensions)
        else:
            saved = state.part(f"{weights}.")
            require(
                len(saved) > 0,
                "weights",
                weights,
                f"{self.path} is an export, which holds averaged weights alone; take ema",
            )
            network = build_network(self.config, *ckpt.dimensions(self.checkpoints[state.step]))
            network.load_state_dict(saved)
        return network.to(device()).eval().requires_grad_(False)


def sample(run: Run | str | Path, n: int = 64, **settings: Any) -> Samples:
    """Generate ``n`` images from a run.

    Args:
        run: a Run or the path of its folder.
        n: how many.
        settings: as in ``sample_network``: y, seed, batch_size, progress, and those of ``labkit.sampling.Sampler``:
            method, steps, guidance and what a method has of its own.
    """
    return (run if isinstance(run, Run) else Run.open(run)).sample(n, **settings)
