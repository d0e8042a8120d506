"""Small random images, folders of them and a VAE; stores prepared by processes that may be killed."""

import importlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forked import processes
from PIL import Image
from small import randomised

CHANCE = np.random.default_rng(0)


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    return CHANCE.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """An image with slopes and edges, as photographs have them."""
    coarse = Image.fromarray(noise(6, 6, 3)).resize((width, height), Image.Resampling.BICUBIC)
    edges = np.asarray(Image.fromarray(noise(5, 5, 3)).resize((width, height), Image.Resampling.NEAREST))
    return np.where(edges > 200, edges, np.asarray(coarse))


def image_folder(root: Path, sizes: dict[str, int], side: int = 20) -> Path:
    """A folder of PNGs, ``sizes[c]`` of them in the sub-folder c."""
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(noise(side + i % 3, side + 5, 3)).save(root / name / f"{i:03d}.png")
    return root


def tiny_vae(folder: Path, **config: object) -> Path:
    """An AutoencoderKL that divides the side by 8 as Stable Diffusion's does; weights random, none zero."""
    from diffusers import AutoencoderKL

    small = dict(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4)
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(**small | dict(down_block_types=down, up_block_types=up) | config)
    randomised(vae).save_pretrained(folder)
    return folder


def tiny_dino(folder: Path, kind: str = "dinov2") -> Path:
    """A DINOv2 of two blocks, with every weight random."""
    import transformers

    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=70, patch_size=14)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes))
    randomised(model, 0.2).save_pretrained(folder)
    return folder


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store; of store.json, all that does not depend on where it was made."""
    files = {path.name: path.read_bytes() for path in store.iterdir()}
    about = json.loads(files.pop("store.json"))
    about.pop("machine")
    return files | {"store.json": json.dumps(about).encode()}


def killed_at(call: int, moment: str, *args: Any, **settings: Any) -> None:
    """Prepare in another process, which is killed at its ``call``-th write: before it, half-way, or after it."""
    process = processes.Process(target=_prepare, args=(call, moment, args, settings), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def prepared_by_ranks(ranks: int, *args: Any, **settings: Any) -> None:
    """Prepare in several processes at the same time."""
    shares = [dict(settings, rank=rank, ranks=ranks) for rank in range(ranks)]
    started = [processes.Process(target=_prepare, args=(None, "", args, share), daemon=True) for share in shares]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        assert process.exitcode == 0


def _prepare(call: int | None, moment: str, args: tuple[Any, ...], settings: dict[str, Any]) -> None:
    from labkit.datasets import prepare
    from labkit.disk import part_of

    making = importlib.import_module("labkit.datasets.prepare")  # the package's attribute is the function

    torch.set_num_threads(1)  # as in the tests: bits may depend on it
    write, calls = making.replace_file, []

    def deadly(path: Path, *data: Any) -> None:
        calls.append(path)
        due = len(calls) == call
        if due and moment == "half-way":
            path.parent.mkdir(exist_ok=True)
            part_of(path).write_bytes(bytes(data[0])[:5])
        if due and moment != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *data)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    making.replace_file = deadly
    prepare(*args, progress=False, **settings)
