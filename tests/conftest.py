"""Every test runs on one thread, from the same random state, with the shapes in labkit's annotations checked.

The checker acts on labkit as the tests import it; a process that a test starts is the lab as a reader has it. Where
whole runs are trained it is off, since a third of their time would go into what the tests of their parts check.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import beartype.typing  # noqa: F401 (the hook names it)
import jaxtyping
import pytest
import torch
from hypothesis import settings

HERE = Path(__file__).parent
LONG = 5  # seconds that a test may take, its fixtures included, before it is listed
RUNS = ("experiments/", "training/", "widgets/", "test_cli", "test_process")  # tests that train
# The tower lets an int stand where a float is asked for, as readers write tau=1. A method alone cannot check Self.
SELF = "beartype.FrozenDict({beartype.typing.Self: beartype.typing.Any})"
CONF = f"beartype.BeartypeConf(is_pep484_tower=True, hint_overrides={SELF})"
jaxtyping.install_import_hook("labkit", f"beartype.beartype(conf={CONF})")
torch.set_num_threads(1)
settings.register_profile("labkit", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("labkit")


@pytest.hookimpl(tryfirst=True)  # before any fixture starts a process
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The browser goes before what the other worker does: a page that waits shows what no reader sees."""
    if os.nice(0) == 0 and item.get_closest_marker("browser") is None:
        os.nice(10)


@pytest.fixture(autouse=True)
def same_random_state():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # whatever an earlier test has left


@pytest.fixture(autouse=True, scope="session")
def small_sheets():
    """Of the samples that go with a checkpoint, which tests save by the hundred."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.training.trainer.SHEET", 2)
        patch.setattr("labkit.training.trainer.SHEET_STEPS", 2)
        yield


@contextmanager
def checker(off: bool) -> Iterator[None]:
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", off)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True, scope="module")
def checked_where_it_is_cheap(request: pytest.FixtureRequest):
    with checker(off=str(request.path.relative_to(HERE)).startswith(RUNS)):
        yield


@pytest.fixture
def unchecked():
    """No checker: what a reader meets who hands in something of the wrong type or shape."""
    with checker(off=True):
        yield


@pytest.fixture
def no_network(monkeypatch):
    """As on a machine without: packages of the hub look for local files alone."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for place in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        with suppress(ImportError, AttributeError):  # where they are not installed
            monkeypatch.setattr(place, True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what makes everyone wait: to be made smaller, shared, or marked slow. No failure, since machines differ."""
    seconds = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport) and "slow" not in report.keywords:
            seconds[report.nodeid] += report.duration
    long = [(test, time) for test, time in seconds.most_common() if time > LONG]
    if long:
        terminalreporter.section(f"not marked slow, but longer than {LONG} s")
        for test, time in long:
            terminalreporter.line(f"{time:6.1f} s  {test}")
