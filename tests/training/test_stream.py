"""The stream is a function of (seed, position): the same however one gets there, and no sample is lost or doubled."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.datasets import Images
from labkit.training.stream import Stream

CPU = torch.device("cpu")


def numbered(size: int) -> Images:
    """Images that carry their own number, as do their labels."""
    number = torch.arange(size)
    return Images(number.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), number, size)


def stream(size: int = 10, batch: int = 4, seed: int = 0) -> Stream:
    return Stream(numbered(size), batch, seed, CPU)


def flat(position_in: Stream, position: int) -> list[torch.Tensor]:
    batch, draws = position_in.at(position)
    return [*batch, *draws]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.integers(2, 30), st.integers(0, 2**63 - 1))
def test_a_position_gives_the_same_from_wherever_one_comes(positions, batch, seed):
    walked = stream(batch=batch, seed=seed)
    for position in positions:
        assert same(flat(walked, position), flat(stream(batch=batch, seed=seed), position))


@pytest.mark.parametrize("batch", [2, 3, 4, 7, 10, 16, 25])
def test_each_epoch_takes_every_sample_once_and_no_batch_is_short(batch):
    size, epochs = 10, 14
    it = stream(size, batch)
    order = []
    for position in range(0, size * epochs, batch):
        taken, draws = it.at(position)
        assert torch.equal(taken.x[:, 0, 0, 0].long(), taken.y)  # an image keeps its label
        assert taken.x.shape == draws.noise.shape == (batch, 1, 2, 2)
        assert draws.uniforms.shape == (batch, 2)
        order += taken.y.tolist()
    passes = [tuple(order[i : i + size]) for i in range(0, size * epochs, size)]
    assert all(sorted(one) == list(range(size)) for one in passes)
    assert len(set(passes)) == epochs  # shuffled afresh


def test_the_order_of_the_data_does_not_depend_on_the_batch_size():
    def order(batch):
        return [y for start in range(0, 60, batch) for y in stream(batch=batch).at(start)[0].y.tolist()]

    assert order(4) == order(12) == order(30)


def test_draws_depend_on_seed_and_position_alone():
    noise, uniforms = stream().at(8)[1]
    others = Stream(Images(torch.zeros(99, 1, 2, 2), torch.zeros(99).long(), 1), 4, 0, CPU).at(8)[1]
    assert torch.equal(others.noise, noise)
    assert torch.equal(others.uniforms, uniforms)
    for other in (stream(seed=1).at(8)[1], stream().at(12)[1], stream().at(9)[1]):
        assert not torch.isin(other.noise, noise).any()
        assert not torch.isin(other.uniforms, uniforms).any()


def test_seed_and_position_do_not_mix():
    """(seed, position) = (1, 4) and (4, 1) are different draws, as are large numbers and their low halves."""
    keys = [*itertools.product((0, 1, 4, 2**32, 2**40 + 1), (0, 1, 4, 2**32, 2**40 + 4))]
    assert len({tuple(stream(seed=s).at(p)[1].uniforms.flatten().tolist()) for s, p in keys}) == len(keys)


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = flat(stream(), 20)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(flat(stream(), 20), first)


def test_noise_is_normal_and_uniforms_are_uniform():
    """Over 40,000 numbers; the bounds are five standard errors."""
    draws = [stream(batch=100).at(position)[1] for position in range(0, 10_000, 100)]
    noise = torch.cat([d.noise.flatten() for d in draws]).double()
    uniforms = torch.cat([d.uniforms for d in draws]).double()
    assert abs(noise.mean()) < 5 / 200
    assert abs(noise.square().mean() - 1) < 5 * 2**0.5 / 200
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    deciles = (uniforms * 10).long()
    for column in deciles.T:
        assert (column.bincount(minlength=10) / 10_000 - 0.1).abs().max() < 5 * (0.09 / 10_000) ** 0.5
    assert abs(torch.corrcoef(uniforms.T)[0, 1]) < 5 / 100
