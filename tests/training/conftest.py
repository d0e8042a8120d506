"""Training tests save dozens of times: the sheet of samples that goes with a checkpoint is drawn small."""

import pytest
import tiny


@pytest.fixture(autouse=True, scope="module")
def small_sheets():
    with pytest.MonkeyPatch.context() as patch:
        tiny.draw_small_sheets(patch.setattr)
        yield
