"""Images as one picture file."""

import io
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from labkit.disk import replace_file
from labkit.ops import to_bytes


def write_sheet(x: Float[Tensor, "n c h w"], path: Path, columns: int = 10) -> Path:
    """Write images in [-1, 1] as one PNG, row by row, each with a border; return the path.

    Images of up to 32 pixels are enlarged four times; of latents, the first 3 channels are shown.
    """
    x, zoom = x[:, :3], max(1, min(4, 128 // x.shape[2]))
    rows = -(-len(x) // columns)
    x = torch.cat([x.cpu(), torch.full((rows * columns - len(x), *x.shape[1:]), -1.0)])
    x = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1).unflatten(0, (rows, columns))
    sheet = x.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # rows·height, columns·width, channels
    image = Image.fromarray(to_bytes(sheet).squeeze(-1).numpy())
    file = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(file, "PNG")
    replace_file(path, file.getvalue())
    return path
