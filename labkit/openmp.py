"""How the threads of torch's operations wait for each other. Set before torch is loaded: OpenMP reads it once.

As it comes, a thread without work spins for some milliseconds before it sleeps, in case more work follows. Alone on a
machine that is fastest. Beside anything else that computes, a second notebook or a browser, the spinning threads take
the cores from those they wait for, and training becomes tens of times slower (``benchmarks/busy.py`` measures it).
"""

import os
import sys
from collections.abc import MutableMapping

SPINS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""Of GNU's OpenMP, which torch brings on Linux: turns of a loop. Of LLVM's and Intel's: milliseconds."""
OWN = ("OMP_WAIT_POLICY", *SPINS)
"""Who has set one of these wants it so."""


def set_waiting(environment: MutableMapping[str, str], loaded: bool) -> str:
    """Set how threads wait, here and in processes to come, unless the user has; returns what holds, in words.

    Args:
        environment: of this process.  loaded: whether torch is loaded already, so that nothing can be changed here.
    """
    own = {name: environment[name] for name in OWN if name in environment}
    environment.update({} if own else SPINS)
    if own:
        return f"they wait as {', '.join(f'{name}={value}' for name, value in own.items())} says"
    return SPINNING if loaded else "they sleep while they wait"


SPINNING = "they spin while they wait"
WAITING = set_waiting(os.environ, "torch" in sys.modules)
"""What holds in this process."""
