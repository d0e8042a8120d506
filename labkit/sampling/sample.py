"""Images from a network: each sample draws its own noise, and all settings are recorded."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from labkit.checks import LabError, check_seed, check_whole, require
from labkit.config import Config
from labkit.models import Transformer
from labkit.process import DiffusionProcess, FlowProcess, process_of
from labkit.runtime import Purpose, generator, memory_for
from labkit.sampling.guidance import check_null_class, guided
from labkit.sampling.sampler import Sampler, describe_guidance
from labkit.sampling.solvers import WHOLE, Problem

EARLIER = "--step of labkit evaluate, or sample_network(run.model(step=…), run.config)"


class SampleError(LabError, RuntimeError):
    """Samples that cannot be used; the message says what to do."""


class Samples(NamedTuple):
    """Generated images and how they were made."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    """Labels that the images are conditioned on."""
    settings: dict[str, Any]
    """Sampler, steps, guidance, seed, number of function evaluations (nfe): to be shown beside every figure."""

    def describe(self) -> str:
        """Settings in words, for a caption."""
        s = self.settings
        steps = f"{s['steps']} step{'' if s['steps'] == 1 else 's'} " if s["steps"] else ""
        evaluations = f"({s['nfe']} evaluation{'' if s['nfe'] == 1 else 's'})"
        return f"{s['method']}, {steps}{evaluations}, {describe_guidance(s)}, seed {s['seed']}"


class Frame(NamedTuple):
    """All samples on their way from noise to images."""

    t: float
    """0 at the noise, 1 at the sample; for DiT, the share of the steps taken."""
    x: Float[Tensor, "n c h w"]


def sample_network(
    network: Transformer,
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

    Sample i depends on (seed, i) and its label alone, not on n or the batch size: this holds for the noise at the start
    and for the noise of each step. With dopri5, which chooses steps for a whole batch, it holds within the tolerances.

    Args:
        network: it is run without gradient.
        config: the run's config, which names the quantity that the network predicts.
        n: number of samples, at least 1.
        y: n labels, where ``num_classes`` means none; by default 0, 1, 2, … in turn.
        first: number of the first sample, to draw samples ``first`` to ``first`` + n − 1 of a larger set.
        seed: seed of the noise.  batch_size: samples at a time.  progress: show a bar.
        settings: as in ``labkit.sampling.Sampler``: method, steps, guidance, …; by default those of the model's family.

    Raises:
        ConfigError: a setting that does not fit the model.
        SampleError: samples that are not finite.
        TypeError: a setting that no sampler has.
    """
    sampling = _Sampling(network, config, n, y, seed, settings, first)
    check_whole("batch_size", batch_size)
    numbers = range(first, first + n)
    batches = [numbers[start : start + batch_size] for start in range(0, n, batch_size)]
    samples = []
    total, most = len(batches) * sampling.steps, min(n, batch_size)
    remedy = "take fewer: by batch_size, by --batch of labkit evaluate, or by n"
    enough = memory_for(f"sampling {most} images at a time", remedy)
    with torch.inference_mode(), enough, tqdm(total=total, desc="sampling", unit="step", disable=not progress) as bar:
        for batch in batches:
            states = sampling.states(batch)
            x = next(states).x  # the noise
            for frame in states:
                x = frame.x
                bar.update()
            samples.append(sampling.finite(x.cpu(), batch.start))
    return Samples(torch.cat(samples).clone(), sampling.labels, sampling.record())


def film_network(
    network: Transformer,
    config: Config,
    n: int = 64,
    *,
    y: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    **settings: Any,
) -> Iterator[Frame]:
    """The states that ``sample_network`` goes through, noise first and samples last, all n in one batch."""
    sampling = _Sampling(network, config, n, y, seed, settings)

    def frames() -> Iterator[Frame]:
        states = sampling.states(range(n))
        while True:
            with torch.inference_mode():  # but not while the caller uses a frame
                frame = next(states, None)
            if frame is None:
                return
            yield Frame(frame.t, sampling.finite(frame.x.cpu().clone()))

    return frames()


