"""Images from a network: all noise each sample's own, every setting recorded."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit.checks import check_seed, require, whole
from labkit.config import Config
from labkit.process import DiffusionProcess, FlowProcess, process_of
from labkit.runtime import Purpose, generator
from labkit.sampling.guidance import guided
from labkit.sampling.sampler import SOLVERS, Sampler
from labkit.sampling.solvers import Problem


class Samples(NamedTuple):
    """Generated images and how they were made."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    """The labels that they are conditioned on."""
    settings: dict[str, Any]
    """Sampler, steps, guidance, seed, number of function evaluations (nfe): what must stand beside a figure."""

    def describe(self) -> str:
        """The settings as words for a caption."""
        s = self.settings
        steps = f"{s['steps']} step{'' if s['steps'] == 1 else 's'} " if s["steps"] else ""
        evaluations = f"({s['nfe']} evaluation{'' if s['nfe'] == 1 else 's'})"
        return f"{s['method']}, {steps}{evaluations}, guidance {s['guidance']:g}, seed {s['seed']}"


class Frame(NamedTuple):
    """All samples on their way from noise to images."""

    t: float
    """0 is noise, 1 the sample; for DiT, the share of the steps taken."""
    x: Float[Tensor, "n c h w"]


def sample_network(
    network: nn.Module,
    config: Config,
    n: int = 64,
    *,
    y: Sequence[int] | Tensor | None = None,
    first: int = 0,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
    **settings: Any,
) -> Samples:
    """Sample images from noise.

    Sample i depends on (seed, i) and its label alone, not on n or the batch size: both the noise that it starts from
    and the noise that is added on the way. With dopri5, whose steps suit a whole batch, within its tolerances.

    Args:
        network: a Transformer; it is run without gradient.
        config: the run's config, which says what the network predicts.
        n: number of samples, at least 1.
        y: n labels, ``num_classes`` meaning none; by default 0, 1, 2, … in turn.
        first: number of the first sample, where the n are a part of more: those from ``first`` to ``first`` + n − 1.
        seed: of the noise.  batch_size: samples at a time.  progress: show a bar.
        settings: as in ``labkit.sampling.Sampler``: method, steps, guidance, …; by default the model's usual ones.
    """
    sampling = _Sampling(network, config, n, y, seed, settings, first)
    require(whole(batch_size, 1), "batch_size", batch_size, "take at least 1")
    numbers = range(first, first + n)
    batches = [numbers[start : start + batch_size] for start in range(0, n, batch_size)]
    done = []
    total = len(batches) * sampling.steps
    with torch.inference_mode(), tqdm(total=total, desc="sampling", unit="step", disable=not progress) as bar:
        for batch in batches:
            states = sampling.states(batch)
            x = next(states).x  # the noise
            for frame in states:
                x = frame.x
                bar.update()
            done.append(x.cpu())
    return Samples(torch.cat(done).clone(), sampling.labels, sampling.record())


def film_network(
    network: nn.Module,
    config: Config,
    n: int = 64,
    *,
    y: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    **settings: Any,
) -> Iterator[Frame]:
    """The states on the way, noise first and sample last: what ``sample_network`` goes through, in one batch."""
    sampling = _Sampling(network, config, n, y, seed, settings)

    def frames() -> Iterator[Frame]:
        states = sampling.states(range(n))
        while True:
            with torch.inference_mode():  # not while the caller looks at a frame
                frame = next(states, None)
            if frame is None:
                return
            yield Frame(frame.t, frame.x.cpu().clone())

    return frames()


class _Sampling:
    """Numbered samples of one network by one sampler."""

    def __init__(
        self,
        network: nn.Module,
        config: Config,
        n: int,
        y: Sequence[int] | Tensor | None,
        seed: int,
        settings: dict[str, Any],
        first: int = 0,
    ) -> None:
        require(whole(n, 1), "n", n, "take a whole number of at least 1")
        require(whole(first, 0), "first", first, "take a whole number of at least 0")
        check_seed(seed)
        unknown = ", ".join(settings.keys() - Sampler.__dataclass_fields__.keys())
        if unknown:
            names = ", ".join(Sampler.__dataclass_fields__)
            raise TypeError(f"{unknown}: no setting of this name; a sampler's are {names}.")
        self.sampler = Sampler(**settings).filled(config.family)
        self.method = SOLVERS[self.sampler.method]
        self.network, self.process, self.seed = network, process_of(config), seed
        clips = config.family == "DiT" or config.flow.prediction != "velocity"
        require(clips or not self.sampler.clip, "clip", True, "it is for predictions of noise or score, not velocity")
        null = network.num_classes
        labels = torch.arange(first, first + n) % null if y is None else torch.as_tensor(y).long()
        require(
            labels.shape == (n,) and bool(((labels >= 0) & (labels <= null)).all()),
            "y",
            labels.tolist(),
            f"give {n} labels between 0 and {null} ({null} means none)",
        )
        self.labels, self.first, self.nfe = labels, first, 0

    @property
    def steps(self) -> int:
        """Steps of one batch; dopri5 counts as one, since it reports none on its way."""
        return (self.sampler.steps or 1) + self.method.closing_steps

    def record(self) -> dict[str, Any]:
        """Settings that must stand beside the samples; nfe is that of the last batch."""
        settings = self.sampler.record()
        part = {"first": self.first} if self.first else {}
        return {**settings, "seed": self.seed, "count": len(self.labels), **part, "nfe": self.nfe}

    def states(self, numbers: range) -> Iterator[Frame]:
        """The states of samples of these numbers, counting evaluations."""
        on = next(self.network.parameters()).device
        x0 = starting_noise(self.network.shape, numbers, self.seed).to(on)
        self.nfe = 0
        for t, x in self.sampler.solver(self._problem(numbers, on)).states(x0):
            yield Frame(t, x)

    def _problem(self, numbers: range, on: torch.device) -> Problem:
        s, process = self.sampler, self.process
        labels = self.labels[numbers.start - self.first : numbers.stop - self.first].to(on)
        noise = fresh_noise(self.network.shape, numbers, self.seed, on) if self.method.draws_noise else None
        output = process.velocity(self.network, s.clip) if isinstance(process, FlowProcess) else self._output
        guided_field = guided(output, labels, self.network.num_classes, s.guidance, s.channels)

        def field(*args: Tensor) -> Tensor:
            self.nfe += 1
            return guided_field(*args)

        if isinstance(process, DiffusionProcess):
            return Problem(field, noise=noise, schedule=process.schedule.respaced(s.steps).to(on), clip=s.clip)
        # By way of data, which say nothing of the noise where none is left, the end is as singular as a score's.
        interval = process.path.interval("score") if s.clip else process.interval
        return Problem(field, interval, noise, process.path)

    def _output(self, x: Tensor, t: Tensor, y: Tensor, span: Tensor | None = None) -> Tensor:
        return self.network(x, t, y, span=span).output


def few_steps(config: Config, steps: int) -> dict[str, Any]:
    """Settings for a quick look: this number of steps, or MeanFlow's single one."""
    return {} if config.family == "MeanFlow" else {"steps": steps}


def starting_noise(shape: Sequence[int], numbers: Sequence[int], seed: int) -> Float[Tensor, "n c h w"]:
    """The noise that samples of these numbers start from, each drawn from (seed, number) alone."""
    return torch.stack([torch.randn(shape, generator=generator(seed, Purpose.START, i)) for i in numbers])


def fresh_noise(
    shape: Sequence[int], numbers: Sequence[int], seed: int, on: torch.device
) -> Callable[[], Float[Tensor, "n c h w"]]:
    """A function that gives each step's noise for samples of these numbers, each from a generator of its own."""
    draws = [generator(seed, Purpose.KICK, i) for i in numbers]
    return lambda: torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(on)
