"""Nothing of one test is there in the next; a run draws samples twice in its course, not a dozen times."""

import pytest
from waiting import threads, wait_for

from labkit.widgets import Panel, Runner


@pytest.fixture(autouse=True, scope="session")
def few_previews():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.widgets.live.PREVIEWS", 2)
        yield


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Panels are closed, and trainings stopped."""
    yield
    for panel in list(Panel._open.values()):
        panel.close()
    if Runner._alive is not None:
        Runner._alive.stop()
    wait_for(lambda: not threads(("labkit-explorer", "labkit-training", "labkit-watch")))
