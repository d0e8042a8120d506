"""The codec is diffusers' VAE: its posterior, its decoder, the published scale; and its absence is told."""

import re
import sys
from importlib.util import find_spec

import pytest
import torch
from photos import tiny_vae
from safetensors.torch import load_file, save_file

from labkit.checks import ConfigError
from labkit.datasets import Codec

pytestmark = pytest.mark.skipif(find_spec("diffusers") is None, reason="needs diffusers")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def folder(tmp_path):
    return tiny_vae(tmp_path / "vae")


def images(count=3, size=32):
    return 2 * torch.rand(count, 3, size, size) - 1


def test_it_encodes_and_decodes_as_diffusers_does(folder):
    import diffusers

    codec, vae, x = Codec(str(folder)), diffusers.AutoencoderKL.from_pretrained(folder), images()
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


def test_flipped_latents_are_not_latents_of_the_flipped(folder):
    """Why both are encoded."""
    codec, x = Codec(str(folder)), images()
    assert not torch.allclose(codec.encode(x)[0].flip(-1), codec.encode(x.flip(-1))[0], atol=1e-3)


def test_decoding_in_parts_changes_nothing(folder):
    latents = torch.randn(5, 4, 4, 4)
    whole = Codec(str(folder), batch=5).decode(latents)
    torch.testing.assert_close(Codec(str(folder), batch=2).decode(latents), whole)
    assert whole.abs().max() <= 1


def test_other_scales_and_factors_are_taken_from_the_config(tmp_path):
    short = dict(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2)
    folder = tiny_vae(tmp_path, **short, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5)
    codec, x = Codec(str(folder)), torch.randn(2, 4, 8, 8)
    assert (codec.scale, codec.factor, codec.shape(16)) == (0.5, 2, (4, 8, 8))
    torch.testing.assert_close(codec.decode(x), codec.vae.decode(2 * x).sample.clamp(-1, 1))


def test_a_size_that_cannot_be_divided(folder):
    with pytest.raises(ConfigError, match="size = 36 cannot be used: take a multiple of 8"):
        Codec(str(folder)).shape(36)


def test_the_digest_knows_every_weight_and_the_scale(folder, tmp_path):
    digests = [Codec(str(folder)).digest, Codec(str(folder)).digest]
    assert digests[0] == digests[1]
    weights = load_file(folder / WEIGHTS)
    weights["decoder.conv_out.bias"][0] += 1e-6
    save_file(weights, folder / WEIGHTS)
    digests.append(Codec(str(folder)).digest)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("0.18215", "0.13025"))
    digests.append(Codec(str(folder)).digest)
    assert len(set(digests)) == 3


def test_loading_leaves_the_global_random_state(folder):
    before = torch.get_rng_state()
    Codec(str(folder))
    assert torch.equal(torch.get_rng_state(), before)


# --- what can be wrong


def refused(source, *told):
    with pytest.raises(ConfigError) as error:
        Codec(str(source))
    assert str(error.value).startswith(f"latents = {str(source)!r}")
    assert not [words for words in told if not re.search(words, str(error.value))]
    assert "\n" not in str(error.value)


def test_without_weights_or_network(tmp_path):
    refused("stabilityai/sd-vae-ft-ema", "cannot be loaded", "else the folder of downloaded weights")
    refused(tmp_path, "cannot be loaded", "config.json")


def test_damaged_weights(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(folder, "cannot be loaded")
    (folder / WEIGHTS).unlink()
    refused(folder, "cannot be loaded")


def test_missing_weights_do_not_stay_random(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["encoder.conv_in.weight"]
    save_file(weights, folder / WEIGHTS)
    refused(folder, r"1 of its weights are missing in the file \(encoder.conv_in.weight\)")


@pytest.mark.parametrize(
    "config, told",
    [
        ({"shift_factor": 0.1159}, "its shift_factor is 0.1159"),
        ({"latents_mean": [0.0] * 4}, "its latents_mean is"),
        ({"in_channels": 1}, "it does not encode images of 3 channels"),
    ],
)
def test_vaes_of_other_kinds(tmp_path, config, told):
    refused(tiny_vae(tmp_path, **config), told)


def test_the_package_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused("x", "needs the package diffusers", "pip install diffusers")


def test_published_weights_have_older_names(folder):
    """The files on the hub date from before diffusers renamed the attention's layers."""
    newer = Codec(str(folder))
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(folder / WEIGHTS)
    for new, old in names.items():
        weights = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in weights.items()}
    assert any(".query." in name for name in weights)
    save_file(weights, folder / WEIGHTS)
    assert Codec(str(folder)).digest == newer.digest
