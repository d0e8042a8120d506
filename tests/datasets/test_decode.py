"""The square that is cut out of an image: against the published recipe by hand, and on files as people have them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import noise, smooth
from PIL import Image, PngImagePlugin

from labkit.datasets.decode import BrokenImage, darkness, decode


def as_file(picture: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return file


@settings(max_examples=30)
@given(st.integers(4, 24), st.integers(0, 2), st.integers(3, 47), st.integers(0, 30), st.booleans())
def test_the_square_is_that_of_the_published_recipe(size, halvings, short, more, upright):
    """To one level of 255, as torch computes it, with Pillow's rounding after each pass along rows or columns."""
    short = max(short % (2 * size), size if halvings else 3)
    height, width = (side * 2**halvings for side in (short, short + more)[:: -1 if upright else 1])
    picture = smooth(height, width)
    square, enlarged, _ = decode(picture, size)
    assert (square.shape, square.dtype) == ((3, size, size), np.uint8)
    assert enlarged == (min(height, width) < size)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    for window in ((1, 2), (2, 1)) * halvings:
        x = (F.avg_pool2d(x, window) + 0.5).floor()
    high, wide = (round(side * size / min(x.shape[2:])) for side in x.shape[2:])
    for sides in ((x.shape[2], wide), (high, wide)):
        x = (F.interpolate(x, sides, mode="bicubic", antialias=True) + 0.5).floor().clamp(0, 255)
    top, left = (high - size) // 2, (wide - size) // 2
    assert (torch.from_numpy(square) - x[0, :, top : top + size, left : left + size]).abs().max() <= 1


def test_an_image_of_the_right_size_stays_as_it_is(tmp_path):
    picture = noise(9, 9, 3)
    image = Image.fromarray(picture)
    image.save(tmp_path / "a.png")
    for file in (picture, as_file(image), tmp_path / "a.png"):
        assert np.array_equal(decode(file, 9).pixels, picture.transpose(2, 0, 1))
    assert np.array_equal(decode(tmp_path / "a.png", 9, channels=1).pixels, np.asarray(image.convert("L"))[None])
    grey = noise(9, 9)
    assert np.array_equal(decode(grey, 9, channels=1).pixels, grey[None])
    assert np.array_equal(decode(grey, 9).pixels, np.stack([grey] * 3))


def test_sixteen_bits_become_eight():
    deep = np.linspace(0, 65535, 81).astype(np.uint16).reshape(9, 9)
    square = decode(as_file(Image.fromarray(deep)), 9, channels=1).pixels[0]
    assert np.array_equal(square, np.round(deep / 257))
    assert np.array_equal(decode(as_file(Image.fromarray(deep.astype(np.int32)), "TIFF"), 9).pixels[0], square)


@pytest.mark.parametrize(("bits", "stated"), [(8, None), (10, None), (12, None), (12, "TIFF"), (12, "PGM")])
def test_bits_that_are_stated_are_read_and_others_can_be_given(bits, stated):
    deep = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    expected = np.round(deep / ((2**bits - 1) / 255)).astype(np.uint8)
    if stated == "TIFF":  # two values of 12 bits in three bytes
        first, second = deep.reshape(-1, 2).astype(int).T
        bytes_of = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
        packed = np.stack(bytes_of, axis=1).astype(np.uint8).tobytes()
        tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 8), (279, len(packed))]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        file = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + packed
        assert file.index(packed) == 122
    elif stated == "PGM":
        file = b"P5 8 8 4095\n" + deep.astype(">u2").tobytes()
    else:
        file = as_file(Image.fromarray(deep)).getvalue()
    square = decode(io.BytesIO(file), 8, 1, None if stated else bits)
    assert np.abs(square.pixels[0].astype(int) - expected).max() <= (stated == "PGM")  # by way of 16 bits
    text = darkness([None, square.brightest])
    assert text is None if stated else f"is {2**bits - 1} of 65535, or {bits} bits" in text


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA"])
def test_dark_colours_of_16_bits_are_recognised(kind):
    colour = {"RGB": 2, "LA": 4, "RGBA": 6}[kind]
    deep = np.full((8, 8, len(kind)), 4000, ">u2")
    deep[..., -1] = 65535 if "A" in kind else 4000

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0))
    file = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert darkness([decode(io.BytesIO(file), 8).brightest])
    with pytest.raises(BrokenImage, match=r"only the upper 8 of its 16 bits .*save it with 8 bits a channel"):
        decode(io.BytesIO(file), 8, bits=12)