class _Sampling:
    """Samples of one network by one sampler, each with a number."""

    def __init__(
        self,
        network: Transformer,
        config: Config,
        n: int,
        y: Sequence[int] | Tensor | None,
        seed: int,
        settings: dict[str, Any],
        first: int = 0,
    ) -> None:
        check_whole("n", n)
        check_whole("first", first, 0)
        check_seed(seed)
        names = Sampler.__dataclass_fields__
        unknown = ", ".join(settings.keys() - names.keys())
        if unknown:
            raise TypeError(f"{unknown}: no setting of this name; a sampler's are {', '.join(names)}.")
        self.sampler = Sampler(**settings).filled(config.family)
        check_null_class(config, self.sampler.guidance)
        self.network, self.process, self.seed = network, process_of(config), seed
        clips = config.family == "DiT" or config.flow.prediction != "velocity"
        require(clips or not self.sampler.clip, "clip", True, "it is for predictions of noise or score, not velocity")
        null = network.num_classes
        chosen = torch.arange(first, first + n) % null if y is None else torch.as_tensor(y)
        labels = chosen.long()
        fits = labels.shape == (n,) and bool(((chosen == labels) & (labels >= 0) & (labels <= null)).all())
        allowed = f"give {n} labels between 0 and {null}, in whole numbers; {null} means none"
        require(fits, "y", chosen.tolist(), allowed)
        null_trained = config.label_drop > 0 or not bool((labels == null).any())
        require(
            null_trained, "y", labels.tolist(), f"{null} (none) was never trained, since label_drop = 0; give others"
        )
        self.labels, self.first, self.nfe = labels, first, 0

    @property
    def steps(self) -> int:
        """Steps of one batch."""
        return self.sampler.total_steps

    def record(self) -> dict[str, Any]:
        """Settings to show beside the samples; nfe is that of the last batch."""
        part = {"first": self.first} if self.first else {}
        return {**self.sampler.record(), "seed": self.seed, "count": len(self.labels), **part, "nfe": self.nfe}

    def finite(self, x: Float[Tensor, "n c h w"], first: int = 0) -> Float[Tensor, "n c h w"]:
        """The samples, the first of which has this number, unless one of them is not finite."""
        return check_finite(x, first, self.sampler.guidance)

    def states(self, numbers: range) -> Iterator[Frame]:
        """States of the samples with these numbers; counts evaluations in ``nfe``."""
        device, shape, sampler = next(self.network.parameters()).device, self.network.shape, self.sampler
        self.nfe = 0
        labels = self.labels[numbers.start - self.first : numbers.stop - self.first].to(device)
        draws = [generator(self.seed, Purpose.KICK, number) for number in numbers]

        def noise() -> Tensor:
            return torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(device)

        def output(x: Tensor, t: Tensor, y: Tensor, span: Tensor | None = None) -> Tensor:
            return self.network(x, t, y, span=span).output

        if isinstance(self.process, FlowProcess):
            output = self.process.velocity(self.network, sampler.clip)
        first, last = sampler.guidance_interval

        def acts(t: Tensor) -> bool:  # a time in float32 may lie beside the end that it means
            return first - 1e-6 <= self.process.time_of(t[0].item()) <= last + 1e-6

        assert sampler.guidance is not None and sampler.channels is not None, "they are filled"
        bounded = acts if (first, last) != WHOLE else None  # which waits for the device
        velocity = guided(output, labels, self.network.num_classes, sampler.guidance, sampler.channels, bounded)

        def field(*args: Tensor) -> Tensor:
            self.nfe += 1
            return velocity(*args)

        if isinstance(self.process, DiffusionProcess):
            schedule = self.process.schedule.respaced(self.steps).to(device)
            problem = Problem(field, noise=noise, schedule=schedule, clip=sampler.clip)
        else:
            # A clipped prediction is converted to data and back, which is as singular at the end as a score is.
            interval = self.process.path.interval("score") if sampler.clip else self.process.interval
            problem = Problem(field, interval, noise, self.process.path)
        for t, x in sampler.solver(problem).states(starting_noise(shape, numbers, self.seed).to(device)):
            yield Frame(t, x)


def check_finite(x: Float[Tensor, "n c h w"], first: int, guidance: float | None = None) -> Float[Tensor, "n c h w"]:
    """Return samples, numbered from ``first`` on; if one is not finite, refuse it with a SampleError."""
    finite = x.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        number = first + int((~finite).nonzero()[0])
        lower = "" if guidance in (None, 1) else f"lower guidance = {guidance:g}, or: "
        raise SampleError(
            f"Sample {number} is not finite: {lower}has the run diverged? Choose an earlier step ({EARLIER})."
        )
    return x


def few_steps(config: Config, steps: int) -> dict[str, Any]:
    """Sampler settings for a quick look: this number of steps, or MeanFlow's single one."""
    return {} if config.family == "MeanFlow" else {"steps": steps}


def starting_noise(shape: Sequence[int], numbers: Sequence[int], seed: int) -> Float[Tensor, "n c h w"]:
    """Noise that the samples with these numbers start from; each depends on (seed, number) alone."""
    return torch.stack([torch.randn(shape, generator=generator(seed, Purpose.START, i)) for i in numbers])
