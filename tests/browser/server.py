"""One throw-away JupyterLab and one headless Chromium, cut off from the user's own settings."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CHROMIUM_FLAGS = [
    "--no-sandbox",  # Chromium refuses to start as root, the usual user of a container, without it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers often have a 64 MB /dev/shm, too small for a page of figures
]
# Only what would make a test flicker is changed (news pop-ups, autosave); the rest is what a reader gets.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"checkForUpdates": False, "fetchNews": "false"},
    "@jupyterlab/docmanager-extension/plugin.jupyterlab-settings": {"autosave": False},
}


@dataclass(frozen=True)
class Server:
    """A running JupyterLab: `url` without a trailing slash, its `token`, the `root` folder it serves."""

    url: str
    token: str
    root: Path
    log: Path
    seconds_to_start: float


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_chromium() -> str | None:
    """Path of an installed Chromium or Chrome; the environment variable LABKIT_CHROMIUM wins."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("LABKIT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def why_not() -> str | None:
    """One sentence saying why no browser test can run here, or None when they can."""
    if not Path(find_chromium() or "missing").is_file():
        return (
            "browser tests skipped: no Chromium found; install Debian's chromium (apt-get install chromium) "
            "or point LABKIT_CHROMIUM at one"
        )
    for module in ("playwright", "jupyterlab"):
        try:
            __import__(module)
        except ImportError:
            return f"browser tests skipped: the package {module} is missing; run `make test`, which installs it"
    return None


@contextlib.contextmanager
def running_server(work: Path, notebooks: Path | None = None, tier: str = "smoke") -> Iterator[Server]:
    """Serve a copy of `notebooks` (default: the repository's) from `work`; stops the server and its kernels."""
    notebooks = REPO / "notebooks" if notebooks is None else notebooks
    root, state, log = work / "notebooks", work / "jupyter", work / "jupyterlab.log"
    if notebooks.is_dir():
        shutil.copytree(notebooks, root, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    root.mkdir(parents=True, exist_ok=True)
    for name, values in SETTINGS.items():
        path = state / "config/lab/user-settings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    # The kernel python3 is found all the same: its specification lies under sys.prefix, not in these folders.
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_"))}
    env |= {name: str(state / folder) for name, folder in folders.items()}
    env |= {"IPYTHONDIR": str(state / "ipython"), "LAB_TIER": tier}
    if tier == "smoke":
        startup = state / "ipython/profile_default/startup"
        startup.mkdir(parents=True)
        shutil.copy(REPO / "tests/smoke.py", startup)
        env["OMP_NUM_THREADS"] = "1"  # tests share the machine
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
    command += ["--JupyterNotebookApp.expose_app_in_browser=True"]
    command += ["--LabApp.extension_manager=readonly", "--LabApp.news_url=None"]
    url, began = f"http://127.0.0.1:{port}", time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=root, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        _until_answering(url, token, process, log)
        yield Server(url, token, root, log, time.monotonic() - began)
    finally:
        process.terminate()  # JupyterLab shuts its kernels down before it leaves
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_answering(url: str, token: str, process: subprocess.Popen, log: Path, patience: float = 90) -> None:
    request = urllib.request.Request(f"{url}/api/status", headers={"Authorization": f"token {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever http_proxy says
    deadline = time.monotonic() + patience
    while True:
        try:
            with opener.open(request, timeout=5):
                return
        except OSError:
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)  # between two knocks, nothing is timed by it
                continue
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"JupyterLab did not answer at {url} within {patience:.0f} s; its log ends:\n{tail}")


@contextlib.contextmanager
def running_chromium() -> Iterator:
    """A headless Chromium as a Playwright `Browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()
