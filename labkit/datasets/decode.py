"""From an image file to a square of pixels, by the published preprocessing of ImageNet (Dhariwal & Nichol 2021, ADM).

While its shorter side is at least twice what is wanted, an image is halved by box averages; then a bicubic resize
brings the shorter side to size and the centre is cut out. A smaller image is enlarged. Before that, and of next to no
consequence for ImageNet, a photo is turned upright as its EXIF data say, what is transparent is laid on white, and 16
bits become 8.
"""

import errno
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

OF_THE_FILE = (errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.EPERM)
NARROW = 50  # times as long as wide: brought to size, it would fill the memory


class BrokenImage(Exception):
    """An image that cannot be used; the message says why."""


class Square(NamedTuple):
    """The pixels cut out of an image."""

    pixels: UInt8[np.ndarray, "channels size size"]
    enlarged: bool
    """Whether the image was smaller than the square."""


def decode(file: Any, size: int, channels: int = 3) -> Square:
    """The square of an image: RGB, or grey for one channel.

    Args:
        file: a path, an open file, or an array of pixels, (h, w) or (h, w, c).

    Raises:
        BrokenImage: it is no image, cut, or of a kind that cannot be shown in 8 bits.
        OSError: the disk or the network failed, which says nothing about the image.
    """
    try:
        with Image.fromarray(file) if isinstance(file, np.ndarray) else Image.open(file) as picture:
            enlarged = min(picture.size) < size
            square = np.asarray(crop(_plain(picture, "L" if channels == 1 else "RGB"), size))
    except MemoryError:
        raise
    except Exception as error:  # what Pillow raises at damaged files is listed nowhere: OSError, SyntaxError, …
        number = error.errno if isinstance(error, OSError) else None
        if number is not None and number not in OF_THE_FILE:
            raise
        why = str(error) if number is None else error.strerror
        raise BrokenImage(" ".join(why.split())[:200] or type(error).__name__) from error
    return Square(np.ascontiguousarray(square.reshape(size, size, channels).transpose(2, 0, 1)), enlarged)


def crop(picture: Image.Image, size: int) -> Image.Image:
    """The centre of an image, ``size`` pixels square."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _plain(picture: Image.Image, mode: str) -> Image.Image:
    """Upright, opaque, 8 bits a channel."""
    if max(picture.size) > NARROW * min(picture.size):
        raise BrokenImage(f"it has {picture.width}×{picture.height} pixels, which is too narrow for a square")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):  # Pillow would cut off at 255 what it cannot show
        values = np.asarray(picture).astype(np.float64)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise BrokenImage("its pixels are numbers of unknown range; save it with 8 or 16 bits a channel")
        picture = Image.fromarray((values / 257).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)
