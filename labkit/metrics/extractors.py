"""Extractors: from RGB images in [-1, 1] to the features they are measured on and, with a classifier, its logits.

``Inception`` is the network behind the FID of the literature; ``ClassifierFeatures`` and ``Pixels`` need no download.
Metrics on features of different extractors, or of other weights of the same, do not compare: so each has a digest.
"""

import copy
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from labkit.checks import ConfigError, require
from labkit.disk import user_path
from labkit.metrics.classifier import CLASSIFIERS
from labkit.metrics.images import PixelPca
from labkit.ops import to_bytes, to_floats
from labkit.runtime import device, seeded

FID_EXTRA = '`pip install "labkit[fid]"` (in a checkout `pip install -e ".[fid]"`)'
PIXEL_SIDE, PIXEL_IMAGES, PIXEL_AXES = 32, 2000, 32


class Extracted(NamedTuple):
    """Features of images, and logits where the extractor is a classifier."""

    features: Float[Tensor, "n d"]
    logits: Float[Tensor, "n classes"] | None
    spatial: Float[Tensor, "n places"] | None = None
    """Features that tell places apart, where the extractor has some: those of sFID."""


class Extractor(ABC):
    """A callable on images, with a name and a digest of its weights."""

    name: str
    digest: str

    @abstractmethod
    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Extracted: ...


class Inception(Extractor):
    """The 2048 features and 1008 logits (without the last bias) of the InceptionV3 of 2015, by torch-fidelity.

    The spatial features are those of ADM's evaluator: the first 7 channels of the 1×1 convolution in Mixed_6d (which
    TensorFlow calls mixed_6/conv), at 17×17 places, channels last.

    Args:
        weights: file of a state dict, .safetensors or .pth, from which no code is run; None downloads torch-fidelity's.

    Raises:
        ConfigError: the extra is not installed, or the weights are missing or another network's.
    """

    name = "inception"

    def __init__(self, weights: str | Path | None = None) -> None:
        library = _torch_fidelity()
        state = _downloaded(library.URL_INCEPTION_V3) if weights is None else _read(user_path(weights, "inception"))
        self.digest = _digest(state)
        tensors_alone = io.BytesIO()  # torch-fidelity unpickles its file, which must not run a stranger's code
        torch.save(state, tensors_alone)
        tensors_alone.seek(0)
        try:
            with seeded(0):
                self.network = library.FeatureExtractorInceptionV3(
                    "labkit-inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=tensors_alone
                )
        except (RuntimeError, TypeError, AttributeError) as error:
            why = " ".join(str(error).split())[:200]
            file = "None (downloaded)" if weights is None else repr(str(weights))
            raise ConfigError(
                f"inception = {file} are not this network's weights; give those of torch-fidelity ({why})."
            ) from error
        self.network.to(device()).eval()
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, _: Any, __: Any, output: Tensor) -> None:
        self.convolved = output[:, :7]

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Extracted:
        features, logits = self.network(to_bytes(x).to(device()))
        spatial = self.convolved.permute(0, 2, 3, 1).flatten(1)
        return Extracted(features.float().cpu(), logits.float().cpu(), spatial.float().cpu())


def _torch_fidelity() -> Any:
    """The module that holds the network and the address of its weights."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as library
    except (ImportError, RuntimeError, OSError) as error:  # the last two from a torchvision built for another torch
        raise ConfigError(
            f"features = 'inception' needs the package torch-fidelity, which cannot be imported ({error}); install it "
            f"with {FID_EXTRA} and the torchvision of this torch, or choose features digits, letters or pixels."
        ) from error
    return library


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    require(path.is_file(), "inception", str(path), "there is no such file; give the file of the weights")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # cut, of another format, or a pickle of more than tensors: each has its own class
        raise ConfigError(
            f"inception = {str(path)!r} cannot be read as tensors ({_first_line(error)}); give a state dict, "
            ".safetensors or .pth."
        ) from error
    tensors = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    require(tensors, "inception", str(path), "give a state dict, name → tensor")
    return dict(state)


def _downloaded(address: str) -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(address, map_location="cpu", weights_only=True)
    except Exception as error:  # no network, no such host, a torn file, a folder that cannot be written
        raise ConfigError(
            f"inception = None: the weights cannot be downloaded from {address} ({_first_line(error)}); fetch them on "
            "a machine with a network and give their file as inception."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class ClassifierFeatures(Extractor):
    """Features (64) and logits of the lab's classifier of a data set, which is its ``name``: digits or letters."""

    def __init__(self, name: str) -> None:
        self.name, self.network = name, copy.deepcopy(CLASSIFIERS[name].load()).to(device())
        self.digest = _digest(self.network.state_dict())

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Extracted:
        side, height, width = self.network.side, *x.shape[2:]
        remedy = f"they are for {side}×{side} {self.name}, and the images have {height}×{width}; choose pixels"
        require(height == width == side, "features", self.name, remedy)
        features = self.network.features(x[:, :1].to(device()))
        return Extracted(features.cpu(), self.network.head(features).detach().cpu())


class Pixels(Extractor):
    """Coordinates on the first 32 principal axes of the pixels of given images, which owe nothing to any network.

    Args:
        images: at least 2; the axes are those of the first 2,000, averaged down to at most 32 pixels a side. Of grey
            images a single channel is used.
    """

    name = "pixels"

    def __init__(self, images: UInt8[Tensor, "n c h w"]) -> None:
        require(len(images) >= 2, "images", len(images), "give at least 2, since axes need a spread")
        self.channels = images.shape[1]
        small = self._small(to_floats(images[:PIXEL_IMAGES]))
        self.digest = _digest({"images": images[:PIXEL_IMAGES]})
        self.axes = PixelPca(small, min(PIXEL_AXES, len(small), small[0].numel()))

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Extracted:
        return Extracted(self.axes.features(self._small(x)), None)

    def _small(self, x: Float[Tensor, "n _ h w"]) -> Float[Tensor, "n c small_h small_w"]:
        height, width = x.shape[2:]
        side = min(PIXEL_SIDE, height), min(PIXEL_SIDE, width)
        return F.adaptive_avg_pool2d(x[:, : self.channels].cpu(), side)


def extract(batches: Iterable[UInt8[Tensor, "_ c h w"]], *extractors: Extractor) -> list[Extracted]:
    """Features and logits by each extractor of images of 1 or 3 channels, taken batch by batch, on the CPU."""
    parts = [[extractor(to_floats(batch).expand(-1, 3, -1, -1)) for extractor in extractors] for batch in batches]
    joined = []
    for features, logits, spatial in (zip(*column, strict=True) for column in zip(*parts, strict=True)):
        others = (None if part[0] is None else torch.cat(part).cpu() for part in (logits, spatial))
        joined.append(Extracted(torch.cat(features).cpu(), *others))
    return joined


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
