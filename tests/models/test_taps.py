"""A tap on networks that know nothing of labkit: the right gradients, and every trap of a hook an error."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from labkit.checks import ConfigError
from labkit.datasets import digits
from labkit.losses import dispersive_loss
from labkit.metrics import mean_pairwise_distance
from labkit.models import build_model
from labkit.models.taps import TapError, tap
from labkit.training.ema import Ema


def unet():
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def dit():
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        in_channels=1,
        out_channels=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
    )


class Net(nn.Module):
    """Three parts, of which the middle one is tapped; ``run`` calls what a test wants to call in its own way."""

    def __init__(self, run=lambda function, x: function(x)):
        super().__init__()
        self.before, self.after = nn.Linear(4, 8), nn.Linear(8, 2)
        self.middle = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.run, self.around = run, False

    def forward(self, x):
        if self.around:
            return self.run(lambda h: self.after(self.middle(h)).tanh(), self.before(x))
        return self.after(self.run(self.middle, self.before(x))).tanh()


class Gives(nn.Module):
    """A part that gives out whatever a test wants."""

    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, x):
        return self.give(x)


@pytest.fixture
def x():
    return torch.randn(6, 4)


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}


def dispersed(network, tapped, x, run=None):
    """Gradients of a loss with the Dispersive Loss in it."""
    loss = (run or network)(x).square().mean()
    return gradients(network, loss + 0.5 * dispersive_loss(tapped.features))


# --- the gradients are right


@pytest.mark.parametrize("blocks", [(1,), (0, 2), (3,)])
def test_gradients_equal_those_of_features_by_value(blocks, open_gates):
    network = open_gates(build_model("SiT-Nano/2", input_size=8, in_channels=1, num_classes=10)).double()
    inputs = torch.randn(5, 1, 8, 8).double(), torch.rand(5).double(), torch.randint(11, (5,))
    taps = {n: tap(network, f"blocks.{n}") for n in blocks}

    def total(prediction, features):
        return prediction.output.square().mean() + 0.5 * sum(dispersive_loss(features[n], tau=0.5) for n in blocks)

    by_value = network(*inputs, taps=blocks)
    wanted = gradients(network, total(by_value, by_value.features))
    prediction = network(*inputs)
    found = gradients(network, total(prediction, {n: taps[n].features for n in blocks}))
    without = gradients(network, network(*inputs).output.square().mean())
    assert same(found, wanted)
    assert not same(found, without)


def train(model, name, lam=0.5, steps=1):
    """A reader's plain loop on real digits; None for ``lam`` is without the loss. Gradients, spread of features."""
    torch.manual_seed(0)
    data, optimizer = digits(), torch.optim.AdamW(model.parameters(), lr=2e-3)
    with tap(model, name) as tapped:
        for _ in range(steps):
            rows = torch.randint(len(data), (32,))
            noise, t = torch.randn(32, 1, 8, 8), torch.rand(32)
            x_t = torch.lerp(noise, data.x[rows], t[:, None, None, None])
            labels = {"class_labels": data.y[rows]} if hasattr(model, "transformer_blocks") else {}
            prediction = model(x_t, (t * 1000).long(), **labels).sample
            loss = F.mse_loss(prediction, data.x[rows] - noise)
            if lam is not None:
                loss = loss + lam * dispersive_loss(tapped.features, tau=0.5)
            found = gradients(model, loss)
            optimizer.step()
        with torch.no_grad():
            return found, mean_pairwise_distance(tapped.features)


