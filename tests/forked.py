"""Processes that a test may kill, compile in, or join to ranks: without the tests' checker of shapes, as a reader's.

They are forked from a server that has imported everything, so they start at once.
"""

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

processes = multiprocessing.get_context("forkserver")
IMPORTED = "labkit.cli labkit.widgets lightning_fabric scipy.stats sklearn.datasets sklearn.model_selection"
processes.set_forkserver_preload(IMPORTED.split())


def on_ranks(ranks: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work(rank)`` returns on each rank of a group of processes that talk over gloo."""
    return _results([(_one_rank, (work, rank, ranks, folder / "meeting")) for rank in range(ranks)], folder)


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
