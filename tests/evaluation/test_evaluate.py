"""An evaluation: metrics of the very samples, stored with all they depend on, the same on any number of ranks."""

import json
import re
import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import image_folder, tiny_vae

from labkit import Run, Trainer, datasets, recipes
from labkit.checks import ConfigError
from labkit.datasets import Codec, prepare
from labkit.evaluation import (
    REAL,
    EvaluationConfig,
    Evaluator,
    block_geometry,
    codec_of,
    evaluate,
    evaluate_run,
    evaluator_of,
    memorisation,
)
from labkit.experiments import Comparison, Measures
from labkit.metrics import (
    ClassifierFeatures,
    Extracted,
    Extractor,
    FeatureLikelihood,
    Pixels,
    frechet_distance,
    frechet_of_moments,
    moments,
    precision_recall,
)
from labkit.ops import to_bytes, to_floats
from labkit.runtime import Purpose, generator
from labkit.sampling import Sampler
from labkit.training import Samples

FEW = EvaluationConfig(count=30, sampler=Sampler(steps=2), batch=7)
judge = partial(evaluate_run, shard=12)
evaluating = sys.modules["labkit.evaluation.evaluate"]


def trained(folder, **changes):
    small = dict(model="SiT-Nano/4", steps=2, batch_size=4, log_every=1, save_every=1, keep_last=5)
    for _ in Trainer(recipes.digits(**small | changes), folder):
        pass
    return Run.open(folder)


@pytest.fixture
def run(tmp_path):
    return trained(tmp_path / "run")


def saved(x):
    """Images as a file holds them."""
    return to_floats(to_bytes(x))


def values(evaluation):
    return {name: metric["value"] for name, metric in evaluation.record["metrics"].items()}


def test_the_metrics_are_those_of_the_samples_and_the_held_out_digits(run, monkeypatch):
    extracted, original = [], ClassifierFeatures.__call__
    monkeypatch.setattr(ClassifierFeatures, "__call__", lambda self, x: extracted.append(x) or original(self, x))
    evaluation = judge(run, FEW)
    samples = run.sample(30, steps=2, batch_size=7).x
    x, real = (saved(images).expand(-1, 3, -1, -1) for images in (samples, datasets.digits("held_out").x))
    network = ClassifierFeatures("digits").network
    with torch.no_grad():
        z, real_z = network.features(x[:, :1]), network.features(real[:, :1])
    metrics = values(evaluation)
    assert sum(torch.equal(batch, x[: FEW.batch]) for batch in extracted) == 1  # once, whatever is computed from it
    assert metrics["frechet"] == pytest.approx(frechet_distance(z, real_z), rel=1e-5)
    assert (metrics["precision"], metrics["recall"]) == precision_recall(real_z, z)
    pixels = Pixels(to_bytes(datasets.digits("train").x))
    distance = frechet_distance(*(pixels(images).features for images in (x, real)))
    assert metrics["frechet_pixels"] == pytest.approx(distance, rel=1e-4)
    predicted = network(x[:, :1]).argmax(dim=1)
    assert metrics["agreement"] == (predicted == torch.arange(30) % 10).double().mean().item()
    train, held_out = (to_bytes(datasets.digits(split).x) for split in ("train", "held_out"))
    assert metrics["memorisation"] == memorisation(to_bytes(samples), train, held_out)
    with torch.no_grad():
        train_z = network.features(saved(datasets.digits("train").x))
    divergence = FeatureLikelihood(train_z, real_z)(z)
    assert metrics["likelihood_divergence"] == pytest.approx(divergence, rel=1e-3)
    beside = {"kernel_distance", "precision", "recall", "agreement", "memorisation", "likelihood_divergence"}
    assert metrics.keys() == {"frechet", "frechet_pixels", *beside}

    record = json.loads(evaluation.path.read_text())
    assert record == evaluation.record and evaluation.path.parent == run.path / "evaluations"
    assert record["sampling"]["sampler"] == {"method": "heun", "steps": 2, "guidance": 1.0}
    assert record["sampling"]["nfe"] == 4 and record["sampling"]["checkpoint"]["step"] == 2
    assert record["reference"]["name"] == "digits, held_out" and record["reference"]["count"] == 500
    assert len(record["features"]["digest"]) == len(record["reference"]["digest"]) == 64
    assert {"commit", "machine", "run", "left_out"} <= record.keys()
    summary = evaluation.summary()
    assert "30 samples by heun with 2 steps, guidance 1, 4 evaluations each, seed 0, ema weights of step 2" in summary
    assert "\nFréchet distance of pixels " in summary and str(evaluation.path) in summary


