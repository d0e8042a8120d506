"""The machine that the lab runs on: device, tier, random generators, folders, and the doctor's report."""

import codecs
import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import psutil
import torch

from labkit import openmp
from labkit.checks import LabError, choose
from labkit.disk import JUPYTER, unwritable, user_path

Tier = Literal["smoke", "cpu", "gpu"]
EMBEDDED = "digits_classifier.safetensors", "letters.npz", "letters_classifier.safetensors", "emoji.npz"
"""Files of ``data/`` without which an embedded data set cannot be used or measured; scikit-learn has the digits."""
T = TypeVar("T")
NO_MEMORY = "can't allocate memory|not enough memory|could not create a memory object|bad_alloc"  # as torch words it
_MAC = sys.platform == "darwin"
VISIBLE = "CUDA_VISIBLE_DEVICES"
FILES = 1024  # files that may be open at once: ImageNet's shards, and the libraries' own


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


def shipped_path(name: str, script: str = "") -> Path:
    """A file or folder of ``data_dir()``.

    Args:
        name: its path there.  script: the command after ``python data/`` that makes it again.

    Raises:
        FileNotFoundError: it is missing; the message has the remedies.
    """
    path = data_dir() / name
    if not path.exists():
        again = f", or make it again with `python data/{script}`" if script else ""
        raise FileNotFoundError(f"{path} is missing; restore it with `git checkout data/{name}`{again}.")
    return path


def runs_dir() -> Path:
    """Folder of a reader's own runs: ``$LAB_RUNS``, else ``runs/`` in the checkout or in the working folder."""
    checkout = Path(__file__).resolve().parent.parent
    default = (checkout if (checkout / "pyproject.toml").exists() else Path()) / "runs"
    return user_path(os.environ.get("LAB_RUNS") or default, "LAB_RUNS")


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


class MemoryFull(LabError, RuntimeError):
    """Memory, of the machine or a GPU, that does not suffice; the message names the settings that need less."""


