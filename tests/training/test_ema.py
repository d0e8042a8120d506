"""The moving average against the recursion written out."""

import pytest
import torch
from tiny import tiny

from labkit import Trainer


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
def test_it_follows_the_live_weights_by_the_recursion(decay):
    trainer = Trainer(tiny(ema_decay=decay))
    name = "blocks.1.mlp.fc1.weight"
    average = trainer.network.get_parameter(name).detach().double()
    for report in trainer:
        n = report.step - 1
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * trainer.network.get_parameter(name).detach().double()
    followed = trainer.ema.network.get_parameter(name)
    torch.testing.assert_close(followed.double(), average, rtol=1e-5, atol=1e-7)
    assert torch.equal(followed, trainer.network.get_parameter(name)) == (decay == 0)
    assert torch.equal(trainer.ema.network.pos_embed, trainer.network.pos_embed)
    assert not trainer.ema.network.training and not any(p.requires_grad for p in trainer.ema.network.parameters())