def test_black_and_bright_images_of_16_bits_are_taken_as_they_are():
    for values in ([0, 0], [0, 20000]):
        assert darkness([decode(as_file(Image.fromarray(np.array([values] * 2, np.uint16))), 2).brightest]) is None
    assert darkness([4000, 20000]) is None and darkness([None]) is None and darkness([]) is None


def test_a_png_may_hold_much_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3 * 2**20, zip=True)
    assert decode(as_file(Image.fromarray(noise(8, 8, 3)), pnginfo=info), 8).pixels.shape == (3, 8, 8)


def test_cmyk_becomes_rgb():
    red = as_file(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(decode(red, 8).pixels.mean(axis=(1, 2)) - (255, 0, 0)).max() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_laid_on_white(mode):
    rgba = Image.new("RGBA", (8, 8), (40, 40, 40, 255))
    rgba.paste((40, 40, 40, 0), (0, 0, 4, 8))
    rgba.paste((40, 40, 40, 128), (0, 0, 1, 8))
    file = as_file(rgba.convert(mode))
    if mode == "P":
        picture = Image.new("P", (8, 8), 1)
        picture.putpalette([0, 0, 0, 40, 40, 40])
        picture.paste(0, (0, 0, 4, 8))
        file = as_file(picture, transparency=0)
    square = decode(file, 8).pixels
    assert (square[:, :, 0] == (255 if mode == "P" else 147)).all()  # half of 255 and half of 40
    assert (square[:, :, 1:4] == 255).all()
    assert (square[:, :, 4:] == 40).all()


def test_a_photo_is_turned_upright():
    upright = noise(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90° clockwise to look at it
    lying = Image.fromarray(np.rot90(upright).copy())
    assert np.array_equal(decode(as_file(lying, exif=exif), 8).pixels, upright.transpose(2, 0, 1))


def test_the_first_picture_of_a_film_counts():
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    film = as_file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(film, 8).pixels == 10).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no image at all", "cannot identify image file"),
        (as_file(Image.fromarray(noise(64, 64, 3)), "JPEG").getvalue()[:-900], "truncated"),
        (as_file(Image.fromarray(noise(64, 64, 3))).getvalue()[:2000], "truncated"),
        (as_file(Image.fromarray(noise(8, 8).astype(np.float32)), "TIFF").getvalue(), "unknown range"),
        (as_file(Image.fromarray(noise(8, 8).astype(np.int32) * 999), "TIFF").getvalue(), "unknown range"),
        (as_file(Image.new("L", (600, 2))).getvalue(), "600×2"),
    ],
)
def test_images_that_cannot_be_used_are_refused_with_the_reason(data, message):
    with pytest.raises(BrokenImage, match=message):
        decode(io.BytesIO(data), 8)


@settings(max_examples=100)
@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_a_damaged_file_is_read_or_refused_never_worse(place, value, kind):
    data = bytearray(as_file(Image.fromarray(smooth(16, 16)), kind).getvalue())
    data[place % len(data)] = value
    try:
        assert decode(io.BytesIO(bytes(data)), 8).pixels.shape == (3, 8, 8)
    except BrokenImage as broken:
        assert str(broken)


def test_a_missing_file_is_broken_and_a_failing_disk_is_not(tmp_path, monkeypatch):
    with pytest.raises(BrokenImage, match="No such file"):
        decode(tmp_path / "gone.png", 8)
    with pytest.raises(BrokenImage, match="directory"):
        decode(tmp_path, 8)

    def failing(*_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(OSError, match="Input/output"):
        decode(tmp_path / "x.png", 8)
