"""Runs with every regularizer: what is saved, and what follows from what."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_same, everything, tiny, trained

from labkit import Run, Trainer, build_model
from labkit.losses import Repa
from labkit.training import NonFiniteLoss


def test_the_network_is_saved_under_the_released_names_only(tmp_path):
    held = load_file(list(Run.open(trained(everything(steps=2), tmp_path)).checkpoints.values())[-1])
    plain = build_model("SiT-Nano/2", 8, 1, 10, learn_sigma=False)
    projector = {f"projector.{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")}
    for part in ("model.", "ema."):
        assert {name.removeprefix(part) for name in held if name.startswith(part)} == plain.state_dict().keys()
        plain.load_state_dict({name.removeprefix(part): t for name, t in held.items() if name.startswith(part)})
    assert {name for name in held if name.startswith("projector.")} == projector
    learnt = {name for name, p in plain.named_parameters() if p.requires_grad} | projector
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        start = f"optimizer.{moment}."
        assert {name.removeprefix(start) for name in held if name.startswith(start)} == learnt
    assert {name.split(".")[0] for name in held} == {"model", "ema", "projector", "optimizer"}


def test_the_network_starts_the_same_whatever_regularizes_it():
    starts = [Trainer(tiny(model="SiT-Nano/2", lam=None, **on)) for on in ({}, {"repa": Repa(0.5, hidden=16)})]
    assert_same(*(trainer.network.state_dict() for trainer in starts))


def test_the_projector_follows_from_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = (Trainer(everything(seed=seed)).projector.state_dict() for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert_same(Trainer(everything(lam=None)).projector.state_dict(), one)
    assert not torch.equal(other["0.weight"], one["0.weight"])


def test_a_loss_that_breaks_names_every_weight_that_may_be_too_large():
    trainer = Trainer(everything())
    with torch.no_grad():
        trainer.projector[0].weight.fill_(torch.nan)
    with pytest.raises(NonFiniteLoss, match=r"\(repa = nan\)") as error:
        list(trainer)
    for weight in ("dispersive.lam (now 0.5)", "contrastive.lam (now 0.25)", "repa.lam (now 0.5)"):
        assert weight in str(error.value)
