"""Samples in shards: whoever draws them and however often they are stopped, the same images; torn files are named."""

import json

import numpy as np
import pytest
import torch

from labkit.disk import DiskError
from labkit.evaluation.shards import SampleError, Shards
from labkit.training import Samples

LABELS = torch.arange(11) % 3


class Draws:
    """Images whose pixels say their number and label; remembers what it was asked for."""

    def __init__(self, channels=3):
        self.channels, self.asked = channels, []

    def __call__(self, numbers, labels):
        self.asked.append(numbers)
        assert torch.equal(labels, LABELS[numbers.start : numbers.stop])
        x = torch.tensor([[number, label] for number, label in zip(numbers, labels.tolist(), strict=True)]) / 127.5 - 1
        x = x.reshape(-1, 1, 1, 2).expand(-1, self.channels, 2, 2)
        return Samples(x, labels, {"nfe": 10 + 2 * (numbers.start > 0)})


def made(folder, draw=None, rank=0, ranks=1):
    shards = Shards(folder, LABELS, 4)
    shards.make(draw or Draws(), torch.Tensor.clone, rank, ranks, progress=False)
    return shards


def images(shards, size=3):
    return torch.cat(list(shards.batches(size)))


def test_shards_hold_the_samples_in_their_order(tmp_path):
    shards = made(tmp_path)
    assert [len(part) for part in shards.batches(3)] == [3, 1, 3, 1, 3]
    x = images(shards)
    assert x.dtype == torch.uint8 and x.shape == (11, 3, 2, 2)
    assert x[:, 0, 0, 0].tolist() == list(range(11)) and x[:, 2, 1, 1].tolist() == LABELS.tolist()
    assert shards.evaluations() == pytest.approx((4 * 10 + 7 * 12) / 11)


def test_only_what_is_missing_is_drawn(tmp_path):
    shards, again = made(tmp_path), Draws()
    shards.path(1).unlink()
    assert shards.missing == [1]
    made(tmp_path, again)
    assert again.asked == [range(4, 8)] and images(shards)[:, 0, 0, 0].tolist() == list(range(11))


def test_ranks_share_the_shards(tmp_path):
    alone, shares = made(tmp_path / "alone"), [Draws(), Draws()]
    first = made(tmp_path / "both", shares[1], rank=1, ranks=2)
    assert first.missing == [0, 2]
    both = made(tmp_path / "both", shares[0], rank=0, ranks=2)
    assert shares[0].asked == [range(0, 4), range(8, 11)] and shares[1].asked == [range(4, 8)]
    assert not both.missing and torch.equal(images(both), images(alone))


def test_a_stop_loses_one_shard_at_most(tmp_path):
    class Stopped(Draws):
        def __call__(self, numbers, labels):
            if numbers.start == 8:
                raise KeyboardInterrupt
            return super().__call__(numbers, labels)

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, Stopped())
    assert Shards(tmp_path, LABELS, 4).missing == [2]
    assert images(made(tmp_path))[:, 0, 0, 0].tolist() == list(range(11))


def test_samples_that_are_not_finite_are_never_stored(tmp_path):
    class Diverged(Draws):
        def __call__(self, numbers, labels):
            found = super().__call__(numbers, labels)
            x = found.x.clone()
            x[labels == 2] = torch.nan
            return found._replace(x=x)

    with pytest.raises(SampleError, match=r"^Sample 2 is not finite: has the run diverged\? Choose an earlier step"):
        made(tmp_path, Diverged())
    assert not list(tmp_path.iterdir())


def test_torn_and_foreign_shards_are_named(tmp_path):
    shards = made(tmp_path)
    whole = shards.path(1).read_bytes()
    shards.path(1).write_bytes(whole[:-1])
    with pytest.raises(SampleError, match=r"samples-00001.npy cannot be read .*; remove it and ask again"):
        images(shards)
    np.save(shards.path(1), np.zeros((4, 3, 2, 2)))
    with pytest.raises(SampleError, match=r"samples-00001.npy is none of these samples: it holds float64"):
        images(shards)
    np.save(shards.path(1), np.zeros((3, 3, 2, 2), np.uint8))
    with pytest.raises(SampleError, match=r"it holds uint8 \(3, 3, 2, 2\)"):
        images(shards)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_export_is_adms_format(tmp_path, channels):
    shards = made(tmp_path / "samples", Draws(channels))
    shards.export(tmp_path / "out" / "a.npz")
    with np.load(tmp_path / "out" / "a.npz", allow_pickle=False) as archive:
        x, y = archive["arr_0"], archive["arr_1"]
    assert x.dtype == np.uint8 and x.shape == (11, 2, 2, 3) and np.array_equal(y, LABELS.numpy())
    assert np.array_equal(x.transpose(0, 3, 1, 2), images(shards).expand(-1, 3, -1, -1).numpy())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npz"]


def test_an_export_that_cannot_be_written(tmp_path):
    shards = made(tmp_path / "samples")
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"Could not save .*a.npz"):
        shards.export(tmp_path / "file" / "a.npz")


def test_the_record_of_a_shard_says_where_it_belongs(tmp_path):
    shards = made(tmp_path)
    assert json.loads(shards.path(2).with_suffix(".json").read_text()) == {"nfe": 12, "first": 8, "count": 3}
