"""Each process's loss, derived once more sample by sample; and every process with every regularizer in miniature."""

import functools
import itertools
import math
from statistics import NormalDist
from typing import get_args

import numpy as np
import pytest
import torch
from every_loss import VARIANTS
from small import gradients, randomised
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from labkit import Trainer, build_model
from labkit.config import Config, Optimizer
from labkit.losses import Contrastive, Dispersive, MeanFlow, Repa, diffusion_errors
from labkit.models.sizes import Family
from labkit.paths import PATHS, Flow, PathName, Predicted
from labkit.process import DiffusionProcess, FlowProcess, MeanFlowProcess, process_of
from labkit.schedule import Schedule
from labkit.time_sampling import near, second
from labkit.types import Batch, Draws, Prediction

SIZE, NULL = 6, 10
LABELS = torch.tensor([3, 10, 0, 9, 10, 5])
WEIGHTED = [("velocity", "none"), *itertools.product(("noise", "score"), ("none", "velocity", "likelihood"))]
FLOWS = [Flow(path, *rest) for path, rest in itertools.product(get_args(PathName), WEIGHTED)]
MEANFLOWS = [
    MeanFlow(),
    MeanFlow(share=1.0, power=0.75, constant=1e-3),
    MeanFlow(share=0.5, power=0.0, guidance=2.5),
    MeanFlow(share=0.5, power=0.0, guidance=0.7, mixing=0.4, mean=-0.4, deviation=0.5),
    MeanFlow(share=0.5, power=0.0, guidance=0.2, mixing=0.92, guidance_interval=(0.25, 0.55)),
]


def name_of(settings):
    """A name for a parametrised test."""
    return "-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in vars(settings).values())


@pytest.fixture
def batch():
    return Batch(torch.rand(SIZE, 1, 8, 8, dtype=torch.float64) * 1.9 - 0.95, torch.arange(SIZE))


@pytest.fixture
def draws():
    uniforms, ends = torch.rand(SIZE, 2, dtype=torch.float64), torch.rand(SIZE, dtype=torch.float64)
    return Draws(torch.randn(SIZE, 1, 8, 8, dtype=torch.float64), uniforms, ends=ends)


@functools.cache
def network(family):
    """In float64. No test changes it."""
    torch.manual_seed(1)
    return randomised(build_model(f"{family}-Nano/4", 8, 1, NULL, learn_sigma=family == "DiT").double())


class Stub(nn.Module):
    """Stands in for a network: returns a function of (x, t, labels, span), and keeps the arguments of its calls."""

    num_classes = NULL

    def __init__(self, output):
        super().__init__()
        self.output, self.calls = output, []

    def forward(self, x, t, y, taps=(), span=None):
        self.calls.append((x, t, y, span))
        return Prediction(self.output(x, t, y, span), {})


def assert_same_training(base, loss, module):
    """One loss, one gradient for every weight."""
    torch.testing.assert_close(base.loss, loss, rtol=1e-9, atol=1e-12)
    ours, theirs = (gradients(value, module) for value in (base.loss, loss))
    assert sum(gradient.any() for gradient in ours.values()) > 20
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-6, atol=1e-9 * (1 + gradient.abs().max().item()))


# --- SiT


def flow(settings):
    return FlowProcess(Config(model="SiT-Nano/4", flow=settings))


@pytest.mark.parametrize("settings", FLOWS, ids=name_of)
def test_a_flow_regresses_what_it_says_it_does(settings, batch, draws):
    process, model = flow(settings), network("SiT")
    base = process.base(model, batch, draws, LABELS, (0, 2))
    losses = []
    for i in range(SIZE):
        t = process.interval[0] + (process.interval[1] - process.interval[0]) * draws.uniforms[i, 0].item()
        alpha, sigma, d_alpha, d_sigma = PATHS[settings.path].coefficients(torch.tensor(t, dtype=torch.float64))
        x1, x0 = batch.x[i : i + 1], draws.noise[i : i + 1]
        output = model(alpha * x1 + sigma * x0, torch.tensor([t]).double(), LABELS[i : i + 1]).output
        target, factor = {
            "velocity": (d_alpha * x1 + d_sigma * x0, 1.0),
            "noise": (x0, 1.0),
            "score": (-x0 / sigma, sigma),
        }[settings.prediction]
        error = (factor * (output - target)).square().mean()
        diffusion = sigma**2 * d_alpha / alpha - sigma * d_sigma
        weight = {"none": 1.0, "velocity": (diffusion / sigma) ** 2, "likelihood": diffusion / sigma**2}
        losses.append(weight[settings.weighting] * error)
        assert base.errors[i].item() == pytest.approx(error.item(), rel=1e-9)
        assert base.times[i].item() == pytest.approx(t, rel=1e-12)
    assert_same_training(base, torch.stack(losses).mean(), model)
    assert base.terms.keys() == {settings.prediction}
    torch.testing.assert_close(base.terms[settings.prediction], base.errors.mean())


