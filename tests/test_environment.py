"""pyproject.toml, environment.yml and constraints.txt agree."""

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def ranges(requirements):
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, requirements)}


def test_conda_ranges_equal_pyprojects():
    environment = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    conda = ranges(line for line in conda if line != "pip")
    conda = {CONDA_NAMES.get(name, name): specifier for name, specifier in conda.items()}
    assert conda.pop("python") == SpecifierSet(PROJECT["requires-python"])
    from_pip = ranges(line for line in pip["pip"] if line != "-e .")
    assert not conda.keys() & from_pip.keys()
    assert conda | from_pip == ranges(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"])
    assert environment["channels"] == ["conda-forge", "nodefaults"] and "-e ." in pip["pip"]


def test_every_pin_lies_in_its_range():
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pairs}
    extras = PROJECT["optional-dependencies"]
    optional = [r for name in ("lab", "full", "book", "test") for r in extras[name] if not r.startswith("labkit[")]
    wanted = ranges(PROJECT["dependencies"] + optional)
    assert not wanted.keys() - pins.keys()
    assert not [f"{n}=={pins[n]} is not {s}" for n, s in wanted.items() if not s.contains(pins[n])]
    assert "labkit" not in pins
    assert not [version for version in pins.values() if "+" in version], "pins must fit builds for CPU and GPU"


def test_ipykernels_with_concurrent_callbacks_are_excluded():
    ipykernel = ranges(PROJECT["optional-dependencies"]["lab"])["ipykernel"]
    versions = ("6.31.0", "7.0.1", "7.1.0", "7.2.0", "7.3.9", "7.4.0")
    assert [version for version in versions if ipykernel.contains(version)] == ["6.31.0", "7.4.0"]


LAB = ("jupyterlab", "ipywidgets", "anywidget", "plotly", "matplotlib", "umap", "ipykernel", "IPython")
BLOCKED = """
import sys
for name in {names}:
    sys.modules[name] = None
from labkit.cli import main
small = ["--model", "SiT-Nano/4", "--batch-size", "8", "--steps", "2", "--out", {out!r}]
assert main(["train", "digits", *small, "--dispersive.lam", "0.5"]) == 0
assert main(["sample", {out!r}, "--n", "2", "--steps", "1"]) == 0
assert main(["evaluate", {out!r}, "--count", "8", "--steps", "1"]) == 0
assert main(["doctor"]) == 0
assert main(["compare", "digits", *small[:-1], {out!r} + "-c"]) == 2
"""


def test_without_the_packages_of_the_lab_one_trains_samples_and_evaluates(tmp_path):
    code = BLOCKED.format(names=LAB, out=str(tmp_path / "run"))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "run" / "samples").glob("*.png")) and list((tmp_path / "run").glob("evaluations/*.json"))
    assert 'pip install "labkit[lab]"' in ended.stderr, "what compare lacks, and how to get it"
