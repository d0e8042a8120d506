"""InfoNCE-L2, the paper's own Dispersive Loss: closed forms, stated values, and the mistakes that others made."""

import math

import pytest
import torch

from labkit.losses import dispersive_loss


def plain(z, tau=0.5):
    """log of the mean over all pairs of exp(−‖z_i − z_j‖² / (Pτ)), in Python's own float64."""
    z = z.flatten(1).tolist()
    terms = [math.exp(-math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / len(p) / tau) for p in z for q in z]
    return math.log(math.fsum(terms) / len(terms))


def gradient(z, tau=0.5):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(dispersive_loss(z, tau=tau), z)[0]


def closed_gradient(z, tau=0.5):
    """−(4/(τP)) Σ_j w_ij (z_i − z_j), w_ij the share of a pair in the sum; all differences in float64."""
    z = z.detach().double().flatten(1)
    differences = z[:, None] - z[None]
    weights = (-differences.square().mean(dim=2) / tau).exp()
    return -4 / (tau * z.shape[1]) * torch.einsum("ij,ijp->ip", weights / weights.sum(), differences)


# --- value and gradient


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("tau", [0.1, 0.5, 2])
@pytest.mark.parametrize("shape", [(2, 3), (5, 4, 6), (6, 2, 3, 3)])
def test_it_equals_a_double_loop(shape, tau, dtype, rel):
    z = torch.randn(shape, dtype=dtype)
    loss = dispersive_loss(z, tau=tau)
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(plain(z, tau), rel=rel)


@pytest.mark.parametrize("tau", [0.25, 1.0])
def test_its_gradient_is_the_closed_form(tau):
    z = torch.randn(6, 10, dtype=torch.float64)
    torch.testing.assert_close(gradient(z, tau), closed_gradient(z, tau))


@pytest.mark.parametrize(
    ("batch", "tau", "values"),
    [
        (32, 0.5, {0.1: -0.039, 0.3: -0.347, 0.5: -0.948, 1.0: -3.016}),
        (16, 1.0, {0.1: -0.019, 0.3: -0.168, 0.5: -0.460, 1.0: -1.664}),
    ],
)
def test_gaussian_features_give_the_values_that_the_science_page_states(batch, tau, values):
    z = torch.randn(batch, 128, 256)
    for deviation, value in values.items():
        assert dispersive_loss(z * deviation, tau=tau).item() == pytest.approx(value, abs=0.003)


def test_gaussian_features_of_few_dimensions_follow_the_exact_expectation():
    batch, P, s, tau = 2048, 4, 0.5, 0.5
    exact = math.log(1 / batch + (1 - 1 / batch) * (1 + 4 * s**2 / (tau * P)) ** (-P / 2))
    assert dispersive_loss(s * torch.randn(batch, P), tau=tau).item() == pytest.approx(exact, abs=0.03)


# --- floating point


def test_a_huge_common_offset_costs_no_accuracy():
    z = torch.randn(6, 32) * 0.5 + 1e4
    assert dispersive_loss(z).item() == pytest.approx(plain(z), rel=1e-4)
    torch.testing.assert_close(gradient(z).double(), closed_gradient(z), rtol=1e-2, atol=1e-5)


def test_nearly_identical_samples_are_still_pushed_apart():
    clusters = 30.0 * torch.tensor([1, 1, 1, 1, -1, -1, -1, -1])[:, None]  # too far apart to push each other
    z = clusters + 1e-3 * torch.randn(8, 256)  # and inside them closer than a Gram matrix resolves
    found, wanted = gradient(z).double(), closed_gradient(z)
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_real_widths_do_not_underflow_as_without_the_division_by_features():
    P = 256 * 384  # S/2 at 32×32: tokens × width
    z = torch.randn(16, P)
    assert dispersive_loss(z).item() > -math.log(16) + 0.1
    assert gradient(z).abs().max() > 0
    undivided = z * P**0.5  # the same distances without the division: at the floor already, and stuck there
    assert dispersive_loss(undivided).item() == pytest.approx(-math.log(16))
    assert gradient(undivided).abs().max() == 0
