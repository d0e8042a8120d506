"""Cut the emoji set out of two npm packages and write it beside this file: python data/build_emoji.py (a minute)

    emoji-datasource-google    Noto Color Emoji by Google, Apache License 2.0
    emoji-datasource-twitter   Twemoji by Twitter and contributors, CC BY 4.0

The 1,906 emoji of Unicode's nine groups, in both styles; skin tones, which are variations of these, and the five
swatches of the group "Component" are left out. Images of 64×64 are laid on white and scaled to 32×32.

What looks alike must not lie on both sides of the split. Emoji are kin if their code points differ only in gender, hair
or direction, or if in either style their images differ by less than ``ALIKE`` (root mean square, pixels in [-1, 1]: the
hours of a clock, flags with the same stripes); kin of kin are kin. Whole kinships, with both styles, are drawn at
random until a fifth of each class is held out.

    python data/build_emoji.py                        fetches the packages by npm
    python data/build_emoji.py --packages FOLDER      FOLDER/emoji-datasource-google/emoji.json and so on lie there
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

VERSION = "16.0.0"
STYLES = ("google", "twitter")
SIDE, ALIKE, HELD_OUT, SEED = 32, 0.14, 0.2, 0
PEOPLE = {"1F468", "1F469", "1F9D1"}  # man, woman, person
DRESS = {"FE0F", "200D", "2640", "2642", "27A1", *(f"1F3F{tone}" for tone in "BCDEF"), *(f"1F9B{h}" for h in "0123")}
"""Code points that vary an emoji: selectors and joiners, gender, direction, skin and hair."""


def fetch(folder: Path) -> None:
    """Download and unpack both packages."""
    for style in STYLES:
        name = f"emoji-datasource-{style}"
        subprocess.run(["npm", "pack", f"{name}@{VERSION}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(folder / f"{name}-{VERSION}.tgz") as archive:
            archive.extractall(folder / f"{name}.part", filter="data")
        (folder / f"{name}.part" / "package").rename(folder / name)


def read(folder: Path, style: str) -> tuple[list[dict], np.ndarray]:
    """The emoji of a style: what the package says of each, and its image, (n, 32, 32, 3) uint8."""
    package = folder / f"emoji-datasource-{style}"
    found = json.loads((package / "package.json").read_text())["version"]
    if found != VERSION:
        raise SystemExit(f"{package} is version {found}; this set is cut out of {VERSION}.")
    emoji = [e for e in json.loads((package / "emoji.json").read_text()) if e["category"] != "Component"]
    images = []
    for e in emoji:
        with Image.open(package / "img" / style / "64" / e["image"]) as image:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
        images.append(np.asarray(white.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return emoji, np.stack(images)


def bare(code_points: str) -> str:
    """Code points without what varies an emoji."""
    return "-".join("person" if c in PEOPLE else c for c in code_points.split("-") if c not in DRESS)


def distances(images: np.ndarray) -> np.ndarray:
    """Root mean square difference of any two images, of pixels in [-1, 1]."""
    z = images.reshape(len(images), -1).astype(np.float64) / 127.5 - 1
    squares = (z**2).sum(1)
    return np.sqrt(((squares[:, None] + squares - 2 * z @ z.T) / z.shape[1]).clip(0))


def kinships(emoji: list[dict], looks: list[np.ndarray]) -> np.ndarray:
    """The number of each emoji's kinship."""
    names = np.array([bare(e["unified"]) for e in emoji])
    kin = names[:, None] == names
    for images in looks:
        kin |= distances(images) < ALIKE
    return connected_components(coo_matrix(kin), directed=False)[1]


def split(kin: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each emoji is held out."""
    held_out, draw = np.zeros(len(kin), dtype=bool), np.random.default_rng(SEED)
    for label in np.unique(labels):
        wanted = HELD_OUT * (labels == label).sum()
        for family in draw.permutation(np.unique(kin[labels == label])):
            members = kin == family
            if (held_out & (labels == label)).sum() + (members & (labels == label)).sum() <= wanted:
                held_out |= members
    return held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with both packages, unpacked")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.packages is None:
            fetch(Path(folder))
        (emoji, google), (others, twitter) = (read(args.packages or Path(folder), style) for style in STYLES)
    assert [e["unified"] for e in emoji] == [e["unified"] for e in others]
    classes = sorted({e["category"] for e in emoji})
    labels = np.array([classes.index(e["category"]) for e in emoji])
    kin = kinships(emoji, [google, twitter])
    held_out = split(kin, labels)
    rows = np.random.default_rng(SEED).permutation(2 * len(emoji))  # so that the first of them are of all kinds
    of = rows % len(emoji)
    path = Path(__file__).parent / "emoji.npz"
    np.savez_compressed(
        path,
        x=np.concatenate([google, twitter])[rows],
        y=labels[of].astype(np.uint8),
        style=(rows // len(emoji)).astype(np.uint8),
        held_out=held_out[of],
        kin=kin[of].astype(np.uint16),
        code_points=np.array([e["unified"] for e in emoji])[of],
        classes=np.array(classes),
        styles=np.array(STYLES),
        version=np.array(VERSION),
    )
    print(f"{2 * held_out.sum():,} of {len(rows):,} images held out, {len(np.unique(kin)):,} kinships; {path}")
    for style, images in zip(STYLES, (google, twitter), strict=True):
        d = distances(images)
        nearest = d[np.ix_(held_out, ~held_out)].min(axis=1)
        np.fill_diagonal(d, np.inf)
        inside = d[np.ix_(~held_out, ~held_out)].min(axis=1)
        told = "nearest training image: of one held out {:.3f} (median), of another training image {:.3f}"
        print(f"  {style:8}" + told.format(np.median(nearest), np.median(inside)))


if __name__ == "__main__":
    main()
