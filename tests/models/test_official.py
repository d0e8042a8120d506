"""Released checkpoints: files made from names and shapes written down by hand load whole, or say what does not fit."""

import pickle
import re

import pytest
import torch
from published import SHAPES
from safetensors.torch import save_file

from labkit import load_official
from labkit.checks import ConfigError
from labkit.models import WeightsError


@pytest.fixture(scope="module")
def weights():
    draw = torch.Generator().manual_seed(0)
    return {name: 0.02 * torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


@pytest.fixture
def save(weights, tmp_path):
    def to(name, content=None):
        path = tmp_path / name
        content = weights if content is None else content
        save_file(content, path) if name.endswith("safetensors") else torch.save(content, path)
        return path

    return to


def as_stored(content, weights):
    """The layouts that trainers leave, with other tensors where the averaged ones are not looked for."""
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    return {
        "plain": weights,
        "averaged": {"ema": weights, "model": zeros, "opt": {}, "args": None},
        "model": {"model": weights},
        "state_dict": {"state_dict": weights},
        "wrapped": {f"module.{name}": tensor for name, tensor in weights.items()},
        "compiled": {f"_orig_mod.{name}": tensor for name, tensor in weights.items()},
        "both": {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()},
    }[content]


@pytest.mark.parametrize("kind", ["plain", "averaged", "model", "state_dict", "wrapped", "compiled", "both"])
def test_a_file_of_torchs_loads_every_tensor(save, weights, kind):
    network = load_official(save("SiT-S-2.pt", as_stored(kind, weights)))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert not network.training
    assert not network.pos_embed.requires_grad
    assert network.blocks[0].attn.qkv.weight.requires_grad


@pytest.mark.parametrize(("family", "channels"), [("SiT", 4), ("DiT", 8)])
def test_safetensors_load_and_run(save, weights, family, channels):
    network = load_official(save("weights.safetensors"), family)
    x, t, y = torch.randn(2, 4, 32, 32), torch.tensor([0.25, 0.75]), torch.tensor([3, 1000])
    with torch.no_grad():
        prediction = network(x, t, y, taps=[11])
    assert prediction.output.shape == (2, channels, 32, 32)
    assert prediction.features[11].shape == (2, 256, 384)
    assert prediction.output.isfinite().all() and prediction.output.std() > 0


def test_half_precision_is_raised(save, weights):
    network = load_official(save("w.safetensors", {n: t.half() for n, t in weights.items()}))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def without(weights, name):
    return {n: t for n, t in weights.items() if n != name}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: without(w, "blocks.3.mlp.fc2.bias"), "blocks.3.mlp.fc2.bias is missing"),
        (lambda w: w | {"blocks.3.norm.weight": torch.ones(3)}, "blocks.3.norm.weight is not a tensor of this model"),
        (
            lambda w: w | {"blocks.0.attn.proj.bias": torch.ones(385)},
            "blocks.0.attn.proj.bias has shape (385,) instead of (384,)",
        ),
        (
            lambda w: without(w, "x_embedder.proj.weight"),
            "holds no SiT or DiT: 'x_embedder.proj.weight' was looked for",
        ),
        (lambda w: {n: t for n, t in w.items() if not n.startswith("blocks.11")}, "11 blocks of width 384"),
        (lambda w: {n: t for n, t in w.items() if not n.startswith("blocks.")}, "holds no SiT or DiT"),
        (
            lambda w: {"opt": {}, "steps": torch.tensor(3)},
            "holds no state dict; looked at the top and under ema, model",
        ),
        (lambda w: {}, "holds no state dict"),
        (lambda w: torch.zeros(3), "holds no state dict"),
    ],
)
def test_what_does_not_fit_is_named(save, weights, change, told):
    with pytest.raises(WeightsError, match=re.escape(told)):
        load_official(save("weights.pt", change(weights)))


def test_many_faults_are_counted_not_listed(save, weights):
    few = {name: tensor for name, tensor in weights.items() if ".5.mlp" not in name and ".11.attn" not in name}
    with pytest.raises(WeightsError, match=r"is missing; .*, and 3 more\.$"):
        load_official(save("w.pt", few))


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


def test_what_is_no_file_of_weights_is_refused(tmp_path, save, capsys):
    with pytest.raises(WeightsError, match="There is no file"):
        load_official(tmp_path / "missing.pt")
    for name in ("cut.pt", "cut.safetensors"):
        path = save(name)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(WeightsError, match=r"is cut, or not a file of weights|holds more than tensors"):
            load_official(path)
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(WeightsError, match="holds more than tensors"):
        load_official(tmp_path / "bad.pt")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"family = 'UiT' .*SiT, DiT"):
        load_official(tmp_path / "x.pt", "UiT")
