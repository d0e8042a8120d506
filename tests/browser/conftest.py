"""Browser tests share one JupyterLab, one tab of one Chromium, and one kernel, which imports the lab once."""

from __future__ import annotations

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
    """A failing test leaves a screenshot, and says where."""
    report = yield
    if report.when == "call":
        item.stash[outcome] = report.failed
        if report.failed and "_tab" in item.funcargs:
            picture = item.funcargs["_tab"].screenshot(item.funcargs["tmp_path"] / "failed.png")
            report.sections.append(("screenshot", str(picture)))
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


@pytest.fixture(scope="session")
def _tab(lab_server, chromium):
    from lab import LabPage

    page = LabPage(chromium, lab_server)
    page.open("00_start_here.ipynb")
    yield page
    page.close()


@pytest.fixture
def lab(_tab, request: pytest.FixtureRequest, tmp_path: Path):
    """The tab, for a notebook that the test shows; after a failing test its kernel may be busy for ever."""
    yield _tab
    if request.node.stash.get(outcome, False):
        _tab.restart_kernel()


@pytest.fixture
def scratch(lab):
    """The tab, with an empty notebook."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    lab.show({"cells": [], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})
    return lab
