"""The way in which torch's threads wait is set before torch is loaded, and a reader's own setting wins."""

import os
import subprocess
import sys

from labkit.openmp import SPINS, set_waiting


def test_a_reader_s_own_setting_wins():
    for own in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "200"}):
        environment = {"HOME": "/", **own}
        text = set_waiting(environment, loaded=False)
        assert environment == {"HOME": "/", **own}
        assert "=".join(*own.items()) in text


def test_it_is_set_here_and_for_processes_to_come():
    for loaded, words in ((False, "sleep"), (True, "spin")):
        environment = {}
        assert words in set_waiting(environment, loaded)
        assert environment == SPINS


def test_importing_labkit_sets_it_first():
    """Before anything that brings torch: else it says so."""
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", *SPINS)}
    code = "import labkit, os; from labkit.runtime import doctor; print(os.environ['GOMP_SPINCOUNT']); print(*doctor())"
    for first, words in (("", "they sleep while they wait"), ("import torch; ", "they spin while they wait")):
        done = subprocess.run([sys.executable, "-c", first + code], env=clean, capture_output=True, text=True)
        assert done.stdout.startswith(SPINS["GOMP_SPINCOUNT"]) and words in done.stdout, done.stderr
