"""Cut the letters out of a Debian package of fonts and write them beside this file: python data/build_letters.py

    texlive-fonts-extra 2022.20230122-4    the fonts of TeX Live 2022, and a list of their licences

Capitals A to Z of every face (an .otf or .ttf file), white on black, each scaled to a box of 14×14 in 16×16 pixels. A
family is all faces of one package of TeX Live; QualiType's collection is divided by name.

Licences. A face stays if it is free under a licence in ``NAMED``: one that its own name table names or, where the table
is silent, that Debian's list gives its package. Other terms, or none that we can read, leave it out.

What is no letter. A classifier trained on three quarters of the kinships read the fourth (--review). Of 44 faces it
recognised less than half: ornaments, stick figures, keys, Greek, but also Fraktur and scripts that nothing else
resembles. Of what it misread at more than 60 %, we left out the faces in which letters stand for other characters.
``UNREADABLE`` names all of them.

What looks alike must not lie on both sides of the split. Faces differ by the root mean square over their 26 images, of
pixels in [-1, 1]. A face that differs by less than ``DOUBLE`` from one before it is left out. Families are kin if faces
of theirs differ by less than ``ALIKE`` (one design under two names), or if the name of one begins with the other's; kin
of kin are kin. Whole kinships are drawn at random until a tenth of the images is held out.

    python data/build_letters.py                      downloads the package (500 MB) by apt-get; minutes
    python data/build_letters.py --package FILE.deb   it lies there

Needs apt-get and dpkg-deb, which Debian and Ubuntu have, and fontTools, which comes with matplotlib. Another FreeType
or Pillow may draw a pixel differently: the versions that were used are in the file (``version``).
"""

import argparse
import csv
import gzip
import hashlib
import re
import struct
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import NamedTuple

import numpy as np
import PIL
from fontTools.ttLib import TTFont, TTLibError
from kinship import SEED, connected, distances, split
from PIL import Image, ImageFont, features

NAME, VERSION = "texlive-fonts-extra", "2022.20230122-4"
SHA256 = "abddeda6b66ee9c38df1f7fd2d20670b25f3a738df74c0ee91001f6b1466b1e4"
TREE, LISTS = Path("usr/share/texlive"), Path(f"usr/share/doc/{NAME}/Licenses.gz")
DRAWN, BOX, SIDE = 96, 56, 16
"""Size at which a font is drawn; side of the box its glyph is scaled to, of 64 pixels; side of an image."""
DOUBLE, ALIKE, HELD_OUT = 0.1, 0.2, 0.1
NAMED = {
    "OFL-1.1": r"open ?font ?licen[sc]e|scripts\.sil\.org|\bOFL\b",
    "Apache-2.0": r"apache license",
    "GFL-1.0": r"GUST font license",
    "LPPL-1.3c": r"latex project public license",
    "BSD-3-Clause": r"redistribution and use in source and binary forms",
    "public domain": r"public domain",
}
"""Free licences, and the words by which a name table names them."""
LISTED = {"ofl": "OFL-1.1", "apache2": "Apache-2.0", "gfl": "GFL-1.0", "gfsl": "GFL-1.0", "mit": "MIT"}
"""Words of Debian's list; LPPL alone counts if it stands alone, else it is that of the package's macros."""
UNREADABLE = re.compile(
    "FourierOrns|smf|QTDingBits|drmsym|drmgrk|LibertinusKeyboard|Yinit|QTStoryTimeCaps|ffmlq|QTFraktur|yfrak|ygoth"
    "|Aboensis|Missaali|QTArabian|QTArtiston|QTBoulevard|QTBrushStroke|QTLino|QTMerryScript|QTSlogantype|QTCoronation"
    "|QTOKCorral-Cnd"  # to here: less than half of its letters recognised
    "|drmdoz|Beuron"  # X and E are the digits ten and eleven; U is V
)


class Face(NamedTuple):
    """A font file that may be used, and its letters."""

    file: str
    family: str
    licence: str
    copyright: str
    images: np.ndarray
    """(26, 16, 16) uint8."""


