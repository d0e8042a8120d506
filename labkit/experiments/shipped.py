"""Runs that ship with the lab: ``data/runs/``, made by ``data/build_runs.py``."""

from labkit.runtime import data_dir, runs_dir
from labkit.training import Run


def shipped_run(name: str) -> Run:
    """A run that ships, such as ``"digits/baseline"``: its averaged weights, log and config.

    Features of it are cached among the reader's runs, since the folder that it ships in may be read-only.

    Raises:
        FileNotFoundError: there is no such run.
    """
    path = data_dir() / "runs" / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; restore it with `git checkout data/runs/{name}`.")
    return Run.open(path, shelf=runs_dir() / "shipped" / name)
