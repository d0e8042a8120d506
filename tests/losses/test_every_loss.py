"""Properties of every loss on features: symmetries, precision, other ways to call it, memory."""

import math

import pytest
import torch
from every_loss import LOSSES, VARIANTS, dispersive, two_views, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labkit.losses import dispersive_loss, repa_loss, velocity_loss

CASES = LOSSES | {
    "without self-pairs": lambda a, b: dispersive(a, b, include_self=False),
    "repa": lambda a, b: repa_loss(a.flatten(1)[:, None], b.flatten(1)[:, None]),
    "velocity": velocity_loss,
}
every_loss = pytest.mark.parametrize("name", CASES)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ALL, DISTANCES = set(VARIANTS), {"infonce_l2", "hinge"}
MOVES = {  # an action on B×P features, which takes a random seed, and the variants that are blind to it
    "samples permuted": (lambda z, r: z[draw(r, len(z)).argsort()], ALL),
    "features permuted": (lambda z, r: z[:, draw(r, z.shape[1]).argsort()], ALL),
    "features turned into tokens": (lambda z, r: z.reshape(len(z), 2, -1), ALL),
    "mirrored": (lambda z, r: -z, ALL),
    "translated": (lambda z, r: z + draw(r, z.shape[1]), {*DISTANCES, "covariance"}),
    "rotated": (lambda z, r: z @ torch.linalg.qr(draw(r, *2 * z.shape[1:])).Q, {*DISTANCES, "infonce_cosine"}),
    "features repeated": (lambda z, r: z.repeat(1, 3), {*DISTANCES, "infonce_cosine"}),
    "scaled": (lambda z, r: 1.5 * z, {"infonce_cosine", "covariance"}),
    "each sample scaled": (lambda z, r: draw(r, len(z), 1).exp() * z, {"infonce_cosine"}),
    "each feature scaled": (lambda z, r: draw(r, z.shape[1]) * z, {"covariance"}),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("move", MOVES)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**31), batch=st.integers(4, 9), pairs_of_features=st.integers(2, 6))
def test_each_variant_sees_what_it_should_and_nothing_else(name, move, seed, batch, pairs_of_features):
    act, blind = MOVES[move]
    a = 0.4 * draw(seed, batch, 2 * pairs_of_features)
    b = a + 0.3 * draw(seed + 1, *a.shape)
    before, after = (LOSSES[name](*views).item() for views in ((a, b), (act(a, seed + 2), act(b, seed + 2))))
    assert math.isclose(before, after, rel_tol=1e-9, abs_tol=1e-12) == (name.split()[1] in blind)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_float32_first(name, dtype):
    views = [(40 * z).to(dtype) for z in two_views(6, 4096)]  # sums of squares are beyond float16
    value = CASES[name](*views)
    assert value.dtype == torch.float32 and value.isfinite()
    assert torch.equal(value, CASES[name](*(z.float() for z in views)))
    small = [z / 64 for z in views]
    _, *gradients = value_and_gradients(CASES[name], *small)
    _, *exact = value_and_gradients(CASES[name], *(z.float() for z in small))
    assert all(torch.equal(half, full.to(dtype)) for half, full in zip(gradients, exact, strict=True))


@every_loss
def test_autocast_changes_neither_value_nor_gradients(name):
    views = [z.requires_grad_() for z in two_views(8, 16, 8, dtype=torch.float32)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = CASES[name](*views)
    inside = value, *torch.autograd.grad(value, views, allow_unused=True, materialize_grads=True)
    assert all(torch.equal(*pair) for pair in zip(inside, value_and_gradients(CASES[name], *views), strict=True))


@every_loss
def test_vmap_of_value_and_gradients_equals_a_loop(name):
    a, b = two_views(3, 5, 7)
    gradients, values = torch.func.vmap(torch.func.grad_and_value(CASES[name], argnums=(0, 1)))(a, b)
    looped = [value_and_gradients(CASES[name], *pair) for pair in zip(a, b, strict=True)]
    torch.testing.assert_close((values, *gradients), tuple(torch.stack(parts) for parts in zip(*looped, strict=True)))


@every_loss
def test_on_meta_tensors_it_is_a_scalar(name):
    loss = CASES[name](*torch.empty(2, 4, 8, 6, device="meta").requires_grad_())
    assert (loss.shape, loss.device.type, loss.dtype) == ((), "meta", torch.float32)


def peak(act) -> int:
    """The most bytes that stand at once beside what stood before, in the second of two calls."""
    act()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        act()
    now = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_the_meter_of_memory_reads_what_is_allocated():
    z = torch.randn(64, 20_000)
    assert 1 <= peak(lambda: z * 2) / z.nbytes < 1.01
    assert 3 <= peak(lambda: (z * 2) + (z * 3)) / z.nbytes < 3.01
    assert 2 <= peak(lambda: (z * 2).mul_(3).exp()) / z.nbytes < 2.01


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_take_three_times_the_features(name):
    views = two_views(64, 20_000, dtype=torch.float32)
    used = [z.requires_grad_() for z in views][: 1 if name.startswith("dispersive") else 2]
    assert peak(lambda: torch.autograd.grad(LOSSES[name](*views), used)) <= 3.1 * sum(z.nbytes for z in used)


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_features_take_the_same_as_float32(variant):
    z = torch.randn(64, 20_000).bfloat16().requires_grad_()
    raised = variant == "covariance"  # the features in float32 are kept for their deviation
    assert peak(lambda: torch.autograd.grad(dispersive_loss(z, variant), z)) <= (3.1 + raised) * 4 * z.numel()


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, backward included."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return out


@pytest.mark.parametrize(("batch", "features"), [(12, 256), (64, 6)])
@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_outgrows_the_features_or_the_pairs(name, batch, features):
    views = [z.requires_grad_() for z in two_views(batch, features)]
    with Largest() as largest:
        torch.autograd.grad(LOSSES[name](*views), views, allow_unused=True)
    assert largest.entries == max(batch * features, batch * batch)
