"""The stream is a function of (seed, position): the same however one gets there, and no sample is lost or doubled."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from labkit.datasets import Images
from labkit.runtime import Purpose, generator
from labkit.training.stream import Stream

CPU = torch.device("cpu")
ALL = {"two_views": True, "pairs": True}


def numbered(size: int) -> Images:
    """Images that carry their own number, as do their labels."""
    number = torch.arange(size)
    return Images(number.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), number, size)


def stream(size: int = 10, batch: int = 4, seed: int = 0, **more: bool) -> Stream:
    return Stream(numbered(size), batch, seed, CPU, **more)


def flat(source: Stream, position: int) -> dict[str, torch.Tensor]:
    """Every tensor of a batch and its draws, by name."""
    batch, draws = source.at(position)
    views = {} if draws.second is None else {f"second {name}": t for name, t in draws.second._asdict().items()}
    named = batch._asdict() | draws._asdict() | views
    return {name: tensor for name, tensor in named.items() if isinstance(tensor, torch.Tensor)}


def random_numbers(source: Stream, position: int) -> list[torch.Tensor]:
    """Noise, times and drops, second view, ends: all that is drawn for a batch."""
    return [tensor.flatten() for name, tensor in flat(source, position).items() if name not in ("x", "y", "step")]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=8),
    st.integers(2, 30),
    st.integers(0, 2**63 - 1),
    st.sampled_from([{}, ALL]),
)
def test_a_position_gives_the_same_from_wherever_one_comes(positions, batch, seed, more):
    walked = stream(batch=batch, seed=seed, **more)
    for position in positions:
        assert same(flat(walked, position), flat(stream(batch=batch, seed=seed, **more), position))


@pytest.mark.parametrize("batch", [2, 3, 4, 7, 10, 16, 25])
def test_each_epoch_takes_every_sample_once_and_no_batch_is_short(batch):
    size, epochs = 10, 14
    source = stream(size, batch)
    order = []
    for step, position in enumerate(range(0, size * epochs, batch)):
        taken, draws = source.at(position)
        assert torch.equal(taken.x[:, 0, 0, 0].long(), taken.y)  # an image keeps its label
        assert taken.x.shape == draws.noise.shape == (batch, 1, 2, 2)
        assert draws.uniforms.shape == (batch, 2)
        assert draws.step == step
        order += taken.y.tolist()
    passes = [tuple(order[i : i + size]) for i in range(0, size * epochs, size)]
    assert all(sorted(one) == list(range(size)) for one in passes)
    assert len(set(passes)) == epochs  # shuffled anew


def test_the_order_of_the_data_does_not_depend_on_the_batch_size():
    def order(batch):
        return [y for start in range(0, 60, batch) for y in stream(batch=batch).at(start)[0].y.tolist()]

    assert order(4) == order(12) == order(30)


def test_draws_follow_from_seed_and_position_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    numbers = random_numbers(stream(**ALL), 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    others = Stream(Images(torch.zeros(99, 1, 2, 2), torch.zeros(99).long(), 1), 4, 0, CPU, **ALL)
    assert all(torch.equal(a, b) for a, b in zip(random_numbers(others, 8), numbers, strict=True))


def test_no_two_draws_share_a_number():
    """Neither the views and pairs of a batch, nor those of other seeds and places, however large."""
    keys = [*itertools.product((0, 1, 4, 2**32, 2**40 + 1), (0, 1, 4, 2**32, 2**40 + 4))]
    numbers = [set(torch.cat(random_numbers(stream(seed=s, **ALL), p)).tolist()) for s, p in keys]
    assert [len(one) for one in numbers] == [2 * 4 * 4 + 4 * 2 + 4 + 4] * len(keys)
    assert len(set.union(*numbers)) == sum(map(len, numbers))


@pytest.mark.parametrize("position", [0, 8, 9, 400])
def test_a_second_view_and_pairs_leave_the_other_draws_as_they_were(position):
    usual = flat(stream(), position)
    assert {"second noise", "second uniforms", "ends"}.isdisjoint(usual)
    for more in ({"two_views": True}, {"pairs": True}, ALL):
        drawn = flat(stream(**more), position)
        assert same({name: drawn[name] for name in usual}, usual)
        assert ("second noise" in drawn) == ("two_views" in more) and ("ends" in drawn) == ("pairs" in more)


def test_noise_is_normal_and_uniforms_are_uniform_and_none_is_correlated_with_another():
    draws = [flat(stream(batch=100, **ALL), position) for position in range(0, 10_000, 100)]
    noise = [torch.cat([d[name].flatten() for d in draws]) for name in ("noise", "second noise")]
    columns = [torch.cat([d["uniforms"][:, n] for d in draws]) for n in (0, 1)]
    columns += [torch.cat([d[name] for d in draws]) for name in ("second uniforms", "ends")]
    for values, law in (*((z, "norm") for z in noise), *((u, "uniform") for u in columns)):
        assert kstest(values.numpy(), law).pvalue > 1e-3
    assert all(u.min() >= 0 and u.max() < 1 for u in columns)
    for numbers in (noise, columns):
        off = torch.corrcoef(torch.stack(numbers)) - torch.eye(len(numbers))
        assert off.abs().max() < 5 / len(numbers[0]) ** 0.5


def test_no_other_purpose_draws_the_numbers_of_pairs():
    """Noise is made of uniform numbers, which a generator of the same key would give again."""
    ends = stream(pairs=True).at(8)[1].ends
    same = [purpose for purpose in Purpose if torch.equal(torch.rand(4, generator=generator(0, purpose, 8)), ends)]
    assert same == [Purpose.PAIRS]
