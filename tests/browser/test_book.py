"""`make book`: one site of notebooks that were run, of documents and docstrings, which needs no network."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from server import REPO, why_not

FETCHED = re.compile(r"<(?:script|img|iframe|source)[^>]*?\ssrc=\"([^\"]*)|<link[^>]*?\shref=\"([^\"]*)")
IMAGE = re.compile(r"<img\b[^>]*>")


@pytest.mark.slow
def test_the_book_is_built(tmp_path, request):
    """With one notebook that is run, the quickest: it has questions, a panel and formulas."""
    book = tmp_path / "book"
    env = os.environ | {"LAB_TIER": "smoke"}
    words = ["make", "book", "CHAPTERS=notebooks/00_start_here.ipynb", f"BOOK={book}"]
    done = subprocess.run(words, cwd=REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for path in sorted(book.rglob("*.html")) if "_static" not in path.parts]  # where templates are
    pages = {str(path.relative_to(book)): path.read_text(encoding="utf-8") for path in files}
    chapter = pages["notebooks/00_start_here.html"]

    figures = re.findall(r'<div class="labkit-figure" role="img" aria-label="[^"]{20,}"', chapter)
    assert chapter.count("Plotly.newPlot(") == len(figures) == 1
    folds = chapter.count("<details><summary>What came out</summary>")
    assert folds == chapter.count('<div class="labkit-question">') == 2
    assert "Traceback" not in chapter and "**Goal:**" not in chapter and "VBox(children" not in chapter
    assert "prediction was recorded" not in chapter, "the reader's own predictions are no part of the book"
    assert re.search(r"00 · Start here.*?<p>\d+\.\d</p>.*?<p>\d+\.\d</p>", pages["minutes.html"], re.DOTALL)
    for page, text in {
        "index.html": "Two commands",
        "CONTRIBUTING.html": "How to add to labkit",
        "notebooks/glossary.html": 'id="dispersive-loss"',
        "data/atlas/CLAIMS.html": "The paper’s claims",
        "data/atlas/PAYS.html": "Where does it pay?",
        "explorer-page.html": 'src="explorer.html"',
        "explorer.html": 'id="p-controls"',
        "reference/losses.html": 'id="labkit.losses.dispersive_loss"',
        "reference/training.html": 'id="labkit.training.Run.features"',
    }.items():
        assert text in pages[page], page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book"], "nothing is left beside it"
    assert "dispers" in (book / "searchindex.js").read_text(encoding="utf-8")
    for page, text in pages.items():
        fetched = [one or other for one, other in FETCHED.findall(text)]
        fetched = [url.split("?")[0] for url in fetched if not url.startswith(("data:", "#"))]
        assert not [url for url in fetched if not (book / page).parent.joinpath(url).exists()], "on this disk"
        assert all(re.search(r'alt="[^"]+"', image) for image in IMAGE.findall(text)), page
    if why_not() is None:
        look(book, request.getfixturevalue("chromium"))


def look(book: Path, browser: Browser) -> None:
    """Open the site from its files, without a network: formulas and figures are drawn, and the search finds."""
    context = browser.new_context(offline=True)
    page, faults, requested = context.new_page(), [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(f"{book.as_uri()}/notebooks/00_start_here.html")
    page.locator("mjx-container svg").first.wait_for()
    assert page.locator(".js-plotly-plot").count() == 1
    assert page.evaluate("[...document.querySelectorAll('.main-svg')].every(d => d.clientWidth <= innerWidth)")
    page.locator(".labkit-question summary").first.click()
    assert page.locator(".labkit-question details p").first.is_visible()
    page.goto(f"{book.as_uri()}/search.html?q=temperature")
    page.locator("#search-results a", has_text="Dispersive Loss, one piece at a time").wait_for()
    assert not faults and not [url for url in requested if not url.startswith(("file:", "data:", "blob:"))]
    context.close()
