"""Runs that ship with the lab: ``data/runs/``, made by ``data/build_runs.py``."""

from labkit.runtime import runs_dir, shipped_path
from labkit.training import Run


def shipped_run(name: str) -> Run:
    """A run that ships, such as ``"digits/baseline"``: its averaged weights, log and config.

    Features of it are cached among the reader's runs, since the folder that it ships in may be read-only.

    Raises:
        FileNotFoundError: there is no such run.
    """
    return Run.open(shipped_path(f"runs/{name}"), shelf=runs_dir() / "shipped" / name)
