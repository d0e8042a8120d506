"""Released checkpoints: files made from names and shapes written down by hand load whole, or say what does not fit."""

import pickle

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
def save(tmp_path):
    def to(name, content):
        path = tmp_path / name
        save_file(content, path) if name.endswith("safetensors") else torch.save(content, path)
        return path

    return to


LAYOUTS = {  # as trainers leave them
    "plain": lambda weights: weights,
    "averaged": lambda weights: {
        "ema": weights,
        "model": {name: torch.zeros_like(tensor) for name, tensor in weights.items()},
        "opt": {},
        "args": None,
    },
    "state_dict": lambda weights: {"state_dict": weights},
    "wrapped": lambda weights: {"model": {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_torchs_loads_every_tensor(save, weights, layout):
    network = load_official(save("SiT-S-2.pt", LAYOUTS[layout](weights)))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert not network.training
    assert not network.pos_embed.requires_grad
    assert network.blocks[0].attn.qkv.weight.requires_grad


@pytest.mark.parametrize(("family", "channels"), [("SiT", 4), ("DiT", 8)])
def test_safetensors_in_half_precision_load_and_run(save, weights, family, channels):
    half = {name: tensor.half() for name, tensor in weights.items()}
    network = load_official(save("weights.safetensors", half), family)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    x, t, y = torch.randn(2, 4, 32, 32), torch.tensor([0.25, 0.75]), torch.tensor([3, 1000])
    with torch.no_grad():
        output = network(x, t, y).output
    assert output.shape == (2, channels, 32, 32)
    assert output.isfinite().all() and output.std() > 0


def without(weights, *names):
    return {name: tensor for name, tensor in weights.items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "blocks.3.mlp.fc2.bias"), 'Missing.*"blocks.3.mlp.fc2.bias"'),
        (lambda w: w | {"blocks.3.norm.weight": torch.ones(3)}, 'Unexpected.*"blocks.3.norm.weight"'),
        (lambda w: w | {"blocks.0.attn.proj.bias": torch.ones(385)}, r"blocks.0.attn.proj.bias: .*385.*384"),
        (lambda w: without(w, "x_embedder.proj.weight"), "no SiT or DiT: 'x_embedder.proj.weight'"),
        (lambda w: without(w, "blocks.11"), "11 blocks of width 384"),
        (lambda w: without(w, "blocks."), "no SiT or DiT"),
        (lambda w: {"opt": {}, "steps": torch.tensor(3)}, "no state dict.*ema, model"),
        (lambda w: {}, "no state dict"),
        (lambda w: torch.zeros(3), "no state dict"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(save, weights, change, message):
    with pytest.raises(WeightsError, match=message) as error:
        load_official(save("weights.pt", change(weights)))
    assert "\n" not in str(error.value) and len(str(error.value)) < 800


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


def test_what_is_no_file_of_weights_is_refused(tmp_path, weights, save, capsys):
    with pytest.raises(WeightsError, match="There is no file"):
        load_official(tmp_path / "missing.pt")
    for name in ("cut.pt", "cut.safetensors"):
        path = save(name, weights)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(WeightsError, match=r"is cut|holds more than tensors"):
            load_official(path)
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(WeightsError, match="holds more than tensors"):
        load_official(tmp_path / "bad.pt")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"family = 'UiT' .*SiT, DiT"):
        load_official(tmp_path / "x.pt", "UiT")
