"""One look at the machine: tier, random keys, where the data lie, what the doctor finds."""

import itertools
import json
import shutil
import subprocess
from collections import namedtuple
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from labkit import runtime


@pytest.mark.parametrize(("tier", "value"), [("smoke", 1), ("cpu", 2), ("gpu", 3)])
def test_tier_chooses_the_value(monkeypatch, tier, value):
    monkeypatch.setenv("LAB_TIER", tier)
    assert runtime.tier() == tier
    assert runtime.scaled(smoke=1, cpu=2, gpu=3) == value
    assert runtime.scaled(smoke=1, cpu=2) == min(value, 2)


@pytest.mark.parametrize("unset", [True, False])
def test_tier_follows_the_machine_by_default(monkeypatch, unset):
    monkeypatch.setenv("LAB_TIER", "")
    if unset:
        monkeypatch.delenv("LAB_TIER")
    for found, tier in [(True, "gpu"), (False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        assert runtime.tier() == tier
        assert runtime.device().type == ("cuda" if found else "cpu")


def test_an_unknown_tier_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("LAB_TIER", "laptop")
    with pytest.raises(ValueError, match=r"LAB_TIER = 'laptop' cannot be used: choose one of smoke, cpu, gpu"):
        runtime.scaled(smoke=1, cpu=2)


def test_a_falsy_value_for_the_gpu_is_a_value(monkeypatch):
    monkeypatch.setenv("LAB_TIER", "gpu")
    assert runtime.scaled(smoke=1, cpu=2, gpu=0) == 0


def test_generators_follow_from_their_key_alone():
    def numbers(*key):
        return tuple(torch.rand(3, generator=runtime.generator(*key)).tolist())

    torch.manual_seed(4)
    first = numbers(1, 2, 3)
    keys = [*itertools.product((0, 1, 2, 2**32 - 1), (1, 2, 3), (0, 1, 2, 2**32 - 1, 2**32, 2**40 + 1))]
    assert len({numbers(*key) for key in keys}) == len(keys)  # (seed, purpose, position), never mixed up
    torch.manual_seed(5)
    assert numbers(1, 2, 3) == first


def test_the_data_folder_holds_what_it_should():
    assert (runtime.data_dir() / "README.md").exists()
    assert (runtime.data_dir() / "digits_classifier.safetensors").exists()


def test_machine_tells_what_a_figure_must_carry():
    told = runtime.machine()
    assert told.keys() == {"processor", "gpu", "python", "torch", "system", "commit"}
    assert all(isinstance(value, str) and value for value in told.values())
    assert json.loads(json.dumps(told)) == told
    assert f"{runtime.cores()} cores" in told["processor"]
    assert runtime.cores() >= 1


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_commit_of_a_checkout(tmp_path, monkeypatch):
    def git(*args):
        who = ["-c", "user.name=A", "-c", "user.email=a@b"]
        return subprocess.run(["git", "-C", tmp_path, *who, *args], check=True, capture_output=True, text=True).stdout

    package = tmp_path / "labkit"
    package.mkdir()
    (package / "runtime.py").touch()
    monkeypatch.setattr(runtime, "__file__", str(package / "runtime.py"))
    commit = runtime.commit.__wrapped__
    assert commit() == "unknown (no git checkout)"
    git("init", "-q")
    assert commit() == "unknown (no git checkout)"
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (tmp_path / "notes.txt").touch()  # beside the code: no matter
    assert commit() == git("rev-parse", "HEAD")[:12]
    (package / "runtime.py").write_text("edited")
    assert commit() == git("rev-parse", "HEAD")[:12] + "+changes"


def fault(monkeypatch, **changes) -> runtime.Finding:
    """The one finding that is not ok after these changes to the machine."""
    sound = [finding for finding in runtime.doctor() if not finding.ok]
    for name, value in changes.items():
        monkeypatch.setattr(name.replace("__", "."), value)
    (found,) = [finding for finding in runtime.doctor() if not finding.ok and finding not in sound]
    assert len(found.remedy) > 20
    return found


def test_the_doctor_is_content_here():
    findings = runtime.doctor()
    assert [f for f in findings if not f.ok] == []
    told = " · ".join(finding.text for finding in findings)
    for word in ("Python", f"torch {torch.__version__}", "ipykernel", "embedded data", "GiB free", "tier"):
        assert word in told


def test_the_doctor_on_an_old_python(monkeypatch):
    assert "3.11" in fault(monkeypatch, sys__version_info=(3, 10, 4)).remedy


@pytest.mark.parametrize("version", ["7.0.0", "7.1.2", "7.3.1"])
def test_the_doctor_on_a_kernel_that_corrupts_sliders(monkeypatch, version):
    found = fault(monkeypatch, importlib__metadata__version=lambda _: version)
    assert version in found.text
    assert "ipykernel 6.31" in found.remedy


def test_the_doctor_without_a_kernel(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    [finding] = [finding for finding in runtime.doctor() if "ipykernel" in finding.text]
    assert finding.ok and 'pip install "labkit[lab]"' in finding.text, "a cluster needs none"


def test_the_doctor_without_the_embedded_data(monkeypatch, tmp_path):
    found = fault(monkeypatch, labkit__runtime__data_dir=lambda: tmp_path)
    assert str(tmp_path) in found.text


def test_the_doctor_on_a_full_disk(monkeypatch):
    usage = namedtuple("usage", "free")
    found = fault(monkeypatch, shutil__disk_usage=lambda _: usage(2**29))
    assert "0 GiB free" in found.text
    assert "checkpoints" in found.remedy


def test_the_doctor_names_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Stand-in 9000")
    properties = namedtuple("properties", "total_memory")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties(80 * 2**30))
    assert "GPU: Stand-in 9000 with 80 GiB" in [finding.text for finding in runtime.doctor()]
    assert runtime.machine()["gpu"] == "Stand-in 9000"


def test_device_and_paths_are_of_the_documented_kind():
    assert isinstance(runtime.device(), torch.device)
    assert isinstance(runtime.data_dir(), Path)
