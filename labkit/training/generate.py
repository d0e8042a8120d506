"""Images from a network: the sampler with the lab's manners, every sample's noise its own, every setting recorded."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit import datasets
from labkit.checks import check_seed, require, whole
from labkit.config import Config
from labkit.runtime import Purpose, generator
from labkit.sampling import EVALUATIONS, Method, guided, integrate
from labkit.training.checkpoint import replace_file


class Samples(NamedTuple):
    """Generated images and how they were made."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]
    """The labels that were asked for."""
    settings: dict[str, Any]
    """Sampler, steps, guidance, seed, number of function evaluations (nfe): what must stand beside a figure."""

    def told(self) -> str:
        """The settings as words for a caption."""
        s = self.settings
        return (
            f"{s['method']}, {s['steps']} steps ({s['nfe']} evaluations), guidance {s['guidance']:g}, seed {s['seed']}"
        )


def sample_network(
    network: nn.Module,
    config: Config,
    n: int = 64,
    *,
    y: Sequence[int] | Tensor | None = None,
    steps: int = 50,
    method: Method = "heun",
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Samples:
    """Integrate the velocity from noise to images.

    Sample i depends on (seed, i) and its label alone, not on n or the batch size.

    Args:
        network: a Transformer; it is run without gradient.
        config: the run's config, for the shape of its images.
        n: number of samples, at least 1.
        y: n labels, ``num_classes`` meaning none; by default 0, 1, 2, … in turn.
        steps: intervals of the solver.  method: ``heun`` or ``euler``.
        guidance: 1 is the plain conditional model, above 1 is classifier-free guidance on all channels.
        seed: of the noise.  batch_size: samples at a time.  progress: show a bar.
    """
    require(whole(n, 1), "n", n, "take a whole number of at least 1")
    require(whole(batch_size, 1), "batch_size", batch_size, "take at least 1")
    check_seed(seed)
    images = getattr(datasets, config.dataset)("train")
    labels = torch.arange(n) % images.num_classes if y is None else torch.as_tensor(y).long()
    require(
        labels.shape == (n,) and bool(((labels >= 0) & (labels <= images.num_classes)).all()), "y", labels.tolist(),
        f"give {n} labels between 0 and {images.num_classes} ({images.num_classes} means none)",
    )  # fmt: skip
    on = next(network.parameters()).device
    done = []
    with torch.inference_mode(), tqdm(total=n, desc="sampling", unit="image", disable=not progress) as bar:
        for first in range(0, n, batch_size):
            wanted = labels[first : first + batch_size].to(on)
            noise = starting_noise(images, range(first, first + len(wanted)), seed).to(on)
            field = guided(lambda x, t, c: network(x, t, c).output, wanted, images.num_classes, guidance)
            done.append(integrate(field, noise, steps, method).cpu())
            bar.update(len(wanted))
    settings = {
        "method": method, "steps": steps, "guidance": float(guidance), "seed": seed, "count": n,
        "nfe": steps * EVALUATIONS[method],
    }  # fmt: skip
    return Samples(torch.cat(done).clone(), labels, settings)


def starting_noise(images: datasets.Images, numbers: Sequence[int], seed: int) -> Float[Tensor, "n c h w"]:
    """The noise that samples of these numbers start from, each drawn from (seed, number) alone."""
    return torch.stack([torch.randn(images.x.shape[1:], generator=generator(seed, Purpose.START, i)) for i in numbers])


def write_sheet(x: Float[Tensor, "n c h w"], path: Path, columns: int = 10, zoom: int = 4) -> Path:
    """Write images in [-1, 1] (1 or 3 channels) as one PNG, row by row with a border each; return the path."""
    rows = -(-len(x) // columns)
    x = torch.cat([x.cpu().clamp(-1, 1), torch.full((rows * columns - len(x), *x.shape[1:]), -1.0)])
    x = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1).unflatten(0, (rows, columns))
    sheet = x.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # rows·height, columns·width, channels
    image = Image.fromarray(((sheet + 1) * 127.5).round().byte().squeeze(-1).numpy())
    file = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(file, "PNG")
    replace_file(path, file.getvalue())
    return path
