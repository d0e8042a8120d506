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


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9999])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_trained_weights_follow_the_recursion_and_no_others(decay, steps):
    live = Live()
    ema = Ema(live, decay)
    average, fixed = live.weight.detach().numpy().astype(np.float64), live.pos_embed.clone()
    for n in range(steps):
        with torch.no_grad():
            live.weight.normal_()
            live.pos_embed.add_(1)  # even if it moved, the average would not follow
        weight = live.weight.detach().clone()
        ema.update(n)
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * live.weight.detach().numpy()
        assert torch.equal(live.weight, weight)
    np.testing.assert_allclose(ema.network.weight.numpy(), average, rtol=1e-5, atol=1e-6)
    assert torch.equal(ema.network.pos_embed, fixed)
    assert live.training and live.weight.requires_grad
    assert not ema.network.training and not any(p.requires_grad for p in ema.network.parameters())


def test_in_training_it_follows_the_live_weights():
    trainer = Trainer(tiny(ema_decay=0.3))
    name = "blocks.1.mlp.fc1.weight"
    average = trainer.network.get_parameter(name).detach().double()
    for report in trainer:
        n = report.step - 1
        d = min(0.3, (1 + n) / (10 + n))
        average = d * average + (1 - d) * trainer.network.get_parameter(name).detach().double()
    torch.testing.assert_close(trainer.ema.network.get_parameter(name).double(), average, rtol=1e-5, atol=1e-7)
    assert not torch.equal(trainer.ema.network.get_parameter(name), trainer.network.get_parameter(name))
