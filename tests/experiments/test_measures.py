"""The judge of sweeps: each measure against an oracle of its own, and what it leaves out where it makes no sense."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from labkit import Run, Trainer, datasets, recipes, sample
from labkit.checks import ConfigError
from labkit.evaluation import EvaluationConfig, evaluate, memorisation
from labkit.experiments.measures import Measures
from labkit.metrics import DigitsClassifier, frechet_distance, geometry
from labkit.ops import to_bytes, to_floats
from labkit.sampling import Sampler
from labkit.training import Look, extract_features
from labkit.training.stream import Stream

TINY = recipes.digits(model="SiT-Nano/4", steps=6, batch_size=16, save_every=3, log_every=3, keep_last=2, seed=3)
FEW = Measures(count=40, samplers=(Sampler("euler", 2), Sampler("heun", 3, 2.0)))


def trained(folder, **changes):
    for _ in Trainer(TINY.replace(**changes), folder):
        pass
    return Run.open(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("measures") / "run")


@pytest.fixture(scope="module")
def rows(run):
    return FEW(run, list(run.checkpoints))


def value(rows, measure, **where):
    (matching,) = [r["value"] for r in rows if r["measure"] == measure and where.items() <= r.items()]
    return matching


def test_each_checkpoint_and_sampler_has_rows_and_the_rest_is_measured_once(rows):
    ways = "euler with 2 steps, guidance 1", "heun with 3 steps, guidance 2"
    for step in (3, 6):
        own = [row for row in rows if row["step"] == step]
        by_sampler = {row["measure"] for row in own if row.get("sampler") == ways[0]}
        assert by_sampler == {row["measure"] for row in own if row.get("sampler") == ways[1]}
        assert by_sampler == {
            "agreement",
            "frechet",
            "frechet_pixels",
            "kernel_distance",
            "precision",
            "recall",
            "memorisation",
            "likelihood_divergence",
        }
        assert {row["block"] for row in own if "block" in row} == {0, 1, 2, 3}
        assert value(own, "loss_gap") == value(own, "loss_held_out") - value(own, "loss_train")
    assert all(np.isfinite(row["value"]) for row in rows)


def test_steps_choose_among_the_checkpoints(run, rows):
    assert Measures(40, FEW.samplers, steps=(6, 9))(run, [3, 6]) == [row for row in rows if row["step"] == 6]


def test_samples_are_those_of_the_run_with_its_own_seed(run, rows):
    samples = sample(run, 40, seed=TINY.seed, method="euler", steps=2)
    saved, train, held_out = map(to_bytes, (samples.x, *(datasets.digits(split).x for split in ("train", "held_out"))))
    way = dict(step=6, sampler="euler with 2 steps, guidance 1")
    assert value(rows, "memorisation", **way) == memorisation(saved, train, held_out)
    features = [DigitsClassifier.load().features(to_floats(x)) for x in (saved, held_out)]
    assert value(rows, "frechet", **way) == pytest.approx(frechet_distance(*features), rel=1e-4)


def test_memorisation_against_double_loops():
    draw = torch.Generator().manual_seed(0)
    samples, train, held_out = (torch.randint(256, (n, 1, 3, 3), generator=draw).byte() for n in (15, 12, 30))
    samples[:3] = train[:3]

    def nearest(x):
        return [min(float(((a - b) ** 2).sum()) for b in train.double()) for a in x.double()]

    reach = np.quantile(nearest(held_out), 0.2)
    expected = np.mean([distance < reach for distance in nearest(samples)])
    assert 0.2 <= expected < 1 and memorisation(samples, train, held_out, near=0.2) == pytest.approx(expected)
    assert memorisation(train, train, held_out) == 1
    assert memorisation(held_out, train, held_out, near=0.2) == pytest.approx(0.2, abs=1 / 30)


def test_losses_are_the_error_of_the_velocity_on_fixed_noise_and_times(run, rows):
    """Against the path written out: x_t = (1−t)·x₀ + t·x₁ and the velocity x₁ − x₀, image by image of their order."""
    network, errors = run.model(), []
    stream = Stream(datasets.digits("held_out"), 40, 0, torch.device("cpu"))
    for draw in range(4):
        batch, draws = stream.at(40 * draw)
        t = draws.uniforms[:, :1, None, None]
        x_t = (1 - t) * draws.noise + t * batch.x
        output = network(x_t, draws.uniforms[:, 0], batch.y).output
        errors.append(((output - (batch.x - draws.noise)) ** 2).double().mean())
    assert value(rows, "loss_held_out", step=6) == pytest.approx(float(sum(errors) / 4), rel=1e-5)
    assert value(rows, "loss_train", step=6) != value(rows, "loss_held_out", step=6)


def test_geometry_and_probe_of_a_block(run, rows):
    network = run.model()
    z = extract_features(network, Look(count=40), TINY).features[2]
    for measure, expected in geometry(z).items():
        assert value(rows, measure, step=6, block=2) == pytest.approx(expected)
    train, held_out = (
        extract_features(network, Look(count=80, labelled=False, split=s), TINY) for s in ("train", "held_out")
    )
    z, other = (part.features[2].flatten(1).double().numpy() for part in (train, held_out))
    mean, deviation = z.mean(0), z.std(0)
    fitted = LogisticRegression(max_iter=2000).fit((z - mean) / deviation, train.y.numpy())
    expected = fitted.score((other - mean) / deviation, held_out.y.numpy())
    assert value(rows, "linear_probe", step=6, block=2) == pytest.approx(expected, abs=1.5 / 80)


def test_real_images_are_better_than_a_network_of_six_steps(rows):
    real = FEW.real("digits")
    names = [row["measure"] for row in real]
    assert names == ["frechet", "frechet_pixels", "precision", "recall", "kernel_distance"]
    way = dict(step=6, sampler="euler with 2 steps, guidance 1")
    for row in real:
        better = row["value"] > value(rows, row["measure"], **way)
        assert better == (row["measure"] in ("precision", "recall"))


def test_parts_of_a_data_set_are_measured_against_the_whole(run, tmp_path):
    assert FEW.real("digits-few") == FEW.real("digits")
    few = trained(tmp_path / "few", dataset="digits-few")
    rows = Measures(40, (Sampler("euler", 2),))(few, [6])
    expected = evaluate(few.model(), TINY, EvaluationConfig(40, Sampler("euler", 2))).values
    assert value(rows, "frechet_pixels") == expected["frechet_pixels"]
    assert len(datasets.load("digits-few")) == 200
    assert torch.equal(datasets.load("digits-few").x, datasets.digits().x[:200])


def test_without_labels_there_is_no_agreement_and_no_probe(tmp_path):
    rows = Measures(40, (Sampler("euler", 2),))(trained(tmp_path / "run", dataset="digits-unlabelled"), [6])
    assert {"frechet", "recall"} < {row["measure"] for row in rows}
    assert not {"agreement", "linear_probe"} & {row["measure"] for row in rows}


@pytest.mark.parametrize("changes", [dict(model="DiT-Nano/4"), dict(model="MeanFlow-Nano/4")])
def test_other_families(tmp_path, changes):
    rows = Measures(40, (Sampler(),) if "Mean" in changes["model"] else (Sampler("ddim", 2),))(
        trained(tmp_path / "run", **changes), [6]
    )
    assert 0.2 < value(rows, "loss_held_out") < 4 and np.isfinite(value(rows, "frechet"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(count=3), "count = 3 cannot be used: take a whole number of at least 4"),
        (dict(samplers=()), "samplers = .* name at least one"),
    ],
)
def test_what_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        Measures(**changes)


def test_more_real_images_than_there_are():
    with pytest.raises(ConfigError, match="count = 5000 cannot be used: digits has 1297 training images"):
        Measures(5000).real("digits")
