"""The objective: one forward, its features to the regularizers, their gradients where they should go."""

from dataclasses import replace

import pytest
import torch
from small import (
    DEPTH,
    SIZE,
    Patches,
    assert_close_gradients,
    assert_same_gradients,
    floor_of,
    gradients,
    objective,
    randomised,
    some_batch,
    some_draws,
)

from labkit.config import Config
from labkit.losses import Contrastive, Dispersive, Repa, dispersive_loss, warm_up
from labkit.models import build_model
from labkit.objective import blocks_of, regularized_blocks
from labkit.time_sampling import near

ALL = {
    "dispersive": Dispersive(0.5, blocks=(0, 3)),
    "contrastive": Contrastive(0.25, variant="hinge", blocks=(2,), alignment_weight=0.5),
    "repa": Repa(2.0, block=1, hidden=7),
}


@pytest.fixture
def network():
    return randomised(build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10))


@pytest.fixture
def teacher():
    return Patches()


@pytest.fixture
def batch():
    return some_batch()


@pytest.fixture
def draws():
    return some_draws()


def plain(name, lam, **settings):
    """One regularizer with nothing but these settings."""
    return type(ALL[name])(lam, **({"hidden": 7} if name == "repa" else {}), **settings)


# --- the base loss


@pytest.mark.parametrize(("share", "dropped"), [(0.0, 0), (0.1, 2), (0.5, 4)])
def test_labels_are_dropped_where_the_draw_lies_below_the_share(network, batch, draws, share, dropped):
    draws.uniforms[:, 1] = torch.tensor([0.0, 0.09, 0.1, 0.49, 0.5, 0.9])
    labels = []
    network.register_forward_pre_hook(lambda _, arguments: labels.extend(arguments[2].tolist()))
    objective(network, label_drop=share)(batch, draws)
    assert labels == [10] * dropped + batch.y.tolist()[dropped:]


@pytest.mark.parametrize("lam", [None, 0.5])
def test_the_features_are_those_of_the_only_forward(network, batch, draws, lam):
    outputs = []
    network.blocks[1].register_forward_hook(lambda module, args, out: outputs.append(out))
    module = objective(network, dispersive=Dispersive(lam, blocks=(1,)))
    losses = module(batch, draws)
    assert len(outputs) == 1 and losses.features[1] is outputs[0] and outputs[0].requires_grad
    assert losses.total.requires_grad and not any(term.requires_grad for term in losses.terms.values())
    assert torch.equal(module(batch, draws).total, losses.total)  # all randomness is in the draws


# --- the Dispersive Loss


