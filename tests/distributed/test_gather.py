"""Two ranks that gather with gradient are one process with the whole batch, for every loss."""

import pytest
import torch
import torch.distributed as dist
from every_loss import LOSSES
from forked import on_ranks
from torch.nn.parallel import DistributedDataParallel

from labkit.distributed import gather, world_size

RANKS, BATCH = 2, 8


def network_and_images():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 5).double(), torch.randn(2, BATCH, 6, dtype=torch.float64)  # two views


def gather_detached(z):
    """The mistake: rows of the other ranks, and through them the own rows there, carry no gradient."""
    parts = [torch.empty_like(z) for _ in range(RANKS)]
    dist.all_gather(parts, z.detach().contiguous())
    parts[dist.get_rank()] = z
    return torch.cat(parts)


def one_rank(rank):
    outcomes = {"world size": world_size()}
    for way in (gather, gather_detached):
        for name, loss in LOSSES.items():
            network, views = network_and_images()
            wrapped = DistributedDataParallel(network)  # averages the gradients of the ranks
            own = views.chunk(RANKS, dim=1)[rank]
            value = loss(*(way(z) for z in wrapped(own)))
            value.backward()
            outcomes[f"{way.__name__} {name}"] = value.detach(), network.weight.grad
    outcomes["gathered"] = gather(own)
    return outcomes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(RANKS, one_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", LOSSES)
def test_every_rank_gets_the_value_and_gradient_of_the_whole_batch(ranks, name):
    network, views = network_and_images()
    value = LOSSES[name](*network(views))
    value.backward()
    assert network.weight.grad.abs().max() > 1e-4
    for outcomes in ranks:
        torch.testing.assert_close(outcomes[f"gather {name}"], (value.detach(), network.weight.grad))
    # A detached gather would leave one share of the gradient.
    detached = value.detach(), network.weight.grad / RANKS
    torch.testing.assert_close(ranks[0][f"gather_detached {name}"], detached)


def test_rows_come_in_the_order_of_the_ranks(ranks):
    own = network_and_images()[1].chunk(RANKS, dim=1)
    for outcomes in ranks:
        assert outcomes["world size"] == RANKS
        assert torch.equal(outcomes["gathered"], torch.cat(own))


def test_a_process_alone_has_nothing_to_gather():
    z = torch.randn(4, 3)
    assert world_size() == 1
    assert gather(z) is z
