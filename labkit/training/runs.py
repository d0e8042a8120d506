"""A run is a folder that reopens: its config, metrics and weights, ready to sample from or to go on training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit import datasets
from labkit.config import Config, check_seed, require
from labkit.models import Transformer
from labkit.runtime import device, generator
from labkit.sampling import EVALUATIONS, Method, guided, integrate
from labkit.training import checkpoint as ckpt
from labkit.training.folder import RunError, RunFolder
from labkit.training.trainer import Trainer, build_network

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "RunError", "Samples", "sample", "sample_network", "starting_noise"]

Weights = Literal["ema", "model"]


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
        return f"{s['method']}, {s['steps']} steps ({s['nfe']} evaluations), guidance {s['guidance']:g}, seed {s['seed']}"


class Run:
    """An existing run. Open it with ``Run.open(path)``."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.path = folder.path
        self.config: Config = folder.config()

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run's folder; a missing or foreign folder is refused with a RunError."""
        return cls(RunFolder.open(Path(path)))

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step → checkpoint file."""
        return self.folder.checkpoints()

    def metrics(self) -> "pd.DataFrame":
        """The tidy table of everything logged: step, samples, seconds, name, value."""
        return self.folder.metrics()

    def trainer(self, **changes: Any) -> Trainer:
        """Go on training from the newest checkpoint; ``steps=…`` extends the run."""
        return Trainer(self.config.replace(**changes), self.path)

    def model(self, weights: Weights = "ema", step: int | None = None) -> Transformer:
        """The network at a checkpoint (the newest by default), averaged weights or live ones, ready to evaluate."""
        require(weights in ("ema", "model"), "weights", weights, "choose 'ema' (the moving average) or 'model'")
        if step is None:
            state = self.folder.newest(self.config)
            if state is None:
                raise RunError(f"{self.path} has no checkpoint yet; train it with `labkit train --resume {self.path}`.")
        else:
            known = self.checkpoints
            require(step in known, "step", step, f"this run has checkpoints at {', '.join(map(str, known)) or 'no step'}")
            state = ckpt.read(known[step])
        network = build_network(self.config, getattr(datasets, self.config.dataset)("train"))
        network.load_state_dict(state.part(f"{weights}."))
        return network.to(device()).eval().requires_grad_(False)

    def sample(self, n: int = 64, **settings: Any) -> Samples:
        """Generate images with the averaged weights; see ``labkit.sample``."""
        return sample_network(self.model(), self.config, n, **settings)


def sample(run: Run | str | Path, n: int = 64, **settings: Any) -> Samples:
    """Generate ``n`` images from a run.

    Args:
        run: a Run or the path of its folder.
        n: how many.
        settings: as in ``sample_network``: y, steps, method, guidance, seed, batch_size, progress.
    """
    return (run if isinstance(run, Run) else Run.open(run)).sample(n, **settings)


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
    require(isinstance(n, int) and n >= 1, "n", n, "take a whole number of at least 1")
    require(isinstance(batch_size, int) and batch_size >= 1, "batch_size", batch_size, "take at least 1")
    check_seed(seed)
    images = getattr(datasets, config.dataset)("train")
    labels = torch.arange(n) % images.num_classes if y is None else torch.as_tensor(y).long()
    require(
        labels.shape == (n,) and 0 <= labels.min() and labels.max() <= images.num_classes, "y", labels.tolist(),
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
    return torch.stack([torch.randn(images.x.shape[1:], generator=generator(seed, 3, i)) for i in numbers])
