"""Extractors: bytes as they are saved, features with a digest, and the ways in which Inception can fail.

torch-fidelity stands in as a module of the same interface: its weights are not at hand here.
"""

import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from labkit import datasets
from labkit.checks import ConfigError
from labkit.metrics import CLASSIFIERS, ClassifierFeatures, Inception, PixelPca, Pixels, extract
from labkit.ops import to_bytes, to_floats


def test_bytes_are_what_a_file_holds():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_bytes(to_floats(every)), every)
    beyond = torch.tensor([-2.0, -1.0, 0.0, 1.0, 9.0]).reshape(1, 1, 1, 5)
    assert to_bytes(beyond).flatten().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_features_are_the_classifiers(name):
    x = datasets.load(name, "held_out").x[:5]
    features = ClassifierFeatures(name)
    [extracted] = extract([to_bytes(x[:3]), to_bytes(x[3:])], features)
    network, saved = CLASSIFIERS[name].load(), to_floats(to_bytes(x))
    with torch.no_grad():
        torch.testing.assert_close(extracted.features, network.features(saved))
        torch.testing.assert_close(extracted.logits, network(saved))
    assert features.digest == ClassifierFeatures(name).digest
    side = x.shape[-1]
    with pytest.raises(ConfigError, match=f"{side}×{side} {name}, and the images have 24×24; choose pixels"):
        features(torch.zeros(1, 3, 24, 24))


def test_pixels_are_principal_axes_of_the_given_images():
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    [extracted] = extract([images[:7]], Pixels(images))
    expected = PixelPca(to_floats(images), 32).features(to_floats(images[:7]))
    torch.testing.assert_close(extracted.features, expected)
    assert extracted.logits is None
    assert Pixels(images).digest == Pixels(images).digest != Pixels(images[1:]).digest


def test_pixels_of_grey_large_and_few_images():
    grey = torch.randint(0, 256, (5, 1, 64, 48), dtype=torch.uint8)
    pixels = Pixels(grey)
    [extracted] = extract([grey], pixels)  # three equal channels by then
    assert extracted.features.shape == (5, 5) and pixels.axes.axes.shape == (5, 32 * 32)
    with pytest.raises(ConfigError, match="at least 2"):
        Pixels(grey[:1])


class StandIn(nn.Module):
    """The interface of torch-fidelity's extractor: bytes in, features and logits out, weights from a path or file."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.body, self.head, self.Mixed_6d = nn.Linear(3, 2048), nn.Linear(2048, 1008), nn.Module()
        self.Mixed_6d.branch1x1 = nn.Identity()  # of 9 channels at 2×3 places
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        self.Mixed_6d.branch1x1(x.float().mean(dim=(2, 3))[:, :, None, None].expand(-1, -1, 2, 3).repeat(1, 3, 1, 1))
        features = self.body(x.double().mean(dim=(2, 3)).float())
        return features, self.head(features)


@pytest.fixture
def fidelity(monkeypatch):
    """A module in torch-fidelity's place."""
    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3, module.URL_INCEPTION_V3 = StandIn, "https://no.such.host/inception.pth"
    package.feature_extractor_inceptionv3 = module
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    shapes = {"body.weight": (2048, 3), "body.bias": 2048, "head.weight": (1008, 2048), "head.bias": 1008}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    torch.save(tensors, tmp_path / "inception.pth")
    save_file(tensors, tmp_path / "inception.safetensors")
    return tensors


@pytest.mark.usefixtures("fidelity")
def test_inception_takes_its_weights_from_a_file(weights, tmp_path):
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    inception, other = (Inception(tmp_path / f"inception{kind}") for kind in (".pth", ".safetensors"))
    assert inception.digest == other.digest
    [extracted] = extract([images[:2], images[2:]], inception)
    mean = images.double().mean(dim=(2, 3))
    weight, bias = weights["body.weight"].double(), weights["body.bias"].double()
    torch.testing.assert_close(extracted.features.double(), mean @ weight.T + bias, rtol=1e-5, atol=1e-3)
    assert extracted.logits.shape == (4, 1008) and not extracted.logits.requires_grad
    # ADM's spatial features: seven channels at each place, place by place
    expected = [[*image.tolist() * 2, image[0].item()] * 6 for image in mean]
    torch.testing.assert_close(extracted.spatial, torch.tensor(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("fidelity")
def test_weights_that_cannot_be_used(weights, tmp_path):
    torch.save(dict(list(weights.items())[:2]), tmp_path / "half.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "inception.pth").read_bytes()[:1000])
    (tmp_path / "torn.safetensors").write_bytes(b"x" * 100)
    torch.save({"body.weight": pytest.Item}, tmp_path / "code.pth")  # would run code
    for name, fault in {
        "none.pth": "there is no such file",
        "half.pth": "not this network's weights.*Missing key",
        "list.pth": "give a state dict",
        "torn.pth": "cannot be read",
        "torn.safetensors": "cannot be read",
        "code.pth": "cannot be read as tensors.*[Ww]eights.only",
    }.items():
        with pytest.raises(ConfigError, match=f"inception = .*{name}.*{fault}"):
            Inception(tmp_path / name)


@pytest.mark.usefixtures("fidelity")
def test_no_network_to_download_from(monkeypatch):
    def refused(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refused)
    with pytest.raises(ConfigError, match=r"cannot be downloaded from https://no.such.host.*give their file"):
        Inception()


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ConfigError, match=r"needs the package torch-fidelity.*labkit\[fid\].*letters or pixels"):
        Inception()
