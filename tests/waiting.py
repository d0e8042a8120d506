"""Waiting for what other threads and processes do."""

import threading
import time


def wait_for(condition):
    """Poll; the limit only ends a test that would otherwise hang."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def threads(name):
    """Threads alive whose name begins so."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]
