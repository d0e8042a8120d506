"""One look at the machine, one decision, told in plain words: tier, device, seeds, and what the doctor says."""

import contextlib
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
from labkit.types import LabError

Tier = Literal["smoke", "cpu", "gpu"]
TIERS: tuple[Tier, ...] = ("smoke", "cpu", "gpu")
T = TypeVar("T")


class TierError(LabError, ValueError):
    """LAB_TIER is set to something else than a tier."""


def device() -> torch.device:
    """The GPU if torch can use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tier() -> Tier:
    """How large the notebooks run: ``LAB_TIER`` if set, else gpu or cpu after the machine. Tests use smoke."""
    chosen = os.environ.get("LAB_TIER") or ("gpu" if device().type == "cuda" else "cpu")
    if chosen not in TIERS:
        raise TierError(f"LAB_TIER = {chosen!r} cannot be used: choose one of {', '.join(TIERS)}.")
    return chosen


def scaled(*, smoke: T, cpu: T, gpu: T | None = None) -> T:
    """The value for this tier; the GPU takes the CPU's when it has none of its own."""
    values = {"smoke": smoke, "cpu": cpu, "gpu": cpu if gpu is None else gpu}
    return values[tier()]


class Purpose(IntEnum):
    """What a random number is for: part of the key of its generator, so that no two purposes share numbers."""

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
    """A random generator that follows from whole numbers alone, such as (seed, purpose, samples seen)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device=on).manual_seed(int(state) >> 1)


_SEEDED = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator starts from ``seed``; afterwards it goes on as if nothing had been drawn.

    For what draws from that generator without asking, as torch does when it builds a layer. It is one for the whole
    process, so two threads take turns here: a panel that opens a run in the background must not take numbers from the
    initial weights that a cell is drawing. What builds layers only to fill them from a file belongs in here as well.
    """
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def data_dir() -> Path:
    """The folder of embedded data: ``data/`` of a checkout, or its copy inside an installed package."""
    package = Path(__file__).resolve().parent
    return next((p for p in (package.parent / "data", package / "_data") if (p / "README.md").exists()), package)


def runs_dir() -> Path:
    """Where notebooks keep a reader's own runs: ``$LAB_RUNS``, else ``runs/`` of the checkout or of this folder."""
    checkout = Path(__file__).resolve().parent.parent
    return Path(
        os.environ.get("LAB_RUNS") or (checkout if (checkout / "pyproject.toml").exists() else ".") / Path("runs")
    )


@cache
def commit() -> str:
    """The commit of the checkout that this code runs from, with ``+changes`` if it was edited."""
    package = Path(__file__).resolve().parent
    if (package.parent / ".git").exists() and shutil.which("git"):
        asked = ["git", "-C", str(package.parent)]
        head = subprocess.run([*asked, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        if head.returncode == 0:
            edited = subprocess.run(
                [*asked, "status", "--porcelain", "--", "labkit"], capture_output=True, text=True
            ).stdout
            return head.stdout.strip() + ("+changes" if edited.strip() else "")
    return "unknown (no git checkout)"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """This thread's torch operations on one core: for work of many small steps, after each of which threads would wait.

    On a machine with other work to do such waits take many times as long as the steps.
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
    """What a figure must carry to be read later: processor, GPU, versions, commit."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": f"{_processor()}, {cores()} cores, {torch.get_num_threads()} torch threads",
        "gpu": gpu,
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
    """Look at what the lab needs on this machine; every finding that is not ok carries its remedy."""
    from importlib.metadata import PackageNotFoundError, version

    found = [
        Finding(sys.version_info >= (3, 11), f"Python {platform.python_version()}", "Install Python 3.11 or newer."),
        Finding(True, f"torch {torch.__version__}"),
    ]
    try:
        kernel = version("ipykernel")
        broken = kernel.startswith(("7.0.", "7.1.", "7.2.", "7.3."))
        remedy = "Install ipykernel 6.31 or newer, but not 7.0 to 7.3: those run slider callbacks at the same time."
        found.append(Finding(not broken, f"ipykernel {kernel}", remedy))
    except PackageNotFoundError:
        found.append(Finding(True, 'No ipykernel: for notebooks, `make lab`, or `pip install "labkit[lab]"`'))
    if device().type == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        found.append(Finding(True, f"GPU: {torch.cuda.get_device_name()} with {memory:.0f} GiB"))
    else:
        found.append(Finding(True, f"No GPU that torch can use: everything runs on {cores()} processor cores"))
    compiler = cpp_compiler() or "none, so nothing is compiled on a CPU"
    found.append(Finding(True, f"C++ compiler: {compiler}"))
    found.append(
        Finding(
            (data_dir() / "digits_classifier.safetensors").exists(),
            f"embedded data in {data_dir()}",
            "Restore the data/ folder of the checkout, for instance with `git checkout data`.",
        )
    )
    free = shutil.disk_usage(".").free / 2**30
    found.append(Finding(free > 1, f"{free:.0f} GiB free on disk", "Free at least 1 GiB: runs save checkpoints."))
    spinning = openmp.WAITING == openmp.SPINNING and torch.get_num_threads() > 1
    found.append(
        Finding(
            not spinning,
            f"torch's threads: {torch.get_num_threads()}; {openmp.WAITING}",
            "Import labkit before torch: beside other work, threads that spin make training many times slower.",
        )
    )
    found.append(Finding(True, f"notebooks run in tier '{tier()}' (set LAB_TIER to smoke, cpu or gpu to change it)"))
    return found
