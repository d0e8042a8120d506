"""How torch's threads wait for each other: set before torch is loaded, since OpenMP reads it once.

By default a thread without work spins for some milliseconds before it sleeps, in case more work follows. Alone on a
machine that is fastest. Beside other work, such as a second notebook or a browser, the spinning threads take the cores
from the threads that they wait for, and training becomes tens of times slower (``benchmarks/busy.py`` measures it).
"""

import os
import sys
from collections.abc import MutableMapping

SPINS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""For GNU's OpenMP, which torch brings on Linux: turns of a loop. For LLVM's and Intel's: milliseconds."""
SPINNING = "they spin while they wait"


def set_waiting(environment: MutableMapping[str, str], loaded: bool) -> str:
    """Set how threads wait, here and in child processes, unless the user has set it; returns a sentence about it.

    Args:
        environment: of this process.  loaded: whether torch is loaded already, so that it is too late for this process.
    """
    own = {name: environment[name] for name in ("OMP_WAIT_POLICY", *SPINS) if name in environment}
    environment.update({} if own else SPINS)
    if own:
        return f"they wait as {', '.join(f'{name}={value}' for name, value in own.items())} says"
    return SPINNING if loaded else "they sleep while they wait"


WAITING = set_waiting(os.environ, "torch" in sys.modules)
"""How threads wait in this process."""
