"""MeanFlow's loss: derivatives in forward and reverse mode, the identity on a Gaussian; the rest is in test_process."""

import gaussian
import pytest
import torch
from small import randomised
from torch.nn.attention import SDPBackend, sdpa_kernel

from labkit.losses import average_velocity_target
from labkit.losses.meanflow import tangent
from labkit.models import build_model

B = 5
# Times that float32 holds exactly, as do their neighbours: the embedder of times rounds to it.
TIMES = torch.tensor([0.0, 0.25, 0.375, 0.5, 0.75], dtype=torch.float64)
SPANS = torch.tensor([1.0, 0.5, 0.0, 0.125, 0.25], dtype=torch.float64)


@pytest.fixture
def network():
    """In float64."""
    return randomised(build_model("MeanFlow-Nano/4", 8, 1, 10, learn_sigma=False).double())


@pytest.fixture
def average(network):
    """(x, t, span) → average velocity, of samples that have a label each."""
    labels = torch.tensor([0, 9, 10, 4, 3])
    return lambda x, t, span: network(x, t, labels, span=span).output


@pytest.fixture
def point():
    return torch.randn(B, 1, 8, 8, dtype=torch.float64), TIMES, SPANS


@pytest.fixture
def direction():
    return torch.randn(B, 1, 8, 8, dtype=torch.float64), torch.ones_like(TIMES), -torch.ones_like(SPANS)


def test_it_is_torch_s_own_in_forward_and_in_reverse_mode(average, point, direction):
    slope = tangent(average, point, direction)
    assert slope.abs().mean() > 0.1
    with sdpa_kernel(SDPBackend.MATH):
        _, forward = torch.func.jvp(average, point, direction)
        _, reverse = torch.autograd.functional.jvp(average, point, direction)  # by two backward passes
    torch.testing.assert_close(slope, forward.detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(slope, reverse, rtol=1e-9, atol=1e-9)


def test_single_precision_agrees_with_double(network, average, point, direction):
    exact = tangent(average, point, direction)
    network.float()
    single = tangent(average, *(tuple(p.float() for p in ps) for ps in (point, direction)))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_are_differentiated_by_their_input_alone(bias):
    layer = torch.nn.Linear(3, 2, bias=bias).double()
    x, a = torch.randn(2, B, 3, dtype=torch.float64)
    actual = tangent(lambda x: layer(x.tanh()) * x[:, :2], (x,), (a,))
    slope = (a * (1 - x.tanh() ** 2)) @ layer.weight.T
    torch.testing.assert_close(actual, (slope * x[:, :2] + layer(x.tanh()) * a[:, :2]).detach())


@pytest.mark.parametrize(
    "sum_of",
    [
        lambda x, c: x + c,
        lambda x, c: c + x,
        lambda x, c: x.add(c),
        lambda x, c: 1 + x + 2.0,
        lambda x, c: x + x * c,
        lambda x, c: x[:, :1] + c,  # the constant is the wider one
        lambda x, c: x + c[:1],
        lambda x, c: x.add(c, alpha=3),
        lambda x, c: torch.add(c, x, alpha=3),
        lambda x, c: x - c,
        lambda x, c: x[:, 0] + c[:, :0].sum(dim=1),
        lambda x, c: (x + c).square_(),
    ],
)
def test_sums_with_what_stands_still(sum_of):
    x, c, a = torch.randn(3, B, 4, dtype=torch.float64)
    _, expected = torch.func.jvp(lambda x: sum_of(x.sin(), c), (x,), (a,))
    torch.testing.assert_close(tangent(lambda x: sum_of(x.sin(), c), (x,), (a,)), expected)


def test_what_ignores_its_input_has_no_slope(direction, point):
    constant = torch.randn(B, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(tangent(lambda x, t, span: constant, point, direction), torch.zeros_like(constant))
    ignored = torch.nn.Linear(8, 8).double()
    assert not tangent(lambda x, t, span: ignored(constant), point, direction).any()


def test_it_leaves_no_graph_and_no_trace(network, average, point, direction):
    """Weights that require gradients do not make it do so, and attention is as fast as before afterwards."""
    before = average(*point)
    actual = tangent(average, point, direction)
    assert not actual.requires_grad
    assert torch.is_grad_enabled()
    after = average(*point)
    assert after.requires_grad
    assert torch.equal(after, before)
    assert all(p.grad is None for p in network.parameters())


def test_the_true_average_velocity_is_its_own_target():
    """A fixed point of the identity, when v is the velocity that is expected at the point."""
    t = torch.rand(64, dtype=torch.float64)
    span = (1 - t) * torch.rand(64, dtype=torch.float64)
    x = torch.randn(64, 3, dtype=torch.float64)
    target = average_velocity_target(gaussian.average, x, t, span, gaussian.velocity(x, t))
    torch.testing.assert_close(target, gaussian.average(x, t, span), rtol=1e-12, atol=1e-12)
    assert (target - gaussian.velocity(x, t)).abs().mean() > 0.05  # the slope has its part in it
