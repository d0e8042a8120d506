"""The machine that the lab runs on: device, tier, random generators, folders, and the doctor's report."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch

from labkit import openmp
from labkit.checks import choose

Tier = Literal["smoke", "cpu", "gpu"]
EMBEDDED = "digits_classifier.safetensors", "letters.npz", "letters_classifier.safetensors", "emoji.npz"
"""Files of ``data/`` without which an embedded data set cannot be used or measured; scikit-learn has the digits."""
T = TypeVar("T")


def device() -> torch.device:
    """The GPU if torch can use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tier() -> Tier:
    """Size at which notebooks run: ``LAB_TIER`` if it is set, else gpu or cpu, after the machine. Tests use smoke."""
    return choose(os.environ.get("LAB_TIER") or ("gpu" if device().type == "cuda" else "cpu"), Tier, "LAB_TIER")


def scaled(*, smoke: T, cpu: T, gpu: T | None = None) -> T:
    """The value for this tier; by default a GPU takes the CPU's."""
    return {"smoke": smoke, "cpu": cpu, "gpu": cpu if gpu is None else gpu}[tier()]


class Purpose(IntEnum):
    """Purpose of random numbers: part of the key of their generator, so that no two purposes share numbers."""

    ORDER = 1
    NOISE = 2
    START = 3
    PROBE = 4
    REAL = 5
    SECOND_VIEW = 6
    PROJECTOR = 7
    PAIRS = 8
    KICK = 9
    AUGMENTATION = 10
    LABELS = 11
    SUBSETS = 12
    TEACHER = 101


def generator(*key: int, on: torch.device | str = "cpu") -> torch.Generator:
    """A random generator seeded by whole numbers alone, such as (seed, purpose, position in the stream)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device=on).manual_seed(int(state) >> 1)


_SEEDED = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator starts from ``seed``; afterwards it continues as if nothing had been drawn.

    For code that draws from the global generator, as torch's layers do for their initial weights. The whole process
    shares that generator, so threads take turns here: a panel that opens a run in the background must not draw between
    the initial weights of a cell's network. Code that builds layers only to load their weights belongs in here, too.
    """
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def data_dir() -> Path:
    """The folder of embedded data: ``data/`` of a checkout, or its copy inside an installed package."""
    package = Path(__file__).resolve().parent
    return next((p for p in (package.parent / "data", package / "_data") if (p / "README.md").exists()), package)


def runs_dir() -> Path:
    """Folder of a reader's own runs: ``$LAB_RUNS``, else ``runs/`` in the checkout or in the working folder."""
    checkout = Path(__file__).resolve().parent.parent
    default = (checkout if (checkout / "pyproject.toml").exists() else Path()) / "runs"
    return Path(os.environ.get("LAB_RUNS") or default)


@cache
def commit() -> str:
    """The commit of the checkout that this code runs from, with ``+changes`` if it was edited."""
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / ".git").exists() and shutil.which("git"):
        head = _git(checkout, "rev-parse", "--short=12", "HEAD")
        if head.returncode == 0:
            edited = _git(checkout, "status", "--porcelain", "--", "labkit").stdout.strip()
            return head.stdout.strip() + ("+changes" if edited else "")
    return "unknown (no git checkout)"


def _git(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True)


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operations on one core: for work of many small steps, after each of which threads would wait.

    On a machine with other work to do, such waits take many times as long as the steps.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpp_compiler() -> str | None:
    """The C++ compiler that ``torch.compile`` would use on a CPU; None if there is none."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def machine() -> dict[str, str]:
    """Facts that a figure must carry to be understood later: processor, GPU, versions, commit."""
    return {
        "processor": f"{_processor()}, {cores()} cores, {torch.get_num_threads()} torch threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.system(),
        "commit": commit(),
    }


class Finding(NamedTuple):
    """One line of the doctor's report."""

    ok: bool
    text: str
    remedy: str = ""


def doctor() -> list[Finding]:
    """Check what the lab needs on this machine; every finding that is not ok carries its remedy."""
    if device().type == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        gpu = f"GPU: {torch.cuda.get_device_name()} with {memory:.0f} GiB"
    else:
        gpu = f"No GPU that torch can use: everything runs on {cores()} processor cores"
    data, free = data_dir(), shutil.disk_usage(".").free / 2**30
    spinning = openmp.WAITING == openmp.SPINNING and torch.get_num_threads() > 1
    return [
        Finding(sys.version_info >= (3, 11), f"Python {platform.python_version()}", "Install Python 3.11 or newer."),
        Finding(True, f"torch {torch.__version__}"),
        _kernel(),
        Finding(True, gpu),
        Finding(True, f"C++ compiler: {cpp_compiler() or 'none, so nothing is compiled on a CPU'}"),
        Finding(
            all((data / file).exists() for file in EMBEDDED),
            f"embedded data (digits, letters, emoji) in {data}",
            "Restore the data/ folder of the checkout, for instance with `git checkout data`.",
        ),
        Finding(free > 1, f"{free:.0f} GiB free on disk", "Free at least 1 GiB: runs save checkpoints."),
        Finding(
            not spinning,
            f"torch's threads: {torch.get_num_threads()}; {openmp.WAITING}",
            "Import labkit before torch: beside other work, threads that spin make training many times slower.",
        ),
        Finding(True, f"notebooks run in tier '{tier()}' (set LAB_TIER to smoke, cpu or gpu to change it)"),
    ]


def _kernel() -> Finding:
    try:
        version = importlib.metadata.version("ipykernel")
    except importlib.metadata.PackageNotFoundError:
        return Finding(True, 'No ipykernel: for notebooks, `make lab`, or `pip install "labkit[lab]"`')
    concurrent = version.startswith(("7.0.", "7.1.", "7.2.", "7.3."))
    remedy = "Install ipykernel 6.31 or newer, but not 7.0 to 7.3: those run slider callbacks at the same time."
    return Finding(not concurrent, f"ipykernel {version}", remedy)
