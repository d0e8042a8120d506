"""A run reopens: its weights, and samples that depend on nothing but their number, label, seed and settings."""

import re

import pytest
import torch
from safetensors.torch import load_file
from tiny import outcome, tiny, trained

import labkit
from labkit import ConfigError, Run, Trainer
from labkit.training import RunError, sample_network


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Checkpoints at steps 5 and 7."""
    return Run.open(trained(tiny(steps=7), tmp_path_factory.mktemp("runs") / "run"))


@pytest.mark.parametrize("weights", ["ema", "model"])
@pytest.mark.parametrize("step", [5, 7, None])
def test_model_is_what_the_file_holds(run, weights, step):
    held = load_file(run.checkpoints[step or 7])
    model = run.model(weights, step)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, held[f"{weights}.{name}"])
    assert model.final_layer.linear.weight.any()


def test_a_run_without_a_checkpoint(tmp_path):
    Trainer(tiny(), tmp_path)
    run = Run.open(tmp_path)
    assert run.checkpoints == {}
    for method in (run.model, run.sample):
        with pytest.raises(RunError, match=re.escape(f"{tmp_path} has no checkpoint yet; train it")):
            method()
    with pytest.raises(ConfigError, match=r"this run's steps are 0\."):
        run.model(step=5)


def test_going_on_through_the_run(run, tmp_path):
    folder = trained(tiny(steps=3), tmp_path / "a")
    list(Run.open(folder).trainer(steps=6))
    assert Run.open(str(folder)).config == tiny(steps=6)
    assert outcome(folder) == outcome(trained(tiny(steps=6), tmp_path / "b"))
    with pytest.raises(RunError, match=re.escape("dispersive.lam: 0.5 → 0.1")):
        run.trainer(lam=0.1)


def test_samples_are_the_same_after_reopening(run):
    first = run.sample(6, steps=3)
    for again in (run.sample(6, steps=3), labkit.sample(run, 6, steps=3), labkit.sample(str(run.path), 6, steps=3)):
        assert torch.equal(again.x, first.x)
        assert again.settings == first.settings
    assert first.x.shape == (6, 1, 8, 8)
    assert first.y.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(first.x, sample_network(run.model("ema"), run.config, 6, steps=3).x)
    assert not torch.equal(first.x, sample_network(run.model("model"), run.config, 6, steps=3).x)
    first.x.requires_grad_()  # an ordinary tensor, free to compute with


def test_settings_stand_beside_the_samples(run):
    samples = run.sample(3, y=[4, 4, 10], steps=7, method="heun", guidance=2, seed=5)
    assert samples.y.tolist() == [4, 4, 10]
    given = {"method": "heun", "steps": 7, "guidance": 2.0, "seed": 5, "count": 3}
    assert samples.settings == given | {"nfe": 14, "weights": "ema", "step": max(run.checkpoints)}
    assert samples.describe() == "heun, 7 steps (14 evaluations), guidance 2, seed 5"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n = 0"),
        ({"y": [0, 11]}, "y = [0, 11]"),
        ({"y": [1, 2, 3]}, "give 2 labels between 0 and 10"),
        ({"y": []}, "y = []"),
        ({"y": [float("nan"), 0]}, "y = [nan, 0.0]"),
        ({"seed": -1}, "seed = -1"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_bad_requests_for_samples(run, unchecked, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        run.sample(**{"n": 2, "steps": 1} | settings)
