"""Images by every sampler: noise that is a sample's own, films, counted evaluations, and pairs in the stream."""

import itertools

import pytest
import torch
from scipy.stats import kstest
from tiny import tiny

from labkit import ConfigError, build_model
from labkit.datasets import Images
from labkit.paths import Flow
from labkit.runtime import Purpose, generator
from labkit.sampling import METHODS, Sampler, guided
from labkit.training import film_network, sample_network, starting_noise
from labkit.training.stream import Stream

NULL = 10
RANDOM = [  # those that a sample needs more than its first noise for, or that take it over several spans
    ("SiT", {"method": "euler_maruyama", "steps": 4}),
    ("SiT", {"method": "sde_heun", "steps": 4, "guidance": 2.0}),
    ("SiT", {"method": "euler_maruyama", "steps": 4, "diffusion": "constant", "strength": 0.5, "last": 0.1}),
    ("DiT", {"method": "ancestral", "steps": 4, "clip": True}),
    ("DiT", {"method": "ddim", "steps": 4, "eta": 1.0, "clip": True, "guidance": 2.0}),
    ("MeanFlow", {"method": "meanflow", "steps": 2}),
    ("MeanFlow", {"method": "sde_heun", "steps": 3}),
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


@pytest.fixture
def network(open_gates):
    """By family: a network that all its inputs matter to, unlike one at the start of training."""

    def of(family):
        torch.manual_seed(0)
        built = open_gates(build_model(f"{family}-Nano/4", 8, 1, NULL, learn_sigma=family == "DiT")).eval()
        built.blocks = built.blocks[:1]
        return built

    return of


def config(family, **changes):
    return tiny(model=f"{family}-Nano/4", **changes)


def quick(method):
    """A few steps, or for dopri5, which chooses its own, large tolerances."""
    return {"rtol": 0.1, "atol": 0.1} if method == "dopri5" else {"steps": STEPS}


# --- whose noise it is


@pytest.mark.parametrize(("family", "settings"), RANDOM)
def test_a_sample_does_not_depend_on_its_company_nor_does_what_is_added_on_the_way(network, family, settings):
    """Up to rounding, since a matrix product of another height may round otherwise."""
    net, known = network(family), config(family)
    together = sample_network(net, known, 7, **settings).x
    for other in (
        sample_network(net, known, 7, batch_size=1, **settings).x,
        sample_network(net, known, 7, batch_size=3, **settings).x,
        sample_network(net, known, 12, batch_size=5, **settings).x[:7],
        torch.cat([sample_network(net, known, 3, **settings).x, together[3:]]),
    ):
        torch.testing.assert_close(other, together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "settings"), RANDOM)
def test_seeds_and_numbers_give_different_samples_and_repeat_to_the_bit(network, family, settings):
    net, known = network(family), config(family)

    def drawn(seed):
        return sample_network(net, known, 4, y=[5, 5, 5, 5], seed=seed, **settings).x

    first, other = drawn(0), drawn(1)
    assert torch.equal(drawn(0), first)
    samples = [*first, *other]
    for a, b in itertools.combinations(samples, 2):
        assert (a - b).abs().max() > 1e-2


@pytest.mark.parametrize(("family", "settings"), RANDOM[:5])
def test_what_is_added_on_the_way_follows_from_the_seed_too(network, monkeypatch, family, settings):
    """From one starting noise every seed and number leads to another image; without fresh noise all lead to one."""
    net, known = network(family), config(family)
    start = starting_noise((1, 8, 8), [0, 0, 0], seed=0)
    monkeypatch.setattr("labkit.sampling.sample.starting_noise", lambda *_: start)

    def drawn(seed, **changes):
        return sample_network(net, known, 3, y=[5, 5, 5], seed=seed, **settings | changes).x

    for a, b in itertools.combinations([*drawn(0), *drawn(1)], 2):
        assert (a - b).abs().max() > 1e-2
    if family == "SiT":
        assert torch.equal(drawn(0, strength=0.0), drawn(1, strength=0.0))
    elif settings["method"] == "ddim":
        assert torch.equal(drawn(0, eta=0.0), drawn(1, eta=0.0))


