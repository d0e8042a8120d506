"""Ctrl-C, SIGTERM (a machine goes away) and SIGHUP (a terminal closes): work saves and ends, or ends at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def saving_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at Ctrl-C, SIGTERM and SIGHUP; a second one ends at once. A SIGHUP that nohup ignores stays so."""
    before = _handlers()

    def handle(*_: object) -> None:
        _set(before)
        stop()

    with _replaced(before, handle):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold the signals back for lines that change weights and log them: a save never sees half a step."""
    held = {number: handler for number, handler in _handlers().items() if callable(handler)}
    caught: list[tuple[int, FrameType | None]] = []
    with _replaced(held, lambda *signalled: caught.append(signalled)):
        yield
    for number, frame in caught[:1]:
        held[number](number, frame)


def interrupt() -> NoReturn:
    """Stop as Ctrl-C does."""
    raise KeyboardInterrupt


def end_at_once() -> None:
    """Let the signals end the process without a word of Python's: for the seconds in which torch is imported.

    An exception amid the import of a compiled library can become another one, or a crash.
    """

    def end(*_: object) -> NoReturn:
        with contextlib.suppress(OSError):
            os.write(2, b"\nStopped.\n")
        os._exit(130)

    _set(dict.fromkeys(_handlers(), end))


def _handlers() -> dict[int, Any]:
    """Handlers of the signals that are not ignored; empty outside the main thread, where no signal arrives."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in ENDING}
    # A shell has what it starts in the background ignore Ctrl-C; who sends that signal by kill still means it.
    return {n: handler for n, handler in handlers.items() if n == signal.SIGINT or handler is not signal.SIG_IGN}


def _set(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def _replaced(handlers: Mapping[int, Any], handle: Callable[..., None]) -> Iterator[None]:
    """Handle these signals by ``handle``, and by their own handlers again afterwards."""
    _set(dict.fromkeys(handlers, handle))
    try:
        yield
    finally:
        _set(handlers)