FOREIGN = {  # what leads to the tapped part, that part included
    "mid_block": (unet, ("conv_in", "time_embedding", "down_blocks", "mid_block")),
    "mid_block.resnets.0": (unet, ("conv_in", "time_embedding", "down_blocks", "mid_block.resnets.0")),
    "down_blocks.0": (unet, ("conv_in", "time_embedding", "down_blocks.0")),
    "transformer_blocks.1": (dit, ("pos_embed", "transformer_blocks.0", "transformer_blocks.1")),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_loss_pulls_at_all_that_leads_to_the_tapped_part_and_at_nothing_after_it(name):
    pytest.importorskip("diffusers")
    build, before = FOREIGN[name]
    model = build()
    start = copy.deepcopy(model)
    (found, _), (without, _) = train(model, name), train(start, name, lam=None)
    blind = {n for n in found if n.endswith("to_k.bias")}  # a softmax does not see it: its gradient is rounding
    moved = {n for n in found if not torch.equal(found[n], without[n])}
    assert moved - blind == {n for n in found if n.startswith(before)} - blind
    assert 10 < len(moved) < len(found) - 4


@pytest.mark.parametrize("name", ["mid_block", "transformer_blocks.1"])
def test_training_with_it_spreads_the_features(name):
    pytest.importorskip("diffusers")
    model = FOREIGN[name][0]()
    start = copy.deepcopy(model)
    (_, spread), (_, without) = train(model, name, steps=12), train(start, name, lam=None, steps=12)
    assert spread > 1.2 * without


def test_down_blocks_that_return_a_tuple_give_their_hidden_states():
    pytest.importorskip("diffusers")
    model, seen = unet(), []
    model.down_blocks[0].register_forward_hook(lambda module, args, output: seen.append(output))
    tapped = tap(model, "down_blocks.0")
    model(torch.randn(3, 1, 8, 8), 7)
    assert isinstance(seen[0], tuple)
    assert tapped.features is seen[0][0]


# --- what a part may give out


def test_the_empty_name_is_the_module_itself_and_a_second_name_the_same_part(x):
    network = Net()
    network.alias = network.middle
    tapped, first, second = tap(network, ""), tap(network, "middle"), tap(network, "alias")
    output = network(x)
    assert tapped.features is output
    assert first.features is second.features


@pytest.mark.parametrize(
    "give",
    [
        lambda h: (h, h + 1),
        lambda h: [h],
        lambda h: {"mask": h > 0, "hidden": h},
        lambda h: (None, torch.ones(3, dtype=torch.int64), 5, ({"states": [h]}, h + 1)),
    ],
)
def test_the_first_floating_point_tensor_counts(give):
    part = Gives(give)
    tapped, h = tap(part, ""), torch.randn(3, 2)
    part(h)
    assert tapped.features is h


def test_outputs_of_diffusers_count_as_dictionaries():
    output = pytest.importorskip("diffusers.models.unets.unet_2d").UNet2DOutput
    part = Gives(lambda h: output(sample=h))
    tapped, h = tap(part, ""), torch.randn(3, 2)
    part(h)
    assert tapped.features is h


def test_of_several_runs_in_a_forward_the_last_counts(x):
    network = Net(run=lambda part, h: part(part(h)))
    tapped, seen = tap(network, "middle"), []
    network.middle.register_forward_hook(lambda module, args, output: seen.append(output))
    network(x)
    assert tapped.features is seen[1]


# --- removal


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
        with pytest.raises(TapError, match=r"^'middle' is no longer tapped; call labkit.tap again\.$"):
            _ = tapped.features


def test_a_tap_keeps_no_more_than_the_latest_features(x):
    network = Net()
    tapped = tap(network, "middle")
    network(x)
    old = weakref.ref(tapped.features)
    gc.disable()  # what is in a circle would stay
    try:
        network(x)
        assert old() is None
        latest = weakref.ref(tapped.features)
        tapped.remove()
        assert latest() is None
    finally:
        gc.enable()


def test_a_forgotten_tap_goes_with_its_model(x):
    network = Net()
    tapped = tap(network, "middle")
    network(x)
    rests = [weakref.ref(thing) for thing in (network, tapped, tapped.features)]
    del network, tapped
    gc.collect()
    assert [rest() for rest in rests] == [None, None, None]


# --- errors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("midle", r"^name = 'midle' cannot be used: Net has no such part; the closest are \['middle'"),
        ("middle.0.weight", r"Net has no such part; the closest are \['middle.0'"),
        ("list", r"^name = 'list' cannot be used: a ModuleList never runs; tap one .* \['list.0', 'list.1'\]\.$"),
    ],
)
def test_a_name_that_cannot_be_tapped_is_refused_with_those_that_can(name, message):
    network = Net()
    network.list = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    with pytest.raises(ConfigError, match=message):
        tap(network, name)


def test_features_before_any_forward_are_refused(x):
    network = Net(run=lambda part, h: h)  # passes the part by
    tapped = tap(network, "middle")
    for _ in range(2):
        with pytest.raises(TapError, match=r"^'middle' has not run since it was tapped; call the model"):
            _ = tapped.features
        network(x)


def test_an_output_without_a_floating_point_tensor_is_refused():
    part = Gives(lambda h: (h > 0, None, "text"))
    tapped = tap(part, "")
    part(torch.randn(3))
    message = r"^The tapped module gave out no floating-point tensor but a tuple; tap a part inside it\.$"
    with pytest.raises(TapError, match=message):
        _ = tapped.features


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_features_without_a_gradient_are_refused_where_they_would_train_nothing(off, x):
    network = Net()
    tapped = tap(network, "middle")
    with off():
        network(x)
        measured = tapped.features
    with pytest.raises(TapError, match=r"^'middle' gave out features without a gradient.*train nothing.*no_grad"):
        _ = tapped.features
    with torch.no_grad():
        assert tapped.features is measured
    network.requires_grad_(False)  # a model that does not train asks for no gradient
    assert tapped.features is measured


