"""The objective on two ranks, half of the batch each, against one process with the whole batch."""

import pytest
import torch
from forked import on_ranks
from small import SIZE, Patches, objective, some_batch, some_draws
from torch.nn.parallel import DistributedDataParallel

from labkit.losses import Contrastive, Dispersive, Repa, warm_up
from labkit.models import build_model
from labkit.types import SecondView

RANKS = 2
HALF = SIZE // RANKS
CASES = {  # what is on, its scope left open
    "dispersive": {"dispersive": (Dispersive, {"lam": 0.5})},
    "several blocks": {"dispersive": (Dispersive, {"lam": 0.5, "blocks": "all", "schedule": warm_up(4)})},
    "covariance": {"dispersive": (Dispersive, {"lam": 5.0, "variant": "covariance"})},
    "contrastive": {"contrastive": (Contrastive, {"lam": 0.5, "tau": 0.1, "noise": "restricted", "max_gap": 0.3})},
    "original": {"contrastive": (Contrastive, {"lam": 0.5, "form": "original", "blocks": (0, 2)})},
    "both": {"dispersive": (Dispersive, {"lam": 0.5}), "contrastive": (Contrastive, {"lam": 0.5, "variant": "hinge"})},
}


def step(name: str, scope: dict):
    """The objective of a case, in float64 with all gates open, and the batch and draws of a step."""
    torch.manual_seed(0)
    on = {group: kind(**settings, **scope) for group, (kind, settings) in CASES[name].items()}
    network = build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10)
    module = objective(network, Patches().requires_grad_(False).eval(), **on, repa=Repa(0.5, hidden=7)).double()
    with torch.no_grad():
        for parameter in module.network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    batch, draws = some_batch(), some_draws(step=1)
    second = SecondView(*(part.double() for part in draws.second))
    draws = draws._replace(noise=draws.noise.double(), uniforms=draws.uniforms.double(), second=second)
    return module, batch._replace(x=batch.x.double()), draws


def outcome(module, batch, draws):
    losses = module(batch, draws)
    losses.total.backward()
    grads = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    return losses.total.detach(), losses.terms, {name.removeprefix("module."): grad for name, grad in grads.items()}


def one_rank(rank: int) -> dict:
    own, outcomes = slice(rank * HALF, (rank + 1) * HALF), {}
    for name in CASES:
        for negatives in ("local", "global"):
            module, batch, draws = step(name, {"negatives": negatives})
            second = SecondView(*(part[own] for part in draws.second))
            draws = draws._replace(noise=draws.noise[own], uniforms=draws.uniforms[own], second=second)
            batch = batch._replace(x=batch.x[own], y=batch.y[own])
            outcomes[f"{name} {negatives}"] = outcome(DistributedDataParallel(module), batch, draws)
    return outcomes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(RANKS, one_rank, tmp_path_factory.mktemp("ranks"))


def assert_equal(of_ranks, total, terms, gradients):
    """The ranks' mean loss, and on every rank the gradient, are those of one process."""
    torch.testing.assert_close(sum(of_rank[0] for of_rank in of_ranks) / RANKS, total)
    for name, term in terms.items():
        torch.testing.assert_close(sum(of_rank[1][name] for of_rank in of_ranks) / RANKS, term)
    assert any(name.startswith("projector") for name in gradients)
    for of_rank in of_ranks:
        assert of_rank[2].keys() == gradients.keys()
        torch.testing.assert_close(of_rank[2], gradients, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_global_negatives_are_one_process_with_the_whole_batch(ranks, name):
    of_ranks = [outcomes[f"{name} global"] for outcomes in ranks]
    whole = outcome(*step(name, {}))
    assert_equal(of_ranks, *whole)
    for term in {"dispersive", "contrastive"} & whole[1].keys():
        for of_rank in of_ranks:  # each rank has the loss of the global batch, not a share of it
            torch.testing.assert_close(of_rank[1][term], whole[1][term])


@pytest.mark.parametrize("name", CASES)
def test_local_negatives_are_one_process_with_chunks(ranks, name):
    of_ranks = [outcomes[f"{name} local"] for outcomes in ranks]
    chunked, whole = (outcome(*step(name, scope)) for scope in ({"chunk": HALF}, {}))
    assert_equal(of_ranks, *chunked)
    gap = max((chunked[2][parameter] - whole[2][parameter]).abs().max() for parameter in whole[2])
    assert gap > 1e-4  # the loss of the whole batch is another
