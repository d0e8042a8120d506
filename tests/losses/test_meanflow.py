"""MeanFlow's loss: derivatives in forward and reverse mode, the identity on a Gaussian with a known flow."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from labkit.losses import adaptive_loss, average_velocity_target
from labkit.losses.meanflow import tangent
from labkit.models import build_model
from labkit.ops import expand_like

B = 5
# Times that float32 holds exactly, as do their neighbours: the embedder of times rounds to it.
TIMES = torch.tensor([0.0, 0.25, 0.375, 0.5, 0.75], dtype=torch.float64)
SPANS = torch.tensor([1.0, 0.5, 0.0, 0.125, 0.25], dtype=torch.float64)
MEAN, DEVIATION = 1.5, 0.3


@pytest.fixture
def network():
    """In float64, with every weight random: at the start of training its output would be 0 for any input."""
    network = build_model("MeanFlow-Nano/4", 8, 1, 10, learn_sigma=False).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


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


# --- the derivative


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


# --- the target


def test_without_a_span_it_is_the_velocity_itself(average, point, direction):
    target = average_velocity_target(average, *point[:2], torch.zeros_like(SPANS), direction[0])
    assert torch.equal(target, direction[0])
    target = average_velocity_target(average, *point, direction[0])
    assert [torch.equal(a, b) for a, b in zip(target, direction[0], strict=True)] == (SPANS == 0).tolist()


def test_no_gradient_flows_into_the_target(average, point, direction):
    velocity = direction[0].clone().requires_grad_()
    x = point[0].clone().requires_grad_()
    target = average_velocity_target(average, x, *point[1:], velocity)
    assert not target.requires_grad
    loss = (average(*point) - target).square().sum()
    assert torch.autograd.grad(loss, (x, velocity), allow_unused=True) == (None, None)


def spread(t):
    return ((t * DEVIATION) ** 2 + (1 - t) ** 2) ** 0.5


def gaussian_average(x, t, span):
    """(x_s − x)/(s − t) along the flow from N(0, 1) to N(m, c²), x_s = s·m + (std_s/std_t)·(x − t·m)."""
    t, s = t[:, None], (t + span)[:, None]
    # (std_s − std_t)/(s − t), in a form that has a value at s = t as well
    rate = ((s + t) * (DEVIATION**2 + 1) - 2) / (spread(s) + spread(t))
    return MEAN + (x - t * MEAN) * rate / spread(t)


def gaussian_velocity(x, t):
    """E[x₁ − x₀ | x_t = x]."""
    t = t[:, None]
    return MEAN + (x - t * MEAN) * (t * DEVIATION**2 - (1 - t)) / spread(t) ** 2


def test_the_true_average_velocity_is_its_own_target():
    """A fixed point of the identity, when v is the velocity that is expected at the point."""
    t = torch.rand(64, dtype=torch.float64)
    span = (1 - t) * torch.rand(64, dtype=torch.float64)
    x = torch.randn(64, 3, dtype=torch.float64)
    target = average_velocity_target(gaussian_average, x, t, span, gaussian_velocity(x, t))
    torch.testing.assert_close(target, gaussian_average(x, t, span), rtol=1e-12, atol=1e-12)
    assert (target - gaussian_velocity(x, t)).abs().mean() > 0.05  # the slope has its part in it


# --- one forward with gradient is enough


def test_the_plain_forward_has_the_gradient_of_the_derivative_s_own(network, point, direction):
    """The published code trains the output that comes with the derivative; a plain forward is the same function."""
    labels = torch.tensor([0, 9, 10, 4, 3])

    def both(x, t, span):
        output, features = network(x, t, labels, taps=(1,), span=span)
        return output, features[1]

    def losses(output, features, target):
        return adaptive_loss((output - target).square().flatten(1).sum(dim=1), 1.0, 0.01).mean() + features.var()

    parameters = [p for p in network.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        output, slope, features = torch.func.jvp(both, point, direction, has_aux=True)
    target = (direction[0] + expand_like(SPANS, output) * slope).detach()
    theirs = torch.autograd.grad(losses(output, features, target), parameters)
    target = average_velocity_target(lambda *p: both(*p)[0], *point, direction[0])
    ours = torch.autograd.grad(losses(*both(*point), target), parameters)
    assert all(gradient.any() for gradient in ours)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


# --- the adaptive weight


@pytest.mark.parametrize(("power", "constant"), [(0.0, 0.01), (0.75, 1e-3), (1.0, 0.01), (2.0, 0.3)])
def test_the_adaptive_loss_is_the_formula_and_its_gradient_that_of_the_weighted_error(power, constant):
    squared = torch.tensor([0.0, 1e-3, 0.7, 40.0], dtype=torch.float64, requires_grad=True)
    loss = adaptive_loss(squared, power, constant)
    weights = [(e + constant) ** -power for e in squared.tolist()]
    assert loss.tolist() == pytest.approx([w * e for w, e in zip(weights, squared.tolist(), strict=True)], rel=1e-12)
    assert torch.autograd.grad(loss.sum(), squared)[0].tolist() == pytest.approx(weights, rel=1e-12)
