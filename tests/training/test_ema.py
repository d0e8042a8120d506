"""The moving average against the recursion written out in numpy."""

import numpy as np
import pytest
import torch
from tiny import tiny
from torch import nn

from labkit import Trainer
from labkit.training.ema import Ema


class Live(nn.Module):
    """One trained and one frozen parameter, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))
        self.pos_embed = nn.Parameter(torch.randn(4), requires_grad=False)
        self.register_buffer("scale", torch.ones(2))


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5, 0.9999])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_equals_the_recursion_in_float64(decay, steps):
    live = Live()
    ema = Ema(live, decay)
    average = live.weight.detach().numpy().astype(np.float64)
    for n in range(steps):
        with torch.no_grad():
            live.weight.normal_()
        ema.update(n)
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * live.weight.detach().numpy()
    np.testing.assert_allclose(ema.network.weight.numpy(), average, rtol=1e-5, atol=1e-6)


def test_warm_up_has_a_closed_form():
    """With d_n = (1 + n)/(10 + n) the start keeps Π d_n = 10!/(N+1)·…·(N+9) / 10 of its weight after N updates."""
    steps = 30
    live = Live()
    ema = Ema(live, 0.9999)
    with torch.no_grad():
        start = ema.network.weight.clone()
        live.weight.zero_()
    for step in range(steps):
        ema.update(step)
    kept = np.prod([1.0 * k for k in range(1, 10)]) / np.prod([1.0 * (steps + k) for k in range(1, 10)])
    torch.testing.assert_close(ema.network.weight, start * float(kept), rtol=1e-4, atol=0)
    assert kept < 1e-8  # a plain 0.9999 would still hold 99.7 % of the random start


def test_decay_takes_over_from_the_warm_up():
    """(1 + n)/(10 + n) passes 0.5 at n = 8: until there less is kept, from there on exactly half."""
    for step, kept in [(0, 0.1), (7, 8 / 17), (8, 0.5), (9, 0.5), (1000, 0.5)]:
        live = Live()
        ema = Ema(live, 0.5)
        start = live.weight.detach().clone()
        with torch.no_grad():
            live.weight.zero_()
        ema.update(step)
        torch.testing.assert_close(ema.network.weight, start * kept)


def test_what_is_not_trained_does_not_drift():
    live = Live()
    ema = Ema(live, 0.9)
    start = live.pos_embed.detach().clone()
    with torch.no_grad():
        live.pos_embed.add_(1)  # even if it moved, the average would not follow
    for step in range(5):
        ema.update(step)
    assert torch.equal(ema.network.pos_embed, start)


def test_the_average_is_a_frozen_copy():
    live = Live()
    weight = live.weight.detach().clone()
    ema = Ema(live, 0.9)
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    ema.network.weight.data.add_(1)
    ema.update(0)
    assert torch.equal(live.weight, weight)
    assert live.training
    assert live.weight.requires_grad


def test_in_training_it_follows_the_live_weights():
    trainer = Trainer(tiny(ema_decay=0.3))
    name = "blocks.1.mlp.fc1.weight"
    average = trainer.network.get_parameter(name).detach().double()
    positions = trainer.network.pos_embed.detach().clone()
    for report in trainer:
        n = report.step - 1
        d = min(0.3, (1 + n) / (10 + n))
        average = d * average + (1 - d) * trainer.network.get_parameter(name).detach().double()
    torch.testing.assert_close(trainer.ema.network.get_parameter(name).double(), average, rtol=1e-5, atol=1e-7)
    assert not torch.equal(trainer.ema.network.get_parameter(name), trainer.network.get_parameter(name))
    assert torch.equal(trainer.ema.network.pos_embed, positions)
    assert torch.equal(trainer.network.pos_embed, positions)
