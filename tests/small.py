"""Small objectives, the inputs of one training step, and where its gradient arrives. Nano has four blocks."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.config import Config
from labkit.losses import Contrastive, Dispersive, MeanFlow, Repa
from labkit.models import build_model
from labkit.models.teachers import Teacher
from labkit.objective import Objective
from labkit.types import Batch, Draws, SecondView

DEPTH = 4
SIZE = 6
SHAPE = (SIZE, 1, 8, 8)
DISPERSIVE = {"batch_size": SIZE, "dispersive": Dispersive(0.5)}
WHOLE = {  # what a whole objective can be made of
    "SiT": Config(model="SiT-Nano/4", **DISPERSIVE),
    "DiT": Config(model="DiT-Nano/4", **DISPERSIVE),
    "MeanFlow": Config(model="MeanFlow-Nano/4", **DISPERSIVE),
    "MeanFlow guided": Config(
        model="MeanFlow-Nano/4", meanflow=MeanFlow(share=0.5, guidance=0.7, mixing=0.4), label_drop=0.5, **DISPERSIVE
    ),
    "contrastive independent": Config(batch_size=SIZE, contrastive=Contrastive(0.5, noise="independent")),
    "contrastive restricted": Config(batch_size=SIZE, contrastive=Contrastive(0.5, noise="restricted", max_gap=0.2)),
    "repa": Config(batch_size=SIZE, repa=Repa(0.5, hidden=16)),
}


class Patches(Teacher):
    """Five numbers a patch, by a linear map that someone forgot to freeze."""

    width, tokens = 5, 16

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 5)
        self.inputs = []

    def encode(self, x):
        self.inputs.append(x)
        return self.map(F.unfold(x, 2, stride=2).transpose(1, 2))


def some_batch() -> Batch:
    return Batch(torch.randn(SHAPE), torch.arange(SIZE))


def some_draws(step: int = 0) -> Draws:
    """With a second view, and ends of pairs, for who wants them."""
    first = torch.randn(SHAPE), torch.rand(SIZE, 2), torch.tensor(step)
    return Draws(*first, SecondView(torch.randn(SHAPE), torch.rand(SIZE)), torch.rand(SIZE))


def objective(network: nn.Module, teacher: nn.Module | None = None, **config) -> Objective:
    return Objective(network, Config(batch_size=SIZE, **config), teacher)


def randomised(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Add noise to every weight: at the start of training most outputs and gradients are 0."""
    with torch.no_grad():
        for weight in (p for p in module.parameters() if p.requires_grad):
            weight.add_(torch.randn_like(weight), alpha=std)
    return module


def whole_objective(config: Config) -> Objective:
    """As a trainer makes it, with every weight of the network random."""
    return Objective(randomised(build_model(config.model, 8, 1, 10, learn_sigma=config.family == "DiT")), config)


def kept_bytes(module: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that a forward pass keeps for the backward one, the module's weights left out."""
    weights, storages = {p.untyped_storage().data_ptr() for p in module.parameters()}, {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _ = run()
    return sum(storage.nbytes() for place, storage in storages.items() if place not in weights)


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