def test_real_digits_are_measured_the_same_way(run):
    evaluation = judge(run, FEW)
    train, real = (saved(datasets.digits(split).x) for split in ("train", "held_out"))
    network = ClassifierFeatures("digits").network
    expected = []
    for draw in range(5):
        rows = torch.randperm(len(train), generator=generator(draw, Purpose.REAL, 2))[:30]
        with torch.no_grad():
            expected.append(frechet_distance(network.features(train[rows]), network.features(real)))
    frechet = evaluation.record["metrics"]["frechet"]
    mean = sum(expected) / 5
    assert frechet["real"] == pytest.approx(dict(mean=mean, low=min(expected), high=max(expected), draws=5), rel=1e-4)
    assert frechet["excess"] == pytest.approx(frechet["value"] - mean, rel=1e-4)
    assert evaluation.record["real_images"]["name"] == "digits, train"
    assert evaluation.table().loc["frechet", REAL] == f"{mean:.4g}"


def test_the_same_run_has_the_same_metrics_everywhere(tmp_path):
    """To the last digit: in a notebook, by ``labkit evaluate``, by ``compare`` and by a sweep's judge."""
    comparison = Comparison({"a": recipes.digits(model="SiT-Nano/4", steps=2, batch_size=4, seed=3)}, tmp_path)
    for _ in comparison:
        pass
    run, settings = Run.open(tmp_path / "a"), EvaluationConfig(sampler=Sampler(steps=2))
    notebook = evaluate(run.model(), run.config, settings).values
    assert values(evaluate_run(run, settings)) == notebook
    compared = comparison.evaluate(settings).table().loc["a"]
    rows = Measures(samplers=(Sampler(steps=2),))(run, [2])
    swept = {row["measure"]: row["value"] for row in rows if "sampler" in row}
    assert swept == notebook == {name: compared[name] for name in notebook}
    block = {row["measure"]: row["value"] for row in rows if row.get("block") == 1}
    geometry = block_geometry(run.model(), run.config)[1]
    assert geometry == {name: block[name] for name in geometry} == {name: compared[name] for name in geometry}
    assert compared["frechet_excess"] == compared["frechet"] - Measures().real("digits")[0]["value"]


def test_copying_the_training_set_scores_what_real_digits_score():
    settings = EvaluationConfig(400).filled(recipes.digits())
    evaluator = Evaluator(settings, (1, 8, 8))
    real = evaluator.control(400)["frechet"]
    copied = to_bytes(datasets.digits("train").x[:400])
    blurred = to_bytes(torch.nn.functional.avg_pool2d(datasets.digits("train").x[:400], 3, stride=1, padding=1))
    no_class = torch.zeros(400, dtype=torch.long)
    extracted = (evaluator.extract(x.split(100), "images", 400) for x in (copied, blurred))
    copies, worse = (evaluator.metrics(features, no_class)["frechet"].value for features in extracted)
    assert real.low <= real.mean <= real.high
    assert 0.5 * real.low < copies < 2 * real.high and worse > 3 * real.high


def test_copies_of_training_images_are_memorised_and_new_ones_are_not(run, monkeypatch):
    train = datasets.digits("train")
    copies = Samples(train.x[:30], train.y[:30], {"nfe": 1})
    monkeypatch.setattr(evaluating, "sample_network", lambda *_, **__: copies)
    values = evaluate(run.model(), run.config, FEW).values
    assert values["memorisation"] == 1 and values["likelihood_divergence"] > 1000
    images, held_out = (to_bytes(part) for part in (train.x, datasets.digits("held_out").x))
    assert memorisation(held_out, images, held_out) == pytest.approx(0.05, abs=0.002)  # new images, by definition


def test_samples_serve_other_metrics_and_only_the_same_request(run, tmp_path, monkeypatch):
    first = judge(run, FEW)
    other = trained(tmp_path / "other", seed=1)
    for changed in ({"seed": 1}, {"count": 31}, {"sampler": Sampler(steps=3)}, {"labels": "uniform"}):
        assert judge(run, replace(FEW, **changed)).samples.folder != first.samples.folder
    for changed in ({"weights": "model"}, {"step": 0}, {"step": 1}, {"shard": 10}):
        assert judge(run, FEW, **changed).samples.folder != first.samples.folder
    assert judge(other, FEW).samples.folder.name != first.samples.folder.name
    monkeypatch.setattr(evaluating, "sample_network", None)
    pixels = judge(run, replace(FEW, features="pixels"))
    assert pixels.samples.folder == first.samples.folder and pixels.path != first.path
    assert values(pixels)["frechet_pixels"] == pytest.approx(values(first)["frechet_pixels"])
    monkeypatch.setattr(evaluating, "_measure", None)
    torn = first.samples.folder / f".samples-00000.npy.{2**22}@{socket.gethostname()}.part"  # of a process that is dead
    torn.touch()
    assert judge(run, FEW).record == first.record and not torn.exists()  # again nothing is drawn or measured


