"""The Dispersive Loss against plain loops, its symmetries, its limits, and the mistakes that others made."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labkit.checks import ConfigError
from labkit.losses import dispersive_floor, dispersive_loss


def plain(z, tau=0.5, *, pairs=lambda i, j: True):
    """log of the mean over the chosen pairs of exp(−‖z_i − z_j‖² / (Pτ)), in Python's own float64."""
    z = z.flatten(1).tolist()
    terms = [
        math.exp(-math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / len(p) / tau)
        for i, p in enumerate(z) for j, q in enumerate(z) if pairs(i, j)
    ]  # fmt: skip
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


def test_its_derivative_passes_gradcheck():
    z = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: dispersive_loss(z, tau=0.7), z)


@pytest.mark.parametrize("tau", [0.25, 1.0])
def test_its_gradient_is_the_closed_form(tau):
    z = torch.randn(6, 10, dtype=torch.float64)
    torch.testing.assert_close(gradient(z, tau), closed_gradient(z, tau))


@pytest.mark.parametrize(("batch", "tau", "values"), [
    (32, 0.5, {0.1: -0.039, 0.3: -0.347, 0.5: -0.948, 1.0: -3.016}),
    (16, 1.0, {0.1: -0.019, 0.3: -0.168, 0.5: -0.460, 1.0: -1.664}),
])  # fmt: skip
def test_gaussian_features_give_the_values_that_the_science_page_states(batch, tau, values):
    z = torch.randn(batch, 128, 256)
    for deviation, value in values.items():
        assert dispersive_loss(z * deviation, tau=tau).item() == pytest.approx(value, abs=0.003)


def test_gaussian_features_of_few_dimensions_follow_the_exact_expectation():
    batch, P, s, tau = 2048, 4, 0.5, 0.5
    exact = math.log(1 / batch + (1 - 1 / batch) * (1 + 4 * s**2 / (tau * P)) ** (-P / 2))
    assert dispersive_loss(s * torch.randn(batch, P), tau=tau).item() == pytest.approx(exact, abs=0.03)


# --- limits


@given(
    batch=st.integers(2, 12), P=st.integers(1, 40), seed=st.integers(0, 999),
    scale=st.floats(1e-8, 1e8), tau=st.floats(1e-3, 1e3),
)  # fmt: skip
def test_it_lies_between_minus_log_batch_and_zero(batch, P, seed, scale, tau):
    z = torch.randn(batch, P, generator=torch.Generator().manual_seed(seed)) * scale
    assert -math.log(batch) - 1e-5 <= dispersive_loss(z, tau=tau).item() <= 1e-5


@pytest.mark.parametrize("batch", [2, 7, 64])
def test_identical_features_give_zero_and_far_ones_the_floor(batch):
    same = torch.randn(1, 4, 5).expand(batch, 4, 5)
    assert dispersive_loss(same).item() == pytest.approx(0, abs=1e-6)
    far = 1e3 * torch.arange(batch)[:, None] * torch.ones(1, 20)
    assert dispersive_loss(far).item() == pytest.approx(-math.log(batch), rel=1e-6)
    assert dispersive_floor(batch) == pytest.approx(-math.log(batch))


@pytest.mark.parametrize("batch", [2, 9])
def test_self_pairs_are_counted_as_the_diagonal_identity_says(batch):
    z = torch.randn(batch, 8, dtype=torch.float64)
    without = plain(z, pairs=lambda i, j: i != j)
    expected = math.log(1 / batch + (1 - 1 / batch) * math.exp(without))
    assert dispersive_loss(z).item() == pytest.approx(expected, rel=1e-12)


# --- symmetries


MOVES = {
    "samples permuted": lambda z: z[torch.randperm(8)],
    "features permuted": lambda z: z[:, torch.randperm(24)],
    "translated": lambda z: z + 5 * torch.randn(24).double(),
    "rotated": lambda z: z @ torch.linalg.qr(torch.randn(24, 24).double()).Q,
    "mirrored": lambda z: -z,
    "features repeated": lambda z: z.repeat(1, 5),
    "reshaped": lambda z: z.reshape(8, 2, 3, 4),
}


@pytest.mark.parametrize("move", MOVES)
def test_it_is_blind_to(move):
    z = torch.randn(8, 24, dtype=torch.float64) * 0.4
    assert dispersive_loss(MOVES[move](z)).item() == pytest.approx(dispersive_loss(z).item(), rel=1e-12)


def test_it_falls_as_features_grow_and_only_scale_squared_over_tau_counts():
    z = torch.randn(8, 24, dtype=torch.float64) * 0.1
    losses = [dispersive_loss(z * scale).item() for scale in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4
    torch.testing.assert_close(dispersive_loss(3 * z, tau=0.9), dispersive_loss(z, tau=0.1))


# --- floating point


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_raised_to_float32(dtype):
    z = (torch.randn(8, 4096) * 30).to(dtype)  # its sum of squares is beyond float16
    loss = dispersive_loss(z, tau=2000)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain(z, 2000), rel=1e-5)
    assert gradient(z, 2000).isfinite().all()


def test_autocast_changes_neither_value_nor_gradient():
    z = torch.randn(8, 16, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = dispersive_loss(z)
    assert value.dtype == torch.float32
    assert torch.equal(value, dispersive_loss(z))
    value.backward()  # as torch asks, outside autocast
    assert torch.equal(z.grad, gradient(z))


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-20, 1e-6, 1e6, 1e12, 1e18])
def test_no_norm_gives_nan(scale):
    z = torch.randn(6, 8) * scale
    assert -math.log(6) - 1e-5 <= dispersive_loss(z).item() <= 1e-5
    assert gradient(z).isfinite().all()


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


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, backward included."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return out


def test_no_tensor_outgrows_the_features_or_the_pairs():
    with Largest() as largest:
        gradient(torch.randn(48, 32, 16))
    assert largest.entries == 48 * 32 * 16  # B·P; the differences of all pairs would be B times that


# --- bad input


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("tau", [0, -1, -0.5, math.nan, math.inf, True, "0.5"])
def test_an_impossible_temperature_is_refused_by_name(tau):
    with pytest.raises(ConfigError, match=r"^tau = ") as error:
        dispersive_loss(torch.randn(4, 3), tau=tau)
    assert repr(tau) in str(error.value)
    assert "above 0" in str(error.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("variant", ["infonce", "l2", "", None])
def test_an_unknown_variant_is_refused_with_the_known_ones(variant):
    with pytest.raises(ConfigError, match=rf"^variant = {variant!r} .*infonce_l2"):
        dispersive_loss(torch.randn(4, 3), variant=variant)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("z", "error", "message"), [
    (torch.randn(1, 3), ValueError, "z has a batch of 1.*at least 2"),
    (torch.randn(0, 3), ValueError, r"z has shape \(0, 3\).*at least one entry"),
    (torch.randn(4, 0), ValueError, r"z has shape \(4, 0\)"),
    (torch.tensor(1.0), ValueError, r"z has shape \(\)"),
    (torch.ones(4, 3, dtype=torch.int64), TypeError, "z has dtype torch.int64.*floating-point"),
    (torch.ones(4, 3, dtype=torch.bool), TypeError, "z has dtype torch.bool"),
], ids=["one sample", "no sample", "no feature", "a number", "integers", "booleans"])  # fmt: skip
def test_features_without_a_pair_are_refused(z, error, message):
    with pytest.raises(error, match=rf"^{message}"):
        dispersive_loss(z)
