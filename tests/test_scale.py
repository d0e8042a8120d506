"""Cost of a model: counts that add up, memory compared with torch's, times that follow their laws."""

import pytest
import torch
from small import kept_bytes

from labkit import build_model
from labkit.checks import ConfigError
from labkit.flops import training_flops
from labkit.scale import PAPER_STEPS, activations, cost, measured_flops, memory, models_table, paper_days, seconds


def test_meanflow_has_a_time_embedder_more_and_half_a_forward_pass():
    plain, spans = cost("SiT-S/4"), cost("MeanFlow-S/4")
    embedder = 256 * 384 + 384 + 384**2 + 384
    assert spans.parameters["time and class"] - plain.parameters["time and class"] == embedder
    assert {**spans.parameters, "time and class": 0} == {**plain.parameters, "time and class": 0}
    assert plain.step_flops == 6 * sum(plain.macs.values())
    assert spans.step_flops == 7 * sum(spans.macs.values())


def test_the_table_is_what_the_costs_say():
    table = models_table(["SiT-S/4", "DiT-B/8"])
    assert list(table.index) == ["SiT-S/4", "DiT-B/8"]
    row = table.loc["SiT-S/4"]
    assert (row["blocks"], row["width"], row["heads"], row["tokens"]) == (12, 384, 6, 64)
    assert row["parameters"] == 32_945_024 and row["macs"] == sum(cost("SiT-S/4").macs.values())
    digits = models_table(["SiT-Nano/2"], input_size=8, in_channels=1, num_classes=10, learn_sigma=False)
    with torch.device("meta"):
        network = build_model("SiT-Nano/2", 8, 1, 10, learn_sigma=False)
    assert digits.loc["SiT-Nano/2", "parameters"] == sum(p.numel() for p in network.parameters())
    assert cost("SiT-Nano/2", 8, 1, 10, False).step_flops == training_flops(network)


def kept(name, batch, bf16=False):
    network = build_model(name)
    inputs = torch.randn(batch, 4, 32, 32), torch.rand(batch), torch.zeros(batch, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return kept_bytes(network, lambda: network(*inputs).output.square().mean())


@pytest.mark.parametrize(
    ("name", "batch"), [("SiT-Nano/2", 1), ("SiT-Nano/4", 4), ("SiT-S/4", 2), ("MeanFlow-S/4", 2), ("SiT-S/8", 4)]
)
def test_activations_are_estimated_to_a_twentieth_of_what_torch_keeps(name, batch):
    assert batch * activations(cost(name)) == pytest.approx(kept(name, batch), rel=0.05)


@pytest.mark.parametrize(("name", "batch"), [("SiT-Nano/2", 4), ("SiT-S/8", 16)])
def test_in_bfloat16_too_with_the_copies_of_the_weights(name, batch):
    c = cost(name)
    copies = memory(c, batch, "bfloat16")["weights"] - memory(c, batch)["weights"]
    assert copies == 2 * sum(c.parameters.values())
    estimate = batch * activations(c, "bfloat16") + copies
    assert estimate == pytest.approx(kept(name, batch, bf16=True), rel=0.05)


def test_memory_of_weights_is_what_a_trainer_holds():
    c = cost("SiT-Nano/4")
    network = build_model("SiT-Nano/4")
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], fused=True)
    network(torch.randn(2, 4, 32, 32), torch.rand(2), torch.tensor([0, 1])).output.sum().backward()
    optimizer.step()
    held = memory(c, 2)
    assert held["weights"] == held["EMA"] == sum(p.nbytes for p in network.parameters())
    frozen = network.pos_embed.nbytes
    assert held["gradients"] == sum(p.grad.nbytes for p in network.parameters() if p.grad is not None) + frozen
    moments = sum(m.nbytes for s in optimizer.state.values() for n, m in s.items() if n != "step")
    assert held["AdamW"] == moments + 2 * frozen


def test_only_activations_go_with_the_batch():
    one, four = memory(cost("SiT-B/2"), 1), memory(cost("SiT-B/2"), 4)
    assert four.pop("activations") == 4 * one.pop("activations")
    assert one == four and sum(one.values()) == 20 * sum(cost("SiT-B/2").parameters.values())


def test_time_is_operations_over_the_share_of_the_rate():
    assert seconds(1e12, 1e12) == 1.0 and seconds(1e12, 1e12, 0.25) == 4.0
    assert PAPER_STEPS == 400_320
    c = cost("SiT-XL/2")
    flops = 400_320 * 256 * 6 * 118.6e9
    assert paper_days(c, 312e12, 0.4) == pytest.approx(flops / (312e12 * 0.4) / 86_400, rel=1e-3)
    assert 1e8 < measured_flops("cpu", budget=0.05) < 1e15


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: memory(cost("SiT-S/8"), 0), "batch"),
        (lambda: memory(cost("SiT-S/8"), 1, "float8"), "precision"),
        (lambda: cost("SiT-M/2"), "model"),
        (lambda: cost("SiT-S/3"), "input_size"),
        (lambda: seconds(float("nan"), 1.0), "flops"),
        (lambda: seconds(1.0, 0.0), "rate"),
        (lambda: measured_flops("cpu", 0.0), "budget"),
        (lambda: paper_days(cost("SiT-S/8"), 1.0, 2.0), "utilisation"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, name, unchecked):
    with pytest.raises(ConfigError, match=rf"^{name} = "):
        call()
