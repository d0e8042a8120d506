"""The alignment loss against torch's cosine similarity, floating point, and shapes that do not fit."""

import pytest
import torch
import torch.nn.functional as F
from every_loss import value_and_gradients

from labkit.losses.alignment import repa_loss


def formula(projected, target):
    return -F.cosine_similarity(projected.double(), target.double().detach(), dim=2, eps=0).mean()


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 5, 7), (4, 16, 64)])
def test_value_and_gradient_are_those_of_the_mean_cosine_and_none_reaches_the_teacher(shape, dtype, rel):
    views = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype) + 0.5
    actual, expected = (value_and_gradients(loss, *views) for loss in (repa_loss, formula))
    assert actual[0].shape == () and actual[0].dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=rel, atol=1e-7, check_dtype=False)
    assert not actual[2].any()


def test_the_wider_of_two_types_decides():
    projected, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4, dtype=torch.float64)
    assert repa_loss(projected, target).dtype == torch.float64
    assert repa_loss(projected.bfloat16(), target.float()).dtype == torch.float32


@pytest.mark.parametrize("side", [0, 1], ids=["projected", "target"])
def test_a_zero_token_has_cosine_zero_and_gradient_zero(side):
    views = torch.randn(2, 2, 3, 4)
    others = repa_loss(*(z.flatten(0, 1)[None, 1:] for z in views))
    views[side, 0, 0] = 0
    value, grad, _ = value_and_gradients(repa_loss, *views)
    torch.testing.assert_close(value, others * 5 / 6)
    assert torch.equal(grad[0, 0], torch.zeros(4))
    assert (grad.flatten(0, 1).abs().amax(dim=1) > 0).sum() == 5


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("side", [0, 1], ids=["projected", "target"])
def test_no_norm_gives_nan_or_infinity(side, scale):
    views = torch.randn(2, 2, 3, 4)
    expected = repa_loss(*views)
    views[side] *= scale
    value, grad, _ = value_and_gradients(repa_loss, *views)
    assert -1 <= value.item() <= 1 and grad.isfinite().all()
    if scale >= 1e-12:
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
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
def test_shapes_that_do_not_match_are_refused_with_both(projected, target, message):
    with pytest.raises(ValueError, match=message):
        repa_loss(torch.randn(projected), torch.randn(target))


@pytest.mark.usefixtures("unchecked")
def test_tokens_that_are_not_floating_point_numbers_are_refused():
    with pytest.raises(TypeError, match=r"^target has dtype torch.int64"):
        repa_loss(torch.randn(2, 3, 4), torch.ones(2, 3, 4).long())
