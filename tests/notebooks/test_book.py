"""`make book`: notebooks run by kernels of their own, and written as pages that show their figures."""

import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_book_is_built(tmp_path):
    chapters = ["06_ablations"]
    files = " ".join(f"notebooks/{chapter}.ipynb" for chapter in chapters)
    places = {"LAB_RUNS": str(tmp_path / "runs"), "IPYTHONDIR": str(tmp_path / "ipython")}
    env = os.environ | {"LAB_TIER": "smoke"} | places
    words = ["make", "book", f"CHAPTERS={files}", f"BOOK={tmp_path / 'book'}"]
    done = subprocess.run(words, cwd=REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for chapter in chapters:
        page = (tmp_path / "book" / f"{chapter}.html").read_text()
        assert "plotly" in page and "Traceback" not in page and "**Goal:**" not in page, chapter