def test_the_last_rank_measures_what_all_have_drawn(run, monkeypatch):
    uniform = replace(FEW, labels="uniform")
    alone = judge(run, uniform)
    assert len(alone.samples.labels.unique()) > 5
    for path in (run.path / "evaluations").rglob("*.*"):
        path.unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("RANK", "1")
    assert judge(run, uniform) is None
    monkeypatch.setenv("RANK", "0")
    assert judge(run, uniform).record == alone.record


def test_a_reference_of_few_images_and_too_many_samples(run, tmp_path):
    np.savez(tmp_path / "few.npz", arr_0=np.zeros((3, 8, 8, 1), np.uint8))
    with pytest.raises(ConfigError, match="it has 3 images; give at least 4"):
        judge(run, replace(FEW, reference=str(tmp_path / "few.npz"), features="digits"))
    np.savez(tmp_path / "digits.npz", x=to_bytes(datasets.digits("train").x[:40])[:, 0].numpy())
    store = prepare(tmp_path / "digits.npz", tmp_path / "store", size=8, channels=1, held_out=20, progress=False)
    evaluation = judge(run, replace(FEW, reference=str(store), features="digits"))
    assert "real" not in evaluation.record["metrics"]["frechet"]
    assert "has 20 images, and 30 were sampled" in evaluation.record["left_out"][REAL]
    assert "Left out: real against real" in evaluation.summary()


class Means(Extractor):
    """In place of Inception: a feature a channel and quarter, three logits, four spatial features."""

    name, digest = "inception", "0" * 64

    def __call__(self, x):
        features = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return Extracted(features, features[:, :3], x[:, 0, 2:4, 3:5].flatten(1))


def test_metrics_on_inception_have_the_names_of_the_literature(run):
    metrics = values(judge(run, replace(FEW, features="inception"), extractor=Means()))
    beside = {"precision", "recall", "frechet_pixels", "memorisation"}
    assert {"fid", "sfid", "kid", "inception_score", *beside} == metrics.keys()
    x, real = (saved(x) for x in (run.sample(30, steps=2, batch_size=7).x, datasets.digits("held_out").x))
    places = (images[:, 0, 2:4, 3:5].flatten(1) for images in (x, real))
    assert metrics["sfid"] == pytest.approx(frechet_distance(*places), rel=1e-4)


def test_statistics_serve_for_fid_and_sfid_and_leave_out_what_needs_images(run, tmp_path):
    real = Means()(saved(datasets.digits("held_out").x).expand(-1, 3, -1, -1))
    (mean, covariance), (mean_s, covariance_s) = moments(real.features), moments(real.spatial)
    adm = {"mu": mean, "sigma": covariance, "mu_s": mean_s, "sigma_s": covariance_s}
    np.savez(tmp_path / "adm.npz", **{name: value.numpy() for name, value in adm.items()})
    settings = replace(FEW, reference=str(tmp_path / "adm.npz"))
    both = values(judge(run, settings, extractor=Means()))
    assert both.keys() == {"fid", "sfid", "inception_score"}
    assert both["sfid"] == pytest.approx(values(judge(run, FEW, extractor=Means()))["sfid"], rel=1e-6)
    np.savez(tmp_path / "statistics.npz", mu=mean.numpy(), sigma=covariance.numpy())
    settings = replace(FEW, reference=str(tmp_path / "statistics.npz"))
    evaluation = judge(run, settings, extractor=Means())
    x = saved(run.sample(30, steps=2, batch_size=7).x).expand(-1, 3, -1, -1)
    expected = frechet_of_moments(*moments(Means()(x).features), mean, covariance)
    assert values(evaluation)["fid"] == pytest.approx(expected, rel=1e-4)
    assert values(evaluation).keys() == {"fid", "inception_score"}
    assert "precision, recall, kid, frechet_pixels" in evaluation.record["left_out"]
    assert "mu_s and sigma_s" in evaluation.record["left_out"]["sfid"]
    with pytest.raises(ConfigError, match="statistics of 12 features and no images, and digits has 64"):
        judge(run, replace(settings, features="digits"))


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    """A folder of images, a VAE, the store of both and a run on it: the way to ImageNet, small."""
    folder = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    photos, vae = image_folder(folder / "photos", {"a": 9, "b": 8}, side=40), str(tiny_vae(folder / "vae"))
    store = prepare(photos, folder / "store", size=32, latents=vae, held_out=6, progress=False)
    return folder, vae, trained(folder / "run", model="SiT-Nano/2", dataset=str(store))


