"""Sheets of small images: as one heat map, which a slider replaces in place, and as a picture."""

import base64
import io

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from PIL import Image
from torch import Tensor

GAP = -0.85  # a light grey; NaN would be clearer but is no JSON, in which notebooks are written


def tile(x: Float[Tensor, "n 1 h w"], columns: int = 5) -> np.ndarray:
    """One-channel images in [-1, 1], row by row, with a light grey line of one pixel between them."""
    count, _, height, width = x.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), GAP, dtype=np.float32)
    for i, image in enumerate(x[:, 0].clamp(-1, 1).cpu().numpy()):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def sheet(x: Float[Tensor, "n c h w"], columns: int = 5) -> Image.Image:
    """Images in [-1, 1] laid out by ``tile``: digits as ink on white, colours as they are."""
    colours = x if x.shape[1] == 3 else -x.expand(-1, 3, -1, -1)
    channels = np.stack([-tile(-colours[:, [channel]], columns) for channel in range(3)], axis=-1)
    return Image.fromarray(((channels + 1) * 127.5).round().astype(np.uint8))


def picture(x: Float[Tensor, "n c h w"], columns: int = 5) -> str:
    """The sheet, four times as large, as a PNG in a data URI, for the ``source`` of a ``go.Image``."""
    image = sheet(x, columns)
    return data_uri(image.resize((4 * image.width, 4 * image.height), Image.Resampling.NEAREST))


def data_uri(image: Image.Image) -> str:
    """An image as a PNG in a data URI."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def digit_trace(sheet: np.ndarray) -> go.Heatmap:
    """Heat map of a ``tile``d sheet: −1 is white, 1 is black."""
    return go.Heatmap(
        z=sheet, zmin=-1, zmax=1, colorscale=[[0, "#FFFFFF"], [1, "#111111"]], showscale=False, hoverinfo="skip"
    )


def style_digits(plot: go.Figure, row: int = 1, col: int = 1) -> None:
    """Square pixels, the first row on top, no axes, a light ground between the images."""
    number = plot.get_subplot(row, col).yaxis.plotly_name.removeprefix("yaxis")
    plot.update_yaxes(
        autorange="reversed", scaleanchor=f"x{number}", constrain="domain", visible=False, row=row, col=col
    )
    plot.update_xaxes(constrain="domain", visible=False, row=row, col=col)
