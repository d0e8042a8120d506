"""The objective: one forward, its features to the regularizer, its gradient where it should go."""

import pytest
import torch
from small import (
    DEPTH,
    SIZE,
    assert_close_gradients,
    assert_same_gradients,
    floor_of,
    gradients,
    some_batch,
    some_draws,
)

from labkit.checks import ConfigError
from labkit.config import Config
from labkit.losses import Contrastive, Dispersive, dispersive_loss
from labkit.models import build_model
from labkit.objective import Objective, regularized_blocks


@pytest.fixture
def network(open_gates):
    return open_gates(build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10))


@pytest.fixture
def batch():
    return some_batch()


@pytest.fixture
def draws():
    return some_draws()


def objective(network, lam=None, *, label_drop=0.1, **dispersive):
    return Objective(network, Config(batch_size=SIZE, label_drop=label_drop, dispersive=Dispersive(lam, **dispersive)))


# --- what is computed


def test_the_velocity_term_is_the_mean_square_on_the_linear_path(network, batch, draws):
    losses = objective(network, label_drop=0.0)(batch, draws)
    t = draws.uniforms[:, 0]
    x_t = t[:, None, None, None] * batch.x + (1 - t)[:, None, None, None] * draws.noise
    wanted = (network(x_t, t, batch.y).output - (batch.x - draws.noise)).square().mean()
    torch.testing.assert_close(losses.terms["velocity"], wanted.detach())
    assert torch.equal(losses.total, losses.terms["velocity"])
    assert set(losses.terms) == {"velocity"}
    assert losses.weighted == {}


def test_each_sample_has_its_error_and_its_time(network, batch, draws):
    losses = objective(network, 0.5, label_drop=0.0)(batch, draws)
    t = draws.uniforms[:, 0]
    assert torch.equal(losses.times, t)
    for i in range(SIZE):
        x_t = t[i] * batch.x[i : i + 1] + (1 - t[i]) * draws.noise[i : i + 1]
        output = network(x_t, t[i : i + 1], batch.y[i : i + 1]).output[0]
        wanted = (output - (batch.x[i] - draws.noise[i])).square().mean()
        torch.testing.assert_close(losses.errors[i], wanted.detach())
    assert not losses.errors.requires_grad


@pytest.mark.parametrize(("lam", "tau"), [(0.5, 0.5), (2, 1.0)])
def test_the_total_is_velocity_plus_lambda_times_dispersion(network, batch, draws, lam, tau):
    losses = objective(network, lam, tau=tau, blocks=(2,))(batch, draws)
    assert losses.terms["dispersive"] == dispersive_loss(losses.features[2], tau=tau)
    assert losses.terms["dispersive"] < -1e-3
    torch.testing.assert_close(losses.total, losses.terms["velocity"] + lam * losses.terms["dispersive"])


