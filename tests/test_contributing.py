"""CONTRIBUTING's guides are true: applied to a copy as they stand, a loss, a sampler and a metric are there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mutations import outdated

REPO = Path(__file__).resolve().parents[1]


def applied(guide: str, copy: Path) -> None:
    """Apply every diff of a guide: context and lines that go must stand in the file once, in this order."""
    for file, diff in re.findall(r"```diff\n--- (\S+)\n(.*?)```", guide, flags=re.DOTALL):
        path = copy / file
        for hunk in diff.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            text = path.read_text()
            assert text.count(old) == 1, f"{file}: {old!r} stands there {text.count(old)} times"
            path.write_text(text.replace(old, new))


TRAIN = (
    "main(['train', 'digits', '--model', 'SiT-Nano/4', '--batch-size', '8', '--steps', '2', '--log-every', '1', *{}])"
)
TRIED = {
    "A loss": TRAIN.format("['--dispersive.lam', '0.5', '--dispersive.variant', 'student']"),
    "A sampler": TRAIN.format("[]") + " or main(['sample', 'runs/train', '--n', '2', '--method', 'midpoint'])",
    "A metric": TRAIN.format("[]") + " or 'nearest_distance' not in open('runs/train/metrics.csv').read()",
}


@pytest.mark.parametrize("title", TRIED)
def test_a_guide_does_what_it_says(title, tmp_path):
    guides = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (REPO / "CONTRIBUTING.md").read_text(), re.M | re.S))
    assert len(guides[title].splitlines()) <= 40
    shutil.copytree(REPO / "labkit", tmp_path / "labkit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").symlink_to(REPO / "data")
    applied(guides[title], tmp_path)
    code = f"import sys, labkit; assert {str(tmp_path)!r} in labkit.__file__; from labkit.cli import main; sys.exit("
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}{TRIED[title]})"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def test_the_citation_can_be_read():
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["references"][0]["title"].startswith("Diffuse and Disperse")


def test_every_mutation_still_fits_the_code():
    assert outdated(REPO) == []
