"""The codec is diffusers' VAE: its posterior, its decoder, the published scale; and bad weights are refused."""

import re

import diffusers
import pytest
import torch
from photos import tiny_vae
from safetensors.torch import load_file, save_file

from labkit.checks import ConfigError
from labkit.datasets import Codec

WEIGHTS = "diffusion_pytorch_model.safetensors"


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def folder(tmp_path):
    return tiny_vae(tmp_path / "vae")


def edited(folder, change):
    """The folder with other weights, as ``change`` of the old ones returns them."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def test_it_encodes_and_decodes_as_diffusers_does(folder):
    before = torch.get_rng_state()
    codec = Codec(str(folder), batch=2)
    assert torch.equal(torch.get_rng_state(), before)
    vae, x = diffusers.AutoencoderKL.from_pretrained(folder), 2 * torch.rand(3, 3, 32, 32) - 1
    with torch.no_grad():
        posterior = vae.encode(x).latent_dist
        mean, deviation = codec.encode(x)
        assert mean.shape == (3, *codec.shape(32)) == (3, 4, 4, 4)
        torch.testing.assert_close(mean, posterior.mean)
        torch.testing.assert_close(deviation, torch.exp(0.5 * posterior.logvar))
        assert deviation.min() > 0 and not deviation.requires_grad
        latents = 0.18215 * posterior.sample()
        torch.testing.assert_close(codec.decode(latents), vae.decode(latents / 0.18215).sample.clamp(-1, 1))
    assert (codec.scale, codec.channels, codec.factor) == (0.18215, 4, 8)
    # why a store holds both: flipped latents are not the latents of the flipped image
    assert not torch.allclose(mean.flip(-1), codec.encode(x.flip(-1))[0], atol=1e-3)
    with pytest.raises(ConfigError, match=r"^size = 36 .*multiple"):
        codec.shape(36)


def test_other_scales_and_factors_are_taken_from_the_config(tmp_path):
    short = dict(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2)
    folder = tiny_vae(tmp_path, **short, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5)
    codec, x = Codec(str(folder)), torch.randn(2, 4, 8, 8)
    assert (codec.scale, codec.factor, codec.shape(16)) == (0.5, 2, (4, 8, 8))
    torch.testing.assert_close(codec.decode(x), codec.vae.decode(2 * x).sample.clamp(-1, 1))


def test_the_digest_depends_on_every_weight_and_the_scale(folder):
    digests = {Codec(str(folder)).digest}
    digests.add(Codec(str(folder)).digest)
    assert len(digests) == 1
    edited(folder, lambda w: w | {"decoder.conv_out.bias": w["decoder.conv_out.bias"] + 1e-6})
    digests.add(Codec(str(folder)).digest)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("0.18215", "0.13025"))
    digests.add(Codec(str(folder)).digest)
    assert len(digests) == 3


def test_published_weights_have_older_names(folder):
    """The files on the hub date from before diffusers renamed the attention's layers."""
    newer = Codec(str(folder)).digest
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def older(weights):
        pattern = re.compile("|".join(map(re.escape, names)))
        return {pattern.sub(lambda match: names[match[0]], name): tensor for name, tensor in weights.items()}

    edited(folder, older)
    assert any(".query." in name for name in load_file(folder / WEIGHTS))
    assert Codec(str(folder)).digest == newer


def refused(source, *words):
    with pytest.raises(ConfigError) as error:
        Codec(str(source))
    message = str(error.value)
    assert message.startswith(f"latents = {str(source)!r}")
    assert all(word in message for word in words) and "\n" not in message


def test_weights_that_cannot_be_loaded(folder):
    refused("stabilityai/sd-vae-ft-ema", "cannot be loaded", "folder of downloaded weights")
    edited(folder, lambda weights: {n: w for n, w in weights.items() if n != "encoder.conv_in.weight"})
    refused(folder, "(encoder.conv_in.weight)")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(folder, "cannot be loaded")
    (folder / WEIGHTS).unlink()
    refused(folder, "cannot be loaded", WEIGHTS)


def test_a_decoder_that_gives_no_numbers(folder):
    edited(folder, lambda weights: weights | {"decoder.conv_out.bias": torch.full((3,), torch.nan)})
    codec = Codec(str(folder))
    with pytest.raises(ConfigError, match=r"^vae = .*not finite"):
        codec.decode(torch.zeros(3, 4, 2, 2))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shift_factor": 0.1159}, "its shift_factor is 0.1159"),
        ({"latents_mean": [0.0] * 4}, "its latents_mean is"),
        ({"in_channels": 1}, "3 channels"),
    ],
)
def test_vaes_of_other_kinds(tmp_path, config, message):
    refused(tiny_vae(tmp_path, **config), message)
