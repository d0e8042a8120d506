"""The tensor operations under the losses, against loops and in the corners of floating point."""

import math

import jaxtyping
import pytest
import torch

from labkit.ops import expand_like, log_mean_exp, off_diagonal, rows
from labkit.pairs import pairwise_sq_distances


def test_the_shape_checker_is_at_work():
    with pytest.raises(jaxtyping.TypeCheckError):
        pairwise_sq_distances(torch.randn(3, 4, 5))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 1, 8, 8)])
def test_expand_like_gives_each_sample_its_own_number(shape):
    expanded = expand_like(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(shape)) + torch.zeros(shape)
    assert expanded.shape == shape
    assert all((expanded[i] == i + 1).all() for i in range(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_flattens_in_reading_order_and_raises_half_precision_only(dtype):
    raised = torch.float64 if dtype == torch.float64 else torch.float32
    z = torch.arange(24, dtype=dtype).reshape(2, 3, 4)
    flat = rows(z)
    assert flat.dtype == raised
    assert flat.tolist() == [list(range(12)), list(range(12, 24))]
    assert rows(torch.zeros(5)).shape == (5, 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_rows_refuses_a_dtype_without_fractions_by_name(dtype):
    with pytest.raises(TypeError, match=f"^z has dtype {dtype}"):
        rows(torch.ones(2, 3, dtype=dtype))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(), (0, 4), (4, 0), (3, 0, 2)])
def test_rows_refuses_emptiness_with_its_shape(shape):
    with pytest.raises(ValueError, match=r"^z has shape") as error:
        rows(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_squared_distances_equal_a_double_loop():
    z = torch.randn(7, 5, dtype=torch.float64) * 3 + 10
    loop = [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in z.tolist()] for p in z.tolist()]
    torch.testing.assert_close(pairwise_sq_distances(z), torch.tensor(loop, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e6, 1e15])
def test_squared_distances_are_symmetric_non_negative_and_exactly_zero_on_the_diagonal(scale):
    z = torch.randn(16, 256) * scale
    z[8:] = z[:8] * (1 + 1e-7)  # near-duplicates, whose computed distances would round below 0
    distances = pairwise_sq_distances(z)
    assert (distances.diagonal() == 0).all()
    assert distances.min() == 0
    assert torch.equal(distances, distances.T)


def test_squared_distances_survive_a_huge_common_offset():
    z = torch.randn(8, 64) + 1e4
    expected = torch.cdist(z.double(), z.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(pairwise_sq_distances(z).double(), expected, rtol=1e-4, atol=1e-4)


def test_squared_distances_ignore_autocast():
    z = torch.randn(8, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (z @ z.T).dtype == torch.bfloat16  # this is what it must be protected from
        inside = pairwise_sq_distances(z)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, pairwise_sq_distances(z))


def test_distances_lifted_to_zero_keep_their_gradient():
    z = torch.randn(12, 256)
    z[6:] = z[:6] + 1e-5 * torch.randn(6, 256)
    z.requires_grad_()
    centred = (z - z.mean(dim=0)).detach()
    squares = (centred**2).sum(dim=1)
    assert ((squares[:, None] + squares - 2 * centred @ centred.T) < 0).any()  # the corner that is meant
    pairs = pairwise_sq_distances(z)[torch.arange(6), torch.arange(6, 12)]
    (gradient,) = torch.autograd.grad(pairs.sum(), z)
    expected = 2 * (z[:6] - z[6:]).detach()
    torch.testing.assert_close(gradient, torch.cat([expected, -expected]), rtol=0.2, atol=2e-6)


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_log_mean_exp_neither_overflows_nor_underflows(shift):
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = math.log(sum(map(math.exp, x.flatten().tolist())) / 20) + shift
    assert log_mean_exp(x + shift).item() == pytest.approx(expected, abs=1e-9)


def test_log_mean_exp_of_a_constant_is_that_constant():
    assert log_mean_exp(torch.full((3, 3), 2.5)).item() == pytest.approx(2.5)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_off_diagonal_keeps_each_other_entry_once_in_order(n):
    x = torch.randn(n, n)
    assert off_diagonal(x).tolist() == [x[i, j].item() for i in range(n) for j in range(n) if i != j]


def test_far_pairs_leave_no_subnormal_gradients():
    """With them a processor computes up to forty times slower; they are below 1e-30 of the largest and count as 0."""
    x = torch.linspace(-110, 0, 2000).requires_grad_()
    (grad,) = torch.autograd.grad(log_mean_exp(x), x)
    assert grad[grad > 0].min() > 1e8 * torch.finfo(torch.float32).tiny / 2000
    assert grad[x < -70].eq(0).all() and grad[x > -60].gt(0).all()
    assert torch.allclose(log_mean_exp(x).double(), log_mean_exp(x.double()))
