"""Released checkpoints: files made from names and shapes written down by hand load whole, or say what does not fit."""

import argparse
import pathlib
import pickle

import pytest
import torch
from published import SHAPES, shapes
from safetensors.torch import save_file

from labkit import load_official
from labkit.checks import ConfigError
from labkit.models import WeightsError


def random(shapes):
    draw = torch.Generator().manual_seed(0)
    return {name: 0.02 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def weights():
    """The names of a released file at a size that is quick to load, SiT-Nano/2."""
    return random(shapes(4, 64))


@pytest.fixture
def save(tmp_path):
    def to(name, content):
        path = tmp_path / name
        save_file(content, path) if name.endswith("safetensors") else torch.save(content, path)
        return path

    return to


def by_train_py(weights, **more):
    """What the released train.py of SiT, DiT and DispLoss saves; REPA's adds "steps"."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=1e-4, weight_decay=0)
    parameter.sum().backward()
    optimizer.step()
    args = argparse.Namespace(model="SiT-S/2", cfg_scale=4.0, ckpt=None, betas=(0.9, 0.999), wandb=False)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    return {"model": zeros, "ema": weights, "opt": optimizer.state_dict(), "args": args, **more}


def prefixed(prefix):
    return lambda weights: {"model": {prefix + name: tensor for name, tensor in weights.items()}}


LAYOUTS = {  # as trainers leave them
    "train.py": by_train_py,
    "train.py of REPA": lambda weights: by_train_py(weights, steps=50_000),
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights},
    "compiled, then DDP": prefixed("module._orig_mod."),
    "DDP, then compiled": prefixed("_orig_mod.module."),
    "sharded twice": prefixed("module._fsdp_wrapped_module.module."),
    "a module that holds the network": prefixed("net.module."),
    "blocks compiled one by one": lambda weights: {
        name.replace("blocks.1.", "blocks.1._orig_mod."): tensor for name, tensor in weights.items()
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_torchs_loads_every_tensor(save, weights, layout):
    network = load_official(save("SiT.pt", LAYOUTS[layout](weights)))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert not network.training
    assert not network.pos_embed.requires_grad
    assert network.blocks[0].attn.qkv.weight.requires_grad


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_what_serves_training_alone_is_left_out_and_named(save, weights, wrapper):
    """REPA's projectors, and the count that torch's AveragedModel keeps."""
    more = {f"projectors.0.{n}.{kind}": torch.ones(2) for n in (0, 2, 4) for kind in ("weight", "bias")}
    ema = {wrapper + name: tensor for name, tensor in (weights | more).items()} | {"n_averaged": torch.tensor(7)}
    with pytest.warns(UserWarning, match=r"left out .* projectors\.0\.0\.weight.* projectors\.0\.4\.bias, n_averaged"):
        network = load_official(save("0050000.pt", by_train_py(weights) | {"ema": ema}))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_of_two_networks_in_one_state_dict_the_average_is_taken(save, weights):
    live = {f"model.{name}": torch.zeros_like(tensor) for name, tensor in weights.items()}
    average = {f"ema_model.{name}": tensor for name, tensor in weights.items()}
    with pytest.warns(UserWarning, match=r"left out .* model\."):
        network = load_official(save("epoch=79.ckpt", {"state_dict": live | average}))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("family", "channels"), [("SiT", 4), ("DiT", 8)])
def test_safetensors_in_half_precision_load_and_run(save, family, channels):
    half = {name: tensor.half() for name, tensor in random(SHAPES).items()}
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
        (lambda w: w | {"blocks.0.attn.proj.bias": torch.ones(65)}, r"blocks.0.attn.proj.bias: .*65.*64"),
        (lambda w: without(w, "x_embedder.proj.weight"), "no SiT or DiT: 'x_embedder.proj.weight'"),
        (lambda w: without(w, "blocks.3"), "3 blocks of width 64"),
        (lambda w: without(w, "blocks."), "no SiT or DiT"),
        (lambda w: {"opt": {}, "steps": torch.tensor(3)}, "no state dict.*ema, model"),
        (lambda w: {}, "no state dict"),
        (lambda w: w | {"blocks.2.mlp.fc1.bias": torch.full((256,), torch.nan)}, "NaN .*blocks.2.mlp.fc1.bias"),
        (lambda w: w | {"blocks.2.mlp.fc1.bias": torch.full((256,), torch.inf)}, "infinit.*blocks.2.mlp.fc1.bias"),
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
        with pytest.raises(WeightsError, match=r"is cut"):
            load_official(path)
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    harmful = save("args.pt", by_train_py(weights) | {"args": argparse.Namespace(f=Harmful())})
    other = save("other.pt", by_train_py(weights) | {"args": pathlib.PurePosixPath("a")})
    for path in (tmp_path / "bad.pt", harmful, other):
        with pytest.raises(WeightsError, match=r"neither a tensor nor an argparse.*save its weights") as error:
            load_official(path)
        assert "weights_only" not in str(error.value) and len(str(error.value)) < 500 and "\n" not in str(error.value)
    assert "must not run" not in capsys.readouterr().out


def test_an_unknown_family_is_refused(tmp_path, unchecked):
    with pytest.raises(ConfigError, match=r"family = 'UiT' .*SiT, DiT"):
        load_official(tmp_path / "x.pt", "UiT")
