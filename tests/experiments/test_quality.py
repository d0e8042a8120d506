"""An evaluation: figures of the very samples, stored with all they depend on, the same however it was interrupted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import image_folder, tiny_vae

from labkit import Run, Trainer, datasets, recipes
from labkit.checks import ConfigError
from labkit.datasets import Codec, prepare
from labkit.experiments import Request, measure, quality
from labkit.metrics import (
    DigitsFeatures,
    Extracted,
    Extractor,
    Pixels,
    frechet_distance,
    frechet_of_moments,
    moments,
    precision_recall,
)
from labkit.metrics.extractors import to_bytes, to_floats
from labkit.runtime import Purpose, generator
from labkit.sampling import Sampler
from labkit.training import sample_network

FEW = Request(count=30, sampler=Sampler(steps=2), batch=7, shard=12)


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


def figures(found):
    return {name: one["value"] for name, one in found.record["figures"].items()}


def test_the_figures_are_those_of_the_samples_and_the_held_out_digits(run):
    found = measure(run, FEW)
    samples = run.sample(30, steps=2, batch_size=7).x
    x, real = (saved(images).expand(-1, 3, -1, -1) for images in (samples, datasets.digits("held_out").x))
    network = DigitsFeatures().network
    with torch.no_grad():
        seen, known = network.features(x[:, :1]), network.features(real[:, :1])
    got = figures(found)
    assert got["frechet"] == pytest.approx(frechet_distance(seen, known), rel=1e-5)
    assert (got["precision"], got["recall"]) == precision_recall(known, seen)
    pixels = Pixels(to_bytes(datasets.digits("train").x))
    assert got["frechet_pixels"] == pytest.approx(frechet_distance(*(pixels(z).features for z in (x, real))), rel=1e-4)
    assert {"kernel_distance", "class_score"} == got.keys() - {"frechet", "frechet_pixels", "precision", "recall"}


def test_real_digits_are_measured_the_same_way(run):
    found = measure(run, FEW).record["real_against_real"]
    train, real = (saved(datasets.digits(split).x) for split in ("train", "held_out"))
    rows = torch.randperm(len(train), generator=generator(0, Purpose.REAL, 0))[:30]
    network = DigitsFeatures().network
    with torch.no_grad():
        expected = frechet_distance(network.features(train[rows]), network.features(real))
    assert found["figures"]["frechet"]["value"] == pytest.approx(expected, rel=1e-5)
    assert found["name"] == "digits, train" and found["count"] == 30


def test_what_stands_beside_the_figures(run):
    found = measure(run, FEW)
    record = json.loads(found.path.read_text())
    assert record == found.record and found.path.parent == run.path / "evaluations"
    assert record["sampling"]["sampler"] == {"method": "heun", "steps": 2, "guidance": 1.0}
    assert record["sampling"]["nfe"] == 4 and record["sampling"]["checkpoint"]["step"] == 2
    assert record["reference"]["name"] == "digits, held_out" and record["reference"]["count"] == 500
    assert len(record["features"]["digest"]) == len(record["reference"]["digest"]) == 64
    assert {"commit", "machine", "run", "left_out"} <= record.keys()
    told = found.told()
    assert "30 samples by heun with 2 steps, guidance 1, 4 evaluations each, seed 0, ema weights of step 2" in told
    assert "frechet_pixels" in told and str(found.path) in told


def test_asked_again_nothing_is_drawn_or_seen(run, monkeypatch):
    first = measure(run, FEW)
    monkeypatch.setattr(quality, "sample_network", None)
    monkeypatch.setattr(quality, "judge", None)
    assert measure(run, FEW).record == first.record


def test_samples_serve_other_measures_and_only_the_same_request(run, tmp_path, monkeypatch):
    first = measure(run, FEW)
    other = trained(tmp_path / "other", seed=1)
    for changed in (
        {"seed": 1}, {"count": 31}, {"weights": "model"}, {"sampler": Sampler(steps=3)}, {"step": 1},
        {"labels": "uniform"},
    ):  # fmt: skip
        assert measure(run, replace(FEW, **changed)).samples.folder != first.samples.folder
    assert measure(other, FEW).samples.folder.name != first.samples.folder.name
    monkeypatch.setattr(quality, "sample_network", None)
    pixels = measure(run, replace(FEW, features="pixels"))
    assert pixels.samples.folder == first.samples.folder and pixels.path != first.path
    assert figures(pixels)["frechet_pixels"] == pytest.approx(figures(first)["frechet_pixels"])


def test_stopped_and_asked_again_it_is_the_same_evaluation(run, monkeypatch):
    straight = measure(run, FEW)
    for path in straight.samples.folder.iterdir():
        path.unlink()
    straight.path.unlink()

    def some(*args, first, **settings):
        if first == 12:
            raise KeyboardInterrupt
        return sample_network(*args, first=first, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(quality, "sample_network", some)
        with pytest.raises(KeyboardInterrupt):
            measure(run, FEW)
    assert len(list(straight.samples.folder.glob("*.npy"))) == 1
    assert measure(run, FEW).record == straight.record


def test_the_last_rank_measures_what_all_have_drawn(run):
    alone = measure(run, FEW).record
    for path in (run.path / "evaluations").rglob("*.*"):
        path.unlink()
    assert measure(run, FEW, rank=1, ranks=2) is None
    assert measure(run, FEW, rank=0, ranks=2).record == alone


def test_uniform_labels_are_drawn_by_the_seed(run):
    some, other = (measure(run, replace(FEW, labels="uniform", seed=seed)).samples.labels for seed in (0, 1))
    assert len(set(some.tolist())) > 5 and not torch.equal(some, other)
    assert measure(run, FEW).samples.labels.tolist() == [n % 10 for n in range(30)]


def test_a_reference_of_few_images_and_too_many_samples(run, tmp_path):
    np.savez(tmp_path / "few.npz", arr_0=np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="it has 3 images; give at least 4"):
        measure(run, replace(FEW, reference=str(tmp_path / "few.npz"), features="digits"))
    store = prepare(_digits(tmp_path), tmp_path / "store", size=8, channels=1, held_out=20, progress=False)
    found = measure(run, replace(FEW, reference=str(store), features="digits"))
    assert found.record["real_against_real"] is None
    assert "has 20 images, and 30 were sampled" in found.record["left_out"]["real_against_real"]
    assert "Left out: real_against_real" in found.told()


def _digits(tmp_path):
    np.savez(tmp_path / "digits.npz", x=to_bytes(datasets.digits("train").x[:40])[:, 0].numpy())
    return tmp_path / "digits.npz"


class Means(Extractor):
    """Stands in for Inception: a feature a channel and quarter, three logits."""

    name, digest = "inception", "0" * 64

    def __call__(self, x):
        features = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return Extracted(features, features[:, :3])


def test_figures_on_inception_have_the_names_of_the_literature(run):
    found = measure(run, replace(FEW, features="inception"), extractor=Means())
    assert {"fid", "kid", "inception_score", "precision", "recall", "frechet_pixels"} == figures(found).keys()


def test_statistics_serve_for_fid_and_leave_out_what_wants_images(run, tmp_path):
    real = saved(datasets.digits("held_out").x).expand(-1, 3, -1, -1)
    mean, covariance = moments(Means()(real).features)
    np.savez(tmp_path / "statistics.npz", mu=mean.numpy(), sigma=covariance.numpy())
    asked = replace(FEW, reference=str(tmp_path / "statistics.npz"))
    found = measure(run, asked, extractor=Means())
    x = saved(run.sample(30, steps=2, batch_size=7).x).expand(-1, 3, -1, -1)
    expected = frechet_of_moments(*moments(Means()(x).features), mean, covariance)
    assert figures(found)["fid"] == pytest.approx(expected, rel=1e-4)
    assert figures(found).keys() == {"fid", "inception_score"}
    assert "precision, recall, kid, frechet_pixels" in found.record["left_out"]
    with pytest.raises(ConfigError, match="statistics are of 12 features, digits has 64"):
        measure(run, replace(asked, features="digits"))


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
    asked = replace(FEW, count=8, vae=vae)
    found = measure(run, asked, extractor=Means())
    assert found.record["reference"]["name"] == f"{run.config.dataset}, held_out"
    decoded = Codec(vae).decode(run.sample(8, steps=2, batch_size=7).x)
    assert torch.equal(torch.cat(list(found.samples.batches(8))), to_bytes(decoded))
    assert found.record["sampling"]["vae"] == {"name": vae, "digest": Codec(vae).digest}
    against = measure(run, replace(asked, reference=str(folder / "photos")), extractor=Means())
    assert against.samples.folder == found.samples.folder and against.record["reference"]["count"] == 17


def test_the_vae_that_is_wanted(latent, run, tmp_path):
    _, vae, of_latents = latent
    with pytest.raises(ConfigError, match=r"makes latents of 4 channels; name the VAE .* --vae stabilityai"):
        measure(of_latents, FEW)
    with pytest.raises(ConfigError, match="makes images of 1 channels; leave it out"):
        measure(run, replace(FEW, vae=vae))
    torch.manual_seed(1)
    with pytest.raises(ConfigError, match="the run's latents are of another"):
        measure(of_latents, replace(FEW, vae=str(tiny_vae(tmp_path / "other"))))


def test_without_words_the_data_set_says_what_to_measure(run, tmp_path):
    told = Request().of(run.config)
    assert (told.reference, told.features, told.count) == ("digits", "digits", 1297)
    assert told.sampler == Sampler("heun", 50)
    emoji = Request().of(recipes.emoji())
    assert (emoji.reference, emoji.features, emoji.count) == ("emoji", "pixels", len(datasets.emoji("train")))
    other = Request(reference="VIRTUAL_imagenet256.npz").of(run.config)
    assert (other.features, other.count) == ("inception", 50_000)
    assert Request(inception=tmp_path).of(run.config).features == "inception"


@pytest.mark.parametrize(("field", "value"), [
    ("count", 3), ("count", 2.5), ("seed", -1), ("batch", 0), ("shard", 0), ("features", "clip"),
    ("labels", "some"), ("weights", "best"),
])  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_requests_that_cannot_be(field, value):
    with pytest.raises(ConfigError, match=f"^{field} = {value!r} cannot be used"):
        Request(**{field: value})


def test_what_does_not_fit_the_run(run):
    with pytest.raises(ConfigError, match=r"inception = .* features are digits; leave one of them out"):
        Request(features="digits", inception=Path("weights.pth"))
    with pytest.raises(ConfigError, match=r"step = 7 cannot be used: this run's steps are 0, 1, 2"):
        measure(run, replace(FEW, step=7))
    with pytest.raises(ConfigError, match="method = 'ddim'"):
        measure(run, replace(FEW, sampler=Sampler("ddim")))
    assert not (run.path / "evaluations").exists()


def test_the_untrained_network_can_be_measured(run):
    assert measure(run, replace(FEW, step=0)).record["sampling"]["checkpoint"]["step"] == 0
