"""Processes that a test may kill, compile in, or join to ranks: without the tests' checker of shapes, as a reader's.

They are forked from a server that has imported everything, so they start at once, and draw small sheets (smoke.py).
"""

import contextlib
import importlib
import io
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist

processes = multiprocessing.get_context("forkserver")
IMPORTED = "" if torch.cuda.is_available() else "diffusers.models "  # asks for a GPU; after that a fork has none
IMPORTED += "labkit.cli labkit.evaluation labkit.experiments labkit.widgets lightning_fabric "
IMPORTED += "nbformat.v4 plotly.io scipy.stats "
IMPORTED += "sklearn.datasets sklearn.model_selection smoke"
processes.set_forkserver_preload(IMPORTED.split())


@contextlib.contextmanager
def running(work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """A process that does ``work(*arguments)``, and is killed when one is done with it."""
    process = processes.Process(target=work, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def on_ranks(ranks: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work(rank)`` returns on each rank of a group of processes that talk over gloo."""
    return _results([(_one_rank, (work, rank, ranks, folder / "meeting")) for rank in range(ranks)], folder)


def output_on_ranks(ranks: int, work: Callable[[], int], folder: Path) -> list[str]:
    """The standard output of ``work()``, which must return 0, on each rank of a group set up as torchrun does."""
    return _results([(_captured_output, (work, env)) for env in _torchrun_environments(ranks)], folder)


def rows(run: Path) -> int:
    """Lines of a run's table of metrics, its head included; 0 if there is none."""
    table = run / "metrics.csv"
    return table.read_text().count("\n") if table.exists() else 0


def interrupted(*words: str, folder: Path, when: Callable[[], Any]) -> tuple[int | None, str, str]:
    """Ctrl-C in a ``labkit`` command as in a terminal, once ``when()`` holds: its exit status, stdout and stderr."""
    files = [folder / "stdout", folder / "stderr"]
    with running(_command_into, words, files) as process:
        while process.is_alive() and not when():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        process.join(60)
        return process.exitcode, *(file.read_text() for file in files)


class ForkedPopen:
    """Replaces ``subprocess.Popen`` for a job: its command is forked from this process, which has imported the lab."""

    def __init__(self, command: list[str], stdout: IO[bytes], env: dict[str, str], **_: Any) -> None:
        self.args, fork = command, multiprocessing.get_context("fork")
        ranks = int(command[command.index("--nproc-per-node") + 1]) if "--nproc-per-node" in command else 1
        words, out = command[command.index("labkit") + 1 :], stdout.fileno()
        environments = _torchrun_environments(ranks) if ranks > 1 else [{}]
        self._ranks = [fork.Process(target=_command, args=(words, out, out, env | own)) for own in environments]
        for rank in self._ranks:
            rank.start()
        self.pid = self._ranks[0].pid

    def poll(self) -> int | None:
        codes = [rank.exitcode for rank in self._ranks]
        return None if None in codes else max(codes, key=abs)


def elsewhere(work: Callable[..., Any], *args: Any, folder: Path) -> Any:
    """What ``work(*args)`` returns in a process of its own."""
    return _results([(work, args)], folder)[0]


def _results(jobs: list[tuple[Callable[..., Any], tuple[Any, ...]]], folder: Path) -> list[Any]:
    files = [folder / f"result{number}.pt" for number in range(len(jobs))]
    started = [processes.Process(target=_keep, args=(file, *job)) for file, job in zip(files, jobs, strict=True)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    results = []
    for process, file in zip(started, files, strict=True):
        assert file.exists(), f"the process ended with status {process.exitcode}"
        result, error = torch.load(file, weights_only=True)
        assert not error, error
        results.append(result)
    return results


def _keep(file: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # as in the tests: bits may depend on it
    result, error = None, ""
    try:
        result = work(*args)
    except BaseException:
        error = traceback.format_exc()
    torch.save((result, error), file)


def _one_rank(work: Callable[[int], Any], rank: int, ranks: int, meeting: Path) -> Any:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    try:
        return work(rank)
    finally:
        dist.destroy_process_group()


def _torchrun_environments(ranks: int) -> list[dict[str, str]]:
    """The environment that torchrun gives to each rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    env |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": 0}
    places = [env | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
    return [{name: str(value) for name, value in place.items()} for place in places]


def _captured_output(work: Callable[[], int], env: dict[str, str]) -> str:
    os.environ |= env
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert work() == 0
    return out.getvalue()


def _command(words: Sequence[str], out: int, err: int, env: Mapping[str, str]) -> None:
    """``labkit WORDS`` as a process of its own session, with these files for what it prints."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ |= env
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    importlib.import_module("smoke")
    from labkit.cli import main

    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _command_into(words: Sequence[str], files: Sequence[Path]) -> None:
    _command(words, *(os.open(file, os.O_WRONLY | os.O_CREAT) for file in files), {})
