"""The letters: counts, families and kinships on one side of the split, free licences, and how a face becomes images."""

import csv
import hashlib
from pathlib import Path

import build_letters as builder
import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import ImageFont

from labkit import runtime
from labkit.datasets import letters


@pytest.fixture(scope="module")
def file():
    with np.load(runtime.data_dir() / "letters.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def faces(file):
    """(n, 26, 16, 16), and whether each face is held out."""
    order = np.lexsort((file["y"], file["face"]))
    held_out = file["held_out"][order].reshape(-1, 26)
    assert (file["y"][order].reshape(-1, 26) == range(26)).all() and (held_out == held_out[:, :1]).all()
    return file["x"][order].reshape(-1, 26, 16, 16), held_out[:, 0]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_each_split_has_every_letter_equally_often(split):
    images = letters(split)
    assert (images.y.bincount() == len(images) // 26).all()
    assert (images.x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == -1).all()  # white on black, with a margin


def test_no_family_or_kinship_is_parted(file, faces):
    _, held_out = faces
    for part in (file["family"], file["kin"]):
        assert all(len(set(held_out[part == number])) == 1 for number in np.unique(part))
    names = [set(file["families"][file["family"][side]]) for side in (held_out, ~held_out)]
    assert not any(a.startswith(b) or b.startswith(a) for a in names[0] for b in names[1])
    assert len(names[0]) > 25 and len(names[1]) > 140
    assert 0.09 < held_out.mean() <= 0.1


def test_no_held_out_face_looks_like_one_to_train_on_and_none_occurs_twice(faces):
    """By plain differences, pixel by pixel, of all 26 letters together."""
    images, held_out = faces
    x = images.astype(np.float32) / 127.5 - 1
    for row in np.flatnonzero(held_out)[::4]:
        difference = np.sqrt(((x - x[row]) ** 2).mean(axis=(1, 2, 3)))
        assert difference[~held_out].min() >= 0.2
        difference[row] = 1
        assert difference.min() >= 0.1


def test_every_family_has_a_free_licence_whose_text_ships(file):
    folder = runtime.data_dir()
    with open(folder / "licenses" / "letters.csv", encoding="utf-8", newline="") as table:
        rows = {row["family"]: row for row in csv.DictReader(table)}
    assert list(rows) == file["families"].tolist()
    assert [row["licence"] for row in rows.values()] == file["licences"].tolist()
    assert [int(row["faces"]) for row in rows.values()] == np.bincount(file["family"]).tolist()
    texts = {path.stem for path in (folder / "licenses").glob("*.txt")} | {"public domain"}
    assert {name for row in rows.values() for name in row["licence"].split(" and ")} <= texts
    assert sum(bool(row["copyright"]) for row in rows.values()) > 0.9 * len(rows)
    content = (folder / "letters.npz").read_bytes()
    assert len(content) < 4e6 and hashlib.sha256(content).hexdigest().startswith("36dc2c6418e48829")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(words in text for words in ("texlive-fonts-extra", "letters.csv", "GUST", "doubles"))


@pytest.mark.parametrize(
    ("table", "terms", "listed", "free"),
    [
        ("licensed under the SIL Open Font License", "licensed under", "lppl", "OFL-1.1"),
        ("http://scripts.sil.org/OFL", "", "other-free", "OFL-1.1"),
        ("Apache License, Version 2.0", "Apache License", "apache2 ofl lppl", "Apache-2.0"),
        ("for use, without derivatives", "for use, without derivatives", "ofl", None),  # its own terms come first
        ("GNU General Public License", "GNU General Public License", "gpl2", None),
        ("Copyright (c) 1992", "", "ofl gpl2+", "OFL-1.1"),
        ("", "", "lppl1.3", "LPPL-1.3c"),
        ("", "", "other-free lppl1.3", None),  # LPPL is that of the macros
        ("", "", "gpl lppl1", None),
        ("", "", "", None),
    ],
)
def test_a_licence_is_the_fonts_own_or_debians_and_free(table, terms, listed, free):
    assert builder.licence(table, terms, listed) == free


def test_debians_list_is_read_by_folder():
    lines = ["Licenses", "", "clara: ofl gpl2+", "texmf-dist/fonts/opentype/public/clara/*", "drm: lppl1.3"]
    lines += ["texmf-dist/fonts/opentype/public/drm/*", "texmf-dist/tex/latex/drm/*"]
    folder = "texmf-dist/fonts/opentype/public/"
    assert builder.packages(lines) == {f"{folder}clara": ("clara", "ofl gpl2+"), f"{folder}drm": ("drm", "lppl1.3")}
    assert builder.family_of("qualitype", Path("QTHelvetCnd-Black.otf")) == "QTHelvet"
    assert builder.family_of("fira", Path("FiraMono-Bold.otf")) == "fira"


def test_doubles_are_left_out_and_kin_stay_together():
    images = np.zeros((5, 26, 16, 16), np.uint8)
    for face, value in enumerate((0, 10, 20, 100, 200)):
        images[face] += value
    between = builder.distances(images)
    assert between[0, 2] == pytest.approx(20 / 127.5)
    assert builder.distinct(between) == [0, 2, 3, 4]  # 10 / 127.5 < 0.1
    kin = builder.kinships(np.array(["a", "b", "c", "fira", "firamath"]), between)
    assert kin[0] == kin[1] == kin[2] != kin[3] == kin[4]  # 20 / 127.5 < 0.2, and a name that goes on
    kin = np.repeat(np.arange(60), 2)
    side = builder.split(kin, builder.HELD_OUT)
    assert 0.05 < side.mean() <= 0.1 and (side.reshape(-1, 2).all(1) == side.reshape(-1, 2).any(1)).all()


def test_a_letter_fills_its_box_in_the_middle():
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), builder.DRAWN)
    for character in "IOW":
        image = builder.letter(font, character)
        rows, columns = (np.flatnonzero(image.max(axis) > 0) for axis in (1, 0))
        for inked in (rows, columns):
            assert abs(inked[0] + inked[-1] - 15) <= 1
        assert max(np.ptp(rows), np.ptp(columns)) == 13  # 14 pixels
    assert builder.letter(font, " ") is None
