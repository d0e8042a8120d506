"""Panels that train draw samples a dozen times in the course of a run; here, twice."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def few_previews():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.widgets.live.PREVIEWS", 2)
        yield
