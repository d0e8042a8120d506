"""Images from a network: the samplers with the lab's manners, all noise each sample's own, every setting recorded."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit.checks import check_seed, require, whole
from labkit.config import Config
from labkit.process import DiffusionProcess, process_of
from labkit.runtime import Purpose, generator
from labkit.sampling import (
    SDE_EVALUATIONS,
    Sampler,
    adaptive,
    diffusion_states,
    guided,
    jump_states,
    sde_states,
    states,
)
from labkit.training.checkpoint import replace_file


class Samples(NamedTuple):
    """Generated images and how they were made."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    """The labels that were asked for."""
    settings: dict[str, Any]
    """Sampler, steps, guidance, seed, number of function evaluations (nfe): what must stand beside a figure."""

    def told(self) -> str:
        """The settings as words for a caption."""
        s = self.settings
        steps = f"{s['steps']} step{'' if s['steps'] == 1 else 's'} " if s["steps"] else ""
        evaluations = f"({s['nfe']} evaluation{'' if s['nfe'] == 1 else 's'})"
        return f"{s['method']}, {steps}{evaluations}, guidance {s['guidance']:g}, seed {s['seed']}"


class Frame(NamedTuple):
    """All samples on their way from noise to images."""

    t: float
    """0 is noise, 1 the sample; of DiT, the share of its steps."""
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
    """Lead noise to images.

    Sample i depends on (seed, i) and its label alone, not on n or the batch size: both the noise that it starts from
    and what is added on the way. Only dopri5, whose steps suit a whole batch, lets its tolerance between them.

    Args:
        network: a Transformer; it is run without gradient.
        config: the run's config, which says what the network predicts.
        n: number of samples, at least 1.
        y: n labels, ``num_classes`` meaning none; by default 0, 1, 2, … in turn.
        first: number of the first sample, where the n are a part of more: those from ``first`` to ``first`` + n − 1.
        seed: of the noise.  batch_size: samples at a time.  progress: show a bar.
        settings: as in ``labkit.sampling.Sampler``: method, steps, guidance, …; by default the model's usual ones.
    """
    way = _Way(network, config, n, y, seed, settings, first)
    require(whole(batch_size, 1), "batch_size", batch_size, "take at least 1")
    numbers = range(first, first + n)
    batches = [numbers[start : start + batch_size] for start in range(0, n, batch_size)]
    done = []
    # dopri5 tells of no step on its way; a stochastic equation takes its last one beside the others.
    steps = len(batches) * ((way.sampler.steps or 1) + (way.sampler.method in SDE_EVALUATIONS))
    with torch.inference_mode(), tqdm(total=steps, desc="sampling", unit="step", disable=not progress) as bar:
        for batch in batches:
            on_the_way = way.states(batch)
            last = next(on_the_way)  # the noise
            for frame in on_the_way:
                last = frame
                bar.update()
            done.append(last.x.cpu())
    return Samples(torch.cat(done).clone(), way.labels, way.record())


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
    way = _Way(network, config, n, y, seed, settings)

    def frames() -> Iterator[Frame]:
        on_the_way = way.states(range(n))
        while True:
            with torch.inference_mode():  # not while the caller looks at a frame
                frame = next(on_the_way, None)
            if frame is None:
                return
            yield Frame(frame.t, frame.x.cpu().clone())

    return frames()


class _Way:
    """From the noise of numbered samples to their images, by one sampler."""

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
            known = ", ".join(Sampler.__dataclass_fields__)
            raise TypeError(f"{unknown}: no setting of this name; a sampler's are {known}.")
        self.sampler = Sampler(**settings).of(config.family)
        self.network, self.process, self.seed = network, process_of(config), seed
        clips = config.family == "DiT" or config.flow.prediction != "velocity"
        require(clips or not self.sampler.clip, "clip", True, "it is for predictions of noise or score, not velocity")
        self.shape, self.null = network.shape, network.num_classes
        null = self.null
        labels = torch.arange(first, first + n) % null if y is None else torch.as_tensor(y).long()
        require(
            labels.shape == (n,) and bool(((labels >= 0) & (labels <= null)).all()),
            "y",
            labels.tolist(),
            f"give {n} labels between 0 and {null} ({null} means none)",
        )
        self.labels, self.first, self.nfe = labels, first, 0

    def record(self) -> dict[str, Any]:
        """What must stand beside the samples; nfe is that of the last batch."""
        settings = self.sampler.record()
        part = {"first": self.first} if self.first else {}
        return {**settings, "seed": self.seed, "count": len(self.labels), **part, "nfe": self.nfe}

    def states(self, numbers: range) -> Iterator[Frame]:
        """The states of samples of these numbers, counting evaluations."""
        on = next(self.network.parameters()).device
        labels = self.labels[numbers.start - self.first : numbers.stop - self.first].to(on)
        x0 = starting_noise(self.shape, numbers, self.seed).to(on)
        kick = fresh_noise(self.shape, numbers, self.seed, on)
        self.nfe = 0
        s = self.sampler

        def asked(of: Callable[..., Tensor]) -> Callable[..., Tensor]:
            """Guided and counted."""
            field = guided(of, labels, self.null, s.guidance, s.channels)

            def counted(*args: Tensor) -> Tensor:
                self.nfe += 1
                return field(*args)

            return counted

        def output(x: Tensor, t: Tensor, c: Tensor, *span: Tensor) -> Tensor:
            return self.network(x, t, c, span=span[0] if span else None).output

        if isinstance(self.process, DiffusionProcess):
            schedule = self.process.schedule.respaced(s.steps).to(on)
            for left, x in diffusion_states(asked(output), x0, kick, schedule, s.method, s.eta, s.clip):
                yield Frame(1 - left / s.steps, x)
            return
        if s.method == "meanflow":
            found = jump_states(asked(output), x0, s.steps)
        else:
            found = self._flow(asked(self.process.velocity(self.network, s.clip)), x0, kick)
        for t, x in found:
            yield Frame(t, x)

    def _flow(self, velocity: Callable[..., Tensor], x0: Tensor, kick: Callable[[], Tensor]) -> Iterator[Any]:
        s, path, interval = self.sampler, self.process.path, self.process.interval
        if s.clip:  # by way of data, which say nothing of the noise where none is left
            interval = path.interval("score")
        if s.method == "dopri5":
            return iter([(0.0, x0), (1.0, adaptive(velocity, x0, s.rtol, s.atol, interval)[0])])
        if s.method in ("euler", "heun"):
            return states(velocity, x0, s.steps, s.method, interval)
        return sde_states(velocity, x0, kick, path, s.steps, s.method, s.diffusion, s.strength, s.last, interval[0])


def few_steps(config: Config, steps: int) -> dict[str, Any]:
    """Settings for images that are only looked at in passing: so many steps, or the one of MeanFlow."""
    return {} if config.family == "MeanFlow" else {"steps": steps}


def starting_noise(shape: Sequence[int], numbers: Sequence[int], seed: int) -> Float[Tensor, "n c h w"]:
    """The noise that samples of these numbers start from, each drawn from (seed, number) alone."""
    return torch.stack([torch.randn(shape, generator=generator(seed, Purpose.START, i)) for i in numbers])


def fresh_noise(
    shape: Sequence[int], numbers: Sequence[int], seed: int, on: torch.device
) -> Callable[[], Float[Tensor, "n c h w"]]:
    """Gives the noise of step after step to samples of these numbers, each from a generator of its own."""
    draws = [generator(seed, Purpose.KICK, i) for i in numbers]
    return lambda: torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(on)


def write_sheet(x: Float[Tensor, "n c h w"], path: Path, columns: int = 10) -> Path:
    """Write images in [-1, 1] as one PNG, row by row with a border each; return the path. Of latents, 3 channels.

    Images of up to 32 pixels come out four times as large.
    """
    x, zoom = x[:, :3], max(1, min(4, 128 // x.shape[2]))
    rows = -(-len(x) // columns)
    x = torch.cat([x.cpu().clamp(-1, 1), torch.full((rows * columns - len(x), *x.shape[1:]), -1.0)])
    x = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1).unflatten(0, (rows, columns))
    sheet = x.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # rows·height, columns·width, channels
    image = Image.fromarray(((sheet + 1) * 127.5).round().byte().squeeze(-1).numpy())
    file = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(file, "PNG")
    replace_file(path, file.getvalue())
    return path
