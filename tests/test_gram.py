"""Distances, cosines, correlations and Gram matrices against loops, and at the ends of the number range."""

import math

import jaxtyping
import pytest
import torch

from labkit.distances import (
    cross_cosines,
    cross_sq_distances,
    gram,
    paired_cosines,
    paired_sq_distances,
    pairwise_cosines,
    pairwise_sq_distances,
    product,
    standardized,
)


def sq_distance(p, q):
    return math.fsum((a - b) ** 2 for a, b in zip(p.tolist(), q.tolist(), strict=True))


def cosine(p, q):
    return math.fsum((p * q).tolist()) / math.sqrt(math.fsum((p * p).tolist()) * math.fsum((q * q).tolist()))


def looped(function, a, b):
    return torch.tensor([[function(p, q) for q in b.double()] for p in a.double()], dtype=torch.float64)


def test_the_shape_checker_is_at_work():
    with pytest.raises(jaxtyping.TypeCheckError):
        pairwise_sq_distances(torch.randn(3, 4, 5))


def test_pairs_equal_a_double_loop():
    z, w = 3 * torch.randn(7, 5, dtype=torch.float64) + 10, 3 * torch.randn(4, 5, dtype=torch.float64) + 10
    torch.testing.assert_close(gram(z), torch.einsum("ip,jp->ij", z, z))
    torch.testing.assert_close(product(z, w), torch.einsum("ip,jp->ij", z, w))
    torch.testing.assert_close(pairwise_sq_distances(z), looped(sq_distance, z, z))
    torch.testing.assert_close(pairwise_sq_distances(z, per=2.5), looped(sq_distance, z, z) / 2.5)
    torch.testing.assert_close(cross_sq_distances(z, w, per=2.5), looped(sq_distance, z, w) / 2.5)
    torch.testing.assert_close(pairwise_cosines(z), looped(cosine, z, z))
    torch.testing.assert_close(cross_cosines(z, w), looped(cosine, z, w))
    distances = looped(sq_distance, z[:4], w).diagonal()
    torch.testing.assert_close(paired_sq_distances(z[:4], w, per=2.5), distances / 2.5)
    torch.testing.assert_close(paired_cosines(z[:4], w), looped(cosine, z[:4], w).diagonal())


def test_standardized_features_have_mean_zero_and_the_deviation_one_of_the_batch():
    z = torch.randn(9, 4, dtype=torch.float64) * torch.tensor([1e-6, 1.0, 50.0, 1e12]) + 3
    expected = (z - z.mean(dim=0)) / z.std(dim=0, correction=0)
    torch.testing.assert_close(standardized(z), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6, 1e12])
def test_squared_distances_are_symmetric_non_negative_and_exactly_zero_on_the_diagonal(scale):
    z = torch.randn(16, 256) * scale
    z[8:] = z[:8] * (1 + 1e-7)  # near-duplicates, whose computed distances would round below 0
    distances = pairwise_sq_distances(z)
    assert (distances.diagonal() == 0).all()
    assert distances.min() == 0
    assert torch.equal(distances, distances.T)
    assert cross_sq_distances(z, z).min() == 0


def test_squared_distances_survive_a_huge_common_offset():
    z, w = torch.randn(8, 64) + 1e4, torch.randn(5, 64) + 1e4
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(pairwise_sq_distances(z).double(), looped(sq_distance, z, z), **close)
    torch.testing.assert_close(cross_sq_distances(z, w).double(), looped(sq_distance, z, w), **close)
    torch.testing.assert_close(paired_sq_distances(z[:5], w).double(), looped(sq_distance, z, w).diagonal(), **close)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: pairwise_sq_distances(z)[torch.arange(6), torch.arange(6, 12)],
        lambda z: cross_sq_distances(z[:6], z[6:]).diagonal(),
    ],
    ids=["pairwise", "cross"],
)
def test_distances_lifted_to_zero_keep_their_gradient(function):
    z = torch.randn(12, 256)
    z[6:] = z[:6] + 1e-5 * torch.randn(6, 256)
    z.requires_grad_()
    centred = (z - z.mean(dim=0)).detach()
    squares = (centred**2).sum(dim=1)
    assert ((squares[:, None] + squares - 2 * centred @ centred.T) < 0).any()  # the corner that is meant
    (gradient,) = torch.autograd.grad(function(z).sum(), z)
    expected = 2 * (z[:6] - z[6:]).detach()
    torch.testing.assert_close(gradient, torch.cat([expected, -expected]), rtol=0.2, atol=2e-6)


