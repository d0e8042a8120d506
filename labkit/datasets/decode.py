"""Squares of pixels from image files, by the published preprocessing of ImageNet (Dhariwal & Nichol 2021, ADM).

An image is halved by box averages while its shorter side is at least twice the wanted size; then a bicubic resize
brings the shorter side to size, and the centre is cut out. A smaller image is enlarged. Before that, a photo is turned
upright by its EXIF data, transparent pixels are laid on white, and 16 bits become 8; this hardly concerns ImageNet.
"""

import errno
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

FILE_ERRORS = (errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.EPERM)
NARROW = 50  # times as long as wide: at full size such an image would fill the memory


class BrokenImage(Exception):
    """An image that cannot be used; the message is the reason."""


class Square(NamedTuple):
    """Pixels cut out of an image."""

    pixels: UInt8[np.ndarray, "channels size size"]
    enlarged: bool
    """Whether the image was smaller than the square."""


def decode(file: Any, size: int, channels: int = 3) -> Square:
    """The central square of an image: RGB, or grey for one channel.

    Args:
        file: a path, an open file, or an array of pixels, (h, w) or (h, w, c).

    Raises:
        BrokenImage: the file is no image, is cut, or does not fit into 8 bits.
        OSError: the disk or the network failed; the image may be fine.
    """
    try:
        with Image.fromarray(file) if isinstance(file, np.ndarray) else Image.open(file) as picture:
            enlarged = min(picture.size) < size
            square = np.asarray(crop(_plain(picture, "L" if channels == 1 else "RGB"), size))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises all kinds at damaged files: OSError, SyntaxError, …
        why = str(error)
        if isinstance(error, OSError) and error.errno is not None:
            if error.errno not in FILE_ERRORS:
                raise
            why = error.strerror or why
        raise BrokenImage(" ".join(why.split())[:200] or type(error).__name__) from error
    return Square(np.ascontiguousarray(square.reshape(size, size, channels).transpose(2, 0, 1)), enlarged)


def crop(picture: Image.Image, size: int) -> Image.Image:
    """The centre of an image, as a square of ``size`` pixels."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _plain(picture: Image.Image, mode: str) -> Image.Image:
    """The image upright, opaque and with 8 bits per channel."""
    if max(picture.size) > NARROW * min(picture.size):
        raise BrokenImage(f"it has {picture.width}×{picture.height} pixels, which is too narrow for a square")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):  # Pillow would cut off above 255
        values = np.asarray(picture).astype(np.float64)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise BrokenImage("its pixels are numbers of unknown range; save it with 8 or 16 bits a channel")
        picture = Image.fromarray((values / 257).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)
