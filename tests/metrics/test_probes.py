"""The readers of features against scikit-learn, plain loops, and answers worked out by hand."""

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


def task(seed=0, known=60, judged=40, width=6, classes=3, gap=1.0):
    """Gaussian clouds that overlap: (known_z, known_y, z, y)."""
    draw = torch.Generator().manual_seed(seed)
    centres = gap * torch.randn(classes, width, generator=draw)
    known_y, y = torch.arange(known) % classes, torch.arange(judged) % classes
    known_z, z = (centres[c] + torch.randn(len(c), width, generator=draw) for c in (known_y, y))
    return known_z, known_y, z, y


def at(*degrees):
    """Directions in the plane."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


# --- nearest neighbours


def voted(known_z, known_y, one, k):
    """The class that the rule gives one sample, in plain Python."""
    cosines = [p @ one / math.sqrt((p @ p) * (one @ one)) for p in known_z]
    nearest = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
    votes = {}
    for i in nearest:
        count, nearness = votes.get(known_y[i], (0, 0.0))
        votes[known_y[i]] = count + 1, nearness + cosines[i]
    return min(votes, key=lambda label: (-votes[label][0], -votes[label][1], label))


@given(SEEDS, st.integers(2, 5), st.integers(1, 25))
def test_knn_equals_the_rule_in_plain_python(seed, classes, k):
    known_z, known_y, z, y = task(seed, known=25, judged=12, width=4, classes=classes)
    found = [voted(known_z.double().numpy(), known_y.tolist(), one, k) for one in z.double().numpy()]
    assert knn_accuracy(known_z, known_y, z, y, k) == np.mean(np.array(found) == y.numpy())


@pytest.mark.parametrize("k", [1, 5, 31])
def test_knn_equals_scikit_learns_where_no_votes_tie(k):
    known_z, known_y, z, y = task(known=200, judged=100, classes=2, gap=0.4)
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(known_z.numpy(), known_y.numpy())
    assert knn_accuracy(known_z, known_y, z, y, k) == pytest.approx(peer.score(z.numpy(), y.numpy()))


def test_twenty_neighbours_read_digits_from_their_pixels_as_scikit_learns_do():
    train, held_out = digits("train"), digits("held_out")
    known, unknown = (images.x.flatten(1).numpy() for images in (train, held_out))
    peer = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(known, train.y.numpy())
    found = knn_accuracy(train.x, train.y, held_out.x, held_out.y)
    assert found > 0.9
    assert found == pytest.approx(peer.score(unknown, held_out.y.numpy()), abs=0.0041)  # votes tie for a few


def test_equal_votes_go_to_the_larger_sum_of_cosines_not_to_the_nearest():
    known, y = at(0.0, 80.0, 30.0, -40.0), torch.tensor([1, 1, 0, 0])  # sums: 1.17 and 1.63; the nearest is a 1
    judged = at(0.0)
    assert knn_accuracy(known, y, judged, torch.tensor([0]), k=4) == 1
    assert knn_accuracy(known, 1 - y, judged, torch.tensor([1]), k=4) == 1
    assert knn_accuracy(known, y, judged, torch.tensor([1]), k=1) == 1


def test_more_votes_outweigh_a_larger_sum():
    known, y = at(0.0, 85.0, -85.0, 86.0), torch.tensor([0, 1, 1, 1])  # sums: 1 and 0.24
    assert knn_accuracy(known, y, at(0.0), torch.tensor([1]), k=4) == 1


def test_votes_and_sums_that_are_equal_go_to_the_smaller_label():
    known = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    for y in ([7, 3], [3, 7]):
        assert knn_accuracy(known, torch.tensor(y), known[:1], torch.tensor([3]), k=2) == 1


def test_all_known_samples_vote_for_the_most_frequent_class():
    known_y = torch.tensor([5] * 6 + [2] * 5)
    assert knn_accuracy(torch.randn(11, 3), known_y, torch.randn(8, 3), torch.tensor([5] * 6 + [2] * 2), k=11) == 0.75


def test_knn_is_blind_to_the_norm_of_each_sample_and_to_a_rotation():
    known_z, known_y, z, y = task()
    found = knn_accuracy(known_z, known_y, z, y, k=7)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    assert 0.3 < found < 1
    assert knn_accuracy(known_z * (torch.rand(60, 1) + 0.1), known_y, 9 * z, y, k=7) == found
    assert knn_accuracy(known_z @ turn, known_y, z @ turn, y, k=7) == found
    assert knn_accuracy(known_z + 30, known_y, z, y, k=7) < found  # a shift it does see


def test_autocast_does_not_reach_the_neighbours():
    known_z, z, own = torch.randn(300, 8), torch.randn(500, 8), torch.arange(300)
    cosines = torch.nn.functional.normalize(z.double()) @ torch.nn.functional.normalize(known_z.double()).T
    with torch.autocast("cpu", torch.bfloat16):
        assert knn_accuracy(known_z, own, z, cosines.argmax(dim=1), k=1) == 1


@pytest.mark.parametrize("k", [0, -1, 61, 2.5, True, None])
@pytest.mark.usefixtures("unchecked")
def test_a_number_of_neighbours_that_there_are_not_is_refused(k):
    with pytest.raises(ConfigError, match=rf"^k = {k} cannot be used: .*1 to 60"):
        knn_accuracy(*task(), k=k)


# --- logistic regression


def regression(known_z, known_y, z):
    """Predictions of Σ cross entropy + ‖W‖²/2 at its minimum, found by torch on features standardised by numpy."""
    mean, deviation = known_z.double().mean(dim=0), known_z.double().std(dim=0, correction=0)
    x, judged = ((part.double() - mean) / deviation for part in (known_z, z))
    weight = torch.zeros(x.shape[1], int(known_y.max()) + 1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(weight.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        errors = torch.nn.functional.cross_entropy(x @ weight + bias, known_y, reduction="sum")
        total = errors + weight.square().sum() / 2
        total.backward()
        return total

    solver.step(loss)
    return (judged @ weight + bias).argmax(dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_the_linear_probe_is_the_minimum_of_its_loss(seed):
    known_z, known_y, z, y = task(seed, judged=300, gap=0.7)
    known_z, z = (part * torch.logspace(-3, 3, 6) + 5 for part in (known_z, z))
    expected = (regression(known_z, known_y, z) == y).double().mean().item()
    assert 0.4 < expected < 1
    assert linear_probe_accuracy(known_z, known_y, z, y) == pytest.approx(expected, abs=0.0034)  # one of 300


def test_only_the_known_samples_standardise():
    """Judged together or one by one, each sample gets the same answer."""
    known_z, known_y, z, y = task()
    alone = [linear_probe_accuracy(known_z, known_y, z[i : i + 1] + 2, y[i : i + 1]) for i in range(len(y))]
    assert linear_probe_accuracy(known_z, known_y, z + 2, y) == pytest.approx(np.mean(alone))
    assert np.mean(alone) < linear_probe_accuracy(known_z, known_y, z, y)


def test_the_linear_probe_is_blind_to_scale_and_shift_of_each_feature():
    known_z, known_y, z, y = task()
    scale, shift = torch.logspace(-4, 4, 6), 3 * torch.logspace(-4, 4, 6)
    found = linear_probe_accuracy(known_z, known_y, z, y)
    moved = linear_probe_accuracy(known_z * scale + shift, known_y, z * scale + shift, y)
    assert moved == pytest.approx(found, abs=0.026)  # one of 40


def test_what_no_line_parts_only_the_neighbours_read():
    """One class around the other, on both sides of it."""
    angle = torch.arange(120.0) * 3
    z, y = torch.cat([at(*angle.tolist()), torch.ones(120, 1)], dim=1), (angle % 180 < 90).long()
    known, judged = slice(0, None, 2), slice(1, None, 2)
    assert knn_accuracy(z[known], y[known], z[judged], y[judged], k=1) > 0.9
    assert linear_probe_accuracy(z[known], y[known], z[judged], y[judged]) < 0.7


def test_the_regression_runs_on_one_thread_and_the_others_come_back(monkeypatch):
    seen, fit = [], LogisticRegression.fit

    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    def watched(self, *data):
        seen.extend(threads())
        return fit(self, *data)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        if 2 not in before:
            pytest.skip("one core: there is nothing to limit")
        linear_probe_accuracy(*task())
        assert threads() == before
    assert set(seen) == {1}


# --- both


@BOTH
def test_classes_that_are_there_are_read_and_noise_is_chance(probe):
    assert probe(*task(gap=20.0)) == 1
    assert probe(*task(gap=0.0, known=900, judged=600)) == pytest.approx(1 / 3, abs=0.06)


@BOTH
def test_any_labels_do_and_one_that_was_never_known_is_never_read(probe):
    known_z, known_y, z, y = task(gap=20.0)
    names = torch.tensor([-3, 100, 7])
    assert probe(known_z, names[known_y], z, names[y]) == 1
    assert probe(known_z, known_y, z, torch.where(y == 0, 9, y)) == (y != 0).double().mean()


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_shape_and_precision_is_read_without_gradient(probe, dtype):
    known_z, known_y, z, y = task(gap=20.0)
    known_z, z = known_z.reshape(60, 2, 3).requires_grad_(), z.reshape(40, 3, 2)
    for pair in ((known_z.to(dtype), z), (known_z, z.to(dtype))):
        found = probe(pair[0], known_y, pair[1], y.int())
        assert type(found) is float
        assert found == 1


@BOTH
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize(("which", "told"), [(0, r"^known_z is .* 2 of 60 rows"), (2, r"^z is .* 2 of 40 rows")])
def test_features_that_are_not_finite_are_refused_and_counted(probe, bad, which, told):
    sets = list(task())
    sets[which] = sets[which].clone()
    sets[which][3, 1:3] = sets[which][7] = bad
    with pytest.raises(ValueError, match=told):
        probe(*sets)


@BOTH
def test_a_single_class_is_nothing_to_tell_apart(probe):
    known_z, known_y, z, y = task()
    with pytest.raises(ValueError, match=r"^known_y has one class, 4: nothing to tell apart"):
        probe(known_z, torch.full_like(known_y, 4), z, y)
    assert 0 <= probe(known_z, known_y, z, torch.full_like(y, 1)) <= 1  # those that are judged may be of one


@BOTH
@pytest.mark.usefixtures("unchecked")
def test_sets_that_do_not_fit_together_are_refused(probe):
    known_z, known_y, z, y = task()
    for sets, told in (
        ((known_z, known_y, z[:, :4], y), r"^known_z has 6 features a sample and z 4"),
        ((known_z[:50], known_y, z, y), r"^known_y has shape \(60,\) and known_z 50 samples"),
        ((known_z, known_y, z, y[:30]), r"^y has shape \(30,\) and z 40 samples"),
        ((known_z, known_y, z, y[:, None]), r"^y has shape \(40, 1\)"),
        ((known_z, known_y, z[:0], y[:0]), r"^z has shape \(0, 6\)"),
    ):
        with pytest.raises(ValueError, match=told):
            probe(*sets)
    with pytest.raises(TypeError, match=r"^known_z has dtype torch.int64"):
        probe(known_z.long(), known_y, z, y)


# --- neighbour purity


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


def test_purity_of_classes_far_apart_is_whole_and_of_one_class_undefined():
    directions = torch.eye(3).repeat_interleave(5, dim=0) + 0.01 * torch.rand(15, 3)
    y = torch.arange(3).repeat_interleave(5)
    assert neighbour_purity(directions, y, 4) == 1
    assert math.isnan(neighbour_purity(directions, torch.zeros(15).long(), 4))


def test_purity_refuses_what_it_cannot_measure(unchecked):
    z, y = torch.randn(5, 3), torch.arange(5)
    with pytest.raises(ConfigError, match=r"k = 5 .* from 1 to 4"):
        neighbour_purity(z, y, 5)
    with pytest.raises(ValueError, match=r"y has shape \(4,\) and z 5 samples"):
        neighbour_purity(z, y[:4], 2)
    with pytest.raises(ValueError, match=r"z is NaN or infinite in 1 of 5 rows"):
        neighbour_purity(torch.where(torch.arange(5)[:, None] == 2, torch.nan, z), y, 2)