@pytest.mark.parametrize(("family", "settings"), RANDOM)
def test_the_global_random_state_has_no_part_in_it(network, family, settings):
    net, known = network(family), config(family)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample_network(net, known, 2, **settings).x
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(sample_network(net, known, 2, **settings).x, first)


# --- films


@pytest.mark.parametrize(("family", "method"), EVERY)
def test_a_film_leads_from_the_noise_to_the_samples(network, family, method):
    net, known = network(family), config(family)
    settings = dict(method=method, seed=3, y=[1, 10, 7], **quick(method))
    frames = list(film_network(net, known, 3, **settings))
    assert torch.equal(frames[0].x, starting_noise((1, 8, 8), range(3), seed=3))
    samples = sample_network(net, known, 3, **settings)
    torch.testing.assert_close(frames[-1].x, samples.x, rtol=0, atol=0)
    assert (frames[-1].x != frames[0].x).any()
    # a stochastic equation takes its last step beside the others; dopri5 tells of no step on its way
    count = {"dopri5": 2, "euler_maruyama": STEPS + 2, "sde_heun": STEPS + 2}.get(method, STEPS + 1)
    assert len(frames) == count
    times = [frame.t for frame in frames]
    assert times == sorted(set(times)) and (times[0], times[-1]) == (0, 1)


def test_frames_are_not_overwritten_by_later_ones(network):
    for family, settings in RANDOM:
        film = film_network(network(family), config(family), 2, **settings)
        kept, copies = zip(*((frame.x, frame.x.clone()) for frame in film), strict=True)
        assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("family", METHODS)
def test_a_film_takes_no_gradients_but_leaves_them_to_who_watches_it(network, family):
    net, known = network(family), config(family)
    net.register_forward_hook(lambda *_: modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled())))
    modes = []
    for frame in film_network(net, known, 2, steps=STEPS):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        x = frame.x.requires_grad_()  # an ordinary tensor, free to compute with
        x.square().sum().backward()
        torch.testing.assert_close(x.grad, 2 * x.detach())
    assert modes and set(modes) == {(False, True)}
    assert torch.is_grad_enabled()
    film = film_network(net, known, 2, steps=STEPS)
    with torch.no_grad():  # nor does it switch on what its reader has switched off
        next(film)
        assert not torch.is_grad_enabled()
    next(film)
    film.close()  # stopped on the way
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_film_is_refused_when_it_is_asked_for_and_not_at_its_first_frame(network):
    with pytest.raises(ConfigError, match=r"^method = 'ddim'"):
        film_network(network("SiT"), config("SiT"), 2, method="ddim")
    with pytest.raises(ConfigError, match=r"^n = 0"):
        film_network(network("SiT"), config("SiT"), 0)


# --- what is counted and told


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("family", "method"), EVERY)
def test_the_evaluations_that_are_stated_are_the_calls_of_the_network(network, family, method, guidance):
    """Guidance asks both questions in one call, of twice the samples."""
    net, calls = network(family), []
    net.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    settings = dict(method=method, guidance=guidance, **quick(method))
    samples = sample_network(net, config(family), 2, **settings)
    assert samples.settings["nfe"] == len(calls) == CALLS.get(method, len(calls)) > 0
    assert set(calls) == {2 if guidance == 1 else 4}
    assert samples.settings["steps"] == quick(method).get("steps")
    evaluations = f"({len(calls)} evaluation{'' if len(calls) == 1 else 's'}), guidance {guidance:g}, seed 0"
    assert samples.describe() == f"{method}, {'' if method == 'dopri5' else f'{STEPS} steps '}{evaluations}"


def test_evaluations_are_those_of_one_batch_however_many_there_are(network):
    net = network("MeanFlow")
    for batch_size in (1, 2, 5):
        assert sample_network(net, config("MeanFlow"), 5, batch_size=batch_size).settings["nfe"] == 1
    assert (
        sample_network(net, config("MeanFlow"), 5).describe() == "meanflow, 1 step (1 evaluation), guidance 1, seed 0"
    )


