"""A tap on networks that know nothing of labkit: the right gradients, and every trap of a hook an error."""

import contextlib
import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from small import randomised
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from labkit.checks import ConfigError
from labkit.losses import dispersive_loss
from labkit.models import build_model
from labkit.models.taps import TapError, tap
from labkit.training.ema import Ema


def unet():
    blocks = dict(down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    widths = dict(layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8, attention_head_dim=8)
    return UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **widths, **blocks)


class Net(nn.Module):
    """Three parts, of which the middle one is tapped; ``run`` calls it, or with ``around`` it and all after it."""

    def __init__(self, run=lambda function, x: function(x)):
        super().__init__()
        self.before, self.after = nn.Linear(4, 8), nn.Linear(8, 2)
        self.middle = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.run, self.around = run, False

    def forward(self, x):
        if self.around:
            return self.run(lambda h: self.after(self.middle(h)).tanh(), self.before(x))
        return self.after(self.run(self.middle, self.before(x))).tanh()


class Returns(nn.Module):
    """A part whose output is whatever a test wants."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output(x)


@pytest.fixture
def x():
    return torch.randn(6, 4)


@pytest.fixture
def tapped_net():
    network = Net()
    return network, tap(network, "middle")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}


def dispersed(network, tapped, x, run=None):
    """Gradients of a loss with the Dispersive Loss in it."""
    loss = (run or network)(x).square().mean()
    return gradients(network, loss + 0.5 * dispersive_loss(tapped.features))


def refused(tapped, *words):
    with pytest.raises(TapError) as error:
        _ = tapped.features
    assert all(word in str(error.value) for word in words), error.value


# --- gradients


@pytest.mark.parametrize("blocks", [(1,), (0, 3)])
def test_gradients_equal_those_of_features_by_value(blocks):
    network = randomised(build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10)).double()
    inputs = torch.randn(5, 1, 8, 8).double(), torch.rand(5).double(), torch.randint(11, (5,))
    taps = {n: tap(network, f"blocks.{n}") for n in blocks}

    def total(prediction, features):
        return prediction.output.square().mean() + 0.5 * sum(dispersive_loss(features[n], tau=0.5) for n in blocks)

    by_value = network(*inputs, taps=blocks)
    expected = gradients(network, total(by_value, by_value.features))
    prediction = network(*inputs)
    assert same(gradients(network, total(prediction, {n: taps[n].features for n in blocks})), expected)
    assert not same(gradients(network, network(*inputs).output.square().mean()), expected)


def foreign_gradients(model, name, weight=0.5):
    """Gradients of one step of a reader's own loop, with the loss on a tapped part of a model of diffusers."""
    torch.manual_seed(0)
    data, noise = torch.randn(2, 8, 1, 8, 8)
    with tap(model, name) as tapped:
        loss = F.mse_loss(model(data + noise, torch.arange(8)).sample, data - noise)
        return gradients(model, loss + weight * dispersive_loss(tapped.features, tau=0.5))


@pytest.mark.parametrize("name", ["mid_block", "down_blocks.0"])  # of which the second returns a tuple
def test_the_loss_reaches_all_that_leads_to_the_tapped_part_and_nothing_after_it(name):
    model = unet()
    with_loss, without = foreign_gradients(model, name), foreign_gradients(model, name, weight=0)
    before = ("conv_in", "time_embedding", *(("down_blocks", "mid_block") if name == "mid_block" else (name,)))
    blind = {n for n in with_loss if n.endswith("to_k.bias")}  # softmax ignores it: its gradient is rounding
    moved = {n for n in with_loss if not torch.equal(with_loss[n], without[n])}
    assert moved - blind == {n for n in with_loss if n.startswith(before)} - blind
    assert 10 < len(moved) < len(with_loss) - 4


# --- outputs


@pytest.mark.parametrize(
    "output",
    [
        lambda h: h,
        lambda h: (h, h + 1),
        lambda h: {"mask": h > 0, "hidden": h},
        lambda h: (None, torch.ones(3, dtype=torch.int64), 5, ({"states": [h]}, h + 1)),
        lambda h: UNet2DOutput(sample=h),
    ],
)
def test_features_are_the_first_floating_point_tensor(output):
    part, h = Returns(output), torch.randn(3, 2)
    tapped = tap(part, "")
    part(h)
    assert tapped.features is h


def test_aliases_are_the_same_part_and_the_last_run_counts(x):
    network, outputs = Net(run=lambda part, h: part(part(h))), []
    network.alias = network.middle
    network.middle.register_forward_hook(lambda module, args, output: outputs.append(output))
    first, second = tap(network, "middle"), tap(network, "alias")
    network(x)
    assert first.features is second.features is outputs[1]


# --- removal and memory


def test_removal_leaves_no_hook_and_can_be_repeated(x):
    network = Net()
    before = network(x)
    first, second = tap(network, "middle"), tap(network, "middle")
    assert torch.equal(network(x), before)
    first.remove()
    first.remove()
    assert second.features.shape == (6, 8)
    with pytest.raises(KeyError), second:
        raise KeyError
    assert not any(module._forward_hooks for module in network.modules())
    for tapped in (first, second):
        refused(tapped, "'middle' is no longer tapped", "labkit.tap")


def test_a_tap_holds_only_the_latest_features_and_dies_with_its_model(tapped_net, x):
    network, tapped = tapped_net
    network(x)
    old = weakref.ref(tapped.features)
    gc.disable()  # what is in a reference cycle would stay
    try:
        network(x)
        assert old() is None
        latest = weakref.ref(tapped.features)
        tapped.remove()
        assert latest() is None
    finally:
        gc.enable()
    other = tap(network := Net(), "middle")
    network(x)
    remains = [weakref.ref(thing) for thing in (network, other, other.features)]
    del network, other
    gc.collect()
    assert [thing() for thing in remains] == [None, None, None]


