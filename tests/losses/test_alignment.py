"""The alignment loss on tokens without direction, of two types, and of shapes that do not fit."""

import pytest
import torch
from every_loss import value_and_gradients

from labkit.losses.alignment import repa_loss


def test_the_wider_of_two_types_decides():
    projected, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4, dtype=torch.float64)
    assert repa_loss(projected, target).dtype == torch.float64
    assert repa_loss(projected.bfloat16(), target.float()).dtype == torch.float32


@pytest.mark.parametrize("size", [0, 1e-30])
@pytest.mark.parametrize("side", [0, 1], ids=["projected", "target"])
def test_a_token_without_direction_has_cosine_zero_and_gradient_zero(side, size):
    views = torch.randn(2, 2, 3, 4)
    others = repa_loss(*(z.flatten(0, 1)[None, 1:] for z in views))
    views[side, 0, 0] *= size
    value, grad, _ = value_and_gradients(repa_loss, *views)
    torch.testing.assert_close(value, others * 5 / 6)
    assert [token.abs().max() < 1e-9 for token in grad.flatten(0, 1)] == [True, *[False] * 5]


@pytest.mark.parametrize(
    ("projected", "target", "message"),
    [
        ((2, 16, 8), (2, 256, 8), r"\(2, 16, 8\).*\(2, 256, 8\).*16 tokens an image and the teacher 256.*patch.*grid"),
        ((2, 16, 8), (2, 16, 64), r"\(2, 16, 8\).*\(2, 16, 64\).*widths differ.*projector.*64"),
        ((2, 16, 8), (3, 16, 8), r"\(2, 16, 8\).*\(3, 16, 8\).*batches differ"),
        ((2, 16, 8), (2, 8), r"\(B, T, D\)"),
        ((2, 0, 8), (2, 0, 8), r"\(2, 0, 8\).*at least one entry"),
    ],
)
def test_shapes_that_do_not_match_are_refused_with_both(projected, target, message, unchecked):
    with pytest.raises(ValueError, match=message):
        repa_loss(torch.randn(projected), torch.randn(target))


def test_tokens_that_are_not_floating_point_numbers_are_refused(unchecked):
    with pytest.raises(TypeError, match=r"^target has dtype torch.int64"):
        repa_loss(torch.randn(2, 3, 4), torch.ones(2, 3, 4).long())