def test_so_are_those_of_a_frozen_part(x):
    network = Net()
    network.before.requires_grad_(False)
    network.middle.requires_grad_(False)
    tapped = tap(network, "middle")
    network(x)
    with pytest.raises(TapError, match=r"without a gradient.*is frozen or detached.*tap a part that is trained"):
        _ = tapped.features
    network.before.requires_grad_()
    network(x)
    assert tapped.features.requires_grad


@pytest.mark.parametrize("how", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_features_serve_one_backward_and_can_then_be_measured(how, x):
    network = Net()
    tapped, optimizer = tap(network, "middle"), torch.optim.AdamW(network.parameters(), **how)
    for _ in range(2):
        loss = network(x).square().mean() + dispersive_loss(tapped.features)
        loss.backward(retain_graph=True)  # autograd itself would not complain
        optimizer.step()
        with pytest.raises(TapError, match=r"^'middle' has not run since backward passed through.*run the model again"):
            _ = tapped.features
        with torch.no_grad():
            assert mean_pairwise_distance(tapped.features) > 0


def test_a_backward_through_an_earlier_run_does_not_count(x):
    network = Net()
    tapped = tap(network, "middle")
    earlier = network(x).sum()
    network(x)
    earlier.backward()
    assert tapped.features.requires_grad


def test_a_backward_inside_the_loss_does_not_count(x):
    network, x = Net(), x.requires_grad_()
    tapped = tap(network, "middle")
    (force,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    found = gradients(network, force.square().sum() + dispersive_loss(tapped.features))
    assert found["before.weight"].any()


def test_features_changed_in_place_are_refused(x):
    network = Net(run=lambda part, h: F.relu(part(h), inplace=True))
    tapped = tap(network, "middle")
    network(x)
    message = r"^'middle' gave out features that were changed in place later on; turn that off.*, or tap the part"
    with pytest.raises(TapError, match=message), torch.no_grad():
        _ = tapped.features


# --- copies


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, copy.copy, lambda network: pickle.loads(pickle.dumps(network)), lambda n: Ema(n, 0.9).network],
    ids=["deepcopy", "copy", "pickle", "Ema"],
)
def test_a_copy_is_not_heard(duplicate, x):
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    tapped = tap(network, "")
    network(x)
    features = tapped.features
    duplicate(network)(x + 1)
    assert tapped.features is features


def test_a_tap_that_is_copied_along_says_so(x):
    network = Net()
    tapped = tap(network, "before")
    network.before(x)
    copied, copied_tap = copy.deepcopy((network, tapped))
    copied.before(x)
    with pytest.raises(TapError, match=r"^'before' is not tapped in this copy; call labkit.tap on the copied model\.$"):
        _ = copied_tap.features
    copied_tap.remove()
    again = tap(copied, "before")
    output = copied.before(x)
    assert again.features is output


def test_copying_a_part_copies_no_more_than_the_part(x):
    network = Net(run=None)
    before, names = len(pickle.dumps(network.middle)), list(network.state_dict())
    _tapped = tap(network, "middle")
    assert len(pickle.dumps(network.middle)) < before + 200
    assert list(network.state_dict()) == names


# --- checkpoints, processes, compilation


def checkpointed(function, x):
    return checkpoint(function, x, use_reentrant=False)


class Inside(nn.Sequential):
    def forward(self, x):
        return checkpointed(super().forward, x)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("where", ["the part", "around", "inside", "the model"])
def test_gradients_through_a_checkpoint_are_the_same(where, early, x):
    network = Net()
    tapped = tap(network, "middle")
    wanted = dispersed(network, tapped, x)
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
    found = gradients(network, output.square().mean() + 0.5 * dispersive_loss(features))
    assert same(found, wanted)
    assert len(runs) == 2 or early  # ran again in backward, with early stop only as far as is needed
    with torch.no_grad():
        assert tapped.features is features


def test_gradients_through_a_reentrant_checkpoint_are_the_same_or_refused(x):
    network = Net()
    tapped = tap(network, "middle")
    wanted = dispersed(network, tapped, x)
    network.run = lambda function, x: checkpoint(function, x, use_reentrant=True)
    assert same(dispersed(network, tapped, x), wanted)
    network.around = True
    network(x)
    with pytest.raises(TapError, match=r"without a gradient.*reentrant checkpoint"):
        _ = tapped.features


def test_gradients_through_the_checkpoints_of_diffusers_are_the_same():
    pytest.importorskip("diffusers")
    model = unet()
    start = copy.deepcopy(model)
    model.enable_gradient_checkpointing()
    assert same(train(model, "mid_block")[0], train(start, "mid_block")[0])


def test_gradients_through_distributed_data_parallel_are_the_same(x):
    network = Net()
    wanted = dispersed(network, tap(network, "middle"), x)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(network)
        assert same(dispersed(network, tap(parallel, "module.middle"), x, run=parallel), wanted)
    finally:
        torch.distributed.destroy_process_group()