def test_latents_are_decoded_and_measured_as_images(latent):
    folder, vae, run = latent
    settings = replace(FEW, count=8, vae=vae)
    evaluation = judge(run, settings, extractor=Means())
    assert evaluation.record["reference"]["name"] == f"{run.config.dataset}, held_out"
    decoded = Codec(vae).decode(run.sample(8, steps=2, batch_size=7).x)
    assert torch.equal(torch.cat(list(evaluation.samples.batches(8))), to_bytes(decoded))
    assert evaluation.record["sampling"]["vae"] == {"name": vae, "digest": Codec(vae).digest}
    (folder / "photos" / "a" / "x.heic").touch()
    other = judge(run, replace(settings, reference=str(folder / "photos")), extractor=Means())
    assert "Of the reference, not taken: .heic files (1: a/x.heic)." in other.summary()
    assert other.samples.folder == evaluation.samples.folder and other.record["reference"]["count"] == 17
    (folder / "photos" / "a" / "x.heic").unlink()
    again = judge(run, replace(settings, reference=str(folder / "photos")), extractor=Means())
    assert again.path == other.path  # the same images


def test_a_vae_that_does_not_fit_the_run_is_refused(latent, run, tmp_path):
    _, vae, of_latents = latent
    assert codec_of(of_latents.config, (4, 4, 4), None).source == vae, "the store's own"
    with pytest.raises(ConfigError, match=r"makes latents of 4 channels; name the VAE .* --vae stabilityai"):
        codec_of(replace(of_latents.config, dataset="moved"), (4, 4, 4), None)
    with pytest.raises(ConfigError, match="makes images of 1 channels; leave it out"):
        judge(run, replace(FEW, vae=vae))
    torch.manual_seed(1)
    with pytest.raises(ConfigError, match="the run's latents are those of another"):
        judge(of_latents, replace(FEW, vae=str(tiny_vae(tmp_path / "other"))))


def test_the_data_set_decides_what_is_left_open(run, tmp_path):
    digits = EvaluationConfig().filled(replace(run.config, seed=7))
    assert (digits.reference, digits.features, digits.count, digits.seed) == ("digits", "digits", 500, 7)
    assert digits.sampler == Sampler().filled("SiT") and digits.labels == "in_turn"
    few = EvaluationConfig().filled(recipes.letters(dataset="letters-few"))
    assert (few.reference, few.features, few.count) == ("letters", "letters", 500)
    emoji = EvaluationConfig().filled(recipes.emoji())
    assert (emoji.reference, emoji.features, emoji.count) == ("emoji", "pixels", 500)
    other = EvaluationConfig(reference="VIRTUAL_imagenet256.npz").filled(run.config)
    assert (other.features, other.count) == ("digits", 50_000)
    assert EvaluationConfig().filled(recipes.cifar10()).features is None, "the evaluator looks what can be had"
    assert EvaluationConfig(inception=tmp_path).filled(run.config).features == "inception"


@pytest.mark.parametrize(
    ("preset", "model", "sampler", "evaluations"),
    [
        ("paper", "SiT-B/2", Sampler("dopri5", channels="first_three"), None),
        ("release", "SiT-XL/2", Sampler("dopri5", channels="first_three"), None),
        ("paper", "DiT-XL/2", Sampler("ancestral", 250, 1.5, "first_three"), 250),
        ("repa", "SiT-XL/2", Sampler("euler_maruyama", 249), 250),
        ("meanflow", "MeanFlow-XL/2", Sampler("meanflow", 1), 1),
    ],
)
def test_the_published_protocol_is_that_of_the_released_code(preset, model, sampler, evaluations):
    config = recipes.imagenet256(model, preset=preset)
    protocol = EvaluationConfig(protocol="published", reference="VIRTUAL_imagenet256_labeled.npz").filled(config)
    assert (protocol.count, protocol.labels, protocol.features) == (50_000, "uniform", "inception")
    assert protocol.sampler == sampler.filled(config.family)
    assert evaluations is None or protocol.sampler.total_steps == evaluations