@contextlib.contextmanager
def memory_for(work: str, remedy: str) -> Iterator[None]:
    """Refuse work that needs more memory than there is in one sentence, where torch and numpy raise several errors.

    Args:
        work: what the memory is for.  remedy: the settings that need less.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises a RuntimeError on the CPU, and a kind of it on a GPU
        text = str(error)
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not re.search(NO_MEMORY, text):
            raise
        request = re.search(r"llocate ([\d.,]+ ?\w+)", text)
        size = f" ({request[1]} were asked for at last)" if request else ""
        raise MemoryFull(f"The memory does not suffice for {work}{size}; {remedy}.") from error


def seconds_each(work: Callable[[int], Any], most: int) -> float:
    """Seconds that ``work(n)`` takes for each of n things; n grows to ``most``, or until a call takes half a second."""
    work(1)  # which may load and compile
    n = 1
    while True:
        began = time.perf_counter()
        work(n)
        seconds = time.perf_counter() - began
        if seconds > 0.5 or n >= most:
            return seconds / n
        n = min(2 * n, most)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return (os.environ.get(VISIBLE) or ",".join(map(str, range(count)))).split(",")[:count]


def compiler_fault() -> str:
    """What ``torch.compile`` lacks on this machine, and what to install; empty if nothing."""
    on_gpu = device().type == "cuda"  # there, Triton writes code of its own and a little C
    variable, usual = ("CC", ("gcc", "clang", "cc")) if on_gpu else ("CXX", ("clang++" if _MAC else "g++",))
    names = [os.environ[variable]] if os.environ.get(variable) else usual
    if not any(shutil.which(name.split()[0]) for name in names):
        source = f" (${variable} is {names[0]!r})" if os.environ.get(variable) else ""
        return f"there is no {names[0]}{source}; install {usual[0]}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers are missing; install python3-dev, or python3-devel"
    return ""


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
    data, free, memory = data_dir(), shutil.disk_usage(".").free / 2**30, psutil.virtual_memory().available / 2**30
    missing = [file for file in EMBEDDED if not (data / file).exists()]
    spinning = openmp.WAITING == openmp.SPINNING and torch.get_num_threads() > 1
    return [
        Finding(sys.version_info >= (3, 11), f"Python {platform.python_version()}", "Install Python 3.11 or newer."),
        Finding(True, f"torch {torch.__version__}"),
        _kernel(),
        Finding(True, gpu),
        _compiler(),
        Finding(
            not missing,
            f"embedded data (digits, letters, emoji) in {data}",
            f"Restore what is missing: `git checkout {' '.join(f'data/{file}' for file in missing)}` in the checkout.",
        ),
        Finding(free > 1, f"{free:.0f} GiB free on disk", "Free at least 1 GiB: runs save checkpoints."),
        Finding(memory > 1, f"{memory:.0f} GiB of memory free", "End other programs, or take a smaller batch_size."),
        _folder(),
        _caches(),
        _files(),
        _variables(),
        _encoding(),
        Finding(
            not spinning,
            f"torch's threads: {torch.get_num_threads()}; {openmp.WAITING}",
            "Import labkit before torch: beside other work, threads that spin make training many times slower.",
        ),
        Finding(True, f"notebooks run in tier '{tier()}' (set LAB_TIER to smoke, cpu or gpu to change it)"),
    ]


def _compiler() -> Finding:
    fault = compiler_fault()
    return Finding(True, f"torch.compile cannot be used: {fault}" if fault else "torch.compile has its compiler")


def _folder() -> Finding:
    writable = os.access(".", os.W_OK | os.X_OK)
    remedy = "Go to a folder of yours, or name one with --out: runs are written below this one by default."
    return Finding(writable, f"this folder can{'' if writable else 'not'} be written to", remedy)


def _caches() -> Finding:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    usual = {"HF_HOME": "huggingface", "TORCH_HOME": "torch", "MPLCONFIGDIR": "matplotlib", "NUMBA_CACHE_DIR": "numba"}
    bad = unwritable(JUPYTER | {name: f"{cache}/{folder}" for name, folder in usual.items()})
    text = "caches that cannot be written to: " + ", ".join(f"{n} ({folder})" for n, folder in bad.items())
    remedy = f"Set each to a folder of yours, such as `export {next(iter(bad), '')}={tempfile.gettempdir()}/cache`."
    return Finding(not bad, text if bad else "caches of downloads and compiled code can be written to", remedy)


def _files() -> Finding:
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:  # Windows
        return Finding(True, "open files are not limited")
    enough = most >= FILES or most < 0
    return Finding(
        enough, f"{most:,} files may be open at once", f"Run `ulimit -n {FILES}` first: stores are many files."
    )


def _variables() -> Finding:
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    left = [name for name in ("RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID") if name in os.environ]
    text = f"{', '.join(left)} are set and not obeyed: several processes share work only if torchrun starts them"
    return Finding(True, text if left and not torchrun else "no batch system (such as Slurm) has set variables here")


def _encoding() -> Finding:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = f"output in {encoding}"
    spelled = codecs.lookup(encoding).name != "utf-8"
    return Finding(True, text + ("; signs that it lacks are spelled, unless PYTHONIOENCODING=utf-8" if spelled else ""))


def _kernel() -> Finding:
    try:
        version = importlib.metadata.version("ipykernel")
    except importlib.metadata.PackageNotFoundError:
        return Finding(True, 'No ipykernel: for notebooks, `make lab`, or `pip install "labkit[lab]"`')
    concurrent = version.startswith(("7.0.", "7.1.", "7.2.", "7.3."))
    remedy = "Install ipykernel 6.31 or newer, but not 7.0 to 7.3: those run slider callbacks at the same time."
    return Finding(not concurrent, f"ipykernel {version}", remedy)