@pytest.mark.parametrize(("family", "own"), [("SiT", {"method": "sde_heun"}), ("DiT", {}), ("MeanFlow", {})])
def test_the_record_leads_to_the_same_samples_again(network, family, own):
    """Every setting that it names can be handed in, and nothing that matters is missing."""
    net, known = network(family), config(family)
    samples = sample_network(net, known, 3, steps=STEPS, guidance=1.5, seed=4, **own)
    again = {name: value for name, value in samples.settings.items() if name not in ("count", "nfe")}
    assert torch.equal(sample_network(net, known, 3, **again).x, samples.x)
    assert samples.settings["count"] == 3


@pytest.mark.parametrize(("family", "method"), EVERY)
def test_the_bar_is_full_when_the_samples_are_there(network, monkeypatch, family, method):
    """It never counts beyond what it promised."""
    bars = []

    class Bar:
        def __init__(self, total, **_):
            self.total, self.n = total, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self):
            self.n += 1

    monkeypatch.setattr("labkit.sampling.sample.tqdm", Bar)
    sample_network(network(family), config(family), 5, batch_size=2, method=method, progress=True, **quick(method))
    assert bars[0].n == bars[0].total


@pytest.mark.parametrize(
    ("family", "settings", "told"),
    [
        ("SiT", {"method": "euler_maruyama", "last": 0.0}, "last = 0.0"),
        ("SiT", {"method": "dopri5", "rtol": 0.0}, "rtol = 0.0"),
        ("SiT", {"clip": True}, "clip = True"),
        ("DiT", {"eta": 1.5}, "eta = 1.5"),
        ("DiT", {"steps": 1}, "steps = 1"),
        ("DiT", {"steps": 1001}, "steps = 1001"),
        ("DiT", {"method": "meanflow"}, "method = 'meanflow'"),
        ("MeanFlow", {"method": "ancestral"}, "method = 'ancestral'"),
        ("MeanFlow", {"eta": 0.5}, "eta = 0.5"),
    ],
)
def test_what_the_sampler_cannot_do_is_refused_by_name(network, family, settings, told):
    with pytest.raises(ConfigError, match=rf"^{told} cannot be used"):
        sample_network(network(family), config(family), 2, **settings)


@pytest.mark.parametrize("ask", [sample_network, film_network])
def test_a_setting_of_unknown_name_is_told(network, ask):
    with pytest.raises(TypeError, match=r"^guidence: no setting of this name; a sampler's are method, steps, guidance"):
        ask(network("SiT"), config("SiT"), 2, guidence=2.0)
    for name in Sampler.__dataclass_fields__:
        with pytest.raises(TypeError, match=rf"^speed: .*\b{name}\b"):
            ask(network("SiT"), config("SiT"), 2, speed=1)


# --- what the network is asked


@pytest.mark.parametrize("channels", ["all", "first_three"])
def test_guidance_leaves_the_variance_to_the_labels(network, channels):
    """Of DiT's two halves only the noise is guided, however few channels it has."""
    net, labels = network("DiT"), torch.tensor([3, 1, 4])
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([10.0, 500.0, 999.0])
    with torch.no_grad():
        field = guided(lambda x, t, y: net(x, t, y).output, labels, NULL, 3.0, channels)
        with_label, without = (net(x, t, y).output for y in (labels, torch.full_like(labels, NULL)))
        found = field(x, t)
    assert found.shape == (3, 2, 8, 8)
    torch.testing.assert_close(found[:, 1:], with_label[:, 1:], rtol=1e-5, atol=1e-5)
    noise = without[:, :1] + 3 * (with_label - without)[:, :1]
    torch.testing.assert_close(found[:, :1], noise, rtol=1e-4, atol=1e-5)
    assert (with_label - without).abs().mean() > 1e-3


