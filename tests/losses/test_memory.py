"""What the losses cost in memory, gradient included: three times the features, and no tensor beyond B·P or B·B."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labkit.losses import contrastive_loss, dispersive_loss

VARIANTS = ["infonce_l2", "infonce_cosine", "hinge", "covariance"]
PARENTS = [(v, f) for v in VARIANTS for f in ("additive", "original") if (v, f) != ("hinge", "original")]


def derive(loss, *views):
    return torch.autograd.grad(loss(*views), views)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradient_take_three_times_the_features(variant, dtype):
    z = torch.randn(64, 20_000).to(dtype).requires_grad_()
    raised = variant == "covariance" and dtype == torch.bfloat16  # the features in float32 are kept for their deviation
    assert peak(lambda: derive(lambda z: dispersive_loss(z, variant), z)) <= (3.1 + raised) * 4 * z.numel()


@pytest.mark.parametrize(("variant", "form"), PARENTS)
def test_the_parents_take_three_times_the_features_of_both_views(variant, form):
    views = [torch.randn(64, 20_000, requires_grad=True) for _ in range(2)]
    act = lambda: derive(lambda a, b: contrastive_loss(a, b, variant, form=form), *views)  # noqa: E731
    assert peak(act) <= 3.1 * sum(z.nbytes for z in views)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, backward included."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return out


@pytest.mark.parametrize(("batch", "features"), [(12, 256), (64, 6)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_tensor_outgrows_the_features_or_the_pairs(variant, batch, features):
    z = torch.randn(batch, 2, features // 2, requires_grad=True)
    with Largest() as largest:
        derive(lambda z: dispersive_loss(z, variant), z)
    assert largest.entries == max(batch * features, batch * batch)


@pytest.mark.parametrize(("batch", "features"), [(12, 256), (64, 6)])
@pytest.mark.parametrize(("variant", "form"), PARENTS)
def test_no_tensor_of_the_parents_outgrows_the_features_or_the_pairs(variant, form, batch, features):
    views = [torch.randn(batch, features, requires_grad=True) for _ in range(2)]
    with Largest() as largest:
        derive(lambda a, b: contrastive_loss(a, b, variant, form=form), *views)
    assert largest.entries == max(batch * features, batch * batch)
