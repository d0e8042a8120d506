"""Probes of features against scikit-learn, plain loops, and a regression of torch's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_info, threadpool_limits

from labkit.checks import ConfigError
from labkit.datasets import digits
from labkit.metrics import knn_accuracy, linear_probe_accuracy, neighbour_purity

SEEDS = st.integers(0, 10**6)
PROBES = (lambda *sets: knn_accuracy(*sets, k=3), linear_probe_accuracy)
BOTH = pytest.mark.parametrize("probe", PROBES, ids=["knn", "linear"])


def task(seed=0, train=60, judged=40, width=6, classes=3, gap=1.0):
    """Gaussian clouds that overlap: (train_z, train_y, z, y)."""
    draw = torch.Generator().manual_seed(seed)
    centres = gap * torch.randn(classes, width, generator=draw)
    train_y, y = torch.arange(train) % classes, torch.arange(judged) % classes
    train_z, z = (centres[c] + torch.randn(len(c), width, generator=draw) for c in (train_y, y))
    return train_z, train_y, z, y


def voted(train_z, train_y, one, k):
    """The class that the rule gives one sample, in plain Python."""
    cosines = [p @ one / math.sqrt((p @ p) * (one @ one)) for p in train_z]
    nearest = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
    votes = {}
    for i in nearest:
        count, nearness = votes.get(train_y[i], (0, 0.0))
        votes[train_y[i]] = count + 1, nearness + cosines[i]
    return min(votes, key=lambda label: (-votes[label][0], -votes[label][1], label))


@given(SEEDS, st.integers(2, 5), st.integers(1, 25))
def test_knn_equals_the_rule_in_plain_python(seed, classes, k):
    train_z, train_y, z, y = task(seed, train=25, judged=12, width=4, classes=classes)
    predicted = [voted(train_z.double().numpy(), train_y.tolist(), one, k) for one in z.double().numpy()]
    assert knn_accuracy(train_z, train_y, z, y, k) == np.mean(np.array(predicted) == y.numpy())


def test_twenty_neighbours_read_digits_from_their_pixels_as_scikit_learns_do():
    train, held_out = digits("train"), digits("held_out")
    pixels, others = (images.x.flatten(1).numpy() for images in (train, held_out))
    peer = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(pixels, train.y.numpy())
    accuracy = knn_accuracy(train.x, train.y, held_out.x, held_out.y)
    assert accuracy > 0.9
    assert accuracy == pytest.approx(peer.score(others, held_out.y.numpy()), abs=0.0041)  # votes tie for a few


def test_votes_and_sums_that_are_equal_go_to_the_smaller_label():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    for y in ([7, 3], [3, 7]):
        assert knn_accuracy(train, torch.tensor(y), train[:1], torch.tensor([3]), k=2) == 1


def test_autocast_does_not_reach_the_neighbours():
    train_z, z, own = torch.randn(300, 8), torch.randn(500, 8), torch.arange(300)
    cosines = torch.nn.functional.normalize(z.double()) @ torch.nn.functional.normalize(train_z.double()).T
    with torch.autocast("cpu", torch.bfloat16):
        assert knn_accuracy(train_z, own, z, cosines.argmax(dim=1), k=1) == 1


@pytest.mark.parametrize("k", [0, 61, 2.5, True])
def test_a_number_of_neighbours_that_there_are_not_is_refused(k, unchecked):
    with pytest.raises(ConfigError, match=rf"^k = {k} cannot be used: .*1 to 60"):
        knn_accuracy(*task(), k=k)


def test_the_linear_probe_is_scikit_learns_on_features_standardised_by_the_training_samples():
    train_z, train_y, z, y = task(judged=300, gap=0.7)
    train_z, z = (part * torch.logspace(-3, 3, 6) + 5 for part in (train_z, z))
    mean, deviation = train_z.numpy().mean(axis=0), train_z.numpy().std(axis=0)
    regression = LogisticRegression(max_iter=5000).fit((train_z.numpy() - mean) / deviation, train_y.numpy())
    expected = regression.score((z.numpy() - mean) / deviation, y.numpy())
    assert 0.4 < expected < 1
    assert linear_probe_accuracy(train_z, train_y, z, y) == pytest.approx(expected, abs=0.0034)  # one of 300


def test_the_regression_runs_on_one_thread_and_the_others_come_back(monkeypatch):
    limited, fit = [], LogisticRegression.fit

    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    def watched(self, *data):
        limited.extend(threads())
        return fit(self, *data)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        if 2 not in before:
            pytest.skip("one core: there is nothing to limit")
        linear_probe_accuracy(*task())
        assert threads() == before
    assert set(limited) == {1}


@BOTH
def test_any_labels_do_and_one_without_training_samples_is_never_predicted(probe):
    train_z, train_y, z, y = task(gap=20.0)
    names = torch.tensor([-3, 100, 7])
    assert probe(train_z, names[train_y], z, names[y]) == 1
    assert probe(train_z, train_y, z, torch.where(y == 0, 9, y)) == (y != 0).double().mean()


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_shape_and_precision_is_read_without_gradient(probe, dtype):
    train_z, train_y, z, y = task(gap=20.0)
    train_z, z = train_z.reshape(60, 2, 3).requires_grad_(), z.reshape(40, 3, 2)
    for pair in ((train_z.to(dtype), z), (train_z, z.to(dtype))):
        accuracy = probe(pair[0], train_y, pair[1], y.int())
        assert type(accuracy) is float
        assert accuracy == 1


@BOTH
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda a, b, z, y: (a, b, z[:, :4], y), r"train_z has 6 features a sample and z 4"),
        (lambda a, b, z, y: (a[:50], b, z, y), r"train_y has shape \(60,\) and train_z 50 samples"),
        (lambda a, b, z, y: (a, b, z, y[:, None]), r"y has shape \(40, 1\) and z 40 samples"),
        (lambda a, b, z, y: (a, b, z[:0], y[:0]), r"z has shape \(0, 6\)"),
        (lambda a, b, z, y: (a.index_fill(0, torch.tensor([3, 7]), math.nan), b, z, y), "train_z is .* 2 of 60 rows"),
        (lambda a, b, z, y: (a, b, z.index_fill(0, torch.tensor([3]), -math.inf), y), "z is .* 1 of 40 rows"),
        (lambda a, b, z, y: (a, 0 * b + 4, z, y), "train_y has one class, 4; give samples of two"),
    ],
)
def test_sets_that_cannot_be_probed_are_refused(probe, change, fault, unchecked):
    with pytest.raises(ValueError, match=f"^{fault}"):
        probe(*change(*task()))


def test_purity_is_the_share_of_near_others_of_the_same_class_counted_one_by_one():
    draw = torch.Generator().manual_seed(0)
    z, y = torch.randn(30, 4, 3, generator=draw), torch.randint(3, (30,), generator=draw)
    flat = z.flatten(1).double().numpy()
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    for k in (1, 7, 29):
        shares = []
        for i in range(30):
            others = sorted((j for j in range(30) if j != i), key=lambda j: -float(unit[i] @ unit[j]))
            shares.append(np.mean([y[j] == y[i] for j in others[:k]]))
        assert neighbour_purity(z, y, k) == pytest.approx(np.mean(shares), abs=1e-12)


def test_purity_of_one_class_is_undefined_and_of_too_few_samples_refused(unchecked):
    assert math.isnan(neighbour_purity(torch.randn(5, 3), torch.zeros(5).long(), 4))
    with pytest.raises(ConfigError, match=r"k = 5 .* from 1 to 4"):
        neighbour_purity(torch.randn(5, 3), torch.arange(5), 5)
