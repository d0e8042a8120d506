"""The REPA term: projected tokens of one block follow a teacher's; and all regularizers in one loss."""

import pytest
import torch
from small import (
    DEPTH,
    Patches,
    assert_close_gradients,
    assert_same_gradients,
    floor_of,
    gradients,
    objective,
    some_batch,
    some_draws,
)

from labkit.checks import ConfigError
from labkit.config import Config
from labkit.losses import Contrastive, Dispersive, Repa, warm_up
from labkit.models import build_model
from labkit.objective import Objective, blocks_of


@pytest.fixture
def network(open_gates):
    return open_gates(build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10))


@pytest.fixture
def teacher():
    return Patches()


@pytest.fixture
def batch():
    return some_batch()


@pytest.fixture
def draws():
    return some_draws()


def repa(network, teacher, lam=0.5, **settings):
    return objective(network, teacher, repa=Repa(lam, **{"hidden": 7} | settings))


# --- what is computed


def test_it_is_minus_the_mean_cosine_of_projected_and_teachers_tokens(network, teacher, batch, draws):
    """The teacher sees the clean images; the projector is Linear-SiLU-Linear-SiLU-Linear."""
    module = repa(network, teacher, lam=0.7, block=2)
    losses = module(batch, draws)
    assert len(teacher.seen) == 1
    assert torch.equal(teacher.seen[0], batch.x)
    h = losses.features[2].double()
    for n in (0, 2, 4):
        layer = module.projector[n].double()
        h = h @ layer.weight.T + layer.bias
        h = h if n == 4 else h / (1 + (-h).exp())
    y = teacher(batch.x).double()
    cosines = (h * y).sum(-1) / (h.norm(dim=-1) * y.norm(dim=-1))
    assert cosines.shape == (6, 16)
    assert losses.terms["repa"].item() == pytest.approx(-cosines.mean().item(), rel=1e-5)
    torch.testing.assert_close(losses.total, losses.terms["velocity"] + 0.7 * losses.terms["repa"])
    assert list(losses.terms) == ["velocity", "repa"]
    assert not losses.terms["repa"].requires_grad


def test_the_projector_is_as_wide_as_asked(network, teacher):
    shapes = {name: tuple(p.shape) for name, p in repa(network, teacher, hidden=9).projector.named_parameters()}
    assert shapes == {
        "0.weight": (9, 64),
        "0.bias": (9,),
        "2.weight": (9, 9),
        "2.bias": (9,),
        "4.weight": (5, 9),
        "4.bias": (5,),
    }


@pytest.mark.parametrize(("size", "block"), [("Nano", 1), ("S", 3), ("B", 3), ("L", 6), ("XL", 7)])
def test_the_default_block_is_that_of_its_paper(size, block):
    assert blocks_of(Repa(0.5), f"SiT-{size}/2") == (block,)
    assert blocks_of(Repa(0.5, block=0), f"SiT-{size}/2") == (0,)


def test_a_block_that_the_network_lacks_is_refused_at_construction(network, teacher):
    with pytest.raises(ConfigError, match=r"^repa\.block = .*4.* cannot be used: .*numbered 0 to 3"):
        repa(network, teacher, block=4)


def test_the_teacher_is_loaded_by_its_name_and_only_if_it_is_on(network, monkeypatch):
    asked = []
    monkeypatch.setattr("labkit.objective.load_teacher", lambda *asking: asked.append(asking) or Patches())
    off = objective(network, repa=Repa(None, teacher="facebook/dinov2-base"), dispersive=Dispersive(0.5))
    assert (off.teacher, off.projector, asked) == (None, None, [])
    on = objective(network, repa=Repa(0.5, teacher="facebook/dinov2-base", hidden=7))
    assert asked == [("facebook/dinov2-base", network.side)]
    assert isinstance(on.teacher, Patches)


@pytest.mark.parametrize("model", ["SiT-Nano/4", "SiT-Nano/1"])
def test_a_teacher_on_another_grid_is_refused_at_construction(teacher, model):
    network = build_model(model, input_size=8, in_channels=1, num_classes=10)
    with pytest.raises(ConfigError, match=r"^repa\.teacher = 'digits' cannot be used: it gives 16 tokens an image and"):
        Objective(network, Config(model=model, repa=Repa(0.5)), teacher)
    Objective(network, Config(model=model, repa=Repa(None)), teacher)


# --- where the gradient goes


