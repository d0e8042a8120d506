"""The memory bank, against plain float64 loops; and its place in training: a state that is saved and resumed."""

import math

import pytest
import torch
from tiny import assert_same, finished, outcome, tiny, trained, weights

from labkit import Config, Run, Trainer
from labkit.losses import Bank, Dispersive, dispersive_loss

VARIANTS = {"infonce_l2": dict(tau=0.3), "infonce_cosine": dict(tau=0.7), "hinge": dict(margin=1.5)}


def filled(size: int, *batches: torch.Tensor) -> Bank:
    bank = Bank(size, batches[0][0].numel()).double()
    for batch in batches:
        bank.push(batch)
    return bank


def by_loops(z, remembered, variant, include_self, tau=math.nan, margin=math.nan):
    """The mean over all pairs (i, j), i in the batch, j in the batch or remembered, written out."""
    z, values = z.flatten(1), []
    for i, a in enumerate(z):
        for j, b in enumerate([*z, *remembered.flatten(1)]):
            if i == j and not include_self:
                continue
            distance = (a - b).square().mean()
            if variant == "infonce_l2":
                values.append((-distance / tau).exp())
            elif variant == "infonce_cosine":
                values.append((torch.dot(a, b) / (a.norm() * b.norm()) / tau).exp())
            else:
                values.append((margin - distance).relu() ** 2)
    mean = torch.stack(values).mean()
    return mean if variant == "hinge" else mean.log()


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("held", [0, 3, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradient_are_those_of_plain_loops(variant, held, include_self):
    """Empty, half full, and with more pushed than it holds."""
    draw = torch.Generator().manual_seed(held)
    z = torch.randn(4, 2, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    pushed = torch.randn(held, 2, 3, generator=draw, dtype=torch.float64)
    bank = filled(6, *pushed.split(4)) if held else Bank(6, 6).double()
    newest = torch.cat([part for part in reversed(pushed.split(4))])[:6] if held else pushed
    knobs = dict(variant=variant, include_self=include_self, **VARIANTS[variant])
    settings = Dispersive(0.5, negatives="bank", bank=6, **knobs)
    loss = settings.repulsion(z, bank)
    expected = by_loops(z, newest, variant, include_self, **VARIANTS[variant])
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    (got,), (right,) = (torch.autograd.grad(value, z) for value in (loss, expected))
    torch.testing.assert_close(got, right, rtol=1e-8, atol=1e-10)
    assert torch.equal(bank.recall()[0][:4], z.detach().flatten(1)), "the batch is remembered"
    if held == 0:
        torch.testing.assert_close(loss, dispersive_loss(z, **knobs))


def test_the_floor_counts_the_bank_once_it_is_full():
    settings = Dispersive(0.5, negatives="bank", bank=8)
    far = 1e3 * torch.eye(12, dtype=torch.float64)
    bank = filled(8, far[4:8], far[8:])
    assert settings.repulsion(far[:4], bank).item() == pytest.approx(-math.log(4 + 8))


def config(**changes) -> Config:
    return tiny(negatives="bank", bank=20, **changes)


def test_resumed_equals_straight_and_a_lost_bank_does_not(tmp_path):
    straight = outcome(trained(config(), tmp_path / "straight"))
    folder = tmp_path / "stopped"
    next(report for report in Trainer(config(), folder) if report.step == 4)
    assert outcome(trained(config(), folder)) == straight
    assert any(name.startswith("bank.") for name in straight[1])
    trainer = Trainer(config(steps=5), tmp_path / "lost")
    list(trainer)
    trainer.banks["1"].filled.zero_()
    trainer.config = config()
    list(trainer)
    name = "model.blocks.0.attn.qkv.weight"
    assert weights(trainer)[name].numpy().tobytes() != straight[1][name]


def test_a_weight_of_0_leaves_no_trace_and_a_fork_begins_with_an_empty_bank(tmp_path):
    assert_same(finished(config(lam=0.0)), finished(tiny(lam=None)))
    fork = Run.open(trained(tiny(), tmp_path / "run")).fork(5, tmp_path / "fork", negatives="bank", bank=20)
    assert int(fork.trainer().banks["1"].filled) == 0
    list(fork.trainer())
    assert fork.config.dispersive.bank == 20
