"""Multiply-accumulates in closed form: those of the papers, and those that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit import build_model
from labkit.flops import macs, training_flops

OURS = {  # billions, of one image of 32×32×4
    **{"S/2": 6.06, "B/2": 23.01, "L/2": 80.70, "XL/2": 118.62, "S/4": 1.41, "B/4": 5.57},
    **{"L/4": 19.70, "XL/4": 29.04, "S/8": 0.36, "B/8": 1.42, "L/8": 5.01, "XL/8": 7.39},
}
PUBLISHED = OURS | {"L/2": 80.71, "XL/2": 118.64, "XL/4": 29.05, "B/4": 5.56}
"""In the table of DiT's paper, whose counter differs a little."""
DIGITS = dict(input_size=8, in_channels=1, learn_sigma=False, num_classes=10)


def on_meta(name, **options):
    with torch.device("meta"):
        return build_model(name, **options)


@pytest.mark.parametrize("size", PUBLISHED)
def test_every_model_costs_what_its_paper_says(size):
    count = sum(macs(on_meta(f"SiT-{size}")).values()) / 1e9
    assert round(count, 2) == OURS[size]
    assert count == pytest.approx(PUBLISHED[size], abs=0.02)


@pytest.mark.parametrize(
    ("name", "options"), [("SiT-S/2", {}), ("DiT-S/4", {}), ("DiT-B/8", {}), ("SiT-XL/2", {}), ("SiT-Nano/2", DIGITS)]
)
def test_torch_counts_the_same(name, options):
    network = on_meta(name, **options)
    side = network.side * network.patch
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        network(torch.empty(1, network.in_channels, side, side), torch.empty(1), torch.empty(1, dtype=torch.long))
    assert counter.get_total_flops() == 2 * sum(macs(network).values())


def test_a_training_step_costs_three_forward_passes():
    with torch.device("meta"):
        network = build_model("SiT-S/4")
        x, t, y = torch.randn(2, 4, 32, 32), torch.rand(2), torch.zeros(2, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            network(x, t, y).output.sum().backward()
    assert training_flops(network, images=2) == pytest.approx(counter.get_total_flops(), rel=0.01)  # no gradient of x