# --- errors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("midle", r"^name = 'midle' .*Net has no such part.*'middle'"),
        ("list", r"^name = 'list' .*ModuleList never runs.*'list.0', 'list.1'"),
    ],
)
def test_a_name_that_cannot_be_tapped_is_refused_with_those_that_can(name, message):
    network = Net()
    network.list = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    with pytest.raises(ConfigError, match=message):
        tap(network, name)


def test_features_that_are_not_there_are_refused(x):
    network = Net(run=lambda part, h: h)  # skips the part
    tapped = tap(network, "middle")
    refused(tapped, "'middle' has not run", "call the model")
    network(x)
    refused(tapped, "'middle' has not run")
    part = Returns(lambda h: (h > 0, None, "text"))
    tapped = tap(part, "")
    part(x)
    refused(tapped, "The tapped module", "tuple", "tap a part inside it")


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode, None], ids=["no_grad", "inference", "frozen"])
def test_features_without_a_gradient_can_only_be_measured(off, tapped_net, x):
    network, tapped = tapped_net
    frozen = nn.ModuleList([network.before, network.middle]).requires_grad_(off is not None)
    with contextlib.nullcontext() if off is None else off():
        network(x)
    refused(tapped, "without a gradient", "train nothing", "frozen", "torch.no_grad()")
    with torch.no_grad():
        measured = tapped.features
    network.requires_grad_(False)  # a frozen model needs no gradient
    assert tapped.features is measured
    frozen.requires_grad_()
    network(x)
    assert tapped.features.requires_grad


def test_features_serve_one_backward_and_can_then_be_measured(tapped_net, x):
    network, tapped = tapped_net
    for _ in range(2):
        loss = network(x).square().mean() + dispersive_loss(tapped.features)
        loss.backward(retain_graph=True)  # autograd itself would not complain
        refused(tapped, "'middle' has not run since backward", "run the model again")
        with torch.no_grad():
            assert tapped.features.shape == (6, 8)


def test_backward_through_an_earlier_run_or_inside_the_loss_does_not_count(tapped_net, x):
    network, tapped = tapped_net
    earlier = network(x).sum()
    x.requires_grad_()
    output = network(x).sum()
    earlier.backward()
    (force,) = torch.autograd.grad(output, x, create_graph=True)
    loss = force.square().sum() + dispersive_loss(tapped.features)
    assert gradients(network, loss)["before.weight"].any()


def test_features_changed_in_place_are_refused(x):
    network = Net(run=lambda part, h: F.relu(part(h), inplace=True))
    tapped = tap(network, "middle")
    network(x)
    with torch.no_grad():
        refused(tapped, "changed in place", "inplace=True", "tap the part")


# --- copies


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, copy.copy, lambda network: pickle.loads(pickle.dumps(network)), lambda n: Ema(n, 0.9).network],
    ids=["deepcopy", "copy", "pickle", "Ema"],
)
def test_a_copy_of_the_model_is_not_tapped(duplicate, x):
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    tapped = tap(network, "")
    network(x)
    features = tapped.features
    duplicate(network)(x + 1)
    assert tapped.features is features


def test_a_copied_tap_is_refused_until_the_copy_is_tapped(x):
    network = Net()
    copied, copied_tap = copy.deepcopy((network, tap(network, "before")))
    copied.before(x)
    refused(copied_tap, "'before' is not tapped in this copy", "labkit.tap")
    copied_tap.remove()
    again = tap(copied, "before")
    assert copied.before(x) is again.features


# --- checkpoints and processes


def checkpointed(function, x):
    return checkpoint(function, x, use_reentrant=False)


class Inside(nn.Sequential):
    def forward(self, x):
        return checkpointed(super().forward, x)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("where", ["the part", "around", "inside", "the model"])
def test_gradients_through_a_checkpoint_are_the_same(where, early, tapped_net, x):
    network, tapped = tapped_net
    expected = dispersed(network, tapped, x)
    tapped.remove()
    if where == "inside":
        network.middle = Inside(*network.middle)
    elif where != "the model":
        network.run, network.around = checkpointed, where == "around"
    runs = []
    network.middle[2].register_forward_hook(lambda *_: runs.append(1))
    tapped = tap(network, "middle")
    with set_checkpoint_early_stop(early):
        output = checkpointed(network, x) if where == "the model" else network(x)
    features = tapped.features
    assert same(gradients(network, output.square().mean() + 0.5 * dispersive_loss(features)), expected)
    assert len(runs) == 2 or early  # it ran again in backward, with early stop only as far as needed
    with torch.no_grad():
        assert tapped.features is features


def test_gradients_through_a_reentrant_checkpoint_are_the_same_or_refused(tapped_net, x):
    network, tapped = tapped_net
    expected = dispersed(network, tapped, x)
    network.run = lambda function, x: checkpoint(function, x, use_reentrant=True)
    assert same(dispersed(network, tapped, x), expected)
    network.around = True
    network(x)
    refused(tapped, "without a gradient", "reentrant checkpoint")


def test_gradients_through_distributed_data_parallel_are_the_same(tapped_net, x):
    network, tapped = tapped_net
    expected = dispersed(network, tapped, x)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(network)
        assert same(dispersed(network, tap(parallel, "module.middle"), x, run=parallel), expected)
    finally:
        torch.distributed.destroy_process_group()
