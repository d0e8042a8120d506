"""Squares of pixels from image files, by the published preprocessing of ImageNet (Dhariwal & Nichol 2021, ADM).

An image is halved by box averages while its shorter side is at least twice the wanted size; then a bicubic resize
brings the shorter side to size, and the centre is cut out. A smaller image is enlarged. Before that, a photo is turned
upright by its EXIF data, transparent pixels are laid on white, and 16 bits become 8; this hardly concerns ImageNet.
"""

import contextlib
import errno
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, PngImagePlugin

FILE_ERRORS = (errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.EPERM)
NARROW = 50  # times as long as wide: at full size such an image would fill the memory
DARK = 2**14  # of 65535: where no value is brighter, the files probably hold fewer bits than 16
BITS_PER_SAMPLE = 258  # a tag of TIFF

# One text may be as long as all texts of a PNG together.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # pyrefly: ignore[bad-assignment]
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what is too large is refused


class BrokenImage(Exception):
    """An image that cannot be used; the message is the reason."""


class Square(NamedTuple):
    """Pixels cut out of an image."""

    pixels: UInt8[np.ndarray, "channels size size"]
    enlarged: bool
    """Whether the image was smaller than the square."""
    brightest: int | None = None
    """The brightest value, of 65535, of a file of 16 bits that does not say how many of them it uses."""


def decode(file: Any, size: int, channels: int = 3, bits: int | None = None) -> Square:
    """The central square of an image: RGB, or grey for one channel.

    Args:
        file: a path, an open file, or an array of pixels, (h, w) or (h, w, c).
        bits: those that a grey file of 16 bits uses; None is 16.

    Raises:
        BrokenImage: the file is no image, is cut, or does not fit into 8 bits.
        OSError: the disk or the network failed; the image may be fine.
    """
    try:
        with Image.fromarray(file) if isinstance(file, np.ndarray) else Image.open(file) as picture:
            enlarged = min(picture.size) < size
            plain, brightest = _plain(picture, "L" if channels == 1 else "RGB", bits)
            square = np.asarray(crop(plain, size))
    except Image.DecompressionBombError as error:
        pixels = next(iter(re.findall(r"\d+", str(error))), "")
        raise BrokenImage(f"it has {pixels} pixels; if you trust it, prepare with --max-pixels {pixels}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises all kinds at damaged files: OSError, SyntaxError, …
        why = str(error)
        if isinstance(error, OSError) and error.errno is not None:
            if error.errno not in FILE_ERRORS:
                raise
            why = error.strerror or why
        raise BrokenImage(" ".join(why.split())[:200] or type(error).__name__) from error
    return Square(np.ascontiguousarray(square.reshape(size, size, channels).transpose(2, 0, 1)), enlarged, brightest)


def darkness(brightest: Iterable[int | None]) -> str | None:
    """In words that 16-bit images are so dark that they probably hold fewer bits; None where they are not.

    Args:
        brightest: of the ``Square`` of each image.
    """
    most = max((value for value in brightest if value is not None), default=DARK)
    bits = max(most.bit_length(), 8)
    return f"the brightest value of its 16-bit images is {most} of 65535, or {bits} bits" if most < DARK else None


@contextlib.contextmanager
def pixel_limit(most: int | None) -> Iterator[None]:
    """Let images have up to ``most`` pixels; None keeps Pillow's limit, which guards against hostile files."""
    usual = Image.MAX_IMAGE_PIXELS
    if most is not None:
        Image.MAX_IMAGE_PIXELS = -(-most // 2)  # Pillow refuses twice as many
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def crop(picture: Image.Image, size: int) -> Image.Image:
    """The centre of an image, as a square of ``size`` pixels."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _plain(picture: Image.Image, mode: str, bits: int | None) -> tuple[Image.Image, int | None]:
    """The image upright, opaque and with 8 bits per channel, and ``Square.brightest``."""
    if max(picture.size) > NARROW * min(picture.size):
        raise BrokenImage(f"it has {picture.width}×{picture.height} pixels, which is too narrow for a square")
    stated, sixteen = _stated_bits(picture), any(";16" in str(tile) for tile in getattr(picture, "tile", ()))
    picture = ImageOps.exif_transpose(picture)
    brightest = None
    if picture.mode == "F" or picture.mode.startswith("I"):  # Pillow would cut off above 255
        values = np.asarray(picture).astype(np.float64)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise BrokenImage("its pixels are numbers of unknown range; save it with 8 or 16 bits a channel")
        brightest = None if stated else int(values.max())
        bits = stated or bits or 16
        if values.max() > 2**bits - 1:
            raise BrokenImage(f"its brightest value is {values.max():.0f}, and {bits} bits hold up to {2**bits - 1}")
        picture = Image.fromarray((values / ((2**bits - 1) / 255)).round().astype(np.uint8))
    elif sixteen:  # in colour, of which Pillow keeps the upper 8 bits
        if (bits or 16) < 16:
            raise BrokenImage("only the upper 8 of its 16 bits of colour can be read; save it with 8 bits a channel")
        brightest = 257 * int(np.asarray(picture.convert("RGB")).max())
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode), brightest or None  # all black says nothing


def _stated_bits(picture: Image.Image) -> int | None:
    """Bits that a value of the file uses; None where it has 16 or more, which many programs leave half empty."""
    if picture.format == "PPM":  # states its largest value, which becomes 65535
        return 16
    bits = getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
    return bits if bits < 16 else None
