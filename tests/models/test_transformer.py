"""The backbone: its initial state, its features by value, its names, and parity with diffusers."""

import math

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from published import SHAPES
from torch import nn

from labkit.checks import ConfigError
from labkit.models import build_model
from labkit.models.layers import sincos_positions


@pytest.fixture
def fresh():
    return build_model("SiT-Nano/2", input_size=8, in_channels=3, num_classes=10).eval()


@pytest.fixture
def network(fresh, open_gates):
    return open_gates(fresh)


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


# --- features


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


# --- times and positions


def test_the_time_sinusoid_has_cosines_first_and_t_unscaled(network):
    embedded = []
    network.t_embedder.mlp[0].register_forward_pre_hook(lambda module, args: embedded.append(args[0]))
    t = np.array([0.0, 0.1, 0.5, 1.0])
    network.t_embedder(torch.tensor(t, dtype=torch.float32))
    angles = t[:, None] * np.array([10_000 ** (-k / 128) for k in range(128)])
    np.testing.assert_allclose(embedded[0], np.hstack([np.cos(angles), np.sin(angles)]), atol=1e-6)


@pytest.mark.parametrize(("width", "side"), [(64, 4), (8, 3)])
def test_positions_are_the_2d_sine_cosine_table(width, side):
    """Token by token: first half of the features the column, second half the row, each sines then cosines."""
    quarter = width // 4
    table = np.zeros((side * side, width))
    for row in range(side):
        for column in range(side):
            for half, place in enumerate((column, row)):
                for k in range(quarter):
                    angle = place / 10_000 ** (k / quarter)
                    table[row * side + column, 2 * half * quarter + k] = math.sin(angle)
                    table[row * side + column, (2 * half + 1) * quarter + k] = math.cos(angle)
    np.testing.assert_allclose(sincos_positions(width, side)[0], table, atol=1e-6)


# --- parity


class OurSinusoid(nn.Module):
    """diffusers spaces the frequencies differently: the one thing that no weight can map."""

    def forward(self, t):
        angle = t[:, None] * torch.tensor([10_000 ** (-k / 128) for k in range(128)])
        return torch.cat([angle.cos(), angle.sin()], dim=1)


BLOCK_NAMES = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}


def as_diffusers(ours, heads):
    """The same weights in diffusers' DiT, where each block owns a copy of the time and label embedders."""
    width = ours.pos_embed.shape[2]
    sizes = dict(num_attention_heads=heads, attention_head_dim=width // heads, num_layers=4)
    images = dict(in_channels=3, out_channels=6, sample_size=8, patch_size=2)
    theirs = DiTTransformer2DModel(**sizes, **images, num_embeds_ada_norm=10, norm_eps=1e-6).eval()
    state, renamed = ours.state_dict(), {}

    def rename(here, there, part=slice(None)):
        for kind in ("weight", "bias"):
            renamed[f"{there}.{kind}"] = state[f"{here}.{kind}"][part]

    rename("x_embedder.proj", "pos_embed.proj")
    rename("final_layer.linear", "proj_out_2")
    rename("final_layer.adaLN_modulation.1", "proj_out_1")
    for n, block in enumerate(theirs.transformer_blocks):
        ours_, theirs_ = f"blocks.{n}.", f"transformer_blocks.{n}."
        for k, name in enumerate(("to_q", "to_k", "to_v")):
            rename(ours_ + "attn.qkv", f"{theirs_}attn1.{name}", slice(k * width, (k + 1) * width))
        for here, there in BLOCK_NAMES.items():
            rename(ours_ + here, theirs_ + there)
        for here, there in {"0": "linear_1", "2": "linear_2"}.items():
            rename(f"t_embedder.mlp.{here}", f"{theirs_}norm1.emb.timestep_embedder.{there}")
        table = "embedding_table.weight"
        renamed[f"{theirs_}norm1.emb.class_embedder.{table}"] = state[f"y_embedder.{table}"]
        block.norm1.emb.time_proj = OurSinusoid()
    theirs.load_state_dict(renamed)
    return theirs


def test_it_equals_diffusers_dit_under_the_same_weights(network, inputs):
    x, t, y = inputs
    with torch.no_grad():
        ours = network(x, t, y).output
        theirs = as_diffusers(network, heads=4)(x, t, y).sample[:, :3]  # without the learnt variance
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
