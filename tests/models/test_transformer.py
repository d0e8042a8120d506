"""The backbone: initial state, features by value and names; ``test_export`` compares all it computes with diffusers."""

import math

import pytest
import torch
from published import SHAPES
from small import randomised
from torch import nn

from labkit.checks import ConfigError
from labkit.models import build_model


@pytest.fixture
def fresh():
    return build_model("SiT-Nano/2", input_size=8, in_channels=3, num_classes=10).eval()


@pytest.fixture
def network(fresh):
    return randomised(fresh)


@pytest.fixture
def inputs():
    return torch.randn(5, 3, 8, 8), torch.rand(5), torch.tensor([0, 3, 9, 10, 3])  # 10 is the null class


def test_names_and_shapes_are_those_of_the_released_checkpoints():
    with torch.device("meta"):
        state = build_model("SiT-S/2").state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == SHAPES


def test_the_initial_output_is_0_and_every_block_an_identity(fresh, inputs):
    output, features = fresh(*inputs, taps=range(4))
    assert output.shape == inputs[0].shape and not output.any()
    tokens = fresh.x_embedder(inputs[0]) + fresh.pos_embed
    assert tokens.std() > 0.1
    assert all(torch.equal(features[n], tokens) for n in range(4))


def test_initial_weights_and_norms_are_as_published(fresh):
    assert fresh.y_embedder.embedding_table.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert all(fresh.t_embedder.mlp[n].weight.std().item() == pytest.approx(0.02, rel=0.1) for n in (0, 2))
    inside = [m for b in fresh.blocks for m in (b.attn.qkv, b.attn.proj, b.mlp.fc1, b.mlp.fc2)]
    for module in (fresh.x_embedder.proj, *inside):
        weight = module.weight.flatten(1)
        assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / sum(weight.shape)), rel=0.01)
        assert not module.bias.any()
    assert not fresh.pos_embed.requires_grad
    norms = [m for m in fresh.modules() if isinstance(m, nn.LayerNorm)]
    assert [(norm.eps, norm.elementwise_affine) for norm in norms] == [(1e-6, False)] * 9


@pytest.mark.parametrize(("taps", "runs"), [((), 0), ((0,), 1), ((2, 0), 3), (range(4), 4)])
def test_features_are_the_outputs_of_blocks_and_alone_need_nothing_after_the_last(network, inputs, taps, runs):
    outputs = {}
    for name, module in (*enumerate(network.blocks), ("final", network.final_layer)):
        module.register_forward_hook(lambda module, args, out, name=name: outputs.update({name: out}))
    prediction = network(*inputs, taps=taps)
    assert list(prediction.features) == sorted(taps)
    assert all(z is outputs[n] and z.shape == (5, 16, 64) for n, z in prediction.features.items())
    assert torch.equal(prediction.output, network(*inputs).output)
    outputs.clear()
    alone = network.features(*inputs, taps=taps)
    assert list(outputs) == [*range(runs)]
    assert alone.keys() == prediction.features.keys()
    assert all(torch.equal(alone[n], prediction.features[n]) and alone[n].requires_grad for n in taps)


def test_inputs_of_another_size_and_blocks_that_are_not_there_are_refused(network, inputs, unchecked):
    x, t, y = inputs
    for call in (network, network.features):
        for taps in ((4,), (-1, 0)):
            with pytest.raises(ConfigError, match=r"^taps = \(.*4 blocks, numbered 0 to 3"):
                call(x, t, y, taps=taps)
        for wrong in (x[:, :2], x[..., :6, :6], x[..., :7]):
            with pytest.raises(ValueError, match=r"this model takes \(B, 3, 8, 8\)"):
                call(wrong, t, y, taps=(0,))
