"""The contrastive term: two views of the same images, one of them denoised."""

import pytest
import torch
from small import (
    DEPTH,
    SIZE,
    assert_close_gradients,
    assert_same_gradients,
    floor_of,
    gradients,
    objective,
    some_batch,
    some_draws,
)

from labkit.checks import ConfigError
from labkit.losses import Contrastive, Dispersive, contrastive_parts, dispersive_loss
from labkit.models import build_model


@pytest.fixture
def network(open_gates):
    return open_gates(build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10))


@pytest.fixture
def batch():
    return some_batch()


@pytest.fixture
def draws():
    return some_draws()


def contrastive(network, lam=0.5, **settings):
    return objective(network, contrastive=Contrastive(lam, **settings))


def both_views(network, batch, draws, block, second_times=None):
    """Features of two separate calls of the whole network, the labels dropped as by label_drop = 0.1."""
    labels = batch.y.masked_fill(draws.uniforms[:, 1] < 0.1, 10)
    second_times = draws.second.uniforms if second_times is None else second_times
    views = (draws.noise, draws.uniforms[:, 0]), (draws.second.noise, second_times)
    for noise, t in views:
        tt = t[:, None, None, None]
        yield network(tt * batch.x + (1 - tt) * noise, t, labels, taps={block}).features[block]


def times_of_both_views(network, batch, draws, **settings):
    """The times at which the network is really called."""
    seen = []
    network.t_embedder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    contrastive(network, **settings)(batch, draws)
    first, second = seen
    return first, second


# --- what is computed


PARENTS = [
    {},
    {"tau": 0.1, "include_self": False, "alignment_weight": 0.3},
    {"variant": "infonce_cosine", "alignment_weight": 2.0},
    {"variant": "hinge", "margin": 2.0},
    {"variant": "covariance"},
    {"form": "original"},
    {"form": "original", "variant": "infonce_cosine", "tau": 0.2},
    {"form": "original", "variant": "covariance"},
]


@pytest.mark.parametrize("settings", PARENTS, ids=str)
def test_it_is_the_loss_of_two_separate_forwards(network, batch, draws, settings):
    """In value and gradient, which flows into both views."""
    draws.uniforms[:2, 1] = 0.05  # two labels are dropped, in both views
    losses = contrastive(network, 0.7, blocks=(2,), **settings)(batch, draws)
    z, z_positive = both_views(network, batch, draws, block=2)
    alignment, repulsion = contrastive_parts(z, z_positive, **settings)
    whole = settings.get("alignment_weight", 1.0) * alignment + repulsion
    torch.testing.assert_close(losses.terms["alignment"], alignment.detach())
    torch.testing.assert_close(losses.terms["contrastive"], whole.detach())
    torch.testing.assert_close(losses.total, losses.terms["velocity"] + 0.7 * losses.terms["contrastive"])
    assert_close_gradients(gradients(losses.weighted["contrastive"], network), gradients(0.7 * whole, network))
    one_sided = gradients(contrastive_parts(z, z_positive.detach(), **settings).alignment, network)
    two_sided = gradients(alignment, network)
    assert (one_sided["blocks.0.mlp.fc1.weight"] - two_sided["blocks.0.mlp.fc1.weight"]).abs().max() > 1e-5


def test_the_terms_have_names(network, batch, draws):
    losses = contrastive(network)(batch, draws)
    assert list(losses.terms) == ["velocity", "alignment", "contrastive"]
    assert list(losses.weighted) == ["contrastive"]
    assert not any(term.requires_grad for term in losses.terms.values())


def test_several_blocks_and_chunks(network, batch, draws):
    losses = contrastive(network, 1.0, blocks=(0, 2), reduce="sum", chunk=3, alignment_weight=0.5)(batch, draws)
    wanted = []
    for block in (0, 2):
        z, z_positive = both_views(network, batch, draws, block)
        halves = [contrastive_parts(z[part], z_positive[part]) for part in (slice(0, 3), slice(3, 6))]
        wanted.append(sum(0.5 * half.alignment + half.repulsion for half in halves) / 2)
    torch.testing.assert_close(losses.terms["contrastive"], sum(wanted).detach())
    assert_close_gradients(gradients(losses.weighted["contrastive"], network), gradients(sum(wanted), network))


@pytest.mark.parametrize("settings", [{"chunk": SIZE}, {"negatives": "global"}], ids=str)
def test_a_chunk_that_is_the_batch_and_a_gather_on_one_rank_change_no_bit(network, batch, draws, settings):
    plain, other = contrastive(network)(batch, draws), contrastive(network, **settings)(batch, draws)
    assert torch.equal(plain.total, other.total)
    assert_same_gradients(gradients(other.total, network), gradients(plain.total, network))


