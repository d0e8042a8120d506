"""The VAE of latent diffusion (Rombach et al. 2022): images ↔ latents, an eighth of the side and four channels.

Its encoder gives a normal distribution for each entry of the latent, q(z | image) = N(mean, std²). Networks are trained
on x = scale · z, z ~ q, with the published scale 0.18215, which brings ImageNet's latents to a deviation of about 1.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.checks import require
from labkit.disk import sha256
from labkit.models.pretrained import load_pretrained
from labkit.ops import raw
from labkit.runtime import device as usual_device
from labkit.runtime import seeded

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SD_VAE = "stabilityai/sd-vae-ft-ema"
"""VAE whose latents DiT, SiT and the paper train on."""


class Codec:
    """An ``AutoencoderKL`` of diffusers, in float32.

    Args:
        source: a hub id such as ``stabilityai/sd-vae-ft-ema``, or a folder with config.json and
            diffusion_pytorch_model.safetensors. Nothing is unpickled.
        device: by default the GPU if there is one.
        batch: number of images decoded at a time.

    Raises:
        ConfigError: as ``load_pretrained``, or a VAE of another kind.
    """

    def __init__(self, source: str = SD_VAE, device: torch.device | None = None, batch: int = 16) -> None:
        self.source, self.batch, self.device = source, batch, device or usual_device()

        def load(diffusers: Any, source: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            options |= {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
            return diffusers.AutoencoderKL.from_pretrained(source, **options)

        with seeded(0):
            self.vae: AutoencoderKL = load_pretrained(
                "latents", source, "diffusers", SD_VAE, "diffusion_pytorch_model.safetensors", load
            )
        self.config: dict[str, Any] = {k: v for k, v in sorted(self.vae.config.items()) if not k.startswith("_")}
        for name in ("shift_factor", "latents_mean", "latents_std"):
            value = self.config.get(name)
            require(value is None, "latents", source, f"its {name} is {value}; give a VAE that only scales latents")
        require(self.config["in_channels"] == 3, "latents", source, "give a VAE of images with 3 channels")
        self.scale: float = self.config["scaling_factor"]
        self.channels: int = self.config["latent_channels"]
        self.factor = 2 ** (len(self.config["block_out_channels"]) - 1)
        weights = sorted(self.vae.state_dict().items())
        self.digest = sha256(repr(self.scale), *(part for name, tensor in weights for part in (name, raw(tensor))))
        self.vae.to(self.device)

    def shape(self, size: int) -> tuple[int, int, int]:
        """Shape of the latent of an image with this side.

        Raises:
            ConfigError: the VAE cannot divide this side.
        """
        require(size % self.factor == 0, "size", size, f"the VAE divides it by {self.factor}; take a multiple")
        return self.channels, size // self.factor, size // self.factor

    @torch.no_grad()
    def encode(
        self, x: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c h_small w_small"], Float[Tensor, "b c h_small w_small"]]:
        """Mean and standard deviation of the latents of images in [-1, 1], unscaled, on the codec's device."""
        posterior = self.vae.encode(x.to(self.device)).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def decode(self, x: Float[Tensor, "b c h_small w_small"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [-1, 1], on the CPU, of scaled latents as a network samples them."""
        parts = [self.vae.decode(part.to(self.device) / self.scale).sample for part in x.split(self.batch)]
        fault = "it decodes samples to values that are not finite; check its weights"
        require(all(bool(part.isfinite().all()) for part in parts), "vae", self.source, fault)
        return torch.cat([part.clamp(-1, 1).cpu() for part in parts])
