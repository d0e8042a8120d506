"""The velocity loss: value, gradient, precision."""

import pytest
import torch

from labkit.losses import velocity_loss


def test_it_is_the_mean_square_over_all_entries():
    output, velocity = torch.randn(2, 3, 1, 2, 2)
    pairs = zip(output.flatten().tolist(), velocity.flatten().tolist(), strict=True)
    assert velocity_loss(output, velocity).item() == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / 12)
    assert velocity_loss(output, output).item() == 0


def test_its_gradient_points_from_the_target_to_the_output():
    output, velocity = torch.randn(2, 3, 1, 2, 2)
    output.requires_grad_()
    velocity_loss(output, velocity).backward()
    torch.testing.assert_close(output.grad, 2 * (output.detach() - velocity) / 12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_before_the_difference(dtype):
    output, velocity = (torch.randn(2, 4, 1, 8, 8) * 300).to(dtype)  # squares beyond float16's 65,504
    loss, exact = velocity_loss(output, velocity), velocity_loss(output.float(), velocity.float())
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert torch.equal(loss, exact)


def test_autocast_changes_nothing():
    output, velocity = torch.randn(2, 4, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = velocity_loss(output, velocity)
    assert torch.equal(inside, velocity_loss(output, velocity))


def test_float64_stays():
    output, velocity = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    assert velocity_loss(output, velocity).dtype == torch.float64