@pytest.mark.parametrize("variant", ["infonce_l2", "infonce_cosine", "hinge", "covariance"])
def test_alpha_0_is_the_dispersive_loss(network, batch, draws, variant):
    """The same total and gradient, bit for bit; the alignment is computed and logged all the same."""
    parent = contrastive(network, 0.5, variant=variant, alignment_weight=0.0, blocks=(1, 2))(batch, draws)
    child = objective(network, dispersive=Dispersive(0.5, variant=variant, blocks=(1, 2)))(batch, draws)
    assert parent.terms["contrastive"] == child.terms["dispersive"]
    assert torch.equal(parent.total, child.total)
    assert_same_gradients(gradients(parent.total, network), gradients(child.total, network))
    assert parent.terms["alignment"] != 0


# --- what is denoised


def test_the_denoising_loss_sees_the_first_view_only(network, batch, draws):
    with_it, without = contrastive(network)(batch, draws), objective(network)(batch, draws)
    assert torch.equal(with_it.terms["velocity"], without.total)
    assert torch.equal(with_it.errors, without.errors)
    assert torch.equal(with_it.times, draws.uniforms[:, 0])
    assert all(torch.equal(with_it.features[n], z) for n, z in without.features.items())
    rest = gradients(with_it.total - with_it.weighted["contrastive"], network)
    assert_close_gradients(rest, gradients(without.total, network))


@pytest.mark.parametrize("block", range(DEPTH))
def test_the_second_view_runs_up_to_the_block_that_is_read(network, batch, draws, block):
    calls = []
    for name in (*(f"blocks.{n}" for n in range(DEPTH)), "final_layer"):
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    contrastive(network, blocks=tuple({0, block}))(batch, draws)
    wanted = [f"blocks.{n}" for n in range(DEPTH)] + ["final_layer"]
    assert calls == wanted + wanted[: block + 1]


@pytest.mark.parametrize("block", range(DEPTH))
def test_it_reaches_every_weight_up_to_its_block_and_none_after(network, batch, draws, block):
    found = gradients(contrastive(network, tau=50.0, blocks=(block,))(batch, draws).weighted["contrastive"], network)
    for name, gradient in found.items():
        assert bool(gradient.any()) == (floor_of(name) <= block), name


def test_a_block_that_the_network_lacks_is_refused_at_construction(network):
    with pytest.raises(ConfigError, match=r"^contrastive.blocks = \(0, 4\).*numbered 0 to 3"):
        contrastive(network, blocks=(0, 4))


def test_the_metered_features_are_those_of_the_first_view(network, batch, draws):
    losses = contrastive(network, blocks=(0, 3))(batch, draws)
    z, _ = both_views(network, batch, draws, block=3)
    assert list(losses.features) == [0, 3]
    torch.testing.assert_close(losses.features[3], z)
    beside = objective(network, contrastive=Contrastive(0.5, blocks=(3,)), dispersive=Dispersive(0.5, blocks=(0, 1)))
    assert list(beside(batch, draws).features) == [0, 1, 3]


# --- noise and time of the second view


def test_independent_views_have_their_own_noise_and_time(network, batch, draws):
    first, second = times_of_both_views(network, batch, draws, noise="independent", max_gap=0.01)
    assert torch.equal(first, draws.uniforms[:, 0])
    assert torch.equal(second, draws.second.uniforms)


@pytest.mark.parametrize("gap", [0.05, 0.3, 1.0])
def test_restricted_views_have_a_time_near_the_first(network, batch, draws, gap):
    draws.uniforms[:3, 0] = torch.tensor([0.001, 0.5, 0.999])
    first, second = times_of_both_views(network, batch, draws, noise="restricted", max_gap=gap)
    assert torch.equal(first, draws.uniforms[:, 0])
    assert ((second - first).abs() <= gap + 1e-6).all()
    assert (second != first).all()
    assert second[1].item() == pytest.approx(0.5 + gap * (2 * draws.second.uniforms[1].item() - 1))


def test_a_gap_of_0_is_the_same_time_and_another_noise(network, batch, draws):
    first, second = times_of_both_views(network, batch, draws, noise="restricted", max_gap=0.0)
    torch.testing.assert_close(second, first, rtol=0, atol=1e-7)
    losses = contrastive(network, 1.0, noise="restricted", max_gap=0.0, blocks=(2,))(batch, draws)
    views = list(both_views(network, batch, draws, block=2, second_times=draws.uniforms[:, 0]))
    torch.testing.assert_close(losses.terms["alignment"], contrastive_parts(*views).alignment.detach())
    assert losses.terms["alignment"] > 1e-3


def test_restricted_noise_brings_the_views_closer(network, batch, draws):
    """Noise at t = 0 is all there is: only near t = 1 do two views of an image agree."""
    draws.uniforms[:, 0] = 0.98
    near, far = (
        contrastive(network, noise=noise, max_gap=0.02)(batch, draws).terms["alignment"]
        for noise in ("restricted", "independent")
    )
    assert near < far / 2


def test_the_repulsion_is_that_of_the_first_view(network, batch, draws):
    losses = contrastive(network, blocks=(2,))(batch, draws)
    repulsion = losses.terms["contrastive"] - losses.terms["alignment"]
    torch.testing.assert_close(repulsion, dispersive_loss(losses.features[2]).detach())
