"""The alignment loss against numpy's cosine, floating point, and shapes that do not fit."""

import numpy as np
import pytest
import torch

from labkit.losses.alignment import repa_loss


def plain(projected, target):
    """−mean over samples and tokens of a·b / (‖a‖‖b‖), one token at a time, in numpy's float64; 0 for a zero token."""
    cosines = []
    for a, b in zip(projected.flatten(0, 1), target.flatten(0, 1), strict=True):
        a, b = a.double().numpy(), b.double().numpy()
        norms = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
        cosines.append((a * b).sum() / norms if norms else 0.0)
    return -np.mean(cosines)


def gradient(projected, target):
    projected = projected.detach().requires_grad_()
    return torch.autograd.grad(repa_loss(projected, target), projected)[0]


# --- value and gradient


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 5, 7), (4, 16, 64)])
def test_it_equals_numpys_cosine(shape, dtype, rel):
    projected, target = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype) + 0.5
    loss = repa_loss(projected, target)
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(plain(projected, target), rel=rel, abs=1e-7)


def test_its_gradient_turns_a_token_and_never_stretches_it():
    projected, target = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    grad = gradient(projected, target)
    a, b = (z / z.norm(dim=2, keepdim=True) for z in (projected, target))
    cosine = (a * b).sum(dim=2, keepdim=True)
    torch.testing.assert_close(grad, -(b - cosine * a) / projected.norm(dim=2, keepdim=True) / 12)
    torch.testing.assert_close((grad * projected).sum(dim=2), torch.zeros(3, 4, dtype=torch.float64))


def test_no_gradient_reaches_the_teacher():
    projected, target = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    repa_loss(projected, target).backward()
    assert projected.grad.abs().max() > 0
    assert target.grad is None


# --- floating point


def test_the_wider_of_two_types_decides():
    projected, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4, dtype=torch.float64)
    assert repa_loss(projected, target).dtype == torch.float64
    assert repa_loss(projected.bfloat16(), target.float()).dtype == torch.float32
    assert gradient(projected, target).dtype == torch.float32


@pytest.mark.parametrize("side", ["projected", "target"])
def test_a_zero_token_has_cosine_zero_and_gradient_zero(side):
    projected, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    {"projected": projected, "target": target}[side][0, 1] = 0
    assert repa_loss(projected, target).item() == pytest.approx(plain(projected, target), rel=1e-5)
    grad = gradient(projected, target)
    assert torch.equal(grad[0, 1], torch.zeros(4))
    assert (grad.flatten(0, 1).abs().amax(dim=1) > 0).sum() == 5


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("side", ["projected", "target"])
def test_no_norm_gives_nan_or_infinity(side, scale):
    projected, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = plain(projected, target)
    scaled = {"projected": projected, "target": target, side: torch.randn(2, 3, 4).sign() * scale}
    loss = repa_loss(scaled["projected"], scaled["target"])
    assert -1 <= loss.item() <= 1
    assert gradient(scaled["projected"], scaled["target"]).isfinite().all()
    if scale >= 1e-12:
        again = {"projected": projected, "target": target}
        again[side] = again[side] * scale
        assert repa_loss(**again).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


# --- bad input


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