@pytest.mark.parametrize("block", range(DEPTH))
def test_it_reaches_the_projector_and_the_blocks_up_to_its_own(network, teacher, batch, draws, block):
    module = repa(network, teacher, block=block)
    loss = module(batch, draws).weighted["repa"]
    for name, gradient in gradients(loss, network).items():
        assert bool(gradient.any()) == (floor_of(name) <= block), name
    assert all(gradient.any() for gradient in gradients(loss, module.projector).values())
    assert not any(gradient.any() for gradient in gradients(loss, teacher).values())


def test_the_denoising_loss_does_not_reach_the_projector(network, teacher, batch, draws):
    module = repa(network, teacher)
    losses = module(batch, draws)
    base = losses.total - losses.weighted["repa"]
    assert gradients(base, network)["final_layer.linear.weight"].any()
    assert not any(gradient.any() for gradient in gradients(base, module.projector).values())


def test_the_teacher_stays_in_evaluation_mode(network, teacher):
    module = repa(network, teacher).train()
    assert module.projector.training
    assert not module.teacher.training


# --- together


ALL = {
    "dispersive": Dispersive(0.5, blocks=(0, 3)),
    "contrastive": Contrastive(0.25, variant="hinge", blocks=(2,), alignment_weight=0.5),
    "repa": Repa(2.0, block=1, hidden=7),
}


def plain(name, lam, **settings):
    """One regularizer with nothing but these settings."""
    return type(ALL[name])(lam, **({"hidden": 7} if name == "repa" else {}), **settings)


def test_all_three_at_once_are_a_weighted_sum(network, teacher, batch, draws):
    """Each term is what it would be alone, and so is its gradient."""
    module = objective(network, teacher, **ALL)
    losses = module(batch, draws)
    assert list(losses.terms) == ["velocity", "dispersive", "alignment", "contrastive", "repa"]
    assert list(losses.weighted) == ["dispersive", "contrastive", "repa"]
    assert list(losses.features) == [0, 1, 2, 3]
    t = losses.terms
    wanted = t["velocity"] + 0.5 * t["dispersive"] + 0.25 * t["contrastive"] + 2.0 * t["repa"]
    torch.testing.assert_close(losses.total, wanted)
    parts = [gradients(objective(network)(batch, draws).total, network)]
    for name, settings in ALL.items():
        alone = objective(network, teacher, **{name: settings})
        if name == "repa":
            alone.projector.load_state_dict(module.projector.state_dict())
        found = alone(batch, draws)
        torch.testing.assert_close(found.terms[name], t[name])
        assert abs(t[name]) > 1e-3
        parts.append(gradients(found.weighted[name], network))
    summed = {name: sum(part[name] for part in parts) for name in parts[0]}
    assert_close_gradients(gradients(losses.total, network), summed)


@pytest.mark.parametrize("name", ALL)
def test_lambda_0_is_computed_and_changes_no_bit(network, teacher, batch, draws, name):
    other = {n: settings for n, settings in ALL.items() if n != name}
    off = objective(network, teacher, **other)
    zero = objective(network, teacher, **other, **{name: plain(name, 0.0)})
    if name != "repa":
        zero.projector.load_state_dict(off.projector.state_dict())
    off, zero = off(batch, draws), zero(batch, draws)
    assert zero.terms[name].abs() > 1e-3
    assert name not in off.terms
    assert torch.equal(zero.total, off.total)
    assert_same_gradients(gradients(zero.total, network), gradients(off.total, network))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("warmup", "step", "share"),
    [(0, 0, 1), (1, 0, 1), (4, 0, 0.25), (4, 1, 0.5), (4, 3, 1), (4, 4, 1), (4, 10**6, 1), (1000, 9, 0.01)],
)
def test_lambda_warms_up_linearly(network, teacher, batch, name, warmup, step, share):
    """λ · min((step + 1)/warmup, 1), of its own regularizer only; the term that is logged is unweighted."""
    draws = some_draws(step)
    steady = {n: settings for n, settings in ALL.items() if n != name}
    module = objective(
        network, teacher, **steady, **{name: plain(name, 0.8, schedule=warm_up(warmup) if warmup else ())}
    )
    losses = module(batch, draws)
    for n, weighted in losses.weighted.items():
        lam = 0.8 * share if n == name else ALL[n].lam
        assert weighted.item() == pytest.approx(lam * losses.terms[n].item(), rel=1e-6)
    wanted = losses.terms["velocity"].item() + sum(w.item() for w in losses.weighted.values())
    assert losses.total.item() == pytest.approx(wanted, rel=1e-6)


def test_the_shipped_teacher_sees_what_the_nano_model_makes():
    network = build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10)
    module = Objective(network, Config(repa=Repa(0.5, hidden=7)))
    losses = module(some_batch(), some_draws())
    assert -1 <= losses.terms["repa"] <= 1
    assert not any(p.requires_grad for p in module.teacher.parameters())
