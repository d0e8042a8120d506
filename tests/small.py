"""The inputs of one small training step, and where its gradient arrives. SiT-Nano has four blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.config import Config
from labkit.models.teachers import Teacher
from labkit.objective import Objective
from labkit.types import Batch, Draws, SecondView

DEPTH = 4
SIZE = 6
SHAPE = (SIZE, 1, 8, 8)


class Patches(Teacher):
    """Five numbers a patch, by a linear map that someone forgot to freeze."""

    width, tokens = 5, 16

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 5)
        self.seen = []

    def encode(self, x):
        self.seen.append(x)
        return self.map(F.unfold(x, 2, stride=2).transpose(1, 2))


def some_batch() -> Batch:
    return Batch(torch.randn(SHAPE), torch.arange(SIZE))


def some_draws(step: int = 0, two_views: bool = False) -> Draws:
    first = torch.randn(SHAPE), torch.rand(SIZE, 2), torch.tensor(step)
    return Draws(*first, SecondView(torch.randn(SHAPE), torch.rand(SIZE)) if two_views else None)


def objective(network: nn.Module, teacher: nn.Module | None = None, **config) -> Objective:
    return Objective(network, Config(batch_size=SIZE, **config), teacher)


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Zeros where the loss does not reach; the graph stays."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    return dict(zip(named, torch.autograd.grad(loss, named.values(), **options), strict=True))


def assert_same_gradients(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit, and not all of them zero."""
    assert a.keys() == b.keys()
    assert any(gradient.any() for gradient in a.values())
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def assert_close_gradients(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Up to the rounding of float32, measured by the largest entry of each parameter."""
    assert a.keys() == b.keys()
    assert any(gradient.any() for gradient in a.values())
    for name in a:
        size = b[name].abs().max().item()
        torch.testing.assert_close(
            a[name], b[name], rtol=1e-4, atol=1e-5 * size + 1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


def floor_of(name: str) -> int:
    """The block that a parameter belongs to; embedders count as before all, the last layer as after."""
    outside = {"final_layer": DEPTH, "x_embedder": -1, "t_embedder": -1, "y_embedder": -1}
    first, second, *_ = name.split(".")
    return int(second) if first == "blocks" else outside[first]
