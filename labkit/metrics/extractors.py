"""What images are measured on: extractors, from RGB images in [-1, 1] to features and, where there is one, a decision.

``Inception`` is the network behind the FID of the literature; ``DigitsFeatures`` and ``Pixels`` work without download.
Figures on features of different extractors, or of other weights of the same, do not compare: so each has a digest.
"""

import copy
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from labkit.checks import ConfigError, require
from labkit.metrics.classifier import DigitsClassifier
from labkit.metrics.images import PixelPca
from labkit.runtime import device, seeded

FID_EXTRA = '`pip install "labkit[fid]"` (in a checkout `pip install -e ".[fid]"`)'
PIXEL_SIDE, PIXEL_IMAGES, PIXEL_AXES = 32, 2000, 32


class Extracted(NamedTuple):
    """What an extractor sees in images."""

    features: Float[Tensor, "n d"]
    logits: Float[Tensor, "n classes"] | None


class Extractor(ABC):
    """A callable on images that says which it is."""

    name: str
    digest: str
    """Of its weights."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Extracted: ...


class Inception(Extractor):
    """The 2048 features and 1008 logits (without the last bias) of the InceptionV3 of 2015, by torch-fidelity.

    Args:
        weights: file of a state dict, .safetensors or .pth, of which no code is run; None downloads torch-fidelity's.

    Raises:
        ConfigError: the extra is not installed, or the weights are missing or another network's.
    """

    name = "inception"

    def __init__(self, weights: str | Path | None = None) -> None:
        library = _torch_fidelity()
        state = _downloaded(library.URL_INCEPTION_V3) if weights is None else _read(Path(weights))
        self.digest = _digest(state)
        copied = io.BytesIO()  # torch-fidelity unpickles what it is given: give it what was read without that
        torch.save(state, copied)
        copied.seek(0)
        try:
            with seeded(0):
                self.network = library.FeatureExtractorInceptionV3(
                    "labkit-inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=copied
                )
        except (RuntimeError, TypeError, AttributeError) as error:
            why = " ".join(str(error).split())[:200]
            raise ConfigError(f"inception = {_told(weights)} are not this network's weights: {why}") from error
        self.network.to(device()).eval()

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Extracted:
        features, logits = self.network(to_bytes(x).to(device()))
        return Extracted(features.float().cpu(), logits.float().cpu())


def _torch_fidelity() -> Any:
    """The module that holds the network and the address of its weights."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as library
    except ImportError as error:
        raise ConfigError(
            f"features = 'inception' needs the package torch-fidelity, which cannot be imported ({error}); install "
            f"it with {FID_EXTRA}, or choose features digits or pixels."
        ) from error
    except (RuntimeError, OSError) as error:  # a torchvision that was built for another torch
        raise ConfigError(
            f"features = 'inception': torch-fidelity cannot be imported ({error}); install the torchvision that "
            "belongs to this torch, or choose features digits or pixels."
        ) from error
    return library


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require(path.is_file(), "inception", str(path), "there is no such file; give that of the weights")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"inception = {str(path)!r} cannot be read as weights: {_first_line(error)}") from error
    except Exception as error:  # pickle's own, at a file that is none or holds more than tensors
        raise ConfigError(f"inception = {str(path)!r} holds more than tensors: {_first_line(error)}") from error
    tensors = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    require(tensors, "inception", str(path), "it is no state dict, name → tensor")
    return dict(state)


def _downloaded(address: str) -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(address, map_location="cpu", weights_only=True)
    except Exception as error:  # no network, no such host, a torn file, a folder that cannot be written
        raise ConfigError(
            f"inception = None: the weights cannot be downloaded from {address} ({_first_line(error)}); fetch them "
            "where there is a network and give their file as inception."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _told(weights: str | Path | None) -> str:
    return "None: what was downloaded" if weights is None else repr(str(weights))


class DigitsFeatures(Extractor):
    """The lab's digits classifier: 64 features and 10 classes of 8×8 digits."""

    name = "digits"

    def __init__(self) -> None:
        self.network = copy.deepcopy(DigitsClassifier.load()).to(device())
        self.digest = _digest(self.network.state_dict())

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Extracted:
        fits = x.shape[2:] == (8, 8)
        require(fits, "features", "digits", f"they are of 8×8 digits, and the images have {x.shape[2]}×{x.shape[3]}")
        features = self.network.features(x[:, :1].to(device()))
        return Extracted(features.cpu(), self.network.head(features).detach().cpu())


class Pixels(Extractor):
    """The first 32 principal axes of the pixels of given images, which share nothing with any network.

    Args:
        images: at least 2; the axes are those of 2,000 of them at most, averaged down to at most 32 pixels a side. Of
            grey ones a single channel counts.
    """

    name = "pixels"

    def __init__(self, images: UInt8[Tensor, "n c h w"]) -> None:
        require(len(images) >= 2, "images", len(images), "give at least 2: axes need a spread")
        self.channels = images.shape[1]
        small = self._small(to_floats(images[:PIXEL_IMAGES]))
        self.digest = _digest({"images": images[:PIXEL_IMAGES]})
        self.axes = PixelPca(small, min(PIXEL_AXES, len(small), small[0].numel()))

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Extracted:
        return Extracted(self.axes.features(self._small(x)), None)

    def _small(self, x: Float[Tensor, "n _ h w"]) -> Float[Tensor, "n c small_h small_w"]:
        side = tuple(min(PIXEL_SIDE, length) for length in x.shape[2:])
        return F.adaptive_avg_pool2d(x[:, : self.channels].cpu(), side)


def extract(batches: Iterable[UInt8[Tensor, "_ c h w"]], *extractors: Extractor) -> list[Extracted]:
    """What each extractor sees in images of 1 or 3 channels, a batch at a time; together, on the CPU."""
    found = [[of(to_floats(batch).expand(-1, 3, -1, -1)) for of in extractors] for batch in batches]
    return [_joined(parts) for parts in zip(*found, strict=True)]


def _joined(parts: Sequence[Extracted]) -> Extracted:
    logits = None if parts[0].logits is None else torch.cat([part.logits.cpu() for part in parts])
    return Extracted(torch.cat([part.features.cpu() for part in parts]), logits)


def to_bytes(x: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Images in [-1, 1] as they are saved: 0 to 255, rounded, and cut off outside."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_floats(x: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    return x.float() / 127.5 - 1


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
