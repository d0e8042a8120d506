"""Samples in shards: the same images on any number of ranks and after any stop; torn files are named."""

import json

import numpy as np
import pytest
import torch

from labkit.disk import DiskError
from labkit.evaluation.shards import SampleError, Shards
from labkit.training import Samples

LABELS = torch.arange(11) % 3


class Draws:
    """Images whose pixels are their number and label; remembers the numbers of each call."""

    def __init__(self, channels=3, stop=None, diverged=None):
        self.channels, self.stop, self.diverged, self.calls = channels, stop, diverged, []

    def __call__(self, numbers, labels):
        if numbers.start == self.stop:
            raise KeyboardInterrupt
        self.calls.append(numbers)
        assert torch.equal(labels, LABELS[numbers.start : numbers.stop])
        x = torch.tensor([[number, label] for number, label in zip(numbers, labels.tolist(), strict=True)]) / 127.5 - 1
        x = x.reshape(-1, 1, 1, 2).expand(-1, self.channels, 2, 2).clone()
        x[labels == self.diverged] = torch.nan
        return Samples(x, labels, {"nfe": 10 + 2 * (numbers.start > 0)})


def drawn(folder, draw=None, rank=0, ranks=1):
    shards = Shards(folder, LABELS, 4)
    shards.make(draw or Draws(), torch.Tensor.clone, rank, ranks, progress=False)
    return shards


def images(shards, size=3):
    return torch.cat(list(shards.batches(size)))


def test_shards_hold_the_samples_in_their_order(tmp_path):
    shards = drawn(tmp_path)
    assert [len(part) for part in shards.batches(3)] == [3, 1, 3, 1, 3]
    x = images(shards)
    assert x.dtype == torch.uint8 and x.shape == (11, 3, 2, 2)
    assert x[:, 0, 0, 0].tolist() == list(range(11)) and x[:, 2, 1, 1].tolist() == LABELS.tolist()
    assert shards.evaluations() == pytest.approx((4 * 10 + 7 * 12) / 11)
    assert json.loads(shards.path(2).with_suffix(".json").read_text()) == {"nfe": 12, "first": 8, "count": 3}


def test_a_stop_loses_one_shard_at_most_and_only_what_is_missing_is_drawn(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, Draws(stop=8))
    assert Shards(tmp_path, LABELS, 4).missing == [2]
    again = Draws()
    assert images(drawn(tmp_path, again))[:, 0, 0, 0].tolist() == list(range(11))
    assert again.calls == [range(8, 11)]


def test_ranks_share_the_shards(tmp_path):
    alone, shares = drawn(tmp_path / "alone"), [Draws(), Draws()]
    first = drawn(tmp_path / "both", shares[1], rank=1, ranks=2)
    assert first.missing == [0, 2]
    both = drawn(tmp_path / "both", shares[0], rank=0, ranks=2)
    assert shares[0].calls == [range(0, 4), range(8, 11)] and shares[1].calls == [range(4, 8)]
    assert not both.missing and torch.equal(images(both), images(alone))


def test_samples_that_are_not_finite_are_never_stored(tmp_path):
    with pytest.raises(SampleError, match=r"^Sample 2 is not finite: has the run diverged\? Choose an earlier step"):
        drawn(tmp_path, Draws(diverged=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read .*; move it away"),
        (np.zeros((4, 3, 2, 2)), "holds float64 .*; move it away"),
        (np.zeros((3, 3, 2, 2), np.uint8), r"holds uint8 \(3, 3, 2, 2\).*; move it away"),
    ],
    ids=["torn", "of another type", "too few"],
)
def test_torn_and_foreign_shards_are_named(tmp_path, content, fault):
    shards = drawn(tmp_path)
    if content is None:
        shards.path(1).write_bytes(shards.path(1).read_bytes()[:-1])
    else:
        np.save(shards.path(1), content)
    with pytest.raises(SampleError, match=f"samples-00001.npy {fault}"):
        images(shards)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_export_is_adms_format(tmp_path, channels):
    shards = drawn(tmp_path / "samples", Draws(channels))
    shards.export(tmp_path / "out" / "a.npz")
    with np.load(tmp_path / "out" / "a.npz", allow_pickle=False) as archive:
        x, y = archive["arr_0"], archive["arr_1"]
    assert x.dtype == np.uint8 and x.shape == (11, 2, 2, 3) and np.array_equal(y, LABELS.numpy())
    assert np.array_equal(x.transpose(0, 3, 1, 2), images(shards).expand(-1, 3, -1, -1).numpy())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npz"]


def test_an_export_that_cannot_be_written(tmp_path):
    shards = drawn(tmp_path / "samples")
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"Could not save .*a.npz"):
        shards.export(tmp_path / "file" / "a.npz")
