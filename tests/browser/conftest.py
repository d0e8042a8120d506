"""Browser tests: one JupyterLab and one Chromium for the whole run; panels share a scratch notebook and its kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server import running_chromium, running_server, why_not

HERE = Path(__file__).parent
outcome = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)  # before "-m browser" chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.when == "call":
        item.stash[outcome] = report.failed
    return report


@pytest.fixture(scope="session")
def _can_run() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def lab_server(_can_run, tmp_path_factory: pytest.TempPathFactory):
    """JupyterLab on a copy of the repository's notebooks, smoke tier."""
    with running_server(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="session")
def chromium(_can_run):
    """A headless Chromium."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def lab(lab_server, chromium, request: pytest.FixtureRequest, tmp_path: Path):
    """A fresh tab, for a notebook of its own."""
    from lab import LabPage

    page = LabPage(chromium, lab_server)
    yield page
    _picture(page, request, tmp_path)
    page.close()


@pytest.fixture(scope="session")
def _scratch(lab_server, chromium):
    from lab import LabPage

    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    empty = {"cells": [], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (lab_server.root / "scratch.ipynb").write_text(json.dumps(empty))
    page = LabPage(chromium, lab_server)
    page.open("scratch.ipynb")
    yield page
    page.close()


@pytest.fixture
def scratch(_scratch, request: pytest.FixtureRequest, tmp_path: Path):
    """An empty notebook whose kernel earlier tests have used: no panel waits for labkit to be imported again."""
    _scratch.console_errors.clear()
    yield _scratch
    _picture(_scratch, request, tmp_path)
    _scratch.clear_cells()


def _picture(page, request: pytest.FixtureRequest, folder: Path) -> None:
    """A failing test leaves a screenshot and says where."""
    if request.node.stash.get(outcome, False):
        path = page.screenshot(folder / "failed.png")
        request.node.add_report_section("teardown", "screenshot", str(path))
