"""What no network learnt is not drawn: guidance by an untrained null class, and samples that are not finite."""

import copy

import pytest
import torch
from small import randomised

from labkit import Config, ConfigError, build_model
from labkit.evaluation import EvaluationConfig, evaluate
from labkit.losses import MeanFlow
from labkit.objective import Objective
from labkit.sampling import SampleError, Sampler, film_network, sample_network
from labkit.widgets.live import LiveTraining

NEVER = Config(model="SiT-Nano/4", label_drop=0.0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model("SiT-Nano/4", 8, 1, 10).eval()


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_guidance_without_dropped_labels_is_refused(network, guidance):
    uses = [
        lambda: sample_network(network, NEVER, 2, steps=1, guidance=guidance),
        lambda: film_network(network, NEVER, 2, steps=1, guidance=guidance),
        lambda: evaluate(network, NEVER, EvaluationConfig(8, Sampler(steps=1, guidance=guidance))),
        lambda: EvaluationConfig(sampler=Sampler(guidance=guidance)).filled(NEVER),
    ]
    for use in uses:
        with pytest.raises(ConfigError, match=rf"^guidance = {guidance} .*label_drop = 0.*take 1"):
            use()


def test_so_are_no_label_and_a_guided_target(network):
    with pytest.raises(ConfigError, match=r"^y = \[3, 10\] .*10 \(none\) was never trained"):
        sample_network(network, NEVER, 2, y=[3, 10], steps=1)
    assert sample_network(network, NEVER, 2, y=[3, 9], steps=1).x.isfinite().all()
    meanflow = Config(model="MeanFlow-Nano/4", label_drop=0.0, meanflow=MeanFlow(guidance=2.0))
    with pytest.raises(ConfigError, match=r"^meanflow.guidance = 2.0 .*label_drop = 0.1"):
        Objective(build_model("MeanFlow-Nano/4", 8, 1, 10), meanflow)


@pytest.mark.parametrize("draw", [sample_network, film_network])
def test_samples_that_are_not_finite_are_refused(network, draw):
    network = randomised(copy.deepcopy(network), 1.0)  # so that labels matter
    with pytest.raises(SampleError, match=r"^Sample 0 is not finite: lower guidance = 1e\+38"):
        list(draw(network, Config(model="SiT-Nano/4"), 2, steps=2, guidance=1e38))
    network.final_layer.linear.bias.data.fill_(torch.nan)
    with pytest.raises(SampleError, match=r"^Sample 0 is not finite: has the run diverged\? Choose an earlier step"):
        list(draw(network, Config(model="SiT-Nano/4"), 2, steps=1))


def test_a_preview_that_overflows_ends_no_training(monkeypatch):
    def overflow(*_, **__):
        raise SampleError("Sample 0 is not finite.")

    monkeypatch.setattr("labkit.widgets.live.sample_network", overflow)
    live = LiveTraining(lambda state: {"one": Config(model="SiT-Nano/4", steps=2, batch_size=4)})
    live.wait()
    assert live.progress["one"].step == 2 and live.sheets == {}
