"""The VAE of latent diffusion (Rombach et al. 2022): images ↔ latents, an eighth of the side and four channels.

Its encoder gives a normal distribution a pixel of the latent, q(z | image) = N(mean, std²). What is trained on is
x = scale · z, z ~ q, with the published scale 0.18215, which brings the latents of ImageNet to a deviation of about 1.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.checks import ConfigError, require
from labkit.runtime import device as usual_device
from labkit.runtime import seeded

SD_VAE = "stabilityai/sd-vae-ft-ema"
"""The VAE whose latents DiT, SiT and the paper train on."""


class Codec:
    """An ``AutoencoderKL`` of diffusers, in float32.

    Args:
        source: a hub id such as ``stabilityai/sd-vae-ft-ema``, or a folder with config.json and
            diffusion_pytorch_model.safetensors. Nothing is unpickled.
        device: by default the GPU if there is one.
        batch: images decoded at a time.

    Raises:
        ConfigError: diffusers is missing, the weights cannot be had, are not such a model's or not complete.
    """

    def __init__(self, source: str = SD_VAE, device: torch.device | None = None, batch: int = 16) -> None:
        self.source, self.batch, self.device = source, batch, device or usual_device()
        with seeded(0):
            self.vae = _load(source)
        self.config: dict[str, Any] = {k: v for k, v in sorted(self.vae.config.items()) if not k.startswith("_")}
        for name in ("shift_factor", "latents_mean", "latents_std"):
            value = self.config.get(name)
            require(value is None, "latents", source, f"its {name} is {value}, and only a scale can be used here")
        require(self.config["in_channels"] == 3, "latents", source, "it does not encode images of 3 channels")
        self.scale: float = self.config["scaling_factor"]
        self.channels: int = self.config["latent_channels"]
        self.factor = 2 ** (len(self.config["block_out_channels"]) - 1)
        self.digest = _digest(self.scale, self.vae)
        self.vae.to(self.device)

    def shape(self, size: int) -> tuple[int, int, int]:
        """Shape of the latent of an image of this side.

        Raises:
            ConfigError: the side cannot be divided so often.
        """
        require(size % self.factor == 0, "size", size, f"take a multiple of {self.factor}, by which the VAE divides it")
        return self.channels, size // self.factor, size // self.factor

    @torch.no_grad()
    def encode(
        self, x: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c h_small w_small"], Float[Tensor, "b c h_small w_small"]]:
        """Mean and deviation of the latents of images in [-1, 1], on the codec's device and unscaled."""
        posterior = self.vae.encode(x.to(self.device)).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def decode(self, x: Float[Tensor, "b c h_small w_small"]) -> Float[Tensor, "b 3 h w"]:
        """The images, in [-1, 1] and on the CPU, of scaled latents, as a network samples them."""
        parts = [self.vae.decode(part.to(self.device) / self.scale).sample for part in x.split(self.batch)]
        return torch.cat([part.clamp(-1, 1).cpu() for part in parts])


def _load(source: str) -> nn.Module:
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise ConfigError(
            f"latents = {source!r} needs the package diffusers, which is not installed: `pip install diffusers`."
        ) from None
    try:
        vae, info = AutoencoderKL.from_pretrained(
            source,
            local_files_only=Path(source).is_dir(),
            use_safetensors=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
            low_cpu_mem_usage=False,
        )
    except Exception as error:  # loading raises of all kinds: no network, no file, a torn file, shapes that differ
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"latents = {source!r} cannot be loaded: give a hub id such as {SD_VAE} if there is a network, else the "
            "folder of downloaded weights (config.json, diffusion_pytorch_model.safetensors). "
            f"{type(error).__name__}: {why}"
        ) from None
    missing = sorted(info["missing_keys"])
    allowed = f"{len(missing)} of its weights are missing in the file ({', '.join(missing[:3])}) and would stay random"
    require(not missing, "latents", source, allowed)
    return vae.eval().requires_grad_(False)


def _digest(scale: float, vae: nn.Module) -> str:
    """Digest of the weights and of the factor of their latents."""
    digest = hashlib.sha256(repr(scale).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
