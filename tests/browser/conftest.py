"""Browser tests: one JupyterLab and one Chromium for the whole run, a fresh tab and kernel for each test."""

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
    """A fresh tab; a failing test leaves a screenshot and says where."""
    from lab import LabPage

    page = LabPage(chromium, lab_server)
    yield page
    if request.node.stash.get(outcome, False):
        path = page.screenshot(tmp_path / "failed.png")
        request.node.add_report_section("teardown", "screenshot", str(path))
    page.close()
