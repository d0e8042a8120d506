"""Two ranks that gather with gradient are one process with the whole batch, for every loss."""

import pytest
import torch
import torch.distributed as dist
from forked import on_ranks
from torch.nn.parallel import DistributedDataParallel

from labkit.distributed import gather, world_size
from labkit.losses import contrastive_loss, dispersive_loss

VARIANTS = ["infonce_l2", "infonce_cosine", "hinge", "covariance"]
LOSSES = {f"dispersive {v}": lambda a, b, v=v: dispersive_loss(a, v) for v in VARIANTS}
LOSSES |= {f"contrastive {v}": lambda a, b, v=v: contrastive_loss(a, b, v) for v in VARIANTS}
LOSSES |= {
    f"original {v}": lambda a, b, v=v: contrastive_loss(a, b, v, form="original") for v in VARIANTS if v != "hinge"
}
RANKS, BATCH = 2, 8


def network_and_images():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 5).double(), torch.randn(2, BATCH, 6, dtype=torch.float64)  # two views


def gather_detached(z):
    """The mistake: what comes from the other ranks, and through them from the own rows, carries no gradient."""
    parts = [torch.empty_like(z) for _ in range(RANKS)]
    dist.all_gather(parts, z.detach().contiguous())
    parts[dist.get_rank()] = z
    return torch.cat(parts)


def one_rank(rank):
    found = {"world size": world_size()}
    for way in (gather, gather_detached):
        for name, loss in LOSSES.items():
            network, views = network_and_images()
            wrapped = DistributedDataParallel(network)  # averages the gradients of the ranks
            own = views.chunk(RANKS, dim=1)[rank]
            a, b = (way(z) for z in wrapped(own))
            value = loss(a, b)
            value.backward()
            found[f"{way.__name__} {name}"] = value.detach(), network.weight.grad
    found["gathered"] = gather(own)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return on_ranks(RANKS, one_rank, tmp_path_factory.mktemp("ranks"))


def whole_batch(name):
    network, views = network_and_images()
    value = LOSSES[name](*network(views))
    value.backward()
    return value.detach(), network.weight.grad


@pytest.mark.parametrize("name", LOSSES)
def test_every_rank_gets_the_value_and_gradient_of_the_whole_batch(found, name):
    value, grad = whole_batch(name)
    assert grad.abs().max() > 1e-4
    for of_rank in found:
        torch.testing.assert_close(of_rank[f"gather {name}"], (value, grad))


@pytest.mark.parametrize("name", LOSSES)
def test_a_detached_gather_would_leave_one_share_of_the_gradient(found, name):
    value, grad = whole_batch(name)
    torch.testing.assert_close(found[0][f"gather_detached {name}"], (value, grad / RANKS))


def test_rows_come_in_the_order_of_the_ranks(found):
    own = network_and_images()[1].chunk(RANKS, dim=1)
    for of_rank in found:
        assert of_rank["world size"] == RANKS
        assert torch.equal(of_rank["gathered"], torch.cat(own))


def test_a_process_alone_has_nothing_to_gather():
    z = torch.randn(4, 3)
    assert world_size() == 1
    assert gather(z) is z
