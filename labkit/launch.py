"""Open JupyterLab at the first notebook: `make lab`, or `python -m labkit.launch` with any option of `jupyter lab`."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.disk import JUPYTER, unwritable

REPO = Path(__file__).resolve().parents[1]
FIRST = "notebooks/00_start_here.ipynb"
SETTINGS = Path(__file__).with_name("lab_settings")  # no news, no updates: nothing is fetched, nothing pops up


def has_display(environ: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Whether a browser window could appear here; macOS and Windows always have a desktop."""
    return platform in ("darwin", "win32") or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def jupyter_arguments(
    args: Sequence[str], environ: Mapping[str, str], is_root: bool, has_display: bool
) -> tuple[list[str], str]:
    """The arguments of `jupyter lab`, and one sentence that tells the reader what happens next.

    `args` are the reader's own and come last, so that they win. Address (loopback) and token stay Jupyter's own.
    A reader who set `BROWSER`, as remote editors do, has a browser even without a display.
    """
    argv = [f"--LabApp.default_url=/lab/tree/{FIRST}", f"--LabApp.app_settings_dir={SETTINGS}"]
    argv.append(f"--ServerApp.root_dir={REPO}")
    if is_root:
        argv.append("--allow-root")  # Jupyter refuses root otherwise, the usual user in a container
    by_hand = "open the address printed below, token and all, by hand."
    if "--no-browser" in args:
        sentence = f"No browser is opened, as requested: {by_hand}"
    elif has_display or environ.get("BROWSER"):
        sentence = f"JupyterLab opens in your browser; if no window appears, {by_hand}"
    else:
        argv.append("--no-browser")
        sentence = f"This machine has no display, so no browser is opened (--no-browser was added): {by_hand}"
    return [*argv, *args], sentence


def main() -> None:
    """Print what happens next, then run the JupyterLab server until Ctrl-C."""
    # Jupyter keeps settings and the addresses of kernels below the home, which a container's user may not write to.
    blocked = unwritable(JUPYTER)
    if blocked:
        folder = tempfile.mkdtemp(prefix="labkit-jupyter-")
        os.environ.update({name: f"{folder}/{name.lower()}" for name in blocked})
        print(f"Jupyter's own folders cannot be written to; it keeps its settings in {folder}, for this time alone.")
    from jupyterlab.labapp import LabApp

    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    argv, sentence = jupyter_arguments(sys.argv[1:], os.environ, is_root, has_display(os.environ))
    print(sentence, flush=True)
    LabApp.launch_instance(argv)


if __name__ == "__main__":
    main()
