"""Work in processes of its own: what raises, or is killed, fails alone, and the rest goes on.

Every process has one thread, since they share the machine: a thread each is faster than all threads for all. Ctrl-C
and SIGTERM are handed on to each once, so that it can save; one whose parent is gone asks ``orphaned`` and leaves.
"""

import os
import signal
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import forkserver, get_all_start_methods, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from labkit.training.engine import saving_on_signals
from labkit.training.folder import BusyError
from labkit.training.status import one_line
from labkit.types import LabError

STOPPED, FAILED, BUSY = 3, 4, 5  # exit statuses
FAILURE = "failure.txt"


class Job(NamedTuple):
    """A function at the top of a module, what it is called with, and the folder where its failure is told."""

    work: Callable[..., None]
    arguments: tuple[Any, ...]
    folder: Path


def run_apart(
    jobs: Mapping[str, Job], workers: int, progress: bool, due: Callable[[str], bool] = lambda name: True
) -> dict[str, str]:
    """Do all jobs, ``workers`` at a time; name → why it failed, for those that did.

    Args:
        due: says of a name, just before its turn, whether it is to be done.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the processes have ended.
    """
    context = _context()
    alive: dict[str, BaseProcess] = {}
    failures: dict[str, str] = {}
    # Starting a process asks all others whether they have ended, and how one ended can be asked only once.
    asking = Lock()
    stopping = False

    def one(name: str) -> str | None:
        process = context.Process(target=_guarded, args=jobs[name], name=name)
        if stopping or not due(name):
            return None
        with asking:
            process.start()
        alive[name] = process
        if stopping:  # it started while the others were told
            process.terminate()
        wait([process.sentinel])
        with asking:
            process.join()
        del alive[name]
        return _why(process, jobs[name].folder)

    pool = ThreadPoolExecutor(workers, initializer=_shield)
    running = {pool.submit(one, name): name for name in jobs}
    try:
        with (
            saving_on_signals(_interrupt),
            tqdm(total=len(running), unit="run", desc="sweep", disable=not progress) as bar,
        ):
            for done in as_completed(running):
                if why := done.result():
                    failures[running[done]] = why
                    bar.set_postfix_str(f"{len(failures)} failed", refresh=False)
                bar.update()
    except BaseException:
        stopping = True
        for process in list(alive.values()):
            process.terminate()  # which saves
        raise
    finally:
        pool.shutdown()
    return failures


def orphaned() -> bool:
    """Whether the process that started this one is gone: whoever goes on wants its folders for himself."""
    parent = parent_process()
    return parent is not None and not parent.is_alive()


def _context() -> BaseContext:
    """Processes are forked from a server that has imported labkit: importing it takes longer than a small run.

    On a GPU, and where there is no fork, each imports for itself.
    """
    if torch.cuda.is_available() or "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["labkit.experiments.sweep", "lightning_fabric", "pandas"])
    forkserver.ensure_running()
    return context


def _shield() -> None:
    """Processes that this thread starts do not hear the terminal's Ctrl-C, which the parent hands on."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # else the first process starts it, which lifts what is blocked here
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _interrupt() -> None:
    raise KeyboardInterrupt


def _why(process: BaseProcess, folder: Path) -> str | None:
    """What a process that has ended died of, None if it was well."""
    code = process.exitcode
    if code == FAILED:
        return (folder / FAILURE).read_text(encoding="utf-8").strip().splitlines()[-1]
    if code == STOPPED:
        return "it was stopped and saved; the same sweep goes on"
    if code < 0:
        hint = " (by the system for want of memory? Take fewer workers)" if -code == signal.SIGKILL else ""
        return f"its process was killed by signal {-code}{hint}; the same sweep goes on"
    return None if code in (0, BUSY) else f"its process ended with status {code}; run it alone to see why"


def _guarded(work: Callable[..., None], arguments: tuple[Any, ...], folder: Path) -> None:
    """What a process does."""
    _shield()  # a fork of the server has that one's signals
    torch.set_num_threads(1)
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        work(*arguments)
    except BusyError:  # somebody took the folder at this very moment
        os._exit(BUSY)
    except KeyboardInterrupt:
        os._exit(STOPPED)
    except Exception as error:
        why = one_line(error) + ("" if isinstance(error, LabError) else f"; see {folder / FAILURE}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).write_text(f"{traceback.format_exc()}\n{why}\n", encoding="utf-8")
        os._exit(FAILED)
