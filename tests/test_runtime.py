"""The machine: tier, random generators, commit, and the doctor's findings."""

import itertools
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from labkit import runtime
from labkit.checks import ConfigError


@pytest.mark.parametrize(("tier", "value"), [("smoke", 1), ("cpu", 2), ("gpu", 0)])
def test_tier_chooses_the_value(monkeypatch, tier, value):
    monkeypatch.setenv("LAB_TIER", tier)
    assert runtime.tier() == tier
    assert runtime.scaled(smoke=1, cpu=2, gpu=0) == value
    assert runtime.scaled(smoke=1, cpu=2) == (value or 2)


@pytest.mark.parametrize("setting", [None, ""])
def test_tier_follows_the_machine_by_default(monkeypatch, setting):
    monkeypatch.delenv("LAB_TIER", raising=False)
    if setting is not None:
        monkeypatch.setenv("LAB_TIER", setting)
    for available, tier in [(True, "gpu"), (False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert runtime.tier() == tier
        assert runtime.device().type == ("cuda" if available else "cpu")


def test_an_unknown_tier_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("LAB_TIER", "laptop")
    with pytest.raises(ConfigError, match=r"LAB_TIER = 'laptop' cannot be used: choose one of smoke, cpu, gpu"):
        runtime.scaled(smoke=1, cpu=2)


def test_generators_follow_from_their_key_alone():
    def numbers(*key):
        return tuple(torch.rand(3, generator=runtime.generator(*key)).tolist())

    torch.manual_seed(4)
    first = numbers(1, 2, 3)
    keys = [*itertools.product((0, 1, 2, 2**32 - 1), (1, 2, 3), (0, 1, 2, 2**32 - 1, 2**32, 2**40 + 1))]
    assert len({numbers(*key) for key in keys}) == len(keys)  # (seed, purpose, position), never mixed up
    torch.manual_seed(5)
    assert numbers(1, 2, 3) == first


def test_the_machine_in_words():
    machine = runtime.machine()
    assert machine.keys() == {"processor", "gpu", "python", "torch", "system", "commit"}
    assert all(isinstance(value, str) and value for value in machine.values())
    assert f"{runtime.cores()} cores" in machine["processor"]


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
    (finding,) = [each for each in runtime.doctor() if not each.ok and each not in sound]
    assert len(finding.remedy) > 20
    return finding


def test_the_doctor_finds_no_fault_here():
    findings = runtime.doctor()
    assert [f for f in findings if not f.ok] == []
    text = " · ".join(finding.text for finding in findings)
    for word in ("Python", f"torch {torch.__version__}", "ipykernel", "embedded data", "GiB free", "tier"):
        assert word in text


@pytest.mark.parametrize(
    ("changes", "text", "remedy"),
    [
        ({"sys__version_info": (3, 10, 4)}, "Python", "3.11"),
        ({"importlib__metadata__version": lambda _: "7.0.0"}, "7.0.0", "ipykernel 6.31"),
        ({"importlib__metadata__version": lambda _: "7.3.1"}, "7.3.1", "ipykernel 6.31"),
        ({"labkit__runtime__data_dir": lambda: Path("/nowhere")}, "/nowhere", "data/"),
        ({"shutil__disk_usage": lambda _: SimpleNamespace(free=2**29)}, "0 GiB free", "checkpoints"),
        ({"psutil__virtual_memory": lambda: SimpleNamespace(available=2**28)}, "0 GiB of memory", "batch_size"),
        ({"resource__getrlimit": lambda _: (256, 256)}, "256 files may be open", "ulimit -n 1024"),
        ({"os__access": lambda path, _: path != "."}, "folder cannot be written", "--out"),
        ({"os__access": lambda path, _: path == "."}, "MPLCONFIGDIR (", "export "),
    ],
    ids=["old Python", "kernel 7.0", "kernel 7.3", "no data", "full disk", "memory", "files", "folder", "caches"],
)
def test_the_doctor_names_a_fault_and_its_remedy(monkeypatch, changes, text, remedy):
    finding = fault(monkeypatch, **changes)
    assert text in finding.text and remedy in finding.remedy


def test_the_doctor_restores_only_what_is_missing(monkeypatch, tmp_path):
    """Git would undo a reader's edits of the other files."""
    for file in runtime.EMBEDDED[1:]:
        (tmp_path / file).touch()
    remedy = fault(monkeypatch, labkit__runtime__data_dir=lambda: tmp_path).remedy
    assert f"`git checkout data/{runtime.EMBEDDED[0]}`" in remedy


def test_the_doctor_names_what_is_no_fault_but_good_to_know(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setattr("sys.stdout", SimpleNamespace(encoding="cp1252"))
    text = " · ".join(finding.text for finding in runtime.doctor() if finding.ok)
    for words in ("torch.compile cannot be used: there is no /nowhere/g++", "SLURM_NTASKS", "torchrun", "in cp1252"):
        assert words in text


@pytest.mark.parametrize(
    ("each", "most", "sizes", "seconds"),
    [(0.01, 5, [1, 1, 2, 4, 5], 0.01), (0.2, 250, [1, 1, 2, 4], 0.2), (9.0, 250, [1, 1], 9.0)],
)
def test_the_time_of_one_of_many_is_measured_quickly(monkeypatch, each, most, sizes, seconds):
    """The first call, which may load and compile, does not count."""
    calls = []
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: each * sum(calls))
    assert runtime.seconds_each(calls.append, most) == pytest.approx(seconds) and calls == sizes


def test_the_doctor_without_a_kernel(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    [finding] = [finding for finding in runtime.doctor() if "ipykernel" in finding.text]
    assert finding.ok and 'pip install "labkit[lab]"' in finding.text, "a cluster needs none"


def test_the_doctor_names_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Stand-in 9000")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    assert "GPU: Stand-in 9000 with 80 GiB" in [finding.text for finding in runtime.doctor()]
    assert runtime.machine()["gpu"] == "Stand-in 9000"
