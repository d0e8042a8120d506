"""Identity of data: what a run was trained on, by content, so that no other images take their place unnoticed."""

import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from labkit.checks import require
from labkit.datasets.embedded import EMBEDDED
from labkit.datasets.store import ABOUT, StoreError, complete
from labkit.disk import sha256, user_path


@dataclass(frozen=True)
class DataIdentity:
    """A data set by its content and its place. Copies in different places have one digest."""

    digest: str
    """SHA-256 of training images, labels, and what training does to them."""
    num_classes: int
    shape: tuple[int, int, int]
    """Channels, height and width of the network's input."""
    name: str
    """The data set as the config names it: an embedded set, or a path as it was typed."""
    path: str | None = None
    """Absolute folder of a store; None for an embedded set."""

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Side, channels and number of classes: the arguments of a network for these images."""
        return self.shape[-1], self.shape[0], self.num_classes

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DataIdentity":
        """Read back what ``to_json`` wrote; anything else is a ValueError or TypeError."""
        values = json.loads(text)
        return cls(**values | {"shape": tuple(values["shape"])})

    def describe(self) -> str:
        """Digest, classes and shape in words."""
        classes = f"{self.num_classes} class{'' if self.num_classes == 1 else 'es'}"
        return f"data of digest {self.digest[:12]} ({classes} of {'×'.join(map(str, self.shape))})"

    def located(self) -> str:
        """Name under which the data are found from here.

        That is the folder in which they were when the run was made. If they are no longer there, it is the path as it
        was typed, as after a copy of a whole project; if they are not there either, the first, which errors then name.
        """
        if self.path is None:
            return self.name
        places = (self.path, str(_absolute(self.name)))
        return next((place for place in places if (here := present(place)) and here.digest == self.digest), self.path)


def check_place(name: str) -> Path:
    """Absolute folder of a store by its name in a config; it is refused if there is nothing."""
    folder = _absolute(name)
    nothing = f"there is nothing at {folder}; if it has moved, put it or a link to it there, or choose"
    choices = f"{' or '.join(EMBEDDED)}, or the folder of a store, which `labkit prepare` makes from images"
    require(folder.exists(), "dataset", name, f"{nothing} {choices}")
    return folder


def _absolute(name: str) -> Path:
    return Path(os.path.abspath(user_path(name, "dataset")))


def identify(name: str) -> DataIdentity:
    """Identity of a data set by its name in a config.

    Raises:
        ConfigError: there is no such data set.
        StoreError: the folder is not a complete store.
    """
    if name in EMBEDDED:
        return _embedded(name)
    path = check_place(name)
    about = complete(path)
    labels = next(table["sha256"] for table in about["tables"] if table["file"] == "labels.npy")
    content = {key: about[key] for key in ("kind", "flips", "scale", "held_out")}
    content |= {"shards": [shard["sha256"] for shard in about["shards"]], "labels": labels}
    return DataIdentity(sha256(json.dumps(content)), about["num_classes"], tuple(about["shape"]), name, str(path))


def present(name: str) -> DataIdentity | None:
    """Identity of the data of this name; None if there are none, or their store is damaged, as training would say."""
    try:
        return identify(name) if name in EMBEDDED or (Path(name) / ABOUT).is_file() else None
    except (StoreError, OSError):
        return None


@cache
def _embedded(name: str) -> DataIdentity:
    images = EMBEDDED[name]("train")
    # Pixels in steps of 1/256, which is the same on every machine: none of them is near the middle of two steps.
    pixels = (images.x * 256).round().short().numpy()
    return DataIdentity(sha256(pixels, images.y.numpy()), images.num_classes, images.shape, name)