VARIANTS = [
    {"tau": 0.3},
    {"tau": 0.3, "include_self": False},
    {"variant": "infonce_cosine", "tau": 2.0},
    {"variant": "infonce_cosine", "include_self": False},
    {"variant": "hinge"},
    {"variant": "hinge", "margin": 0.7, "include_self": False},
    {"variant": "covariance"},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_variant_arrives_with_its_settings(network, batch, draws, settings):
    losses = objective(network, 0.5, blocks=(2,), **settings)(batch, draws)
    assert losses.terms["dispersive"] == dispersive_loss(losses.features[2], **settings)
    assert losses.terms["dispersive"] != dispersive_loss(losses.features[2])
    torch.testing.assert_close(losses.weighted["dispersive"].detach(), 0.5 * losses.terms["dispersive"])


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("blocks", [(0, 2, 3), "all"])
def test_several_blocks_become_one(network, batch, draws, blocks, reduce):
    losses = objective(network, 1.0, blocks=blocks, reduce=reduce)(batch, draws)
    assert list(losses.features) == ([0, 1, 2, 3] if blocks == "all" else [0, 2, 3])
    each = [dispersive_loss(z).item() for z in losses.features.values()]
    assert max(each) - min(each) > 1e-3
    assert losses.terms["dispersive"].item() == pytest.approx(sum(each) / (len(each) if reduce == "mean" else 1))


@pytest.mark.parametrize("settings", [{}, {"variant": "covariance"}, {"blocks": (0, 3), "reduce": "sum"}], ids=str)
def test_chunks_are_batches_of_their_own(network, batch, draws, settings):
    """The mean of the loss over the chunks, in value and gradient, as devices with small batches would give it."""
    losses = objective(network, 0.5, chunk=3, **settings)(batch, draws)
    variant = settings.get("variant", "infonce_l2")
    each = [[dispersive_loss(z[first : first + 3], variant) for first in (0, 3)] for z in losses.features.values()]
    wanted = sum(sum(chunks) / 2 for chunks in each)
    torch.testing.assert_close(losses.terms["dispersive"], wanted.detach())
    assert losses.terms["dispersive"].item() != pytest.approx(
        sum(dispersive_loss(z, variant).item() for z in losses.features.values()), abs=1e-3
    )
    assert_close_gradients(gradients(losses.weighted["dispersive"], network), gradients(0.5 * wanted, network))


@pytest.mark.parametrize("settings", [{"chunk": SIZE}, {"negatives": "global"}], ids=str)
def test_a_chunk_that_is_the_batch_and_a_gather_on_one_rank_change_no_bit(network, batch, draws, settings):
    plain = objective(network, 0.5)(batch, draws)
    other = objective(network, 0.5, **settings)(batch, draws)
    assert torch.equal(plain.total, other.total)
    assert_same_gradients(gradients(other.total, network), gradients(plain.total, network))


def test_the_diagonal_of_a_chunk_weighs_more(network, batch, draws):
    """With far-apart pairs the loss sits on its floor: −log of the chunk, not of the batch."""
    for chunk in (2, 3, 6):
        losses = objective(network, 0.5, tau=1e-6, chunk=chunk)(batch, draws)
        assert losses.terms["dispersive"].item() == pytest.approx(-torch.tensor(chunk).log().item())


def test_the_terms_are_for_reading_and_the_total_for_training(network, batch, draws):
    losses = objective(network, 0.5)(batch, draws)
    assert not any(term.requires_grad for term in losses.terms.values())
    assert losses.total.requires_grad
    assert losses.weighted["dispersive"].requires_grad


def test_the_same_draws_give_the_same_bits(network, batch, draws):
    module = objective(network, 0.5)
    assert torch.equal(module(batch, draws).total, module(batch, draws).total)


@pytest.mark.parametrize(("size", "block"), [("Nano", 1), ("S", 3), ("B", 3), ("L", 6), ("XL", 7)])
def test_the_default_block_is_a_quarter_down(size, block):
    model = f"SiT-{size}/2"
    assert regularized_blocks(Config(model=model)) == (block,)
    assert regularized_blocks(Config(model=model, dispersive=Dispersive(blocks=(0,)))) == (0,)
    parent = Contrastive(0.5, blocks=(0, 2))
    assert regularized_blocks(Config(model=model, contrastive=parent)) == (0, 2)  # alone it says what is metered
    assert regularized_blocks(Config(model=model, contrastive=parent, dispersive=Dispersive(0.5))) == (block,)


@pytest.mark.parametrize("blocks", [(4,), (0, 9)])
def test_a_block_that_the_network_lacks_is_refused_at_construction(network, blocks):
    with pytest.raises(ConfigError, match=r"^dispersive.blocks = \(.*numbered 0 to 3"):
        objective(network, 0.5, blocks=blocks)


# --- one forward


@pytest.mark.parametrize("lam", [None, 0.5])
def test_the_features_are_those_of_the_only_forward(network, batch, draws, lam):
    seen = []
    network.blocks[1].register_forward_hook(lambda module, args, out: seen.append(out))
    losses = objective(network, lam, blocks=(1,))(batch, draws)
    assert len(seen) == 1
    assert losses.features[1] is seen[0]
    assert losses.features[1].requires_grad


@pytest.mark.parametrize(("share", "dropped"), [(0.0, 0), (0.1, 2), (0.5, 4)])
def test_labels_are_dropped_where_the_draw_lies_below_the_share(network, batch, draws, share, dropped):
    draws.uniforms[:, 1] = torch.tensor([0.0, 0.09, 0.1, 0.49, 0.5, 0.9])
    seen = []
    network.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    objective(network, label_drop=share)(batch, draws)
    assert seen[0].tolist() == [10] * dropped + batch.y.tolist()[dropped:]


# --- where the gradient goes


@pytest.mark.parametrize("block", range(DEPTH))
def test_dispersion_reaches_every_weight_up_to_its_block_and_none_after(network, batch, draws, block):
    with_it = objective(network, 1.0, tau=50.0, blocks=(block,))(batch, draws)
    without = objective(network, None, blocks=(block,))(batch, draws)
    with_it, without = gradients(with_it.total, network), gradients(without.total, network)
    for name, gradient in with_it.items():
        assert torch.equal(gradient, without[name]) == (floor_of(name) > block), name


def test_its_gradient_is_lambda_times_that_of_the_loss_on_the_features(network, batch, draws):
    losses = objective(network, 0.5, tau=5.0, blocks=(1, 2))(batch, draws)
    plain = objective(network, None, blocks=(1, 2))(batch, draws)
    alone = gradients(sum(dispersive_loss(z, tau=5.0) for z in losses.features.values()) / 2, network)
    total, base = gradients(losses.total, network), gradients(plain.total, network)
    for name, gradient in alone.items():
        torch.testing.assert_close(total[name], base[name] + 0.5 * gradient, rtol=1e-4, atol=1e-6)
        assert gradient.any() == (floor_of(name) <= 2), name


def test_closed_gates_hide_attention_and_mlp_from_it(batch, draws):
    fresh = build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10)
    losses = objective(fresh, blocks=(2,))(batch, draws)
    found = gradients(dispersive_loss(losses.features[2], tau=5.0), fresh)
    reached = {name for name, gradient in found.items() if gradient.abs().max() > 1e-7}  # not rounding
    gates = {f"blocks.{n}.adaLN_modulation.1.{kind}" for n in range(3) for kind in ("weight", "bias")}
    assert reached == gates | {"x_embedder.proj.weight"}  # but not its bias, which moves all samples alike


def test_lambda_0_is_computed_and_changes_no_bit(network, batch, draws):
    zero, off = objective(network, 0.0)(batch, draws), objective(network, None)(batch, draws)
    assert zero.terms["dispersive"] < 0
    assert "dispersive" not in off.terms
    assert torch.equal(zero.total, off.total)
    mine, theirs = gradients(zero.total, network), gradients(off.total, network)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
