"""The endless stream of training samples, a function of (seed, position) alone.

Position s is sample s mod N of epoch s // N, whose order is shuffled anew; a batch may cross from one epoch to the
next, so no sample is ever dropped and no batch is short. Noise, times, label drops, augmentation and second view of the
batch that starts at s follow from (seed, s). There is no random state to save: a resumed run reads the same positions
and draws the same numbers. Several ranks draw the same numbers, and each takes its rows of them, so their batches
together are that of a single process.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from labkit.datasets import AugmentationDraws, Source
from labkit.runtime import Purpose, generator
from labkit.types import Batch, Draws, SecondView


class Stream:
    """Batches and draws by position, on one device.

    Args:
        images: the data.  batch_size: samples of all ranks together.  seed: of all random numbers.
        device: where the batches go.
        two_views: also draw the randomness of a second view.  pairs: also draw the later times of MeanFlow's pairs.
        pixels: add the images to batches of latents.
        flips: mirror half of the images, where their store holds them both ways.
        rank, ranks: this process's share: the rows of a batch are cut into ``ranks`` equal pieces in order.
    """

    def __init__(
        self,
        images: Source,
        batch_size: int,
        seed: int,
        device: torch.device,
        two_views: bool = False,
        pairs: bool = False,
        pixels: bool = False,
        flips: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.images = images.to(device)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.two_views, self.pairs, self.pixels, self.flips = two_views, pairs, pixels, flips
        share = batch_size // ranks
        self._share = slice(rank * share, (rank + 1) * share)
        self._orders: dict[int, Tensor] = {}
        # Data on a disk are read one batch ahead, during a training step. Data on the device are indexed there, by an
        # order that lies there, too: no step waits for a copy.
        ready = images.resident and not pixels
        self._reader = None if ready else ThreadPoolExecutor(1, "labkit-reader")
        self._order_on = device if ready else torch.device("cpu")
        self._ahead: tuple[int, Future[tuple[Batch, Draws]]] | None = None

    def at(self, position: int) -> tuple[Batch, Draws]:
        """This rank's part of samples position … position + batch_size − 1, and its randomness."""
        if self._reader is None:
            return self._at(position)
        if self._ahead is not None and self._ahead[0] == position:
            future = self._ahead[1]
        else:
            future = self._reader.submit(self._at, position)
        result, following = future.result(), position + self.batch_size
        self._ahead = following, self._reader.submit(self._at, following)
        return result

    def _at(self, position: int) -> tuple[Batch, Draws]:
        own = self._share
        rows = self._rows(position)[own]
        draws = None  # like second views and ends, from a generator of its own: the other numbers do not change
        if self.images.augments:
            noise, uniforms = self._draw(Purpose.AUGMENTATION, position, 1)
            # A number of at least 1/2 does not mirror; that it is drawn all the same leaves the noise as it is.
            draws = AugmentationDraws(noise[own], uniforms[own, 0] if self.flips else torch.ones_like(uniforms[own, 0]))
        batch = self.images.batch(rows, draws)
        if self.pixels:
            batch = batch._replace(pixels=self.images.pixels(rows, draws))
        noise, uniforms = self._draw(Purpose.NOISE, position, 2)
        second = ends = None
        if self.pairs:
            draw = generator(self.seed, Purpose.PAIRS, position, on=self.device)
            ends = torch.rand(self.batch_size, generator=draw, device=self.device)[own]
        if self.two_views:
            other_noise, times = self._draw(Purpose.SECOND_VIEW, position, 1)
            second = SecondView(other_noise[own], times[own, 0])
        step = torch.tensor(position // self.batch_size)
        return batch, Draws(noise[own], uniforms[own], step, second, ends)

    def _draw(self, purpose: Purpose, position: int, columns: int) -> tuple[Tensor, Tensor]:
        draw = generator(self.seed, purpose, position, on=self.device)
        noise = torch.randn(self.batch_size, *self.images.shape, generator=draw, device=self.device)
        return noise, torch.rand(self.batch_size, columns, generator=draw, device=self.device)

    def _rows(self, position: int) -> Tensor:
        size, end = len(self.images), position + self.batch_size
        epochs = range(position // size, (end - 1) // size + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in epochs}
        pieces = [order[max(position - e * size, 0) : end - e * size] for e, order in self._orders.items()]
        return torch.cat(pieces)

    def _order(self, epoch: int) -> Tensor:
        order = torch.randperm(len(self.images), generator=generator(self.seed, Purpose.ORDER, epoch))
        return order.to(self._order_on)


def micro_batches(batch: Batch, draws: Draws, count: int) -> list[tuple[Batch, Draws]]:
    """A batch cut into ``count`` equal micro-batches, in order; ``count`` divides its size."""
    size = len(batch.y) // count
    return [(_rows_of(batch, i * size, size), _rows_of(draws, i * size, size)) for i in range(count)]


def _rows_of(value: Any, first: int, count: int) -> Any:
    """The same rows of every tensor in a tuple that has rows."""
    if isinstance(value, tuple):
        return type(value)(*(_rows_of(item, first, count) for item in value))
    return value[first : first + count] if isinstance(value, Tensor) and value.dim() else value
