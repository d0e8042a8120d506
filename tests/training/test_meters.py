"""Meters: the conflict of gradients, the loss by time, geometry; and training does not depend on them."""

import copy

import numpy as np
import pytest
import torch
from small import gradients, randomised
from tiny import assert_same, everything, finished, tiny, trained

from labkit import Run, Trainer, dispersive_loss
from labkit.config import Config
from labkit.losses import Contrastive
from labkit.metrics import geometry
from labkit.objective import Objective

GEOMETRY = ("dispersive", "feature_norm", "mean_pairwise_distance", "effective_rank", "uniformity", "anisotropy")
PARTS = [f"velocity.t{part}" for part in range(5)]


def in_float64(trainer: Trainer) -> tuple:
    """The step that comes next: objective, batch and draws, as they are before it."""
    module = copy.deepcopy(trainer.objective.module).double()
    batch, draws = trainer.stream.at(trainer.samples)
    second = draws.second and draws.second._replace(
        noise=draws.second.noise.double(), uniforms=draws.second.uniforms.double()
    )
    draws = draws._replace(noise=draws.noise.double(), uniforms=draws.uniforms.double(), second=second)
    return module, batch._replace(x=batch.x.double()), draws


def test_conflicts_are_those_of_two_separate_gradients():
    """One backward of the base loss alone and one of each regularizer alone, in float64, on what both reach."""
    trainer = Trainer(everything(steps=3))
    randomised(trainer.network)
    for _ in range(3):
        module, batch, draws = in_float64(trainer)
        base = gradients(Objective(module.network, Config(batch_size=8))(batch, draws).total, module.network)
        meters = next(iter(trainer)).meters
        weighted = module(batch, draws).weighted
        assert list(weighted) == ["dispersive", "contrastive", "repa"]
        for name, loss in weighted.items():
            own = gradients(loss, module.network)
            reached = [weight for weight, gradient in own.items() if gradient.any()]
            assert 0 < len(reached) < len(base)  # the last layer is out of a regularizer's reach
            b, g = (torch.cat([side[weight].flatten() for weight in reached]).numpy() for side in (base, own))
            ratio = np.linalg.norm(g) / np.linalg.norm(b)
            assert 1e-3 < ratio < 1e3
            assert meters[f"{name}.gradient_cosine"] == pytest.approx(b @ g / (b @ b * (g @ g)) ** 0.5, abs=1e-4)
            assert meters[f"{name}.gradient_ratio"] == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize("config", [tiny(), everything()], ids=["one", "three"])
def test_behind_closed_gates_there_is_no_conflict(config):
    """At step 1 the base loss moves the last layer only: what a subtraction leaves of its gradient is rounding."""
    trainer = Trainer(config)
    first, second = (next(iter(trainer)).meters for _ in range(2))
    assert not [name for name in first if "gradient" in name]
    assert [name for name in second if "gradient" in name]


def test_a_gradient_of_zero_has_no_direction():
    trainer = Trainer(tiny(lam=0.0))
    randomised(trainer.network)
    meters = next(iter(trainer)).meters
    assert meters["dispersive.gradient_ratio"] == 0 and "dispersive.gradient_cosine" not in meters


def test_the_loss_by_time_is_that_of_the_samples_there():
    trainer = Trainer(tiny(steps=6, lam=None))
    missing = 0
    for _ in range(6):
        module, batch, draws = in_float64(trainer)
        losses = module(batch, draws)
        times, errors = losses.times.numpy(), losses.errors.numpy()
        meters = next(iter(trainer)).meters
        for n, name in enumerate(PARTS):
            inside = (times >= n / 5) & (times < (n + 1) / 5)
            assert (name in meters) == inside.any()
            if inside.any():
                assert meters[name] == pytest.approx(errors[inside].mean(), rel=1e-4)
            missing += not inside.any()
        shares = [((times >= n / 5) & (times < (n + 1) / 5)).mean() for n in range(5)]
        mean = sum(share * meters.get(name, 0) for share, name in zip(shares, PARTS, strict=True))
        assert mean == pytest.approx(errors.mean(), rel=1e-4)
    assert missing  # eight samples do not fill every part


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"lam": None, "blocks": (0, 2)}, {}),
        ({"variant": "hinge", "margin": 2.0, "blocks": (0, 2)}, {"variant": "hinge", "margin": 2.0}),
        ({"lam": None, "contrastive": Contrastive(0.5, tau=0.1, blocks=(0, 2))}, {"tau": 0.1}),
    ],
    ids=["off", "dispersive", "contrastive"],
)
def test_dispersion_and_geometry_of_each_block(changes, settings):
    trainer = Trainer(tiny(**changes))
    list(zip(range(3), trainer, strict=False))
    module, batch, draws = in_float64(trainer)
    features = module(batch, draws).features
    meters = next(iter(trainer)).meters
    assert list(features) == [0, 2]
    for block, z in features.items():
        expected = geometry(z) | {"dispersive": dispersive_loss(z, **settings).item()}
        for name, value in expected.items():
            assert meters[f"block{block}.{name}"] == pytest.approx(value, rel=1e-3), name


def test_all_names_of_the_table(tmp_path):
    regularizers = ("dispersive", "contrastive", "repa")
    plain = {"total", "velocity", *PARTS, *(f"block1.{meter}" for meter in GEOMETRY)}
    more = {"alignment", *regularizers, *(f"block{n}.{meter}" for n in (0, 2, 3) for meter in GEOMETRY)}
    more |= {f"{name}.gradient_{what}" for name in regularizers for what in ("cosine", "ratio")}
    for config, names in ((tiny(steps=4, lam=None), plain), (everything(steps=4), plain | more)):
        folder = trained(config, tmp_path / str(len(names)))
        assert set(Run.open(folder).metrics().name) == names


def test_meters_do_not_change_training():
    """Logged at every step or only at the last: the same bits, moments and projector included."""
    assert_same(finished(everything(steps=6, log_every=1)), finished(everything(steps=6, log_every=1000)))