@pytest.mark.parametrize("size", [0, 1e-30])
def test_rows_of_zeros_have_no_direction(size):
    z, w = torch.randn(2, 4, 3)
    z[1] *= size
    z.requires_grad_(), w.requires_grad_()
    cosines = pairwise_cosines(z)
    assert cosines.diagonal().eq(1).all()
    assert cosines[1, [0, 2, 3]].abs().max() < 1e-14 and cosines[[0, 2, 3], 1].abs().max() < 1e-14
    assert cross_cosines(z, w)[1].abs().max() < 1e-14
    assert paired_cosines(z, w)[1].abs() < 1e-14
    total = cosines.sum() + cross_cosines(z, w).sum() + paired_cosines(z, w).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, (z, w)))


@pytest.mark.parametrize("size", [1e-12, 1e-13, 1e-14, 1e-16])
def test_rows_that_have_hardly_a_direction_have_a_finite_gradient(size):
    z, w = (size * torch.randn(2, 8, 3)).requires_grad_()
    total = pairwise_cosines(z).sum() + cross_cosines(z, w).sum() + paired_cosines(z, w).sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, (z, w)))


@pytest.mark.parametrize("value", [0.0, 1 / 3, 1e4 + 0.1, 16777217.0, -3e12, 1e-12, 1e-30])
@pytest.mark.parametrize("batch", [3, 48, 1000])
def test_a_feature_of_one_value_becomes_zero_whatever_its_mean_rounds_to(batch, value):
    z = torch.full((batch, 2), value)
    z[:, 1] = torch.randn(batch)
    z.requires_grad_()
    standard = standardized(z)
    assert (standard[:, 0] == 0).all()
    assert standard[:, 1].square().mean().item() == pytest.approx(1, rel=1e-5)
    (grad,) = torch.autograd.grad((standard * torch.randn(batch, 2)).sum(), z)
    assert (grad[:, 0] == 0).all()
    assert grad[:, 1].abs().max() > 0


@pytest.mark.parametrize("value", [0.1, 1e4 + 0.1, -3e12])
def test_a_feature_that_differs_in_its_last_digit_only_is_constant_too(value):
    value = torch.tensor(value)
    z = torch.stack([value, value, torch.nextafter(value, 2 * value), value])
    assert len(z.unique()) == 2
    assert (standardized(torch.stack([z, torch.randn(4)], dim=1))[:, 0] == 0).all()


def test_a_feature_that_hardly_varies_still_counts():
    varies = torch.tensor([0.0, 1.0, 2.0, 3.0])
    standard = standardized(torch.stack([1 + 1e-4 * varies, varies], dim=1))
    torch.testing.assert_close(standard[:, 0], standard[:, 1], rtol=2e-3, atol=0)


def test_a_samples_distance_from_itself_has_no_gradient():
    """Where all others are far, D/τ = 18, the rounding of self-pairs would be half of the gradient."""
    z = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)) * 3
    z.requires_grad_()
    exact = z.detach().double().requires_grad_()
    grads = [torch.autograd.grad((-pairwise_sq_distances(x, per=512)).exp().mean().log(), x)[0] for x in (z, exact)]
    torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-3, atol=1e-4 * grads[1].abs().max().item())
