"""DINOv2's weights through the package transformers, and what can go wrong with them in one sentence each."""

from pathlib import Path

from torch import nn

from labkit.checks import ConfigError, require

KINDS = ("dinov2", "dinov2_with_registers")


def load_dinov2(source: str) -> nn.Module:
    """The network of a hub id such as ``facebook/dinov2-base``, or of a folder with config.json and model.safetensors.

    Returns:
        transformers' ``Dinov2Model`` or ``Dinov2WithRegistersModel`` in float32. Nothing is unpickled.

    Raises:
        ConfigError: transformers is missing, the weights cannot be had, are not DINOv2's or not complete.
    """
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError:
        raise ConfigError(
            f"teacher = {source!r} needs the package transformers, which is not installed: `pip install transformers`."
        ) from None
    local = Path(source).is_dir()
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        require(config.model_type in KINDS, "teacher", source, f"it holds a {config.model_type}; name a DINOv2")
        model, found = AutoModel.from_pretrained(
            source, config=config, local_files_only=local, use_safetensors=True, output_loading_info=True
        )
    except ConfigError:
        raise
    except Exception as error:  # loading raises of all kinds: no network, no file, a torn file, shapes that differ
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"teacher = {source!r} cannot be loaded: give a hub id such as facebook/dinov2-base if there is a network, "
            f"else the folder of downloaded weights (config.json, model.safetensors). {type(error).__name__}: {why}"
        ) from None
    missing = sorted(found["missing_keys"])
    require(
        not missing,
        "teacher",
        source,
        f"{len(missing)} of its weights are missing in the file ({', '.join(missing[:3])}) and would stay random",
    )
    return model.float()
