"""Jobs in processes of their own: one that raises, or is killed, fails alone, and the others go on.

Every process has one thread, since they share the machine: one thread for each is faster than all threads for all. It
sees one GPU, if there are any; these take turns.
Ctrl-C, SIGTERM and SIGHUP are passed to each process once, so that it can save. A process whose parent has gone learns
that from ``orphaned`` and stops.
"""

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import cycle, islice
from multiprocessing import forkserver, get_all_start_methods, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from labkit.checks import LabError
from labkit.runtime import VISIBLE, MemoryFull
from labkit.signals import interrupt, saving_on_signals
from labkit.training.folder import BusyError
from labkit.training.status import one_line

STOPPED, FAILED, BUSY = 3, 4, 5  # exit statuses
FAILURE = "failure.txt"


class Job(NamedTuple):
    """A function at the top of a module, its arguments, and the folder to which its traceback is written."""

    work: Callable[..., None]
    arguments: tuple[Any, ...]
    folder: Path


def run_jobs(
    jobs: Mapping[str, Job],
    workers: int,
    progress: bool,
    due: Callable[[str], bool] = lambda name: True,
    gpus: Sequence[str] = (),
) -> dict[str, str]:
    """Run all jobs, ``workers`` at a time.

    Args:
        due: whether a job is still to be done; called just before it starts.
        gpus: their names in CUDA_VISIBLE_DEVICES. Each worker has one, which it shares if they are fewer.

    Returns:
        Name → why it failed, for those that did.

    Raises:
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP, when the processes have ended.
    """
    process_class = _process_class(forked=not gpus)
    free: SimpleQueue[str | None] = SimpleQueue()
    for gpu in islice(cycle(gpus or [None]), workers):
        free.put(gpu)
    alive: dict[str, BaseProcess] = {}
    failures: dict[str, str] = {}
    # Starting a process polls all others, and the exit status of one that has ended can be read only once.
    polling = Lock()
    stopping = False

    def one(name: str) -> str | None:
        process = process_class(target=_guarded, args=jobs[name], name=name)
        if stopping or not due(name):
            return None
        gpu = free.get()
        with polling, _seeing(gpu):
            process.start()
        alive[name] = process
        if stopping:  # it started while the others were being stopped
            process.terminate()
        wait([process.sentinel])
        with polling:
            process.join()
        del alive[name]
        free.put(gpu)
        return _why(process, jobs[name].folder)

    pool = ThreadPoolExecutor(workers, initializer=_shield)
    running = {pool.submit(one, name): name for name in jobs}
    try:
        with (
            saving_on_signals(interrupt),
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
    """Whether the process that started this one has gone, and another may want to go on in its folders."""
    parent = parent_process()
    return parent is not None and not parent.is_alive()


@contextlib.contextmanager
def _seeing(gpu: str | None) -> Iterator[None]:
    """Let processes that are started inside see this GPU alone."""
    before = os.environ.get(VISIBLE)
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        if gpu is not None:
            os.environ.pop(VISIBLE)
            os.environ.update({} if before is None else {VISIBLE: before})


def _process_class(forked: bool) -> type[BaseProcess]:
    """Processes that are forks of a server that has imported labkit, since importing takes longer than a small run.

    On a GPU, and where there is no fork, each process imports labkit itself.
    """
    if not forked or "forkserver" not in get_all_start_methods():
        return get_context("spawn").Process
    context = get_context("forkserver")
    context.set_forkserver_preload(["labkit.experiments.sweep", "lightning_fabric", "pandas"])
    with ThreadPoolExecutor(1, initializer=_shield) as shielded:  # the server must survive its terminal
        shielded.submit(forkserver.ensure_running).result()
    return context.Process


def _shield() -> None:
    """Block the terminal's own signals in processes that this thread starts; the parent passes them on."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # else the first process starts it, which would unblock the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})


def _why(process: BaseProcess, folder: Path) -> str | None:
    """Why a process that has ended failed; None if it did not."""
    code = process.exitcode
    assert code is not None, "the process has not ended"
    if code == FAILED:
        return (folder / FAILURE).read_text(encoding="utf-8").strip().splitlines()[-1]
    if code == STOPPED:
        return "it was stopped and saved; the same sweep goes on"
    if code < 0:
        hint = " (by the system for want of memory? Take fewer workers)" if -code == signal.SIGKILL else ""
        return f"its process was killed by signal {-code}{hint}; the same sweep goes on"
    return None if code in (0, BUSY) else f"its process ended with status {code}; run it alone to see why"


def _guarded(work: Callable[..., None], arguments: tuple[Any, ...], folder: Path) -> None:
    """Main function of a process."""
    _shield()  # a fork of the server inherits the server's signal mask
    torch.set_num_threads(1)
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        work(*arguments)
    except BusyError:  # another process took the folder at this very moment
        os._exit(BUSY)
    except KeyboardInterrupt:
        os._exit(STOPPED)
    except Exception as error:
        fewer = " Or take fewer workers, and the same sweep goes on." if isinstance(error, MemoryFull) else ""
        why = one_line(error) + (fewer if isinstance(error, LabError) else f"; see {folder / FAILURE}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).write_text(f"{traceback.format_exc()}\n{why}\n", encoding="utf-8")
        os._exit(FAILED)
