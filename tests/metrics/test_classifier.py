"""The measuring networks: their stated accuracy is measured again, and they can be trained again."""

import json

import pytest
import torch
from safetensors import safe_open

from labkit import datasets, runtime
from labkit.metrics import CLASSIFIERS, DigitsClassifier, LettersClassifier, classifier


@pytest.fixture(params=CLASSIFIERS)
def shipped(request):
    return CLASSIFIERS[request.param].load()


def accuracy(model):
    held_out = datasets.load(model.dataset, "held_out")
    return (model(held_out.x).argmax(dim=1) == held_out.y).double().mean().item()


def test_the_shipped_weights_have_the_accuracy_and_the_record_they_state(shipped):
    assert shipped.held_out_accuracy >= 0.97
    assert accuracy(shipped) == pytest.approx(shipped.held_out_accuracy, abs=0.002)  # one digit of 500
    path = runtime.shipped_path(shipped.file())
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
    assert record["seed"] == 0 and {"processor", "torch", "commit"} <= record["machine"].keys()
    assert path.stat().st_size < 300_000


def test_features_are_the_64_numbers_under_its_decision_without_gradient(shipped):
    x = datasets.load(shipped.dataset, "held_out").x[:20].requires_grad_()
    features = shipped.features(x)
    assert features.shape == (20, 64) and not features.requires_grad
    assert torch.equal(shipped.head(features), shipped(x))
    assert torch.equal(shipped.head(features).argmax(dim=1), shipped.predict(x))
    assert not shipped.training and not any(p.requires_grad for p in shipped.parameters())


def test_weights_that_are_missing_are_named_with_two_remedies_and_saved_ones_keep_every_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "data_dir", lambda: tmp_path)

    class Elsewhere(DigitsClassifier):  # another class, whose weights are not in the cache
        pass

    with pytest.raises(FileNotFoundError, match=r"digits_classifier.* is missing.*git.*build_classifier.py digits"):
        Elsewhere.load()
    model = DigitsClassifier()
    model.held_out_accuracy = 0.123
    classifier.save(model, tmp_path, seed=7)
    again = Elsewhere.load()
    assert again.held_out_accuracy == 0.123
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_training_again_gives_the_accuracy_again_and_leaves_the_random_state():
    before = torch.get_rng_state()
    model = classifier.train(DigitsClassifier, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.held_out_accuracy == accuracy(model)
    assert model.held_out_accuracy == pytest.approx(DigitsClassifier.load().held_out_accuracy, abs=0.01)


@pytest.mark.slow
def test_letters_are_learned_from_their_labels():
    """After a few passes over 520 letters, far more of the held-out families than one in 26."""
    torch.manual_seed(0)
    model = LettersClassifier()
    classifier.fit(model, datasets.load("letters-few"), seed=0, epochs=12)
    assert accuracy(model) > 0.2
