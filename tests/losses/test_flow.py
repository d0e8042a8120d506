"""The velocity loss: value, gradient, precision."""

import pytest
import torch

from labkit.losses import velocity_loss


def test_it_is_the_mean_square_over_all_entries_and_its_gradient_points_to_the_output():
    output, velocity = torch.randn(2, 3, 1, 2, 2)
    output.requires_grad_()
    loss = velocity_loss(output, velocity)
    loss.backward()
    gap = output.detach() - velocity
    assert loss.item() == pytest.approx(sum(entry**2 for entry in gap.flatten().tolist()) / 12)
    torch.testing.assert_close(output.grad, 2 * gap / 12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_raised_before_the_difference_and_float64_stays(dtype):
    output, velocity = (torch.randn(2, 4, 1, 8, 8) * 300).to(dtype)  # squares beyond float16's 65,504
    raised = torch.promote_types(dtype, torch.float32)
    loss = velocity_loss(output, velocity)
    assert loss.dtype == raised
    assert torch.equal(loss, velocity_loss(output.to(raised), velocity.to(raised)))


def test_autocast_changes_nothing():
    output, velocity = torch.randn(2, 4, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = velocity_loss(output, velocity)
    assert torch.equal(inside, velocity_loss(output, velocity))
