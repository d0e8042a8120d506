"""A network for other programs: read back under the released names, and computed by diffusers' own class."""

import pytest
import torch
from published import shapes
from safetensors.torch import load_file
from small import randomised

from labkit import ConfigError, Run, Trainer, build_model, load_official, recipes
from labkit.cli import main
from labkit.models import save_diffusers, save_official


def random_network(name, *dimensions):
    torch.manual_seed(1)
    return randomised(build_model(name, *dimensions, learn_sigma=name.startswith("DiT")).eval(), 0.05)


@pytest.mark.parametrize("name", ["SiT-Nano/2", "DiT-Nano/2"])
def test_a_file_has_the_released_names_and_shapes_and_loads(name, tmp_path):
    network = random_network(name, 32, 4, 1000)
    stored = load_file(save_official(network, tmp_path / "a" / "weights.safetensors"))
    expected = shapes(4, 64)
    if name.startswith("SiT"):  # as SiT's own class with learn_sigma=False
        expected |= {"final_layer.linear.weight": (16, 64), "final_layer.linear.bias": (16,)}
    assert {key: tuple(tensor.shape) for key, tensor in stored.items()} == expected
    again = load_official(tmp_path / "a" / "weights.safetensors", name[:3])
    x, t, y = torch.randn(2, 4, 32, 32), torch.tensor([0.25, 0.75]), torch.tensor([3, 1000])
    with torch.no_grad():
        assert torch.equal(again(x, t, y).output, network(x, t, y).output)


@pytest.mark.parametrize(
    ("name", "dimensions"), [("DiT-Nano/2", (8, 1, 10)), ("DiT-Nano/4", (32, 4, 1000)), ("DiT-Mini/8", (64, 4, 3))]
)
def test_diffusers_computes_the_same(name, dimensions, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    side, channels, classes = dimensions
    network = random_network(name, *dimensions)
    folder = save_diffusers(network, tmp_path / "dit")
    model = diffusers.DiTTransformer2DModel.from_pretrained(folder).double()
    x, t = torch.randn(5, channels, side, side, dtype=torch.float64), torch.tensor([0, 1, 250, 500, 999])
    y = torch.tensor([0, 1, 2, classes, 1])
    with torch.no_grad():
        ours, theirs = network.double()(x, t.double(), y).output, model(x, timestep=t, class_labels=y).sample
        assert torch.allclose(theirs[0], ours[0], rtol=0, atol=1e-12)  # at step 0 all frequencies are alike
        assert (theirs - ours)[1:].abs().amax() > 1e-3  # elsewhere those of time differ, as the folder says
        lines = (folder / "README.md").read_text(encoding="utf-8").split("\n\n    ")[2].split("    noise")[0]
        exec("\n".join(line.removeprefix("    ") for line in f"    {lines}".splitlines() if "from_" not in line))
        theirs = model(x, timestep=t, class_labels=y).sample
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)  # both take cos and sin of time in float32


def test_what_has_no_such_form_is_refused(tmp_path):
    meanflow, sit = random_network("MeanFlow-Nano/4", 8, 1, 10), random_network("SiT-Nano/4", 8, 1, 10)
    (tmp_path / "there").mkdir()
    for save, network, to, message in (
        (save_official, meanflow, "a.safetensors", "MeanFlow.*second time embedder"),
        (save_official, sit, "a.pt", r"out = .*\.safetensors"),
        (save_diffusers, sit, "dit", "DiT alone.*take official"),
        (save_diffusers, sit, "there", "exists already"),
    ):
        with pytest.raises(ConfigError, match=message):
            save(network, tmp_path / to)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_run_on_the_command_line(tmp_path, capsys):
    run = str(tmp_path / "run")
    for _ in Trainer(recipes.digits(model="DiT-Nano/4", steps=1, batch_size=4), run):
        pass
    file, folder = str(tmp_path / "w.safetensors"), str(tmp_path / "dit")
    assert main(["export", run, "--out", file]) == 0 and "labkit.load_official reads it" in capsys.readouterr().out
    assert main(["export", run, "--out", folder, "--format", "diffusers"]) == 0
    assert "README.md" in capsys.readouterr().out
    expected = Run.open(run).model().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_official(file, "DiT").state_dict().items())
