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
from kinship import SEED, connected, distances, split
from PIL import Image

VERSION = "16.0.0"
STYLES = ("google", "twitter")
SIDE, ALIKE, HELD_OUT = 32, 0.14, 0.2
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
    version = json.loads((package / "package.json").read_text())["version"]
    if version != VERSION:
        raise SystemExit(f"{package} is version {version}; this set is cut out of {VERSION}.")
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


def kinships(emoji: list[dict], looks: list[np.ndarray]) -> np.ndarray:
    """The number of each emoji's kinship."""
    names = np.array([bare(e["unified"]) for e in emoji])
    kin = names[:, None] == names
    for images in looks:
        kin |= distances(images) < ALIKE
    return connected(kin)


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
    held_out = split(kin, HELD_OUT, labels)
    rows = np.random.default_rng(SEED).permutation(2 * len(emoji))  # so that the first of them are of all kinds
    number = rows % len(emoji)
    path = Path(__file__).parent / "emoji.npz"
    np.savez_compressed(
        path,
        x=np.concatenate([google, twitter])[rows],
        y=labels[number].astype(np.uint8),
        style=(rows // len(emoji)).astype(np.uint8),
        held_out=held_out[number],
        kin=kin[number].astype(np.uint16),
        code_points=np.array([e["unified"] for e in emoji])[number],
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
        print(
            f"  {style:8}nearest training image: of one held out {np.median(nearest):.3f} (median), of another "
            f"training image {np.median(inside):.3f}"
        )


if __name__ == "__main__":
    main()
