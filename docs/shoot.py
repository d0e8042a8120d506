"""Photograph two figures of a book that `make book` has built, for the README: python docs/shoot.py [BOOK]"""

import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
from server import REPO, running_chromium

FIGURES = {"book-explorer": ".labkit-panel .labkit-figure", "book-maps": '[aria-label^="Where the same"]'}
"""Name of a picture → its element on the page of notebook 06."""


def main() -> None:
    book = Path(sys.argv[1] if len(sys.argv) > 1 else REPO / "book").resolve()
    with running_chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=1.5)
        page.goto(f"{book.as_uri()}/notebooks/06_ablations.html")
        for name, css in FIGURES.items():
            shot = Image.open(io.BytesIO(page.locator(css).first.screenshot()))
            shot.save(REPO / "data" / "pictures" / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
