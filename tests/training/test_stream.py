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


def stream(size: int = 10, batch: int = 4, seed: int = 0, two_views: bool = False) -> Stream:
    return Stream(numbered(size), batch, seed, CPU, two_views)


def flat(position_in: Stream, position: int) -> list[torch.Tensor]:
    batch, (*first, second, ends) = position_in.at(position)
    return [batch.x, batch.y, *first, *(second or ()), *([] if ends is None else [ends])]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


PLACES = st.lists(st.integers(0, 500), min_size=1, max_size=8)


@given(PLACES, st.integers(2, 30), st.integers(0, 2**63 - 1), st.booleans())
def test_a_position_gives_the_same_from_wherever_one_comes(positions, batch, seed, two_views):
    walked = stream(batch=batch, seed=seed, two_views=two_views)
    for position in positions:
        afresh = stream(batch=batch, seed=seed, two_views=two_views)
        assert same(flat(walked, position), flat(afresh, position))


@pytest.mark.parametrize("batch", [2, 7, 25])
def test_draws_know_their_step(batch):
    """Optimizer steps before this one, however the epochs end."""
    assert [stream(batch=batch).at(batch * step)[1].step.item() for step in range(9)] == [*range(9)]


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
    noise, uniforms = stream().at(8)[1][:2]
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


def drawn(position: int, **settings) -> tuple[set[float], set[float]]:
    """All the numbers of the first and of the second view."""
    draws = stream(two_views=True, **settings).at(position)[1]
    views = (draws.noise, draws.uniforms), draws.second
    return tuple(set(torch.cat([part.flatten() for part in view]).tolist()) for view in views)


def test_a_second_view_leaves_the_first_as_it_was():
    for position in (0, 8, 9):
        assert stream().at(position)[1].second is None
        one, two = flat(stream(), position), flat(stream(two_views=True), position)
        assert same(two[: len(one)], one)
        assert [part.shape for part in two[len(one) :]] == [(4, 1, 2, 2), (4,)]


def test_a_second_view_follows_from_seed_and_position_alone():
    second = stream(two_views=True).at(8)[1].second
    other_images = Images(torch.zeros(99, 1, 2, 2), torch.zeros(99).long(), 1)
    for other in (stream(two_views=True), Stream(other_images, 4, 0, CPU, two_views=True)):
        assert same([*other.at(8)[1].second], [*second])


def test_no_two_draws_share_a_number():
    """Neither the views of a batch, nor those of other seeds and places."""
    sets = [s for seed in (0, 1) for position in (0, 4, 8, 9) for s in drawn(position, seed=seed)]
    assert [len(s) for s in sets] == [4 * 4 + 4 * 2, 4 * 4 + 4] * 8
    assert len(set.union(*sets)) == sum(len(s) for s in sets)


def test_noise_is_normal_and_uniforms_are_uniform():
    """Over 40,000 numbers; the bounds are five standard errors."""
    draws = [stream(batch=100, two_views=True).at(position)[1] for position in range(0, 10_000, 100)]
    assert_normal_and_uniform([d.noise for d in draws], [d.uniforms for d in draws])
    both = [torch.stack([d.uniforms[:, 0], d.second.uniforms], dim=1) for d in draws]  # the times of the two views
    assert_normal_and_uniform([d.second.noise for d in draws], both)
    views = [torch.cat([d.noise.flatten() for d in draws]), torch.cat([d.second.noise.flatten() for d in draws])]
    assert abs(torch.corrcoef(torch.stack(views))[0, 1]) < 5 / 200


def assert_normal_and_uniform(noise: list[torch.Tensor], uniforms: list[torch.Tensor]) -> None:
    noise = torch.cat([part.flatten() for part in noise]).double()
    uniforms = torch.cat(uniforms).double()
    assert abs(noise.mean()) < 5 / 200
    assert abs(noise.square().mean() - 1) < 5 * 2**0.5 / 200
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    deciles = (uniforms * 10).long()
    for column in deciles.T:
        assert (column.bincount(minlength=10) / 10_000 - 0.1).abs().max() < 5 * (0.09 / 10_000) ** 0.5
    assert abs(torch.corrcoef(uniforms.T)[0, 1]) < 5 / 100
