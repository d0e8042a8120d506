"""The endless stream of training samples, a function of (seed, position) and nothing else.

Position s is sample s mod N of epoch s // N, whose order is shuffled afresh; a batch may cross from one epoch to the
next, so no sample is ever dropped and no batch is short. Noise, times, label drops and second view of the batch that
starts at s follow from (seed, s). There is no random state to save: a resumed run asks for the same positions and gets
the same numbers.
"""

import torch
from torch import Tensor

from labkit.datasets import Images
from labkit.runtime import Purpose, generator
from labkit.types import Batch, Draws, SecondView


class Stream:
    """Batches and draws by position, on one device."""

    def __init__(
        self, images: Images, batch_size: int, seed: int, device: torch.device, two_views: bool = False,
        pairs: bool = False,
    ) -> None:
        self.images = images.to(device)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.two_views, self.pairs = two_views, pairs
        self._orders: dict[int, Tensor] = {}

    def at(self, position: int) -> tuple[Batch, Draws]:
        """The batch of samples position … position + batch_size − 1, and its randomness."""
        pick = self._indices(position)
        x, y = self.images.x[pick], self.images.y[pick]
        noise, uniforms = self._draw(Purpose.NOISE, position, x, 2)
        second = ends = None  # from numbers of their own: the others are the same with and without them
        if self.pairs:
            draw = generator(self.seed, Purpose.PAIRS, position, on=self.device)
            ends = torch.rand(len(x), generator=draw, device=self.device)
        if self.two_views:
            other_noise, times = self._draw(Purpose.SECOND_VIEW, position, x, 1)
            second = SecondView(other_noise, times[:, 0])
        return Batch(x, y), Draws(noise, uniforms, torch.tensor(position // self.batch_size), second, ends)

    def _draw(self, purpose: Purpose, position: int, x: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        draw = generator(self.seed, purpose, position, on=self.device)
        noise = torch.randn(x.shape, generator=draw, device=self.device)
        return noise, torch.rand(len(x), columns, generator=draw, device=self.device)

    def _indices(self, position: int) -> Tensor:
        size, end = len(self.images), position + self.batch_size
        epochs = range(position // size, (end - 1) // size + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in epochs}
        offset = position - epochs[0] * size
        return torch.cat(list(self._orders.values()))[offset : offset + self.batch_size].to(self.device)

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.images), generator=generator(self.seed, Purpose.ORDER, epoch))