@pytest.mark.parametrize("settings", FLOWS, ids=name_of)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_times_stay_where_nothing_is_infinite(settings, kind):
    """At the first and the last number that a uniform draw can give, loss and weight are finite."""
    process = flow(settings)
    u = torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24], dtype=kind)
    t = process.time(u)
    first, last = process.interval
    assert t.dtype == kind and (t.diff() >= 0).all()
    assert first - 1e-7 <= t[0] and t[-1] <= min(last + 1e-7, 1)
    assert (last - first) == pytest.approx(1, abs=3e-3)
    assert process.weight(t).isfinite().all() and (process.weight(t) > 0).all()
    assert torch.equal(process.model_time(t), t)


@pytest.mark.parametrize("path", get_args(PathName))
@pytest.mark.parametrize("prediction", get_args(Predicted))
def test_an_ideal_network_moves_along_the_path_and_clipped_to_data_within_bounds(path, prediction, draws):
    """Data beyond [−1, 1] are taken for their nearest, and the noise for what leads from there to the point."""
    x1 = 2 * torch.randn(SIZE, 1, 8, 8, dtype=torch.float64)
    t = torch.linspace(0.2, 0.9, SIZE, dtype=torch.float64)
    alpha, sigma, d_alpha, d_sigma = PATHS[path].coefficients(t.reshape(-1, 1, 1, 1))
    x_t, process = alpha * x1 + sigma * draws.noise, flow(Flow(path, prediction))
    free = d_alpha * x1 + d_sigma * draws.noise
    ideal = Stub(lambda *_: {"velocity": free, "noise": draws.noise, "score": -draws.noise / sigma}[prediction])
    torch.testing.assert_close(process.velocity(ideal)(x_t, t, LABELS), free, rtol=1e-4, atol=1e-4)
    bounded = x1.clamp(-1, 1)
    clipped = d_alpha * bounded + d_sigma * (x_t - alpha * bounded) / sigma
    torch.testing.assert_close(process.velocity(ideal, clip=True)(x_t, t, LABELS), clipped, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(free, clipped, rtol=0.1)


# --- DiT


def test_diffusion_counts_its_steps_from_noise():
    process, k = DiffusionProcess(), torch.arange(1000)
    middles = (k.double() + 0.5) / 1000
    assert torch.equal(process.step(middles), 999 - k)
    assert process.step(torch.tensor([0.0, 0.0005, 0.9995, 1 - 2**-24, 1.0])).tolist() == [999, 999, 0, 0, 0]
    times = process.model_time(middles.float())
    assert times.dtype == torch.float32
    assert times.tolist() == [*range(999, -1, -1)]
    u = torch.rand(9)
    assert torch.equal(process.time(u), u)


def test_diffusion_s_loss_is_error_plus_bound_at_the_step_of_each_sample(batch, draws):
    """By numpy's ᾱ; what error and bound are, the tests of the losses derive."""
    model = network("DiT")
    base = DiffusionProcess().base(model, batch, draws, LABELS, (1,))
    k = torch.tensor([999 - int(1000 * u) for u in draws.uniforms[:, 0].tolist()])
    alpha_bar = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[k].reshape(-1, 1, 1, 1)
    x_k = alpha_bar.sqrt() * batch.x + (1 - alpha_bar).sqrt() * draws.noise
    output = model(x_k, k.double(), LABELS).output
    errors, bound = diffusion_errors(output, draws.noise, batch.x, x_k, k, Schedule.linear())
    assert_same_training(base, errors.mean() + bound.mean(), model)
    assert list(base.terms) == ["noise", "bound"]
    torch.testing.assert_close(base.terms["bound"], bound.mean())
    torch.testing.assert_close(base.errors, errors)
    assert torch.equal(base.times, draws.uniforms[:, 0])


# --- MeanFlow


def meanflow(settings):
    return MeanFlowProcess(Config(model="MeanFlow-Nano/4", meanflow=settings, batch_size=SIZE))


def pair(settings, draws, i):
    """t ≤ s of a sample, by Python's own normal distribution."""

    def time(u):
        return 1 / (1 + math.exp(-(settings.mean + settings.deviation * NormalDist().inv_cdf(u))))

    return sorted([time(draws.uniforms[i, 0].item()), time(draws.ends[i].item())])


@pytest.mark.parametrize("settings", MEANFLOWS, ids=name_of)
def test_meanflow_regresses_its_own_identity(settings, batch, draws):
    """For each sample alone; the derivative by two backward passes."""
    model = network("MeanFlow")
    base = meanflow(settings).base(model, batch, draws, LABELS, (1, 3))
    losses, over = [], math.ceil(settings.share * SIZE)
    for i in range(SIZE):
        t, s = (torch.tensor([time], dtype=torch.float64) for time in pair(settings, draws, i))
        span = s - t if i < over else torch.zeros_like(t)
        x1, x0, y = batch.x[i : i + 1], draws.noise[i : i + 1], LABELS[i : i + 1]
        x_t, v = (1 - t) * x0 + t * x1, x1 - x0

        def u(x, t, span, y=y):
            return model(x, t, y, span=span).output

        if y != NULL and settings.guidance_interval[0] <= t <= settings.guidance_interval[1]:
            here = t, torch.zeros_like(t)
            omega, kappa = settings.guidance, settings.mixing
            v = omega * v + kappa * u(x_t, *here) + (1 - omega - kappa) * u(x_t, *here, torch.full_like(y, NULL))
        v = v.detach()
        with sdpa_kernel(SDPBackend.MATH):
            direction = v, torch.ones_like(t), -torch.ones_like(t)
            _, slope = torch.autograd.functional.jvp(u, (x_t, t, span), direction)
        error = (u(x_t, t, span) - (v + span * slope.detach())).square()
        squared = error.sum()
        losses.append(squared / (squared.detach() + settings.constant) ** settings.power)
        assert base.errors[i].item() == pytest.approx(error.mean().item(), rel=1e-7)
        assert base.times[i].item() == pytest.approx(t.item(), rel=1e-9)
    assert_same_training(base, torch.stack(losses).mean(), model)
    assert list(base.terms) == ["average_velocity", "meanflow"]
    torch.testing.assert_close(base.terms["average_velocity"], base.errors.mean())
    assert torch.equal(base.terms["meanflow"], base.loss)


@pytest.mark.parametrize(("share", "over"), [(0.01, 1), (0.25, 2), (0.5, 3), (0.51, 4), (1.0, 6)])
def test_the_first_rows_have_spans_and_the_rest_none(share, over, batch, draws):
    settings = MeanFlow(share=share)
    stub = Stub(lambda x, t, y, span: x * t[:, None, None, None])
    meanflow(settings).base(stub, batch, draws, LABELS, ())
    (_, t, y, span), (_, slope_t, slope_y, slope_span) = stub.calls  # once to train, once for the derivative
    pairs = torch.tensor([pair(settings, draws, i) for i in range(SIZE)]).double()
    torch.testing.assert_close(t, pairs[:, 0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((t + span)[:over], pairs[:over, 1], rtol=1e-6, atol=1e-6)
    assert (span[:over] > 0).all() and not span[over:].any()
    assert torch.equal(y, LABELS) and torch.equal(slope_y, LABELS[:over])
    assert len(slope_t) == len(slope_span) == over  # the derivative costs nothing where it is not needed


@pytest.mark.parametrize(
    ("settings", "calls"), [(MeanFlow(), 2), (MeanFlow(guidance=2.0), 3), (MeanFlow(guidance=2.0, mixing=0.3), 4)]
)
def test_guidance_takes_the_calls_that_it_needs_at_no_span_and_without_gradient(settings, calls, batch, draws):
    graphs = []
    stub = Stub(lambda x, *_: graphs.append(torch.is_grad_enabled()) or x)
    meanflow(settings).base(stub, batch, draws, LABELS, ())
    assert len(stub.calls) == calls
    assert graphs == [True] + [False] * (calls - 1)
    for _, _, y, span in stub.calls[1:-1]:
        assert span is None or not span.any()
        assert torch.equal(y, LABELS) or (y == NULL).all()


def test_at_one_time_the_average_velocity_is_the_velocity(batch):
    model, t = network("MeanFlow"), torch.rand(SIZE, dtype=torch.float64)
    field = model(batch.x, t, LABELS).output
    assert torch.equal(field, model(batch.x, t, LABELS, span=torch.zeros_like(t)).output)
    assert not torch.allclose(field, model(batch.x, t, LABELS, span=1 - t).output)


@pytest.mark.parametrize("family", ["SiT", "DiT"])
def test_who_predicts_at_one_time_takes_no_span(family, batch):
    t = torch.rand(SIZE, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^span is for MeanFlow models"):
        network(family)(batch.x, t, LABELS, span=1 - t)


# --- of all


@pytest.mark.parametrize(
    ("model", "process"),
    [("SiT-Nano/4", FlowProcess), ("DiT-Nano/4", DiffusionProcess), ("MeanFlow-Nano/4", MeanFlowProcess)],
)
def test_the_model_says_which_process_trains_it_and_its_features_are_returned(model, process, batch, draws):
    """Those of the points that it was trained on, with gradient: of the one forward, and of the tapped blocks."""
    config = Config(model=model, batch_size=SIZE)
    ours, net = process_of(config), network(config.family)
    assert type(ours) is process
    base = ours.base(net, batch, draws, LABELS, (1, 3))
    assert list(base.features) == [1, 3]
    x_t, over = ours.noised(batch.x, draws.noise, base.times), 2 if process is MeanFlowProcess else 0
    wanted = net.features(x_t, ours.model_time(base.times), LABELS, taps=(1, 3))
    for block, z in base.features.items():
        assert z.requires_grad
        torch.testing.assert_close(z[over:], wanted[block][over:], rtol=1e-7, atol=1e-9)
    if over:  # those over a span know of it
        ends = torch.tensor([pair(MeanFlow(), draws, i)[1] for i in range(SIZE)]).double()
        spanned = net(x_t, base.times, LABELS, taps=(1, 3), span=ends - base.times).features
        torch.testing.assert_close(base.features[3][:over], spanned[3][:over], rtol=1e-4, atol=1e-6)
        assert not torch.allclose(base.features[3][:over], wanted[3][:over], rtol=1e-2)


def test_a_second_view_has_a_time_of_the_process_or_one_near_the_first():
    t, u = torch.rand(2, 50)
    time = meanflow(MeanFlow()).time
    assert torch.equal(second(t, u, "independent", 0.1, time), time(u))
    assert torch.equal(second(t, u, "independent", 0.1), u)
    for own in (time, flow(Flow("vp", "score")).time):  # which a restricted one has no use for
        assert torch.equal(second(t, u, "restricted", 0.1, own), near(t, u, 0.1))


# --- the whole table in miniature

BASES = {
    "DiT": {"model": "DiT"},
    "MeanFlow": {"model": "MeanFlow"},
    **{
        f"SiT {path} {prediction}": {"model": "SiT", "flow": Flow(path, prediction)}
        for path, prediction in itertools.product(get_args(PathName), get_args(Predicted))
    },
}
REGULARIZED = {
    **{variant: {"dispersive": Dispersive(0.5, variant=variant)} for variant in VARIANTS},
    **{noise: {"contrastive": Contrastive(0.5, noise=noise)} for noise in ("independent", "restricted")},
    "repa": {"repa": Repa(0.5, hidden=16)},
}
HUB = "SiT linear velocity"
STAR = [  # each base with the plain loss, the default base with each regularizer, forward-mode derivatives with some
    *((base, "infonce_l2") for base in BASES),
    *((HUB, name) for name in REGULARIZED if name != "infonce_l2"),
    *(("MeanFlow", name) for name in ("covariance", "restricted", "repa")),
]
FIRST_TERM = {"DiT": "noise", "MeanFlow": "average_velocity"}


def config(base, patch=4, **changes):
    """A few images of few tokens: two steps take milliseconds."""
    settings = dict(BASES[base])
    settings["model"] = f"{settings['model']}-Nano/{patch}"
    settings |= dict(batch_size=8, steps=2, log_every=2, ema_decay=0.5, optimizer=Optimizer(lr=1e-3))
    return Config(**settings, **changes)


@pytest.mark.parametrize(("base", "regularized"), STAR)
def test_every_regularizer_trains_with_every_process(base, regularized):
    settings = config(base, 2 if regularized == "repa" else 4, **REGULARIZED[regularized])  # its teacher has 16 tokens
    trainer = Trainer(settings)
    start = trainer.network.final_layer.linear.weight.clone()
    reports = list(trainer)
    assert len(reports) == 2
    term = FIRST_TERM.get(settings.family, settings.flow.prediction)
    (name,) = settings.regularizers
    for report in reports:
        assert list(report.terms)[:2] == ["total", term] and name in report.terms
        assert all(math.isfinite(value) for value in report.values().values())
    assert math.isfinite(reports[-1].meters[f"{name}.gradient_ratio"])
    assert not torch.equal(trainer.network.final_layer.linear.weight, start)


def test_every_family_is_in_the_table():
    assert {values["model"] for values in BASES.values()} == set(get_args(Family))
