"""Images by every sampler: noise that belongs to each sample, films, counted evaluations."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from small import randomised
from tiny import tiny

from labkit import ConfigError, build_model
from labkit.paths import Flow
from labkit.sampling import METHODS, Sampler
from labkit.training import film_network, sample_network, starting_noise

NULL = 10
RANDOM = [  # the samplers that draw more than the first noise, or that go over several spans; and a plain one
    ("SiT", {"method": "euler_maruyama", "steps": 4}),
    ("SiT", {"method": "sde_heun", "steps": 4, "guidance": 2.0}),
    ("SiT", {"method": "euler_maruyama", "steps": 4, "diffusion": "constant", "strength": 0.5, "last": 0.1}),
    ("DiT", {"method": "ancestral", "steps": 4, "clip": True}),
    ("DiT", {"method": "ddim", "steps": 4, "eta": 1.0, "clip": True, "guidance": 2.0}),
    ("MeanFlow", {"method": "meanflow", "steps": 2}),
    ("MeanFlow", {"method": "sde_heun", "steps": 3}),
    ("SiT", {"method": "heun", "steps": 3, "guidance": 3.0}),
]
EVERY = [(family, method) for family in METHODS for method in METHODS[family]]
STEPS = 3
CALLS = {  # of the network, in so many steps
    "euler": STEPS,
    "heun": 2 * STEPS,
    "euler_maruyama": STEPS + 1,
    "sde_heun": 2 * STEPS + 1,
    "ancestral": STEPS,
    "ddim": STEPS,
    "meanflow": STEPS,
}


def network(family):
    """One whose inputs all matter to it, unlike one at the start of training."""
    torch.manual_seed(0)
    built = randomised(build_model(f"{family}-Nano/4", 8, 1, NULL, learn_sigma=family == "DiT")).eval()
    built.blocks = built.blocks[:1]
    return built


def config(family, **changes):
    return tiny(model=f"{family}-Nano/4", **changes)


def quick(method):
    """A few steps, or for dopri5, which chooses its own, large tolerances."""
    return {"rtol": 0.1, "atol": 0.1} if method == "dopri5" else {"steps": STEPS}


# --- whose noise it is


@pytest.mark.parametrize(("family", "settings"), RANDOM)
def test_a_sample_depends_on_seed_number_and_label_and_not_on_its_company(family, settings):
    """Up to rounding, since a matrix product of another height may round otherwise."""
    net = network(family)

    def drawn(n, **more):
        return sample_network(net, config(family), n, **settings | more).x

    torch.manual_seed(1)
    before = torch.get_rng_state()
    together = drawn(7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    for other in (drawn(7, batch_size=1), drawn(7, batch_size=3), drawn(12, batch_size=5)[:7]):
        torch.testing.assert_close(other, together, rtol=1e-4, atol=1e-4)
    few = drawn(3, y=[7, 1, NULL])
    torch.testing.assert_close(few[1], together[1], rtol=1e-4, atol=1e-4)
    others = [*zip(few[::2], together[:3:2], strict=True)]
    others += itertools.combinations([*drawn(3, y=[5] * 3), *drawn(3, y=[5] * 3, seed=1)], 2)
    assert all((a - b).abs().max() > 1e-2 for a, b in others)


@pytest.mark.parametrize(("family", "settings"), RANDOM[:5])
def test_the_noise_added_on_the_way_follows_from_the_seed_too(monkeypatch, family, settings):
    """From one starting noise every seed and number leads to another image; without fresh noise all lead to one."""
    net = network(family)
    start = starting_noise((1, 8, 8), [0, 0, 0], seed=0)
    monkeypatch.setattr("labkit.sampling.sample.starting_noise", lambda *_: start)

    def drawn(seed, **changes):
        return sample_network(net, config(family), 3, y=[5, 5, 5], seed=seed, **settings | changes).x

    for a, b in itertools.combinations([*drawn(0), *drawn(1)], 2):
        assert (a - b).abs().max() > 1e-2
    if settings["method"] != "ancestral":
        off = {"strength": 0.0} if family == "SiT" else {"eta": 0.0}
        assert torch.equal(drawn(0, **off), drawn(1, **off))


def test_starting_noise_belongs_to_seed_and_number():
    noise = starting_noise((1, 8, 8), range(8), seed=0)
    assert noise.shape == (8, 1, 8, 8)
    assert torch.equal(starting_noise((1, 8, 8), [5, 2], seed=0), noise[[5, 2]])
    assert not torch.isin(starting_noise((1, 8, 8), range(8), seed=1), noise).any()
    assert len(noise.unique()) == noise.numel()


# --- films


@pytest.mark.parametrize(("family", "method"), EVERY)
def test_a_film_leads_from_the_noise_to_the_samples(family, method):
    net, of_family = network(family), config(family)
    settings = dict(method=method, seed=3, y=[1, 10, 7], **quick(method))
    frames = list(film_network(net, of_family, 3, **settings))
    assert torch.equal(frames[0].x, starting_noise((1, 8, 8), range(3), seed=3))
    samples = sample_network(net, of_family, 3, **settings)
    torch.testing.assert_close(frames[-1].x, samples.x, rtol=0, atol=0)  # after all frames: none was overwritten
    assert (frames[-1].x != frames[0].x).any()
    # a stochastic equation takes its last step beside the others; dopri5 yields no state on its way
    count = {"dopri5": 2, "euler_maruyama": STEPS + 2, "sde_heun": STEPS + 2}.get(method, STEPS + 1)
    assert len(frames) == count
    times = [frame.t for frame in frames]
    assert times == sorted(set(times)) and (times[0], times[-1]) == (0, 1)


@pytest.mark.parametrize("family", METHODS)
def test_a_film_takes_no_gradients_but_its_reader_may(family):
    net, of_family = network(family), config(family)
    net.register_forward_hook(lambda *_: modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled())))
    modes = []
    for frame in film_network(net, of_family, 2, steps=STEPS):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        x = frame.x.requires_grad_()  # an ordinary tensor, free to compute with
        x.square().sum().backward()
        torch.testing.assert_close(x.grad, 2 * x.detach())
    assert modes and set(modes) == {(False, True)}
    assert torch.is_grad_enabled()
    film = film_network(net, of_family, 2, steps=STEPS)
    with torch.no_grad():  # its reader's own mode stays
        next(film)
        assert not torch.is_grad_enabled()
    next(film)
    film.close()  # stopped on the way
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_film_is_refused_at_once_and_not_at_its_first_frame():
    for n, settings, field in ((2, {"method": "ddim"}, "method"), (0, {}, "n")):
        with pytest.raises(ConfigError, match=rf"^{field} = "):
            film_network(network("SiT"), config("SiT"), n, **settings)


# --- counts and records


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("family", "method"), EVERY)
def test_the_evaluations_that_are_stated_are_the_calls_of_the_network(family, method, guidance):
    """Guidance takes one call of twice the samples."""
    net, calls = network(family), []
    net.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    settings = dict(method=method, guidance=guidance, **quick(method))
    samples = sample_network(net, config(family), 2, **settings)
    assert samples.settings["nfe"] == len(calls) == CALLS.get(method, len(calls)) > 0
    assert set(calls) == {2 if guidance == 1 else 4}
    assert Sampler(**settings).filled(family).evaluations == CALLS.get(method, 100)
    assert samples.settings["steps"] == quick(method).get("steps")
    evaluations = f"({len(calls)} evaluation{'' if len(calls) == 1 else 's'}), guidance {guidance:g}, seed 0"
    assert samples.describe() == f"{method}, {'' if method == 'dopri5' else f'{STEPS} steps '}{evaluations}"


@pytest.mark.parametrize(("family", "own"), [("SiT", {"method": "sde_heun"}), ("DiT", {}), ("MeanFlow", {})])
def test_the_record_leads_to_the_same_samples_again(family, own):
    """Every setting that it names can be handed in, and nothing that matters is missing."""
    net, of_family = network(family), config(family)
    samples = sample_network(net, of_family, 3, steps=STEPS, guidance=1.5, seed=4, **own)
    again = {name: value for name, value in samples.settings.items() if name not in ("count", "nfe")}
    assert torch.equal(sample_network(net, of_family, 3, **again).x, samples.x)
    assert samples.settings["count"] == 3


@pytest.mark.parametrize(("family", "method"), EVERY)
def test_the_bar_is_full_when_the_samples_are_there(monkeypatch, family, method):
    """It never counts beyond what it promised."""
    totals, updates = [], []
    bar = SimpleNamespace(update=lambda: updates.append(1))
    monkeypatch.setattr("labkit.sampling.sample.tqdm", lambda total, **_: totals.append(total) or nullcontext(bar))
    sample_network(network(family), config(family), 5, batch_size=2, method=method, progress=True, **quick(method))
    assert totals == [len(updates)]


@pytest.mark.parametrize("generate", [sample_network, film_network])
def test_an_unknown_setting_is_refused_with_the_names_of_all(generate):
    with pytest.raises(TypeError, match=r"^guidence: no setting of this name; a sampler's are method, steps, guidance"):
        generate(network("SiT"), config("SiT"), 2, guidence=2.0)
    for name in Sampler.__dataclass_fields__:
        with pytest.raises(TypeError, match=rf"^speed: .*\b{name}\b"):
            generate(network("SiT"), config("SiT"), 2, speed=1)


# --- the network's inputs


@pytest.mark.parametrize("method", ["meanflow", "euler"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_meanflow_jumps_over_the_span_that_is_left(method, guidance):
    """The network's inputs are t and the span s − t; with the samplers of flows there is no span."""
    net, calls = network("MeanFlow"), []
    net.register_forward_pre_hook(lambda _, args, more: calls.append((args[1], more.get("span"))), with_kwargs=True)
    sample_network(net, config("MeanFlow"), 2, method=method, steps=4, guidance=guidance)
    assert [t.unique().tolist() for t, _ in calls] == [[0], [0.25], [0.5], [0.75]]
    for t, span in calls:
        assert span is None if method == "euler" else span.unique().tolist() == [0.25] and span.shape == t.shape


@pytest.mark.parametrize(
    ("path", "prediction", "first", "last"),
    [
        ("linear", "velocity", 0, 1),
        ("linear", "noise", 1e-3, 1),
        ("gvp", "score", 1e-3, 1 - 1e-3),
        ("vp", "velocity", 0, 1 - 1e-3),
        ("vp", "noise", 0, 1 - 1e-3),
    ],
)
def test_a_flow_is_evaluated_only_where_it_was_trained(path, prediction, first, last):
    net, times = network("SiT"), []
    net.register_forward_pre_hook(lambda _, args: times.append(args[1].unique().item()))
    flow = config("SiT", flow=Flow(path, prediction))
    for method in METHODS["SiT"]:
        times.clear()
        sample_network(net, flow, 2, method=method, **quick(method))
        assert min(times) == pytest.approx(first, abs=1e-6)
        assert max(times) <= last + 1e-6
    times.clear()
    sample_network(net, flow, 2, method="heun", steps=STEPS)
    assert max(times) == pytest.approx(last, abs=1e-6)
