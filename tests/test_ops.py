"""The tensor operations under the losses, against loops and in the corners of floating point."""

import math

import pytest
import torch

from labkit.ops import log_mean_exp, rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_flattens_in_reading_order_and_raises_half_precision_only(dtype):
    raised = torch.float64 if dtype == torch.float64 else torch.float32
    z = torch.arange(24, dtype=dtype).reshape(2, 3, 4)
    flat = rows(z)
    assert flat.dtype == raised
    assert flat.tolist() == [list(range(12)), list(range(12, 24))]
    assert rows(torch.zeros(5)).shape == (5, 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_rows_refuses_a_dtype_without_fractions_by_name(dtype, unchecked):
    with pytest.raises(TypeError, match=f"^z has dtype {dtype}"):
        rows(torch.ones(2, 3, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (0, 4), (4, 0), (3, 0, 2)])
def test_rows_refuses_emptiness_with_its_shape(shape, unchecked):
    with pytest.raises(ValueError, match=r"^z has shape") as error:
        rows(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_log_mean_exp_neither_overflows_nor_underflows(shift):
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = math.log(sum(map(math.exp, x.flatten().tolist())) / 20) + shift
    assert log_mean_exp(x + shift).item() == pytest.approx(expected, abs=1e-9)


def test_far_pairs_leave_no_subnormal_gradients():
    """With them a processor computes up to forty times slower; they are below 1e-30 of the largest and count as 0."""
    x = torch.linspace(-110, 0, 2000).requires_grad_()
    (grad,) = torch.autograd.grad(log_mean_exp(x), x)
    assert grad[grad > 0].min() > 1e8 * torch.finfo(torch.float32).tiny / 2000
    assert grad[x < -70].eq(0).all() and grad[x > -60].gt(0).all()
    assert torch.allclose(log_mean_exp(x).double(), log_mean_exp(x.double()))
