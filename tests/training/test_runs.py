"""A run reopens: its weights, and samples that depend on nothing but their number, label, seed and settings."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import outcome, tiny, trained

import labkit
from labkit import ConfigError, Run, Trainer, build_model
from labkit.training import RunError, sample_network, starting_noise


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Checkpoints at steps 5 and 7."""
    return Run.open(trained(tiny(steps=7), tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture
def network(open_gates):
    """A network that all its inputs matter to, unlike one at the start of training."""
    torch.manual_seed(0)
    return open_gates(build_model("SiT-Nano/4", 8, 1, 10, learn_sigma=False)).eval()


def assert_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert torch.equal(a, b)


@pytest.mark.parametrize("weights", ["ema", "model"])
@pytest.mark.parametrize("step", [5, 7, None])
def test_model_is_what_the_file_holds(run, weights, step):
    held = load_file(run.checkpoints[step or 7])
    model = run.model(weights, step)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert_bits(tensor, held[f"{weights}.{name}"])
    assert model.final_layer.linear.weight.any()


def test_averaged_and_live_weights_differ_and_so_do_steps(run):
    models = [run.model(*which) for which in (("ema", 5), ("ema", 7), ("model", 5), ("model", 7))]
    assert len({model.final_layer.linear.weight.numpy().tobytes() for model in models}) == 4


def test_bad_requests_for_a_model(run, unchecked):
    with pytest.raises(ConfigError, match=r"step = 6 cannot be used: this run's steps are 0, 5, 7"):
        run.model(step=6)
    with pytest.raises(ConfigError, match=r"weights = 'best' cannot be used: choose 'ema'"):
        run.model("best")


def test_a_run_without_a_checkpoint(tmp_path):
    Trainer(tiny(), tmp_path)
    run = Run.open(tmp_path)
    assert run.checkpoints == {}
    for ask in (run.model, run.sample):
        with pytest.raises(RunError, match=re.escape(f"{tmp_path} has no checkpoint yet; train it")):
            ask()
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
        assert_bits(again.x, first.x)
        assert again.settings == first.settings
    assert first.x.shape == (6, 1, 8, 8)
    assert first.y.tolist() == [0, 1, 2, 3, 4, 5]
    assert_bits(first.x, sample_network(run.model("ema"), run.config, 6, steps=3).x)
    assert not torch.equal(first.x, sample_network(run.model("model"), run.config, 6, steps=3).x)
    first.x.requires_grad_()  # an ordinary tensor, free to compute with


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_sample_does_not_depend_on_its_company(network, guidance):
    """Up to rounding, since a matrix product of another height may round otherwise."""
    settings = dict(steps=3, guidance=guidance)
    alone = sample_network(network, tiny(), 12, **settings).x
    for other in (
        sample_network(network, tiny(), 12, batch_size=1, **settings).x,
        sample_network(network, tiny(), 12, batch_size=5, **settings).x,
        sample_network(network, tiny(), 30, **settings).x[:12],
    ):
        torch.testing.assert_close(other, alone, rtol=1e-4, atol=1e-4)
    few = sample_network(network, tiny(), 3, y=[7, 1, 10], **settings).x
    torch.testing.assert_close(few[1], alone[1], rtol=1e-4, atol=1e-4)
    assert (few[0] - alone[0]).abs().max() > 1e-2  # another label
    assert (few[2] - alone[2]).abs().max() > 1e-2


def test_noise_belongs_to_seed_and_number():
    images = labkit.datasets.digits("train")
    noise = starting_noise(images.shape, range(8), seed=0)
    assert noise.shape == (8, 1, 8, 8)
    assert_bits(starting_noise(images.shape, [5, 2], seed=0), noise[[5, 2]])
    assert not torch.isin(starting_noise(images.shape, range(8), seed=1), noise).any()
    assert len(noise.unique()) == noise.numel()


def test_sampling_neither_reads_nor_moves_the_global_random_state(network):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample_network(network, tiny(), 3, steps=2).x
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_bits(sample_network(network, tiny(), 3, steps=2).x, first)


def test_guidance_1_is_conditional_0_is_unconditional(network):
    def drawn(guidance, y):
        return sample_network(network, tiny(), 3, y=y, steps=2, guidance=guidance).x

    torch.testing.assert_close(drawn(0.0, [1, 2, 3]), drawn(1.0, [10, 10, 10]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn(1.0 + 1e-7, [1, 2, 3]), drawn(1.0, [1, 2, 3]), rtol=1e-4, atol=1e-4)
    assert (drawn(2.0, [1, 2, 3]) - drawn(1.0, [1, 2, 3])).abs().max() > 1e-2


@pytest.mark.parametrize(("method", "nfe"), [("heun", 14), ("euler", 7)])
def test_settings_stand_beside_the_samples(run, method, nfe):
    samples = run.sample(3, y=[4, 4, 10], steps=7, method=method, guidance=2, seed=5)
    assert samples.y.tolist() == [4, 4, 10]
    assert samples.settings == {
        "method": method,
        "steps": 7,
        "guidance": 2.0,
        "seed": 5,
        "count": 3,
        "nfe": nfe,
        "weights": "ema",
        "step": max(run.checkpoints),
    }
    assert samples.describe() == f"{method}, 7 steps ({nfe} evaluations), guidance 2, seed 5"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"n": 0}, "n = 0"),
        ({"n": -3}, "n = -3"),
        ({"y": [0, 11]}, "y = [0, 11]"),
        ({"y": [-1, 0]}, "y = [-1, 0]"),
        ({"y": [1, 2, 3]}, "give 2 labels between 0 and 10"),
        ({"y": []}, "y = []"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 2.5}, "steps = 2.5"),
        ({"method": "rk4"}, "choose one of meanflow, heun"),
        ({"guidance": -0.5}, "guidance = -0.5"),
        ({"guidance": float("nan")}, "guidance = nan"),
        ({"seed": -1}, "seed = -1"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_bad_requests_for_samples(run, unchecked, settings, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        run.sample(**{"n": 2, "steps": 1} | settings)


def test_a_run_is_found_by_text_or_path(run):
    assert Run.open(str(run.path)).config == Run.open(Path(run.path)).config == tiny(steps=7)