VARIANTS = [
    {"tau": 0.3},
    {"tau": 0.3, "include_self": False},
    {"variant": "infonce_cosine", "tau": 2.0},
    {"variant": "hinge", "margin": 0.7, "include_self": False},
    {"variant": "covariance"},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_variant_arrives_with_its_settings(network, batch, draws, settings):
    losses = objective(network, dispersive=Dispersive(2, blocks=(2,), **settings))(batch, draws)
    term = losses.terms["dispersive"]
    assert term == dispersive_loss(losses.features[2], **settings) != dispersive_loss(losses.features[2])
    torch.testing.assert_close(losses.total, losses.terms["velocity"] + 2 * term)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("blocks", [(0, 2, 3), "all"])
def test_several_blocks_become_one_term(network, batch, draws, blocks, reduce):
    losses = objective(network, dispersive=Dispersive(1.0, blocks=blocks, reduce=reduce))(batch, draws)
    assert list(losses.features) == ([0, 1, 2, 3] if blocks == "all" else [0, 2, 3])
    each = [dispersive_loss(z).item() for z in losses.features.values()]
    assert max(each) - min(each) > 1e-3
    assert losses.terms["dispersive"].item() == pytest.approx(sum(each) / (len(each) if reduce == "mean" else 1))


@pytest.mark.parametrize("settings", [{}, {"variant": "covariance"}, {"blocks": (0, 3), "reduce": "sum"}], ids=str)
def test_chunks_are_batches_of_their_own(network, batch, draws, settings):
    """The mean of the loss over the chunks, in value and gradient, as devices with small batches would give it."""
    losses = objective(network, dispersive=Dispersive(0.5, chunk=3, **settings))(batch, draws)
    variant = settings.get("variant", "infonce_l2")
    each = [[dispersive_loss(z[first : first + 3], variant) for first in (0, 3)] for z in losses.features.values()]
    mean = sum(sum(chunks) / 2 for chunks in each)
    torch.testing.assert_close(losses.terms["dispersive"], mean.detach())
    whole = sum(dispersive_loss(z, variant).item() for z in losses.features.values())
    assert losses.terms["dispersive"].item() != pytest.approx(whole, abs=1e-3)
    assert_close_gradients(gradients(losses.weighted["dispersive"], network), gradients(0.5 * mean, network))


@pytest.mark.parametrize("settings", [{"chunk": SIZE}, {"negatives": "global"}], ids=str)
@pytest.mark.parametrize("name", ["dispersive", "contrastive"])
def test_a_chunk_that_is_the_batch_and_a_gather_on_one_rank_change_no_bit(network, batch, draws, name, settings):
    one, other = (objective(network, **{name: plain(name, 0.5, **more)})(batch, draws) for more in ({}, settings))
    assert torch.equal(one.total, other.total)
    assert_same_gradients(gradients(other.total, network), gradients(one.total, network))


@pytest.mark.parametrize(("size", "block"), [("Nano", 1), ("S", 3), ("B", 3), ("L", 6), ("XL", 7)])
def test_the_default_block_is_a_quarter_down(size, block):
    model = f"SiT-{size}/2"
    assert regularized_blocks(Config(model=model)) == blocks_of(Repa(0.5), model) == (block,)
    assert regularized_blocks(Config(model=model, dispersive=Dispersive(blocks=(0,)))) == (0,)
    parent = Contrastive(0.5, blocks=(0, 2))
    assert regularized_blocks(Config(model=model, contrastive=parent)) == (0, 2)  # alone it decides what is metered
    assert regularized_blocks(Config(model=model, contrastive=parent, dispersive=Dispersive(0.5))) == (block,)
    assert blocks_of(Dispersive(blocks="last"), "SiT-B/2") == (11,)


# --- the contrastive loss


def both_views(network, batch, draws, block, second_times=None):
    """Features of two separate calls of the whole network, the labels dropped as by label_drop = 0.1."""
    labels = batch.y.masked_fill(draws.uniforms[:, 1] < 0.1, 10)
    second_times = draws.second.uniforms if second_times is None else second_times
    for noise, t in ((draws.noise, draws.uniforms[:, 0]), (draws.second.noise, second_times)):
        tt = t[:, None, None, None]
        yield network(tt * batch.x + (1 - tt) * noise, t, labels, taps={block}).features[block]


PARENTS = [
    {},
    {"tau": 0.1, "include_self": False, "alignment_weight": 0.3},
    {"variant": "infonce_cosine", "alignment_weight": 2.0},
    {"variant": "hinge", "margin": 2.0},
    {"variant": "covariance"},
    {"form": "original", "variant": "infonce_cosine", "tau": 0.2},
    {"form": "original", "variant": "covariance"},
]


@pytest.mark.parametrize("settings", PARENTS, ids=str)
def test_it_is_the_loss_of_two_separate_forwards(network, batch, draws, settings):
    """In value and gradient, which flows into both views."""
    draws.uniforms[:2, 1] = 0.05  # two labels are dropped, in both views
    losses = objective(network, contrastive=Contrastive(0.7, blocks=(2,), **settings))(batch, draws)
    z, z_positive = both_views(network, batch, draws, block=2)
    torch.testing.assert_close(losses.features[2], z)
    alignment, repulsion = Contrastive(**settings).parts(z, z_positive)
    whole = settings.get("alignment_weight", 1.0) * alignment + repulsion
    assert (list(losses.terms), list(losses.weighted)) == (["velocity", "alignment", "contrastive"], ["contrastive"])
    torch.testing.assert_close(losses.terms["alignment"], alignment.detach())
    torch.testing.assert_close(losses.terms["contrastive"], whole.detach())
    torch.testing.assert_close(losses.total, losses.terms["velocity"] + 0.7 * losses.terms["contrastive"])
    assert_close_gradients(gradients(losses.weighted["contrastive"], network), gradients(0.7 * whole, network))
    one_sided = gradients(Contrastive(**settings).parts(z, z_positive.detach()).alignment, network)
    two_sided = gradients(alignment, network)
    assert (one_sided["blocks.0.mlp.fc1.weight"] - two_sided["blocks.0.mlp.fc1.weight"]).abs().max() > 1e-5


@pytest.mark.parametrize("block", range(DEPTH))
def test_the_second_view_runs_up_to_the_block_that_is_read(network, batch, draws, block):
    calls = []
    for name in (*(f"blocks.{n}" for n in range(DEPTH)), "final_layer"):
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    objective(network, contrastive=Contrastive(0.5, blocks=tuple({0, block})))(batch, draws)
    whole = [f"blocks.{n}" for n in range(DEPTH)] + ["final_layer"]
    assert calls == whole + whole[: block + 1]


@pytest.mark.parametrize("gap", [0.0, 0.05, 1.0])
def test_a_restricted_second_view_has_noise_of_its_own_at_a_time_near_the_first(network, batch, draws, gap):
    restricted = Contrastive(1.0, noise="restricted", max_gap=gap, blocks=(2,))
    losses = objective(network, contrastive=restricted)(batch, draws)
    views = both_views(network, batch, draws, 2, near(draws.uniforms[:, 0], draws.second.uniforms, gap))
    torch.testing.assert_close(losses.terms["alignment"], Contrastive().parts(*views).alignment.detach())
    assert losses.terms["alignment"] > 1e-3  # at the same time, too: the noise is another


# --- REPA


def test_repa_is_minus_the_mean_cosine_of_projected_and_teachers_tokens(network, teacher, batch, draws):
    """The teacher takes the clean images; the projector is Linear-SiLU-Linear-SiLU-Linear, of the stated width."""
    module = objective(network, teacher, repa=Repa(0.7, block=2, hidden=7))
    losses = module(batch, draws)
    assert len(teacher.inputs) == 1 and torch.equal(teacher.inputs[0], batch.x)
    h = losses.features[2].double()
    for n, shape in {0: (7, 64), 2: (7, 7), 4: (5, 7)}.items():
        layer = module.projector[n].double()
        assert layer.weight.shape == shape
        h = h @ layer.weight.T + layer.bias
        h = h if n == 4 else h / (1 + (-h).exp())
    y = teacher(batch.x).double()
    cosines = (h * y).sum(-1) / (h.norm(dim=-1) * y.norm(dim=-1))
    assert cosines.shape == (6, 16)
    assert losses.terms["repa"].item() == pytest.approx(-cosines.mean().item(), rel=1e-5)
    torch.testing.assert_close(losses.total, losses.terms["velocity"] + 0.7 * losses.terms["repa"])
    assert list(losses.terms) == ["velocity", "repa"]


def test_the_teacher_is_loaded_by_its_name_and_only_if_it_is_on(network, monkeypatch):
    loaded = []
    monkeypatch.setattr("labkit.objective.load_teacher", lambda *arguments: loaded.append(arguments) or Patches())
    off = objective(network, repa=Repa(None, teacher="facebook/dinov2-base"), dispersive=Dispersive(0.5))
    assert (off.teacher, off.projector, loaded) == (None, None, [])
    on = objective(network, repa=Repa(0.5, teacher="facebook/dinov2-base", hidden=7))
    assert loaded == [("facebook/dinov2-base", network.side, True)]
    assert isinstance(on.teacher, Patches)


def test_no_gradient_reaches_the_teacher_and_none_of_the_base_loss_the_projector(network, teacher, batch, draws):
    module = objective(network, teacher, repa=Repa(0.5, hidden=7)).train()
    assert module.projector.training and not module.teacher.training
    losses = module(batch, draws)
    repa, base = losses.weighted["repa"], losses.total - losses.weighted["repa"]
    assert all(gradient.any() for gradient in gradients(repa, module.projector).values())
    assert not any(gradient.any() for gradient in gradients(repa, teacher).values())
    assert gradients(base, network)["final_layer.linear.weight"].any()
    assert not any(gradient.any() for gradient in gradients(base, module.projector).values())


# --- where the gradients go


@pytest.mark.parametrize("block", range(DEPTH))
@pytest.mark.parametrize("name", ALL)
def test_a_regularizer_reaches_every_weight_up_to_its_block_and_none_after(network, teacher, batch, draws, name, block):
    at = {"block": block} if name == "repa" else {"blocks": (block,), "tau": 50.0}
    losses = objective(network, teacher, **{name: plain(name, 1.0, **at)})(batch, draws)
    for weight, gradient in gradients(losses.weighted[name], network).items():
        assert bool(gradient.any()) == (floor_of(weight) <= block), weight


def test_all_three_at_once_are_a_weighted_sum(network, teacher, batch, draws):
    """Each term is what it would be alone, and so is its gradient."""
    module = objective(network, teacher, **ALL)
    losses = module(batch, draws)
    assert list(losses.terms) == ["velocity", "dispersive", "alignment", "contrastive", "repa"]
    assert list(losses.weighted) == list(ALL) and list(losses.features) == [0, 1, 2, 3]
    t = losses.terms
    total = t["velocity"] + 0.5 * t["dispersive"] + 0.25 * t["contrastive"] + 2.0 * t["repa"]
    torch.testing.assert_close(losses.total, total)
    parts = [gradients(objective(network)(batch, draws).total, network)]
    for name, settings in ALL.items():
        alone = objective(network, teacher, **{name: settings})
        if name == "repa":
            alone.projector.load_state_dict(module.projector.state_dict())
        losses_alone = alone(batch, draws)
        torch.testing.assert_close(losses_alone.terms[name], t[name])
        assert abs(t[name]) > 1e-3
        parts.append(gradients(losses_alone.weighted[name], network))
    summed = {name: sum(part[name] for part in parts) for name in parts[0]}
    assert_close_gradients(gradients(losses.total, network), summed)


@pytest.mark.parametrize("others", [True, False], ids=["beside others", "alone"])
@pytest.mark.parametrize("name", ALL)
def test_lambda_0_is_computed_and_changes_no_bit(network, teacher, batch, draws, name, others):
    other = {n: settings for n, settings in ALL.items() if n != name and others}
    off = objective(network, teacher, **other)
    zero = objective(network, teacher, **other, **{name: plain(name, 0.0)})
    if name != "repa" and others:
        zero.projector.load_state_dict(off.projector.state_dict())
    off, zero = off(batch, draws), zero(batch, draws)
    assert zero.terms[name].abs() > 1e-3
    assert name not in off.terms
    assert torch.equal(zero.total, off.total)
    assert_same_gradients(gradients(zero.total, network), gradients(off.total, network))


@pytest.mark.parametrize(
    ("warmup", "step", "share"), [(0, 0, 1), (1, 0, 1), (4, 0, 0.25), (4, 1, 0.5), (4, 3, 1), (4, 10**6, 1)]
)
def test_lambda_warms_up_linearly(network, teacher, batch, warmup, step, share):
    """λ · min((step + 1)/warmup, 1), of those with a schedule; the term that is logged is unweighted."""
    shares = {"dispersive": share, "contrastive": 1, "repa": share}
    schedule = warm_up(warmup) if warmup else ()
    settings = {name: replace(ALL[name], schedule=() if name == "contrastive" else schedule) for name in ALL}
    losses = objective(network, teacher, **settings)(batch, some_draws(step))
    for name, weighted in losses.weighted.items():
        assert weighted.item() == pytest.approx(ALL[name].lam * shares[name] * losses.terms[name].item(), rel=1e-6)
    total = losses.terms["velocity"].item() + sum(w.item() for w in losses.weighted.values())
    assert losses.total.item() == pytest.approx(total, rel=1e-6)