def test_what_is_given_goes_before_the_published_protocol(run):
    def filled(config=run.config, count=None, labels=None, **sampler):
        return EvaluationConfig(count, Sampler(**sampler), labels=labels, protocol="published").filled(config)

    assert filled(count=20).count == 20 and filled(labels="in_turn").labels == "in_turn"
    assert filled(guidance=1.5).sampler == Sampler("dopri5", None, 1.5, "first_three")
    assert filled(guidance=1.5, channels="all").sampler.channels == "all"
    assert filled(method="heun").sampler == Sampler("heun", 50, 1.0, "first_three")
    dit = recipes.imagenet256("DiT-B/2")
    assert filled(dit, guidance=1.0).sampler == Sampler("ancestral", 250, 1.0, "first_three")
    assert filled(dit, method="ddim").sampler == Sampler("ddim", 50, 1.5, "first_three")
    with pytest.raises(ConfigError, match=r"steps = 9 .*dopri5"):
        filled(steps=9)


@pytest.mark.parametrize(
    ("shape", "installed", "features", "why"),
    [
        ((32, 32, 3), True, "inception", None),
        ((32, 32, 3), False, "pixels", "torch-fidelity.* cannot be imported"),
        ((32, 32), True, "pixels", "colour images of at least 32"),
        ((16, 16, 3), True, "pixels", "colour images of at least 32"),
    ],
)
def test_ones_own_images_are_measured_with_what_is_there(tmp_path, monkeypatch, shape, installed, features, why):
    """A store of which nothing is held out, and Inception where it can be had and suits the images."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    if installed:
        monkeypatch.setattr("labkit.evaluation.evaluator.Inception", lambda weights: Means())
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).integers(0, 256, (30, *shape), np.uint8))
    sizes = {"size": shape[0], "channels": 1 if len(shape) == 2 else 3}
    store = prepare(tmp_path / "mine.npz", tmp_path / "store", **sizes, progress=False)
    filled = EvaluationConfig(20).filled(recipes.cifar10(dataset=str(store)))
    evaluator = evaluator_of(filled, (sizes["channels"], *shape[:2]))
    assert evaluator.extractor.name == features and evaluator.reference.count == 30
    reasons = evaluator.left_out(20)
    assert reasons[REAL] and (why is None) == ("fid, kid, inception_score" not in reasons)
    assert why is None or re.search(why, reasons["fid, kid, inception_score"])


@pytest.mark.parametrize(("seconds", "words"), [(2.0, "Drawing 30 samples takes about 4 min here"), (0.1, "")])
def test_a_long_sampling_is_announced_before_it_begins(run, monkeypatch, capsys, seconds, words):
    """By the time of one evaluation: a CPU may need days, and its bar moves for the first time after hours."""
    sizes = []

    def each(work, most):
        sizes.append((most, len(work(2))))
        return seconds

    def make(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluating, "seconds_each", each)
    monkeypatch.setattr(evaluating.Shards, "make", make)
    with pytest.raises(KeyboardInterrupt):
        judge(run, FEW, progress=True)  # two steps of two evaluations each
    printed = capsys.readouterr().out
    assert sizes == [(FEW.batch, 2)] and words in printed and bool(words) == bool(printed)


def test_a_run_that_cannot_be_written_to_is_refused_before_the_sampling(run, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"run = .* cannot be written to; copy the run to a folder of yours"):
        judge(run, FEW)
    assert not (run.path / "evaluations").exists()


@pytest.mark.usefixtures("unchecked")
def test_settings_that_cannot_work_are_refused():
    bad = {"count": 3, "seed": -1, "batch": 0, "features": "clip", "labels": "some", "protocol": "mine"}
    for field, value in bad.items():
        with pytest.raises(ConfigError, match=f"^{field} = {value!r} cannot be used"):
            EvaluationConfig(**{field: value})
    with pytest.raises(ConfigError, match=r"inception = .* features are digits; leave one of them out"):
        EvaluationConfig(features="digits", inception=Path("weights.pth"))


def test_settings_that_do_not_fit_the_run_are_refused(run):
    with pytest.raises(ConfigError, match=r"step = 7 cannot be used: this run's steps are 0, 1, 2"):
        judge(run, FEW, step=7)
    with pytest.raises(ConfigError, match=r"shard = 0 cannot be used"):
        evaluate_run(run, FEW, shard=0)
    with pytest.raises(ConfigError, match="method = 'ddim'"):
        judge(run, replace(FEW, sampler=Sampler("ddim")))
    assert not (run.path / "evaluations").exists()
