"""Networks of other packages (transformers, diffusers) with weights from the hub or a folder."""

import importlib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from labkit.checks import ConfigError, require
from labkit.disk import user_path

Network = TypeVar("Network", bound=nn.Module)
Load = Callable[[Any, str, dict[str, Any]], tuple[Network, dict[str, Any]]]


def load_pretrained(field: str, source: str, package: str, example: str, file: str, load: Load[Network]) -> Network:
    """A network with all its weights, frozen and ready to evaluate, in float32. Nothing is unpickled.

    Args:
        field: name of the setting that holds ``source``, for messages.
        source: a hub id, or a folder with config.json and ``file``.
        package: the package that has the network's class.
        example: a hub id that would do.  file: name of the file of weights.
        load: function from package, source and options of ``from_pretrained`` to network and loading info.

    Raises:
        ConfigError: the package is missing, or the weights cannot be loaded or are not complete.
    """
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"{field} = {source!r} needs the package {package}, which is not installed: `pip install {package}`."
        ) from None
    source = user_path(source, field).as_posix()  # of a hub id, the same
    options = {"local_files_only": Path(source).is_dir(), "use_safetensors": True, "output_loading_info": True}
    try:
        network, info = load(module, source, options)
    except ConfigError:
        raise
    except Exception as error:  # the packages raise all kinds: no network, no file, a torn file, other shapes
        raise ConfigError(
            f"{field} = {source!r} cannot be loaded: give a hub id such as {example} if there is a network, else the "
            f"folder of downloaded weights (config.json, {file}). {type(error).__name__}: "
            + textwrap.shorten(str(error), 200)
        ) from None
    missing = sorted(info["missing_keys"])
    few = f"{len(missing)} of its weights are missing in the file ({', '.join(missing[:3])}) and would stay random"
    require(not missing, field, source, f"{few}; download it again")
    return network.float().requires_grad_(False).eval()
