"""A GPU computes as a CPU does. `make gpu` runs the tests that are marked gpu on the card; elsewhere the CPU runs them.

The truth is float64 on the CPU, or the same step in float32 there. Whole runs on the card, killed, resumed and trained
as one program, are in the tests of these, marked as well.
"""

import contextlib
import copy

import every_loss
import pytest
import torch
from forked import elsewhere
from small import WHOLE, gradients, some_batch, some_draws, whole_objective
from tiny import tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from labkit import Trainer, runtime
from labkit.config import Engine
from labkit.losses import repa_loss
from labkit.training import sample_network

pytestmark = pytest.mark.gpu
DEVICE = runtime.device()
LOSSES = every_loss.LOSSES | {"repa": repa_loss}


@contextlib.contextmanager
def tf32():
    """Matrix products of the whole process with ten bits of mantissa, where the processor has them."""
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


PRECISIONS = {
    "float32": contextlib.nullcontext,
    "bfloat16 autocast": lambda: torch.autocast(DEVICE.type, torch.bfloat16),
    "TF32": tf32,
}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> bool:
    """Whether the difference is short beside ``theirs``."""
    return bool((ours.double().cpu() - theirs.double().cpu()).norm() <= tolerance * theirs.double().norm())


@pytest.mark.parametrize("precision", PRECISIONS if DEVICE.type == "cuda" else ["bfloat16 autocast"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_and_its_gradient_are_those_of_float64(loss, precision):
    """For features in float32, whatever precision is set around it; in TF32 its gradient is less exact."""
    views = [0.5 * torch.randn(32, 16, 64) for _ in range(2)]
    views[1] += views[0]

    def derived(views, around):
        with around:
            value = LOSSES[loss](*views)
        with contextlib.nullcontext() if precision == "bfloat16 autocast" else PRECISIONS[precision]():
            gradients = torch.autograd.grad(value, views, allow_unused=True, materialize_grads=True)
        return [value.detach(), *gradients]

    expected = derived([view.double().requires_grad_() for view in views], contextlib.nullcontext())
    here = derived([view.to(DEVICE).requires_grad_() for view in views], PRECISIONS[precision]())
    assert all(part.dtype == torch.float32 for part in here)
    assert expected[1].norm() > 0
    assert close(here[0], expected[0], 2e-5)
    for ours, theirs in zip(here[1:], expected[1:], strict=True):
        assert close(ours, theirs, 5e-3 if precision == "TF32" else 2e-5), (ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="minutes on a CPU; test_every_loss takes smaller ones there")
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_a_large_batch_takes_three_times_its_features(loss):
    views = [torch.randn(256, 256, 768, device=DEVICE, requires_grad=True) for _ in range(2)]
    used = views[: 1 if loss.startswith("dispersive") else 2]
    torch.autograd.grad(LOSSES[loss](*views), views, allow_unused=True)  # sets up what stays, as cuBLAS's workspace
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(LOSSES[loss](*views), views, allow_unused=True)
    assert torch.cuda.max_memory_allocated() - before <= 3.1 * sum(view.nbytes for view in used)


def on(device: torch.device, tensors):
    return tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, tensors)


def derived(run, objective, batch, draws) -> dict[str, torch.Tensor]:
    """Loss, terms and the gradient of every weight; ``run`` is the objective, compiled or not."""
    losses = run(batch, draws)
    return {"total": losses.total.detach(), **losses.terms, **gradients(losses.total, objective)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"] if DEVICE.type == "cuda" else ["bfloat16"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_step_is_that_of_float32_on_the_cpu(name, precision):
    """Of each process with each regularizer; without a GPU, float32 would be compared with itself."""
    there = whole_objective(WHOLE[name])
    here = copy.deepcopy(there).to(DEVICE)
    here.config = WHOLE[name].replace(engine=Engine(precision=precision))
    given = some_batch(), some_draws()
    theirs, ours = derived(there, there, *given), derived(here, here, *on(DEVICE, given))
    assert ours.keys() == theirs.keys() and len(ours) > 40
    for part in theirs:
        assert close(ours[part], theirs[part], 2e-4 if precision == "float32" else 0.1), part


def compiled_and_plain(name: str) -> tuple[dict, dict]:
    torch.manual_seed(0)
    objective = whole_objective(WHOLE[name]).to("cuda")
    given = on(torch.device("cuda"), (some_batch(), some_draws()))
    run = torch.compile(objective, dynamic=False)
    return on(torch.device("cpu"), (derived(run, objective, *given), derived(objective, objective, *given)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="test_compiled reads the graphs on a CPU, in less time")
@pytest.mark.parametrize("name", WHOLE)
def test_a_compiled_step_is_the_plain_one(name, tmp_path):
    """By inductor, in a process without the checker of shapes."""
    ours, theirs = elsewhere(compiled_and_plain, name, folder=tmp_path)
    for part in theirs:
        assert close(ours[part], theirs[part], 1e-3), part


SAMPLERS = {
    "SiT": [
        dict(method="euler", steps=4),
        dict(method="heun", steps=3, guidance=2.0),
        dict(method="dopri5"),
        dict(method="euler_maruyama", steps=4),
        dict(method="sde_heun", steps=3),
    ],
    "DiT": [dict(method="ancestral", steps=5), dict(method="ddim", steps=5, eta=0.5)],
    "MeanFlow": [dict(method="meanflow", steps=1), dict(method="meanflow", steps=3)],
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CPU would be compared with itself")
@pytest.mark.parametrize(("family", "settings"), [(f, s) for f, every in SAMPLERS.items() for s in every], ids=str)
def test_samples_are_those_of_the_cpu(family, settings):
    """From the same noise, which is drawn on the CPU."""
    config = WHOLE[family]
    network = whole_objective(config).network.eval()
    theirs = sample_network(network, config, 4, **settings)
    ours = sample_network(network.to(DEVICE), config, 4, **settings)
    assert ours.x.device.type == "cpu" and close(ours.x, theirs.x, 1e-3)


class Waits(TorchDispatchMode):
    """Refuses operations that wait until the device has their result."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert not name.startswith(self.WAITING), f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes",
    [
        dict(chunk=4),
        dict(model="DiT-Nano/4"),
        dict(model="MeanFlow-Nano/4"),
        dict(engine=Engine(accumulate=2, clip=1.0)),
    ],
    ids=str,
)
def test_a_step_that_is_not_logged_waits_for_nothing(changes):
    """On a GPU by torch's own check, elsewhere by the operations: batch, gradients, update and average."""
    trainer = Trainer(tiny(**changes, steps=10**6, log_every=10**6))
    steps = iter(trainer)
    for _ in range(3):  # the first are logged, and set up what stays
        next(steps)
    if DEVICE.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                next(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with Waits():
            trainer._backward(False)
            trainer.optimizer.step()
            trainer.ema.update(trainer.step)