def unpack(package: Path | None, folder: Path) -> None:
    """Fonts and list of licences of the package, which is downloaded if it is not given."""
    if package is None:
        subprocess.run(["apt-get", "download", f"{NAME}={VERSION}"], cwd=folder, check=True)
        package = next(folder.glob("*.deb"))
    with open(package, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{package} is not {NAME} {VERSION}: its SHA-256 is {digest}.")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
        wanted = [f"./{LISTS}", "*.otf", "*.ttf"]
        subprocess.run(["tar", "x", "-C", folder, "--wildcards", *wanted], stdin=archive.stdout, check=True)


def packages(lines: list[str]) -> dict[str, tuple[str, str]]:
    """Folder → the package of TeX Live whose fonts it holds, and the words of its licences."""
    folders, package = {}, ("", "")
    for line in lines:
        if heading := re.fullmatch(r"([\w.+-]+): ?(.*)", line):
            package = heading[1], heading[2]
        elif line.startswith("texmf-dist/fonts/"):
            folders[line.removesuffix("/*")] = package
    return folders


def licence(table: str, terms: str, listed: str) -> str | None:
    """The licence of a face; None if it is not free, or we cannot tell.

    Args:
        table: all that its name table has of licences.  terms: the part of it that is for licences alone.
        listed: words of Debian's list.
    """
    named = next((name for name, words in NAMED.items() if re.search(words, table, re.IGNORECASE)), None)
    if named or terms.strip():
        return named
    words = listed.split()
    if words and all(word.startswith("lppl") for word in words):
        return "LPPL-1.3c"
    return next((name for word, name in LISTED.items() if word in words), None)


def family_of(package: str, file: Path) -> str:
    """The package, but QualiType's collection is divided by name: QTHelvetCnd-Black is of the family QTHelvet."""
    return re.split("-|Cnd", file.stem)[0] if package == "qualitype" else package


def letter(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray | None:
    """A character in the middle of an image, (16, 16) uint8; None if it shows nothing."""
    mask = font.getmask(character, mode="L")
    glyph = Image.frombytes("L", mask.size, bytes(mask))
    if (box := glyph.getbbox()) is None:
        return None
    glyph = glyph.crop(box)
    scale = BOX / max(glyph.size)
    width, height = (max(1, round(n * scale)) for n in glyph.size)
    canvas = Image.new("L", (64, 64))
    small = glyph.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(small, ((64 - width) // 2, (64 - height) // 2))
    return np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX))


def read(folder: Path) -> list[Face]:
    """The faces that are free and have all letters."""
    with gzip.open(folder / LISTS, "rt", encoding="utf-8") as file:
        folders = packages(file.read().splitlines())
    faces = []
    for path in sorted([*folder.rglob("*.otf"), *folder.rglob("*.ttf")]):
        try:
            with TTFont(path, lazy=True) as tables:
                name, characters = tables["name"], tables.getBestCmap() or {}
                owner, terms, address = (name.getDebugName(number) or "" for number in (0, 13, 14))
        except (TTLibError, KeyError, struct.error):
            continue
        place = path.relative_to(folder / TREE).parent
        package, listed = next(folders[str(at)] for at in (place, place.parent) if str(at) in folders)
        free = licence(f"{terms} {address} {owner}", terms, listed)
        if free is None or UNREADABLE.match(path.name) or not {ord(c) for c in LETTERS} <= characters.keys():
            continue
        font = ImageFont.truetype(str(path), DRAWN, layout_engine=ImageFont.Layout.BASIC)
        images = [letter(font, c) for c in LETTERS]
        if all(image is not None for image in images):
            owner = " ".join(owner.split())
            faces.append(Face(path.name, family_of(package, path), free, owner, np.stack(images)))
    return faces


def distinct(between: np.ndarray) -> list[int]:
    """Numbers of the faces that are no double of one before."""
    chosen: list[int] = []
    for face, row in enumerate(between):
        if not (row[chosen] < DOUBLE).any():
            chosen.append(face)
    return chosen


def kinships(family: np.ndarray, between: np.ndarray) -> np.ndarray:
    """The number of each face's kinship."""
    return connected(np.strings.startswith(family[:, None], family) | (between < ALIKE))


def review(files: list[str], images: np.ndarray, kin: np.ndarray, folds: int = 4, epochs: int = 3) -> None:
    """Print what a classifier that saw none of its kin cannot read: faces, then single letters."""
    import torch

    from labkit.datasets.base import Images
    from labkit.metrics import LettersClassifier
    from labkit.metrics.classifier import fit
    from labkit.runtime import seeded

    x = torch.from_numpy(images.reshape(-1, 1, SIDE, SIDE)).float() / 127.5 - 1
    y = torch.arange(len(LETTERS)).repeat(len(files))
    fold = torch.from_numpy(np.random.default_rng(SEED).permutation(kin.max() + 1)[kin] % folds).repeat_interleave(26)
    probabilities = torch.zeros(len(y), len(LETTERS))
    for number in range(folds):
        with seeded(SEED):
            reader = LettersClassifier()
        fit(reader, Images(x[fold != number], y[fold != number], len(LETTERS)), SEED, epochs)
        probabilities[fold == number] = torch.cat([reader(part).softmax(1) for part in x[fold == number].split(1000)])
    sure, taken_for = (values.view(len(files), -1) for values in probabilities.max(1))
    right = taken_for == torch.arange(len(LETTERS))
    print(f"{right.double().mean():.1%} recognised")
    for face, share in sorted(enumerate(right.double().mean(1).tolist()), key=lambda pair: pair[1]):
        misread = [f"{LETTERS[c]} as {LETTERS[taken_for[face, c]]}" for c in range(26) if sure[face, c] > 0.6]
        if share < 0.5:
            print(f"{files[face]}: {share:.0%} recognised")
        elif not bool(right[face].all()):
            print(f"{files[face]}: {', '.join(m for m in misread if m[0] != m[-1])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="file of the Debian package")
    parser.add_argument("--review", action="store_true", help="find what is no letter, and write nothing (minutes)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(args.package, Path(folder))
        faces = read(Path(folder))
    total, between = len(faces), distances(np.stack([face.images for face in faces]))
    chosen = distinct(between)
    faces, between = [faces[number] for number in chosen], between[np.ix_(chosen, chosen)]
    images, family = np.stack([face.images for face in faces]), np.array([face.family for face in faces])
    kin = kinships(family, between)
    if args.review:
        return review([face.file for face in faces], images, kin)
    held_out = split(kin, HELD_OUT)
    families = sorted(set(family))
    members = {name: [face for face in faces if face.family == name] for name in families}
    licences = {name: " and ".join(sorted({face.licence for face in members[name]})) for name in families}
    rows = np.random.default_rng(SEED).permutation(images.shape[0] * len(LETTERS))  # so that the first show all kinds
    face, label = divmod(rows, len(LETTERS))
    path = Path(__file__).parent / "letters.npz"
    np.savez_compressed(
        path,
        x=images.reshape(-1, SIDE, SIDE, 1)[rows],
        y=label.astype(np.uint8),
        held_out=held_out[face],
        face=face.astype(np.uint16),
        faces=np.array([face.file for face in faces]),
        family=np.array([families.index(name) for name in family], dtype=np.uint16),
        families=np.array(families),
        licences=np.array([licences[name] for name in families]),
        kin=kin.astype(np.uint16),
        version=np.array(f"{NAME} {VERSION}, Pillow {PIL.__version__}, FreeType {features.version('freetype2')}"),
    )
    with open(path.parent / "licenses" / "letters.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["family", "faces", "held_out", "licence", "copyright"])
        for name, own in members.items():
            [(notice, _)] = Counter(face.copyright for face in own).most_common(1)
            table.writerow([name, len(own), bool(held_out[family == name].all()), licences[name], notice])
    print(f"{total:,} faces, {len(faces):,} without doubles, {len(families)} families, {kin.max() + 1} kinships")
    print(f"{26 * held_out.sum():,} of {len(rows):,} images held out; {path}, {path.stat().st_size:,} bytes")
    nearest = between[np.ix_(held_out, ~held_out)].min(axis=1)
    print(f"nearest face to train on, of one held out: {nearest.min():.3f} at least, {np.median(nearest):.3f} (median)")


if __name__ == "__main__":
    main()