@pytest.mark.parametrize("family", METHODS)
def test_guidance_1_is_conditional_and_0_unconditional_in_every_family(network, family):
    net, known = network(family), config(family)

    def drawn(guidance, y):
        return sample_network(net, known, 3, y=y, guidance=guidance, steps=2).x

    # DiT's variance has no part in ddim, so that here guidance can reach everything
    torch.testing.assert_close(drawn(0.0, [1, 2, 3]), drawn(1.0, [NULL] * 3), rtol=1e-3, atol=1e-3)
    assert (drawn(2.0, [1, 2, 3]) - drawn(1.0, [1, 2, 3])).abs().max() > 1e-2


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_meanflow_jumps_over_the_span_that_is_left(network, guidance):
    """What the network is asked: at t, over s − t; the flow's samplers ask it at one time."""
    net, asked = network("MeanFlow"), []
    net.register_forward_pre_hook(lambda _, args, more: asked.append((args[1], more.get("span"))), with_kwargs=True)
    sample_network(net, config("MeanFlow"), 2, steps=4, guidance=guidance)
    assert [t.unique().tolist() for t, _ in asked] == [[0], [0.25], [0.5], [0.75]]
    assert all(span.unique().tolist() == [0.25] and span.shape == t.shape for t, span in asked)
    asked.clear()
    sample_network(net, config("MeanFlow"), 2, method="euler", steps=4, guidance=guidance)
    assert [t.unique().tolist() for t, _ in asked] == [[0], [0.25], [0.5], [0.75]]
    assert all(span is None for _, span in asked)


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
def test_a_flow_is_asked_only_where_it_was_trained(network, path, prediction, first, last):
    net, asked = network("SiT"), []
    net.register_forward_pre_hook(lambda _, args: asked.append(args[1].unique().item()))
    known = config("SiT", flow=Flow(path, prediction))
    for method in METHODS["SiT"]:
        asked.clear()
        sample_network(net, known, 2, method=method, **quick(method))
        assert min(asked) == pytest.approx(first, abs=1e-6)
        assert max(asked) <= last + 1e-6
    asked.clear()
    sample_network(net, known, 2, method="heun", steps=STEPS)
    assert max(asked) == pytest.approx(last, abs=1e-6)


# --- pairs of times in the stream

CPU = torch.device("cpu")


def stream(seed=0, **more):
    number = torch.arange(10)
    images = Images(number.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), number, 10)
    return Stream(images, 4, seed, CPU, **more)


@pytest.mark.parametrize("two_views", [False, True])
@pytest.mark.parametrize("position", [0, 8, 9, 400])
def test_pairs_leave_all_other_draws_as_they_were(two_views, position):
    (x, y, _), plain = stream(two_views=two_views).at(position)
    (other_x, other_y, _), paired = stream(two_views=two_views, pairs=True).at(position)
    assert plain.ends is None and paired.ends.shape == (4,)
    assert torch.equal(x, other_x) and torch.equal(y, other_y)
    for name in ("noise", "uniforms", "step"):
        assert torch.equal(getattr(plain, name), getattr(paired, name)), name
    assert (plain.second is None) == (paired.second is None) == (not two_views)
    if two_views:
        assert all(torch.equal(a, b) for a, b in zip(plain.second, paired.second, strict=True))


def test_the_later_times_are_uniform_numbers_of_their_own():
    places = [(seed, position) for seed in (0, 1) for position in range(0, 4000, 4)]
    draws = [stream(seed, pairs=True, two_views=True).at(position)[1] for seed, position in places]
    ends = torch.cat([d.ends for d in draws])
    assert ends.min() >= 0 and ends.max() < 1
    assert kstest(ends.numpy(), "uniform").pvalue > 1e-3
    for other in (
        [d.uniforms[:, 0] for d in draws],
        [d.uniforms[:, 1] for d in draws],
        [d.second.uniforms for d in draws],
    ):
        assert abs(torch.corrcoef(torch.stack([ends, torch.cat(other)]))[0, 1]) < 5 / len(ends) ** 0.5
    few = [
        set(d.ends.tolist()) | set(d.uniforms.flatten().tolist()) | set(d.second.uniforms.tolist()) for d in draws[::50]
    ]
    assert sum(len(numbers) for numbers in few) == len(set.union(*few)) == 16 * len(few)


def test_no_other_purpose_draws_the_numbers_of_pairs():
    """Noise is made of uniform numbers, which a generator of the same key would give again."""
    ends = stream(pairs=True).at(8)[1].ends
    same = [purpose for purpose in Purpose if torch.equal(torch.rand(4, generator=generator(0, purpose, 8)), ends)]
    assert same == [Purpose.PAIRS]


def test_the_later_times_follow_from_seed_and_position_alone():
    walked = stream(pairs=True)
    for position in (8, 0, 8, 36):
        assert torch.equal(walked.at(position)[1].ends, stream(pairs=True).at(position)[1].ends)
